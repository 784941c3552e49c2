"""A file of daily candles → candles in memory, and what was understood of it.

The file may come from any export in the table of formats (file_formats.py), or name its columns in a header.
A row that cannot be read is rejected with its number, a doubtful file is refused. Nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from closecast.storage.core.candle_schema import FIGURES, PRICES, candle_frame, rejected_frame
from closecast.storage.core.errors import BadFile
from closecast.storage.core.home import check_product_id
from closecast.tasks.prices.file_calendar import read_days
from closecast.tasks.prices.file_checks import (
    check_cut_figures,
    check_opens,
    check_readable,
    check_rounded_figures,
    check_value,
    no_rows,
    one_a_day,
    settle_ranges,
)
from closecast.tasks.prices.file_columns import Layout, check_columns, find_layout, of_symbol
from closecast.tasks.prices.file_contents import open_table
from closecast.tasks.prices.file_figures import (
    clean,
    is_unknown,
    parse_figures,
    parse_volumes,
    settle_decimal,
)
from closecast.tasks.prices.file_formats import is_volume_in_quote, key_of, midnight_ends_day, read_heading
from closecast.tasks.prices.file_table import Decimal, FileOptions, FileTable

# Where the median of base × close / quote lies within this factor of one, the two columns are base and quote.
NEAR = 2.0
DEFAULTS = FileOptions()


@dataclass(frozen=True)
class FileReading:
    """What was understood of a file."""

    kind: str  # such as `text separated by ;`
    formats: tuple[str, ...]  # the names of those that it can be
    columns: Mapping[str, str]  # role → heading or number
    dates: str  # the form of its days
    decimal: Decimal
    volume_in_quote: bool  # then the volume is unknown
    midnight_ends_day: bool
    above: int  # lines above the header, which were skipped
    unknown: Mapping[str, int]  # figures that are unknown, by column in use
    settled_by: str  # what named the columns where there was no header: `the figures` or `the options`
    rounded: int  # rows whose open or range became unknown, because rounding put a price out of range


@dataclass(frozen=True)
class FileCandles:
    """The candles of a file, oldest first, one row a day; the rejected rows in the file's order."""

    candles: pd.DataFrame
    rejected: pd.DataFrame
    reading: FileReading


def read_candles(
    data: bytes,
    product_id: str | None,
    *,
    name: str = "the file",
    options: FileOptions = DEFAULTS,
) -> FileCandles:
    """Read the candles of one product from a file's bytes; `name` is the file's in error messages.

    Rows may come in any order; days are UTC. A time stamp or a `2019-10-17 00:00:00` must lie on midnight
    UTC, or at the end of its day (from 23:58 on). The form `2020-10-24 07-AM` is the label of a daily
    file: its hour is ignored while each day has only one. The volume is the one in the base currency: the
    figures (base × close ≈ quote) decide, then the names; NaN where neither does. Open, high, low and
    volume may be unknown (NaN), the close may not. Without a product, what the file says of its coin is
    not compared. Rows with equal figures are one.

    Raises:
        BadProduct: a malformed product id.
        BadFile: it cannot be read whole and in one way only: the message says what settles it.
    """
    if product_id is not None:
        check_product_id(product_id)
    check_columns(options.columns)
    try:
        return _read_candles(data, product_id, options)
    except BadFile as error:
        raise BadFile(f"{name}: {error}") from error


def _read_candles(data: bytes, product_id: str | None, options: FileOptions) -> FileCandles:
    table = open_table(data, options)
    if not len(table.numbers):
        raise no_rows(table)
    layout = find_layout(table, product_id, options)
    table = of_symbol(table, layout, product_id, options.symbol)
    rows = _read_rows(table, layout, product_id, options)
    check_readable(table, layout, rows.frame)
    good = rows.frame[~rows.frame.index.isin(list(table.rejections.reasons))].copy()
    rounded = settle_ranges(table, layout, good)
    good = one_a_day(good, options.on_duplicate, table).sort_values("day_utc", ignore_index=True)
    candles = candle_frame({str(column): figures for column, figures in good.items()})
    check_opens(candles)
    reading = _reading(table, layout, rows, candles, rounded)
    return FileCandles(candles, _rejected(table, rows.frame["day_utc"]), reading)


@dataclass(frozen=True)
class _Rows:
    """Day and figures of every row by its number, and how they were read."""

    frame: pd.DataFrame
    dates: str  # the form of the days
    decimal: Decimal
    volume: int | None  # the column of the volume in the base currency


def _read_rows(table: FileTable, layout: Layout, product_id: str | None, options: FileOptions) -> _Rows:
    """Read the cells of every row; what cannot be read is among the table's rejections."""
    quote = product_id.partition("-")[2] if product_id else ""
    used = {*layout.prices.values(), *layout.volumes}
    cells = {position: clean(table.columns[position], quote) for position in used}
    prices, volumes = ([cells[at] for at in group] for group in (layout.prices.values(), layout.volumes))
    closes = cells[layout.prices["close"]]
    decimal = settle_decimal(table, prices, volumes, closes, options.decimal)
    check_cut_figures(table, layout)
    check_rounded_figures(table, layout)
    check_value(table, layout)
    close = parse_figures(closes, decimal)
    _reject_without_close(table, closes, close)
    days = read_days(table, layout, options)
    frame = pd.DataFrame({"day_utc": days.days}, index=table.numbers)
    for figure in PRICES:
        at = layout.prices.get(figure)
        frame[figure] = np.nan if at is None else parse_figures(cells[at], decimal)
        if figure != "close":
            frame[figure] = frame[figure].replace(0.0, np.nan)  # so some sites write what they do not know
    volume = _pick_volume(table, layout, cells, decimal, close, product_id)
    frame["volume"] = np.nan if volume is None else parse_volumes(cells[volume], decimal)
    return _Rows(frame, days.form, decimal, volume)


