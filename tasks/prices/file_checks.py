"""What a file must not be: one that contradicts itself, or that can be read in part only."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.candle_schema import FIGURES
from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_coins import is_other_figure
from closecast.tasks.prices.file_columns import Layout
from closecast.tasks.prices.file_figures import parse_figures
from closecast.tasks.prices.file_formats import key_of, read_heading
from closecast.tasks.prices.file_order import MAX_CONTRADICTED_SHARE
from closecast.tasks.prices.file_table import FileTable, OnDuplicate
from closecast.tasks.prices.file_text import COLUMNS_HINT, is_day

MAX_UNREADABLE_SHARE = 0.1
MAX_CONTRADICTIONS = 3
MAX_NEWEST_WITHOUT_CLOSE = 5
ROUNDING = 0.02  # an open or close so far outside of low to high is rounded, not wrong
# The rest of a figure that was cut at the comma of its thousands, or at its decimal comma.
REST = r"^\d{3}\.\d{2}$"
REST_WITH_ZERO = r"^0\d+(\.\d+)?$"
WHOLE, WHOLE_BELOW_1000 = r"^(\d+|\d{1,3}([\s\x{a0}\x{202f}'’]\d{3})+)$", r"^[1-9]\d{0,2}$"
RESTS = (r"^\d{3}(\.\d+)?$", *(rf"^\d{{{digits}}}$" for digits in range(2, 9)), r"^\d{1,2}$")
MOST, HEAD = 0.9, 1000
MIN_CENTS = 10  # rows that all end in two digits
# A spreadsheet has cut digits of 6.21E+03: the power is larger than the number of decimals.
POWER = r"^-?\d+(?:[.,](?P<decimals>\d*))?[eE]\+?(?P<exponent>\d{1,2})$"
# Programs write 1.2E7 or 1e+05 for whole figures, never smaller powers.
MIN_EXACT_POWER, FEW_POWERS = 5, 3
FIGURE = re.compile(r"[^\w-]*([A-Z]{3} ?)?-?\d[\d.,'\u2019 \u00a0\u202f]*([eE]\+?\d+)?( ?\W?[A-Za-z]{0,4})")
LONG, NEARER = (7, 28, 29, 30, 31), 0.1  # days of long candles, whose opens are nearer to the close before
MIN_EXCHANGED = 10  # days in a row
NEAR, FAR = 3.0, 100.0  # the factor between two closes of which one may be cut


def no_rows(table: FileTable) -> BadFile:
    """The error for a file without a row that can be read."""
    reasons = table.rejections.reasons
    first = f"{table.unit} {min(reasons)}: {reasons[min(reasons)]}" if reasons else "nothing below the header"
    return BadFile(f"rows of daily candles are needed, but none can be read ({first}); {COLUMNS_HINT}")


def check_readable(table: FileTable, layout: Layout, frame: pd.DataFrame) -> None:
    """Refuse a file of which more than a tenth of the rows, or the newest ones, cannot be read.

    `frame` has the rows by number, with `day_utc`; the rejections of the table say which of them are none.
    """
    reasons, unreadable = table.rejections.reasons, sorted(table.rejections.unreadable)
    good = frame.loc[~frame.index.isin(list(reasons)), "day_utc"]
    if good.empty:
        raise no_rows(table)
    total = len(good) + len(reasons)
    _check_one_header(table, unreadable)
    if len(unreadable) > MAX_UNREADABLE_SHARE * total:
        raise BadFile(
            f"{len(unreadable)} of {total} rows cannot be read, the first in {table.unit}"
            f" {unreadable[0]}: {reasons[unreadable[0]]}; mend them, or {COLUMNS_HINT}"
        )
    newest = int(good.index.to_numpy()[good.to_numpy().argmax()])
    rising = good.iloc[-1] >= good.iloc[0]
    days = frame["day_utc"].reindex(list(reasons))
    later = [
        number
        for number, day in zip(list(reasons), days, strict=True)
        if (day > good.max() if pd.notna(day) else (number > newest if rising else number < newest))
    ]
    broken = [
        number
        for number in later
        if number in table.rejections.unreadable and _is_candle(table, layout, number)
    ]
    if broken or sum("close" in reasons[number] for number in later) > MAX_NEWEST_WITHOUT_CLOSE:
        number = broken[0] if broken else later[0]
        raise BadFile(
            f"the newest rows are needed, but after {good.max():%Y-%m-%d} {len(broken or later)} cannot be"
            f" read, the first in {table.unit} {number}: {reasons[number]}; mend them, or {COLUMNS_HINT}"
        )


def _check_one_header(table: FileTable, unreadable: list[int]) -> None:
    """Refuse a file with a second header that is another one, as of two files in one."""
    for number in unreadable:
        fields = table.fields(number)
        cells = [str(cell) for cell in (fields.values() if isinstance(fields, dict) else fields)]
        roles = {read_heading(cell).role for cell in cells}
        if {"date", "close"} <= roles and cells != table.header:
            raise BadFile(
                f"one header is needed, {table.unit} {number} is another one; import what is"
                " below it from a file of its own"
            )


def _is_candle(table: FileTable, layout: Layout, number: int) -> bool:
    """Whether a row seems to be one: digits where its day should be, and these are a day or figures follow.

    A footer such as `Average,7.5` or `CC BY-NC 4.0` is none.
    """
    fields = table.fields(number)
    cells = [str(cell) for cell in (fields.values() if isinstance(fields, dict) else fields)]
    date = layout.dates[0] if layout.dates else layout.end or 0
    day = cells.pop(date) if date < len(cells) else ",".join(cells)
    is_text = re.search("[A-Za-z]", day) and not is_day(day) and not any(map(FIGURE.fullmatch, cells))
    return any(map(str.isdigit, day)) and not is_text


def check_rounded_figures(table: FileTable, layout: Layout) -> None:
    """Refuse prices such as 6.21E+03, whose last digits are lost."""
    for at in layout.prices.values():
        if not pa.types.is_string(table.columns[at].type):
            continue
        powers = np.flatnonzero(np.array(pc.match_substring_regex(table.columns[at], POWER)))
        parts = pc.extract_regex(table.columns[at].take(pa.array(powers)), POWER)
        decimals = np.array(pc.binary_length(parts.field("decimals")))
        exponents = np.array(parts.field("exponent").cast(pa.int64()))
        cut = exponents > decimals
        alike = cut.sum() > FEW_POWERS and len(np.unique(decimals[cut])) == 1
        rows = powers[cut & ((exponents < MIN_EXACT_POWER) | alike)].tolist()
        if rows:
            raise BadFile(
                f"prices with all of their digits are needed, but {table.place(rows[0])} has"
                f" {table.text(at, rows[0])}; export plain figures such as 6213.57"
            )


def check_value(table: FileTable, layout: Layout) -> None:
    """Refuse a column `value` where the file tells that it is of another figure than the close."""
    close = layout.prices["close"]
    if layout.settled_by == "the options" or key_of(table.header[close]) not in ("value", "values"):
        return
    alike = [column[0].as_py() for column in table.columns if len(pc.unique(column)) == 1]
    for text in (*(text for _, text in table.told), *filter(None, alike)):
        if is_other_figure(str(text)):
            raise BadFile(
                f"closes are needed, but {table.heading(close)} is of {text!r:.60}; export prices, or"
                f" {COLUMNS_HINT}"
            )


def check_cut_figures(table: FileTable, layout: Layout) -> None:
    """Refuse text in which commas seem to cut figures: 2,407.88 as a close of 2, then 407.88."""
    if not table.kind.endswith(",") or layout.settled_by == "the options":
        return
    close = layout.prices["close"]
    lefts = {close, *(at for at in layout.prices.values() if at == close - 1)}
    for left in lefts - {len(table.columns) - 1}:
        row = _cut_figure(table, left)
        if row is not None:
            both = ",".join(str(table.columns[at][row].as_py()) for at in (left, left + 1))
            raise BadFile(
                f"{both} in line {table.numbers[row]} can be one figure that its comma cuts in"
                f" two; put quotes around such figures; if they are two, {COLUMNS_HINT}"
            )


def _cut_figure(table: FileTable, left: int) -> int | None:
    """The first row in which a column and the next one look like one figure, if enough rows do."""
    texts, rest = table.columns[left], table.columns[left + 1]
    head = texts.slice(0, HEAD)
    if _count(pc.match_substring_regex(head, WHOLE)) < len(head) / 2:
        return _cut_on_some_rows(texts, rest)
    # A figure below 1,000 has no comma: its row lacks a cell.
    filled = len(rest) - _count(pc.equal(rest, ""))
    cut = pc.and_(pc.match_substring_regex(texts, WHOLE_BELOW_1000), pc.match_substring_regex(rest, REST))
    if _count(cut) == filled > 0:
        return _first(cut)
    zeros = pc.and_(pc.match_substring_regex(texts, WHOLE), pc.match_substring_regex(rest, REST_WITH_ZERO))
    alike = [_count(pc.match_substring_regex(rest, form)) for form in RESTS]
    if _count(zeros) and max(alike) > MOST * filled:
        return _first(zeros)
    if alike[1] == filled >= MIN_CENTS:
        return _first(pc.equal(pc.binary_length(rest), 2))
    return _cut_on_some_rows(texts, rest)


def _cut_on_some_rows(texts: Any, rest: Any) -> int | None:
    """The first row that is cut where others are not.

    The two cells as one figure are near the figures above and below, the first alone is not; or exactly the
    rows of whole figures have the second cell.
    """
    whole, filled = pc.match_substring_regex(texts, WHOLE), pc.not_equal(rest, "")
    if pc.equal(whole, filled).true_count == len(texts) and 0 < filled.true_count < len(texts):
        return _first(filled)
    cut = pc.and_(pc.match_substring_regex(texts, WHOLE_BELOW_1000), pc.match_substring_regex(rest, RESTS[0]))
    rows = np.flatnonzero(np.array(cut))
    others = np.setdiff1d(np.arange(len(texts)), rows)
    if not len(rows) or not len(others):
        return None
    figures = parse_figures(texts, "point")
    both = figures[rows] * 1000 + np.array(rest.take(pa.array(rows)).cast(pa.float64()))
    at = np.searchsorted(others, rows)
    for beside in (others[np.maximum(at - 1, 0)], others[np.minimum(at, len(others) - 1)]):
        near = (both < NEAR * figures[beside]) & (both * NEAR > figures[beside])
        if len(found := np.flatnonzero(near & (figures[rows] * FAR < figures[beside]))):
            return int(rows[found[0]])
    return None


def _first(rows: Any) -> int:
    return int(pc.index(rows, pa.scalar(True)).as_py())


def _count(values: Any) -> int:
    return pc.sum(values).as_py() or 0


def check_opens(frame: pd.DataFrame) -> None:
    """Refuse candles of weeks or months among daily ones: rows so far apart that open at the close before.

    Also where each closes at the open of the day before: there the two are exchanged.
    """
    steps = np.diff(frame["day_utc"].to_numpy().astype("datetime64[D]")).astype(int)
    opens, closes = (np.log(frame[name].where(frame[name] > 0).to_numpy()) for name in ("open", "close"))
    apart, moves = np.abs(opens[1:] - closes[:-1]), np.abs(np.diff(closes))
    exchanged = np.abs(closes[1:] - opens[:-1])
    far, daily = (np.isin(steps, one) & ~np.isnan(apart + exchanged) for one in (LONG, 1))
    several = (far[:-2] & far[1:-1] & far[2:]).any() and daily.any()
    if several and apart[far].sum() < NEARER * moves[far].sum():
        problem = "file also has some that last until the next, a week or a month; export daily ones"
    elif _is_nearer(exchanged[daily], apart[daily]):
        problem = f"closes are the opens of the day before, as if they were exchanged; {COLUMNS_HINT}"
    else:
        return
    raise BadFile(f"daily candles are needed, each of which opens near the close before, but the {problem}")


def _is_nearer(exchanged: np.ndarray, apart: np.ndarray) -> bool:
    """Whether a run of days is nearer where open and close are exchanged."""
    sums = (np.convolve(one, np.ones(MIN_EXCHANGED), "valid") for one in (exchanged, apart))
    return len(apart) >= MIN_EXCHANGED and bool((next(sums) < NEARER * next(sums)).any())


def settle_ranges(table: FileTable, layout: Layout, frame: pd.DataFrame) -> int:
    """Refuse prices that contradict themselves; make those that rounding put out of range unknown, in place.

    Where the open is outside of low to high it becomes unknown, where the close is, low and high do.

    Returns:
        The number of rows that rounding changed.
    """
    low, high = frame["low"], frame["high"]
    crossed = low > high
    outside = {name: (frame[name] < low) | (frame[name] > high) for name in ("open", "close")}
    far = low > high * (1 + ROUNDING)
    far |= (frame["open"] > FAR * frame["close"]) | (frame["close"] > FAR * frame["open"])
    for name in outside:
        far |= (frame[name] < low * (1 - ROUNDING)) | (frame[name] > high * (1 + ROUNDING))
    if far.sum() > max(MAX_CONTRADICTIONS, MAX_CONTRADICTED_SHARE * len(frame)):
        tried = ", ".join(f"{role} from {table.heading(at)}" for role, at in layout.prices.items())
        raise BadFile(
            f"open and close are needed between low and high, but in {far.sum()} of {len(frame)} rows (first"
            f" {table.unit} {far.idxmax()}) they are not; tried: {tried}; {COLUMNS_HINT}"
        )
    rounded = ~far & (crossed | outside["open"] | outside["close"])
    frame.loc[rounded & (crossed | outside["close"]), ["low", "high"]] = np.nan
    frame.loc[rounded & outside["open"], "open"] = np.nan
    return int(rounded.sum())


def one_a_day(frame: pd.DataFrame, on_duplicate: OnDuplicate, table: FileTable) -> pd.DataFrame:
    """One row of each day; `frame` is indexed by row number, in the file's order."""
    keep: Literal["first", "last"] = "last" if on_duplicate == "last" else "first"
    distinct = frame.drop_duplicates(keep=keep)  # an unknown figure equals an unknown one
    kept = distinct.drop_duplicates("day_utc", keep=keep)
    conflicts = distinct.drop(kept.index)
    if on_duplicate == "refuse" and len(conflicts):
        day = conflicts["day_utc"].min()
        first, second = (
            f"{table.unit} {row} ({', '.join(f'{key} {value}' for key, value in figures.dropna().items())})"
            for row, figures in distinct.loc[distinct["day_utc"] == day, FIGURES].head(2).iterrows()
        )
        days = conflicts["day_utc"].nunique()
        coins = ", or where these are coins, one with --columns date=…,close=…,symbol=… and --symbol NAME"
        raise BadFile(
            f"each day is needed once, but {day:%Y-%m-%d} has different figures:"
            f" {first} and {second}; days like this: {days};"
            f" choose with --on-duplicate last|first{coins if days > len(kept) / 2 else ''}"
        )
    kept_rows = pd.Series(kept.index, index=kept["day_utc"])
    for number, day in zip(conflicts.index.tolist(), conflicts["day_utc"], strict=True):
        reason = f"{table.unit} {kept_rows[day]} has other figures for this day and is kept"
        table.rejections.add(number, reason, readable=True)
    return kept
