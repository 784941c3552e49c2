"""The UTC day of each row of a file: from its date, its time stamp or the end of its candle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_coins import is_no_day
from closecast.tasks.prices.file_columns import Layout
from closecast.tasks.prices.file_days import CLOSING, NO_DAY, Days, parse_clocks, parse_days
from closecast.tasks.prices.file_formats import midnight_ends_day
from closecast.tasks.prices.file_table import FileOptions, FileTable
from closecast.tasks.prices.file_text import COLUMNS_HINT

TIME_OF_DAY = r"\d(:\d\d| ?[AaPp]\.?[Mm])"
OLDEST_STAMP = np.datetime64("1973-03-01", "s")  # a smaller number is that of a day, or a date
UTC_NAMES = {"", "UTC", "GMT", "ETC/UTC", "Z", "0", "+00:00", "UTC+0"}
ONE_DAY = np.timedelta64(86_400, "s")


def read_days(table: FileTable, layout: Layout, options: FileOptions) -> Days:
    """(rows,) UTC days; NaT where the row is rejected.

    The first date column names the day, and a row in which another one has another day is rejected. The
    newest row may be of a day that is not over.
    """
    if not layout.dates:
        return _of_ends(table, layout, options)
    first, *others = layout.dates
    days = _parse(table, first, options)
    _check_zone(table, days)
    ends_day = midnight_ends_day(table.header, layout.formats)
    if layout.settled_by != "the options":
        _check_starts(table, at_end=ends_day or bool(days.at_end.all()))
    days = _move_to_day(days, ends_day=ends_day)
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
        _check_ends(table, days.days, parse_days(table.columns[layout.end], options.dates), layout.end)
    return days


def _check_ends(table: FileTable, days: np.ndarray, ends: Days, position: int) -> None:
    """Reject candles that do not end with their day, as those of an hour or a week."""
    clock = parse_clocks(table.columns[position])
    if clock is not None:
        ends = replace(ends, days=days, clock=np.where(clock >= CLOSING, 0, clock))
    _check_times(table, ends.days, position)
    differ = (ends.days != days) & (_move_to_day(ends, ends_day=True).days != days) | (ends.clock != 0)
    _reject(
        table,
        differ & ~np.isnat(days) & ~np.isnat(ends.days),
        lambda row: f"its date is {days[row]!s:.10}, its end {table.text(position, row)} is not that day's",
    )


def _parse(table: FileTable, position: int, options: FileOptions) -> Days:
    days = parse_days(table.columns[position], options.dates)
    if days.unsettled is not None:
        raise BadFile(
            f"dates such as {table.text(position, days.unsettled)} can have the day first or the month first,"
            " and the rows do not settle it; say which with --dates day-first or --dates month-first"
        )
    return days


def _check_zone(table: FileTable, days: Days) -> None:
    """Refuse dates of a time zone that the file names in a column or beside it; time stamps are UTC."""
    zones = [text for text in table.texts("zone") if text.removesuffix(".0").upper() not in UTC_NAMES]
    if zones and "unix" not in days.form:
        raise BadFile(
            f"days in UTC are needed, but the file names the time zone {zones[0]!r:.40}; export them in UTC"
        )


def _check_starts(table: FileTable, *, at_end: bool) -> None:
    """Refuse a file that names another interval than a day, or other times than those of a day's begin.

    `at_end` tells that its times are read as those of a day's end.
    """
    words = list(filter(is_no_day, table.texts("interval")))
    words += [] if at_end else table.texts("time")
    if words:
        raise BadFile(
            f"times at which a UTC day begins are needed, but the file has the words {words[0]!r:.60};"
            " name its times with --columns date=…,close=… if they are such, end=… if they end the day"
        )


def _move_to_day(days: Days, *, ends_day: bool) -> Days:
    """The days where a time of 00:00 is the end of the day before."""
    if not ends_day:
        return days
    at_midnight = (days.clock == 0) & ~days.at_end & ~np.isnat(days.days)
    return replace(days, days=np.where(at_midnight, days.days - ONE_DAY, days.days))


def _of_ends(table: FileTable, layout: Layout, options: FileOptions) -> Days:
    """The days of candles that have only the time of their end."""
    assert layout.end is not None  # noqa: S101 (a layout has one or the other)
    days = _parse(table, layout.end, options)
    timed = pc.any(pc.match_substring_regex(table.columns[layout.end].cast("string"), TIME_OF_DAY)).as_py()
    if not timed and "unix" not in days.form and layout.settled_by != "the options":
        raise BadFile(
            f"a time is needed at which each candle ends, {table.place(0)} has {table.text(layout.end, 0)};"
            " name the column with --columns date=…,close=… if it is the day, end=… if the day ends before it"
        )
    days = _move_to_day(days, ends_day=True)
    _check_midnight(table, days, layout.end)
    _reject_unknown(table, days, layout.end)
    return days


def _reject_unknown(table: FileTable, days: Days, position: int) -> None:
    _reject(
        table,
        np.isnat(days.days),
        lambda row: f"date {table.text(position, row)} is not a UTC day such as 2020-10-24",
    )


def _off_midnight(days: Days) -> np.ndarray:
    return np.flatnonzero(~np.isnat(days.days) & (days.clock != 0) & ~days.labelled)


def _reject_unfinished(table: FileTable, days: Days, position: int) -> None:
    """Reject the newest row if it alone is not at midnight: exports end with the price of the moment."""
    off = _off_midnight(days)
    if len(off) == 1 and len(days.days) > 2 and days.days[off[0]] >= np.nanmax(days.days):
        row = int(off[0])
        reason = f"its time {table.text(position, row)} is in a day that is not over"
        table.rejections.add(int(table.numbers[row]), reason, readable=True)
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
            f"daily candles are needed, each at midnight UTC, but {table.place(off[0])} is of"
            f" {table.text(position, off[0])}, {problem}"
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
    # In any order, a spreadsheet may have sorted them.
    steps, apart = (np.diff(np.sort(one)).astype(int) for one in (exchanged, dates))
    mended |= (
        bool((steps > 0).all()) and 10 * (steps > 1).sum() < (apart > 1).sum() and len(np.unique(day)) > 1
    )
    if mended and len(known) > 2:
        row = known[np.flatnonzero(day < 12)[0]]
        raise BadFile(
            f"days one after the other are needed, but {table.place(row)} ({table.text(position, row)}) and"
            " others like it have day and month exchanged; export days such as 2020-10-24"
        )


def _is_ordered(days: np.ndarray) -> bool:
    steps = np.diff(days).astype(int)
    return bool((steps > 0).all() or (steps < 0).all())


def _check_hours(table: FileTable, days: np.ndarray, clock: np.ndarray) -> None:
    """Refuse a file that has two hours of one day: it is not daily."""
    order = np.lexsort((clock, days))
    hourly = np.flatnonzero((np.diff(days[order]) == np.timedelta64(0, "s")) & (np.diff(clock[order]) != 0))
    if len(hourly):
        pair = order[hourly[0] : hourly[0] + 2]
        first, second = sorted(table.numbers[pair])
        raise BadFile(
            f"daily candles are needed,"
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
            f"times such as 2020-10-24T00:00:00Z or 00:00 are needed, but {table.place(unread[0])} has"
            f" {table.text(position, unread[0])}; export days in UTC, or {COLUMNS_HINT}"
        )


def _compare(table: FileTable, days: np.ndarray, other: Days, position: int) -> None:
    """Reject the rows in which a further column names another day."""
    _check_hours(table, np.where(days == other.days, days, NO_DAY), other.clock)
    differ = ~np.isnat(days) & ~np.isnat(other.days) & (days != other.days)
    _reject(
        table,
        differ,
        lambda row: (
            f"its date is {days[row]!s:.10}, its time stamp {table.text(position, row)} is"
            f" {other.days[row]!s:.10}"
        ),
    )


def _reject(table: FileTable, broken: np.ndarray, reason: Callable[[int], str]) -> None:
    for row in np.flatnonzero(broken).tolist():
        table.rejections.add(int(table.numbers[row]), reason(row))
