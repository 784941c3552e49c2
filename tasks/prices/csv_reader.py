"""A CSV file of daily candles → candles in memory.

The file may name its columns as CryptoDataDownload, the exchange's API or a plain export does. A row that
cannot be read is rejected with its line number, a doubtful file is refused. Nothing is guessed.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from storage.core.candle_schema import FIGURES, candle_frame, rejected_frame
from storage.core.errors import BadFile
from storage.core.home import check_product_id
from tasks.prices.csv_formats import API_ORDER, NUMBER, CsvRows, no_rows, plain, split_rows

SECONDS_A_DAY = 86_400
# With a decimal point the commas can only separate thousands; 1,234 alone could also be 1.234.
THOUSANDS = r"^-?\d{1,3}(,\d{3})+\.\d+$"
# The days that Python's calendar has.
YEAR_1, YEAR_9999 = np.datetime64("0001-01-01", "s"), np.datetime64("9999-12-31", "s")
NO_DAY = np.datetime64("NaT", "s")
DAY_FORM = r"^\d{4}-\d{2}-\d{2}$"
CLOCK_24 = re.compile(r"[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.0+)?)?(?:Z|\+00:?00| ?UTC)?")
CLOCK_12 = re.compile(r" (\d{2})-(AM|PM)")
# Where the median of base × close / quote lies within this factor of one, the two columns are base and quote.
NEAR = 2.0
# A file without a header is refused where more rows than these contradict the API's column order.
MAX_CONTRADICTIONS, MAX_CONTRADICTED_SHARE = 3, 0.02

OnDuplicate = Literal["refuse", "first", "last"]


class CsvCandles(NamedTuple):
    """The candles of a file, oldest first, one row a day; the rejected rows in the file's order."""

    candles: pd.DataFrame
    rejected: pd.DataFrame


def read_candles(
    data: bytes, product_id: str, *, name: str = "the file", on_duplicate: OnDuplicate = "refuse"
) -> CsvCandles:
    """Read the candles of one product from a CSV file's bytes; `name` is the file's in error messages.

    Rows may come in any order; days are UTC. A time stamp (seconds, milliseconds or microseconds) or a
    `2019-10-17 00:00:00` must lie on midnight. The form `2020-10-24 07-AM` is the label of a daily file: its
    hour is ignored while each day has only one. Of a date and a time stamp in one row the date names the day,
    and a row whose two days differ is rejected. The volume is the one in the base currency: the figures
    (base × close ≈ quote) decide, then the names; NaN where neither does. A single column `volume` is in the
    base currency. Open, high, low and volume may be empty (NaN), the close may not.

    Of a day with different figures `on_duplicate` keeps the row nearer the top of the file (`first`) or
    nearer its end (`last`) and rejects the others. Rows with equal figures are one.

    Raises:
        BadProduct: a malformed product id.
        BadFile: empty, not CSV, no known header, no header and another column order than the API's, another
            product, not daily, no row that can be read, or days with different figures.
    """
    check_product_id(product_id)
    rows = split_rows(data, name)
    _check_symbol(rows, product_id)
    frame = pd.DataFrame({"day_utc": _read_days(rows)}, index=rows.numbers)
    for figure in FIGURES[:-1]:
        frame[figure] = _read_figure(rows, figure)
    frame["volume"] = _read_figure(rows, _pick_volume(rows, frame["close"].to_numpy(), product_id))
    if rows.header is API_ORDER:
        _check_api_order(rows, frame)
    good = frame[~frame.index.isin(list(rows.reasons))]
    if good.empty:
        raise no_rows(rows.reasons, name)
    good = _one_a_day(good, on_duplicate, rows).sort_values("day_utc", ignore_index=True)
    candles = candle_frame({str(name): column for name, column in good.items()})
    return CsvCandles(candles, _rejected(rows, frame["day_utc"]))


def _check_symbol(rows: CsvRows, product_id: str) -> None:
    """Refuse a file of another product; BTCUSD, BTC/USD and btc-usd are all BTC-USD."""
    if "symbol" not in rows.texts:
        return
    for symbol in pc.unique(rows.texts["symbol"]).to_pylist():
        normal = re.sub(r"[/_ -]", "-", symbol.upper())
        if normal not in (product_id, product_id.replace("-", "")):
            line = rows.numbers[pc.index(rows.texts["symbol"], symbol).as_py()]
            raise BadFile(
                f"{rows.name}: candles of {product_id} are needed, line {line} is of {symbol!r:.40};"
                " name that product or another file"
            )


