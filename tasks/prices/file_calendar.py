"""The UTC day of each row of a file: from its date, its time stamp or the end of its candle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_columns import Layout
from closecast.tasks.prices.file_days import CLOSING, NO_DAY, Days, parse_clocks, parse_days
from closecast.tasks.prices.file_formats import midnight_ends_day
from closecast.tasks.prices.file_table import FileOptions, FileTable
from closecast.tasks.prices.file_text import COLUMNS_HINT

TIME_OF_DAY = r"\d(:\d\d| ?[AaPp]\.?[Mm])"
OLDEST_STAMP = np.datetime64("1973-03-01", "s")  # a smaller number is that of a day, or a date
ONE_DAY = np.timedelta64(86_400, "s")


def read_days(table: FileTable, layout: Layout, options: FileOptions) -> Days:
    """(rows,) UTC days; NaT where the row is rejected.

    The first date column names the day, and a row in which another one has another day is rejected. The
    newest row may be of a day that is not over.

    Raises:
        BadFile: not daily, not at midnight UTC, or dates whose day and month may be either way.
    """
    if not layout.dates:
        return _of_ends(table, layout, options)
    first, *others = layout.dates
    days = _parse(table, first, options)
    days = _move_to_day(days, ends_day=midnight_ends_day(table.header, layout.formats))
    clocks = {other: parse_clocks(table.columns[other]) for other in others}
    for clock in clocks.values():
        if clock is not None:  # the time of day in a column of its own
            days = replace(days, clock=days.clock + np.where(clock >= CLOSING, 0, clock))
    if not options.dates:
        _check_exchanged(table, days.days, first)
    _reject_unfinished(table, days, first)
    _check_midnight(table, days, first)
    _check_hours(table, days.days, days.clock)
    _reject_unknown(table, days, first)
    for other, clock in clocks.items():
        if clock is None:
            named = parse_days(table.columns[other], options.dates)
            _check_times(table, named.days, other)
            _compare(table, days.days, named, other)
    if layout.end is not None:
        _reject_ended(table, days.days, parse_days(table.columns[layout.end], options.dates).days, layout.end)
    return days


def _parse(table: FileTable, position: int, options: FileOptions) -> Days:
    days = parse_days(table.columns[position], options.dates)
    if days.unsettled is not None:
        raise BadFile(
            f"{table.name}: dates such as {_text(table, position, days.unsettled)!r:.40} can have the day"
            " first or the month first, and the rows do not settle it; say which with --dates"
            " day-first or --dates month-first"
        )
    return days


def _move_to_day(days: Days, *, ends_day: bool) -> Days:
    """The days where a time of 00:00 is the end of the day before."""
    if not ends_day:
        return days
    at_midnight = (days.clock == 0) & ~days.at_end & ~np.isnat(days.days)
    return replace(days, days=np.where(at_midnight, days.days - ONE_DAY, days.days))


def _of_ends(table: FileTable, layout: Layout, options: FileOptions) -> Days:
    """The days of candles that have only the time of their end."""
    assert layout.end is not None  # noqa: S101 (a layout has one or the other)
    days = _move_to_day(_parse(table, layout.end, options), ends_day=True)
    _check_midnight(table, days, layout.end)
    _reject_unknown(table, days, layout.end)
    return days


def _reject_unknown(table: FileTable, days: Days, position: int) -> None:
    for row in np.flatnonzero(np.isnat(days.days)).tolist():
        _reject(table, row, f"date {_text(table, position, row)!r:.40} is not a UTC day such as 2020-10-24")


def _off_midnight(days: Days) -> np.ndarray:
    return np.flatnonzero(~np.isnat(days.days) & (days.clock != 0) & ~days.labelled)


def _reject_unfinished(table: FileTable, days: Days, position: int) -> None:
    """Reject the newest row if it alone is not at midnight: exports end with the price of the moment."""
    off = _off_midnight(days)
    if len(off) == 1 and len(days.days) > 2 and days.days[off[0]] >= np.nanmax(days.days):
        row = int(off[0])
        number = int(table.numbers[row])
        text = _text(table, position, row)
        table.rejections.add(number, f"its time {text!r:.40} is in a day that is not over", readable=True)
        days.days[row], days.clock[row] = NO_DAY, 0.0


def _check_midnight(table: FileTable, days: Days, position: int) -> None:
    """Refuse a file whose rows are not each at midnight UTC, or at the end of a day."""
    off = _off_midnight(days).tolist()
    if off:
        minutes = int(days.clock[off[0]]) // 60
        problem = f"which is {minutes // 60:02}:{minutes % 60:02} UTC; export days in UTC"
        if days.days[off[0]] < OLDEST_STAMP:
            problem = "which is no time stamp; export days such as 2020-10-24"
        raise BadFile(
            f"{table.name}: daily candles are needed, each at midnight UTC, but {table.unit}"
            f" {table.numbers[off[0]]} is of {_text(table, position, off[0])!r:.40}, {problem}"
        )


def _check_exchanged(table: FileTable, days: np.ndarray, position: int) -> None:
    """Refuse days that are in order once day and month change places where the day is up to 12.

    So a spreadsheet or a program leaves days that it took in the wrong order where it could. The days as they
    are are in disorder, or have months between them and are no monthly closes.
    """
    known = np.flatnonzero(~np.isnat(days))
    dates = days[known].astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    day, month = (dates - months).astype(int), months.astype(int) % 12  # from 0
    swapped = (months - month + day).astype("datetime64[D]") + month
    exchanged = np.where(day < 12, swapped, dates)
    mended = not _is_ordered(dates) and _is_ordered(exchanged)
    mended |= not _is_daily(dates) and _is_daily(exchanged) and len(np.unique(day)) > 1
    if mended and len(known) > 2:
        row = known[np.flatnonzero(day < 12)[0]]
        raise BadFile(
            f"{table.name}: days one after the other are needed, but {table.unit} {table.numbers[row]}"
            f" ({_text(table, position, row)!r:.40}) and others like it have day and month exchanged; export"
            " days such as 2020-10-24"
        )


def _is_ordered(days: np.ndarray) -> bool:
    steps = np.diff(days).astype(int)
    return bool((steps > 0).all() or (steps < 0).all())


def _is_daily(days: np.ndarray) -> bool:
    return _is_ordered(days) and bool((np.abs(np.diff(days).astype(int)) == 1).all())


def _check_hours(table: FileTable, days: np.ndarray, clock: np.ndarray) -> None:
    """Refuse a file that has two hours of one day: it is not daily."""
    order = np.lexsort((clock, days))
    hourly = np.flatnonzero((np.diff(days[order]) == np.timedelta64(0, "s")) & (np.diff(clock[order]) != 0))
    if len(hourly):
        pair = order[hourly[0] : hourly[0] + 2]
        first, second = sorted(table.numbers[pair])
        raise BadFile(
            f"{table.name}: daily candles are needed,"
            f" {table.unit}s {first} and {second} are two hours of {days[pair[0]]!s:.10}"
        )


def _check_times(table: FileTable, days: np.ndarray, position: int) -> None:
    """Refuse a further column of times that cannot be read, such as `4 PM ET`: they may not be midnight."""
    if not pa.types.is_string(table.columns[position].type):
        return
    timed = np.array(pc.match_substring_regex(table.columns[position], TIME_OF_DAY))
    unread = np.flatnonzero(timed & np.isnat(days)).tolist()
    if unread:
        raise BadFile(
            f"{table.name}: times such as 2020-10-24T00:00:00Z or 00:00 are needed, but {table.unit}"
            f" {table.numbers[unread[0]]} has {_text(table, position, unread[0])!r:.40}; export days in UTC,"
            f" or {COLUMNS_HINT}"
        )


def _compare(table: FileTable, days: np.ndarray, other: Days, position: int) -> None:
    """Reject the rows in which a further column names another day."""
    _check_hours(table, np.where(days == other.days, days, NO_DAY), other.clock)
    differ = ~np.isnat(days) & ~np.isnat(other.days) & (days != other.days)
    for row in np.flatnonzero(differ).tolist():
        stamp = f"its time stamp {_text(table, position, row)!r:.40} is {other.days[row]!s:.10}"
        _reject(table, row, f"its date is {days[row]!s:.10}, {stamp}")


def _reject_ended(table: FileTable, days: np.ndarray, ends: np.ndarray, position: int) -> None:
    """Reject the rows whose candle ends before their day, as where the date is that of the day after."""
    for row in np.flatnonzero(ends < days).tolist():
        _reject(
            table,
            row,
            f"its date is {days[row]!s:.10}, its end {_text(table, position, row)!r:.40} is before",
        )


def _text(table: FileTable, position: int, row: int) -> str:
    return str(table.columns[position][row].as_py())


def _reject(table: FileTable, row: int, reason: str) -> None:
    table.rejections.add(int(table.numbers[row]), reason)