def _reading(
    table: FileTable, layout: Layout, rows: _Rows, candles: pd.DataFrame, rounded: int
) -> FileReading:
    columns = _columns(table, layout, rows.volume)
    return FileReading(
        table.kind,
        tuple(one.name for one in layout.formats),
        columns,
        rows.dates,
        rows.decimal,
        bool(layout.volumes) and rows.volume is None,
        midnight_ends_day(table.header, layout.formats) or not layout.dates,
        table.above,
        {figure: int(candles[figure].isna().sum()) for figure in FIGURES if figure in columns},
        "" if table.has_header else layout.settled_by,
        rounded,
    )


def _columns(table: FileTable, layout: Layout, volume: int | None) -> dict[str, str]:
    """Role → heading or number of each column in use, from left to right."""
    date = layout.dates[0] if layout.dates else layout.end
    positions = {"date": date, **layout.prices, "volume": volume}
    present = sorted((at, role) for role, at in positions.items() if at is not None)
    return {role: table.heading(at) for at, role in present}


def _reject_without_close(table: FileTable, close: Any, figures: np.ndarray) -> None:
    """Reject the rows whose close is unknown, which some sites write as 0, or not a figure."""
    unknown = is_unknown(close) | (figures == 0)
    for row in np.flatnonzero(np.isnan(figures) | (figures == 0)).tolist():
        number, text = int(table.numbers[row]), str(close[row].as_py())
        if number in table.short:
            table.rejections.add(
                number, f"{table.short[number]} fields where the header has {len(table.header)}"
            )
        elif unknown[row]:
            reason = "the close is empty" if text in ("", "None") else f"the close is unknown ({text!r:.20})"
            table.rejections.add(number, reason, readable=True)
        else:
            table.rejections.add(number, f"close {text!r:.40} is not a number")


def _pick_volume(
    table: FileTable,
    layout: Layout,
    cells: Mapping[int, Any],
    decimal: Decimal,
    close: np.ndarray,
    product_id: str | None,
) -> int | None:
    """The column of the base currency's volume: by the figures, else by the names, else none."""
    if layout.settled_by and layout.volumes:
        return layout.volumes[0]
    base, quote = product_id.lower().split("-") if product_id else ("", "")
    # Position → its heading without the word volume.
    currencies = {
        at: re.sub(r"vol(ume)?|total|asset|traded|^v$", "", key_of(table.header[at]))
        + "quote" * bool(read_heading(table.header[at]).signs)
        for at in layout.volumes
        if "taker" not in key_of(table.header[at])
    }
    unnamed = [at for at, currency in currencies.items() if not currency]
    bases, quotes = {base, "base", "from"} - {""}, {quote, "quote", "to", "currency"} - {""}
    in_base = [at for at, currency in currencies.items() if currency in bases]
    in_quote = [at for at, currency in currencies.items() if currency in quotes]
    if is_volume_in_quote(table.header, layout.formats):
        in_quote = in_quote or unnamed
    else:
        in_base = in_base or unnamed
    by_name = in_base[0] if len(in_base) == 1 else None
    pair = list(currencies) if len(currencies) == 2 else [*in_base, *in_quote]
    if len(pair) != 2:
        return by_name
    first, second = (parse_volumes(cells[at], decimal) for at in pair)
    first_is_base, second_is_base = _is_quote(second, first, close), _is_quote(first, second, close)
    if first_is_base == second_is_base:
        return by_name
    return pair[0] if first_is_base else pair[1]


def _is_quote(quote: np.ndarray, base: np.ndarray, close: np.ndarray) -> bool:
    """Whether the volume `quote` is `base` times the close on most days with trades."""
    traded = (quote > 0) & (base > 0) & (close > 0)
    ratios = np.log(base[traded]) + np.log(close[traded]) - np.log(quote[traded])
    return len(ratios) > 0 and bool(abs(np.median(ratios)) < np.log(NEAR))


def _rejected(table: FileTable, days: pd.Series[pd.Timestamp]) -> pd.DataFrame:
    """The rejected rows with their text, in the file's order."""
    reasons = table.rejections.reasons
    numbers = sorted(reasons)
    return rejected_frame(
        [
            {
                "day_utc": None if pd.isna(day) else str(day)[:10],
                "raw": _raw(table.fields(number)),
                "reason": f"{table.unit} {number}: {reasons[number]}",
            }
            for number, day in zip(numbers, days.reindex(numbers), strict=True)
        ]
    )


def _raw(fields: object) -> str:
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # NaN and infinity are no JSON
        text = json.dumps(str(fields), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