def _check_api_order(rows: CsvRows, frame: pd.DataFrame) -> None:
    """Refuse a file without a header whose figures contradict the API's column order."""
    low, high, prices = frame["low"], frame["high"], frame[["open", "close"]]
    contradicts = (low > high) | prices.lt(low, axis=0).any(axis=1) | prices.gt(high, axis=0).any(axis=1)
    count = int(contradicts.sum())
    if count > max(MAX_CONTRADICTIONS, MAX_CONTRADICTED_SHARE * len(frame)):
        raise BadFile(
            f"{rows.name}: without a header the columns are taken as {','.join(API_ORDER)}, but in"
            f" {count} of {len(frame)} rows (first line {contradicts.idxmax()}) open or close is not between"
            " low and high; add a header line that names the columns"
        )


# Days


def _read_days(rows: CsvRows) -> np.ndarray:
    """(rows,) UTC days, NaT where the row is rejected."""
    role = "day" if "day" in rows.texts else "stamp"
    days, clock, labelled = _parse_days(rows.texts[role])
    off = np.flatnonzero(~np.isnat(days) & (clock != 0) & ~labelled).tolist()
    if off:
        raise BadFile(
            f"{rows.name}: daily candles are needed, each at midnight UTC,"
            f" but line {rows.numbers[off[0]]} is of {rows.text(role, off[0])!r:.40}"
        )
    _check_hours(rows, days, clock)
    for row in np.flatnonzero(np.isnat(days)).tolist():
        rows.reject(row, f"date {rows.text(role, row)!r:.40} is not a UTC day such as 2020-10-24")
    if role == "day" and "stamp" in rows.texts:
        stamps, clock, _ = _parse_days(rows.texts["stamp"])
        _check_hours(rows, np.where(days == stamps, days, NO_DAY), clock)
        for row in np.flatnonzero(~np.isnat(days) & ~np.isnat(stamps) & (days != stamps)).tolist():
            stamp = f"its time stamp {rows.text('stamp', row)!r:.40} is {stamps[row]!s:.10}"
            rows.reject(row, f"its date is {days[row]!s:.10}, {stamp}")
    return days


def _check_hours(rows: CsvRows, days: np.ndarray, clock: np.ndarray) -> None:
    """Refuse a file that has two hours of one day: it is not daily."""
    order = np.lexsort((clock, days))
    hourly = np.flatnonzero((np.diff(days[order]) == np.timedelta64(0, "s")) & (np.diff(clock[order]) != 0))
    if len(hourly):
        pair = order[hourly[0] : hourly[0] + 2]
        first, second = sorted(rows.numbers[pair])
        raise BadFile(
            f"{rows.name}: daily candles are needed,"
            f" lines {first} and {second} are two hours of {days[pair[0]]!s:.10}"
        )


def _parse_days(text: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows,) UTC days, NaT where unreadable; seconds after midnight; whether these are an AM/PM label."""
    number = _parse_numbers(text)
    unit = np.where(np.abs(number) >= 1e14, 1e6, np.where(np.abs(number) >= 1e11, 1e3, 1.0))
    stamped, seconds = np.divmod(number / unit, SECONDS_A_DAY)
    stamped[~(np.abs(stamped) < 3e6)] = np.nan  # the years of four digits
    form = pc.utf8_slice_codeunits(text, 0, 10)
    form = pc.if_else(pc.match_substring_regex(form, DAY_FORM), form, None)
    written = pd.to_datetime(pd.Series(form.to_pandas()), format="%Y-%m-%d", errors="coerce")
    rest = pc.utf8_slice_codeunits(text, 10, None).dictionary_encode()
    clocks = np.array([_parse_clock(tail) for tail in rest.dictionary.to_pylist()])
    clock, labelled = clocks.reshape(-1, 2)[rest.indices.to_numpy()].T
    days = written.to_numpy().astype("datetime64[s]")
    days[np.isnan(clock)] = NO_DAY
    is_stamp = ~np.isnan(stamped)
    days[is_stamp] = (stamped[is_stamp].astype("int64") * SECONDS_A_DAY).astype("datetime64[s]")
    days[(days < YEAR_1) | (days > YEAR_9999)] = NO_DAY
    return days, np.where(is_stamp, seconds, clock), (labelled == 1) & ~is_stamp


def _parse_clock(tail: str) -> tuple[float, float]:
    """The text after the day as seconds after midnight (NaN if unreadable), and 1 if it is an AM/PM label."""
    if not tail:
        return 0.0, 0.0
    if match := CLOCK_24.fullmatch(tail):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return hours * 3600.0 + minutes * 60 + seconds, 0.0
    if (match := CLOCK_12.fullmatch(tail)) and 1 <= int(match[1]) <= 12:
        return (int(match[1]) % 12 + 12 * (match[2] == "PM")) * 3600.0, 1.0
    return np.nan, 0.0


# Figures


def _parse_numbers(text: Any) -> np.ndarray:
    """Decimal numbers as the nearest float64; NaN for anything else, `nan` and `inf` included."""
    if pc.any(pc.match_substring(text, ",")).as_py():
        grouped = pc.match_substring_regex(text, THOUSANDS)
        text = pc.if_else(grouped, pc.replace_substring(text, ",", ""), text)
    plain = pc.if_else(pc.match_substring_regex(text, NUMBER), text, None)
    return np.array(plain.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _read_figure(rows: CsvRows, role: str | None) -> np.ndarray:
    """One figure of each row; NaN where it is empty, unreadable (the row is rejected) or not in the file."""
    if role not in rows.texts:
        return np.full(len(rows.numbers), np.nan)
    figures = _parse_numbers(rows.texts[role])
    label = role.partition(":")[0]
    for row in np.flatnonzero(np.isnan(figures)).tolist():
        if text := rows.text(role, row):
            rows.reject(row, f"{label} {text!r:.40} is not a number")
        elif label == "close":
            rows.reject(row, "the close is empty")
    return figures


def _pick_volume(rows: CsvRows, close: np.ndarray, product_id: str) -> str | None:
    """The column of the base currency's volume: by the figures, else by the names, else none."""
    base, quote = product_id.lower().split("-")
    # Role → its heading without the word volume.
    currencies = {
        role: re.sub(r"vol(ume)?", "", plain(rows.header[int(role.partition(":")[2])])).strip("_")
        for role in rows.texts
        if role.startswith("volume:")
    }
    in_base = [role for role, currency in currencies.items() if currency in (base, "base", "from")]
    in_base = in_base or [role for role, currency in currencies.items() if not currency]
    in_quote = [role for role, currency in currencies.items() if currency in (quote, "quote", "to")]
    by_name = in_base[0] if len(in_base) == 1 else None
    pair = list(currencies) if len(currencies) == 2 else [*in_base, *in_quote]
    if len(pair) != 2:
        return by_name
    first, second = (_parse_numbers(rows.texts[role]) for role in pair)
    first_is_base, second_is_base = _is_quote(second, first, close), _is_quote(first, second, close)
    if first_is_base == second_is_base:
        return by_name
    return pair[0] if first_is_base else pair[1]


def _is_quote(quote: np.ndarray, base: np.ndarray, close: np.ndarray) -> bool:
    """Whether the volume `quote` is `base` times the close on most days with trades."""
    traded = (quote > 0) & (base > 0) & (close > 0)
    ratios = np.log(base[traded]) + np.log(close[traded]) - np.log(quote[traded])
    return len(ratios) > 0 and bool(abs(np.median(ratios)) < np.log(NEAR))


# Rows


def _one_a_day(frame: pd.DataFrame, on_duplicate: OnDuplicate, rows: CsvRows) -> pd.DataFrame:
    """One row of each day; `frame` is indexed by line number, in the file's order."""
    keep: Literal["first", "last"] = "last" if on_duplicate == "last" else "first"
    distinct = frame.drop_duplicates(keep=keep)  # an unknown figure equals an unknown one
    kept = distinct.drop_duplicates("day_utc", keep=keep)
    conflicts = distinct.drop(kept.index)
    if on_duplicate == "refuse" and len(conflicts):
        day = conflicts["day_utc"].min()
        first, second = (
            f"line {line} ({', '.join(f'{name} {figure}' for name, figure in row.dropna().items())})"
            for line, row in distinct.loc[distinct["day_utc"] == day, FIGURES].head(2).iterrows()
        )
        raise BadFile(
            f"{rows.name}: each day is needed once, but {day:%Y-%m-%d} has different figures:"
            f" {first} and {second}; days like this: {conflicts['day_utc'].nunique()};"
            " choose with --on-duplicate last|first"
        )
    kept_lines = pd.Series(kept.index, index=kept["day_utc"])
    for line, day in zip(conflicts.index.tolist(), conflicts["day_utc"], strict=True):
        rows.reasons[line] = f"line {kept_lines[day]} has other figures for this day and is kept"
    return kept


def _rejected(rows: CsvRows, days: pd.Series[pd.Timestamp]) -> pd.DataFrame:
    """The rejected rows with their text, in the file's order."""
    numbers = sorted(rows.reasons)
    return rejected_frame(
        [
            {
                "day_utc": None if pd.isna(day) else str(day)[:10],
                "raw": json.dumps(rows.fields(number), ensure_ascii=False),
                "reason": f"line {number}: {rows.reasons[number]}",
            }
            for number, day in zip(numbers, days.reindex(numbers), strict=True)
        ]
    )
