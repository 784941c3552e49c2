"""Texts → UTC days: time stamps by their size, dates in the forms that exports have, clocks and offsets."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from closecast.tasks.prices.file_table import DayOrder

SECONDS_A_DAY = 86_400
CLOSING = SECONDS_A_DAY - 120  # a time from 23:58 on, which a spreadsheet gives, is the end of its day
NO_DAY = np.datetime64("NaT", "s")
# The days that Python's calendar has.
YEAR_1, YEAR_9999 = np.datetime64("0001-01-01", "s"), np.datetime64("9999-12-31", "s")
STAMP = r"^-?\d{1,20}(\.\d{0,15})?([eE]\+?\d{1,2})?$"
NANOSECONDS = r"^-?\d{18,20}$"
COMPACT = r"^(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})$"
TAIL = r"(?P<tail>(?:[T ,].*)?)Z?$"
WEEKDAY = r"^(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{0,6},? )?"
YEAR_LAST = r"^(?P<m>\d{1,2})[-/.](?P<d>\d{1,2})[-/.](?P<y>\d{4}|\d{2})" + TAIL
YEAR_FIRST = r"^(?P<y>\d{4})(?:[-/.]|年|년) ?(?P<m>\d{1,2})(?:[-/.]|月|월) ?(?P<d>\d{1,2})[日일]?" + TAIL
OTHER_FORMS = {
    YEAR_LAST: "10/24/2020",
    WEEKDAY + r"(?P<m>[A-Za-z]{3,9})\.?[ -](?P<d>\d{1,2}),?[ -](?P<y>\d{4})" + TAIL: "Oct 24, 2020",
    WEEKDAY + r"(?P<d>\d{1,2})[ -](?P<m>[A-Za-z]{3,9})\.?,?[ -](?P<y>\d{4}|\d{2})" + TAIL: "24 Oct 2020",
    r"^(?P<y>\d{4})[ -](?P<m>[A-Za-z]{3,9})[ -](?P<d>\d{1,2})" + TAIL: "2020-Oct-24",
    COMPACT[:-1] + r"(?P<tail>[T ]\d{2}:?\d{2}.*)$": "20201024 00:00",
}
CLOCK_24 = re.compile(
    r",?[T ](\d{1,2}):?(\d{2})(?::?(\d{2})(\.\d+)?)?"
    r"(?: ?(?:Z|UTC|GMT)| ?([+-])(\d{2})(?::?(\d{2}))?(?: UTC)?)?",
    re.ASCII,
)
CLOCK_12 = re.compile(r",? (\d{1,2}):(\d{2})(?::(\d{2}))? ?([AaPp])[Mm]", re.ASCII)
HOUR_LABEL = re.compile(r" (\d{2})-(AM|PM)", re.ASCII)
# A time zone in a line of words.
ZONE = re.compile(
    r"\b(?:UTC|GMT) ?[+-] ?(?:0?[1-9]|1\d)(?::?\d\d)?\b"
    r"|\b(?:E[SD]T|P[SD]T|CE?ST|CET|JST|HKT|KST)\b|\d ?(?:[AaPp][Mm] )?ET\b"
    r"|\b(?i:Eastern|Pacific|Central|New York|London|Tokyo|local)(?i: standard| daylight)?(?i: time)\b"
    r"|\b(?:America|Europe|Asia|Australia)/[A-Z]\w+"
)
MONTHS = {
    name.lower(): number
    for names in (calendar.month_name, calendar.month_abbr)
    for number, name in enumerate(names)
    if number
} | {"sept": 9}


@dataclass(frozen=True)
class Days:
    """The days of a column; `clock` is 0 at midnight UTC and at a day's end."""

    days: np.ndarray  # (rows,) datetime64[s], NaT where unreadable
    clock: np.ndarray  # (rows,) seconds after midnight UTC
    labelled: np.ndarray  # (rows,) whether the hour is a mere label, such as 07-AM
    at_end: np.ndarray  # (rows,) whether the time is the end of the day, such as 23:59:59
    form: str  # such as `2020-10-24` or `unix milliseconds`
    unsettled: int | None = None  # a row whose day and month may be either way, where no row settles it


class _Parser:
    """What the forms of a column add up to: each reads the rows that match it and that no other has read."""

    def __init__(self, texts: Any) -> None:
        self.texts = texts
        self.seconds = np.full(len(texts), np.nan)  # since 1970
        self.labelled = np.zeros(len(texts), dtype=bool)
        self.forms: list[str] = []
        self.unsettled: int | None = None

    def stamps(self) -> None:
        """Seconds, milliseconds, microseconds or nanoseconds, each by its size."""
        if not np.isnan(self.seconds).any():
            return
        texts = pc.if_else(pc.match_substring_regex(self.texts, STAMP), self.texts, None)
        number = np.array(texts.cast(pa.float64()).to_numpy(zero_copy_only=False))
        size = np.abs(number)
        unit = np.select([size >= 1e17, size >= 1e14, size >= 1e11], [1e9, 1e6, 1e3], 1.0)
        seconds = number / unit
        if (size >= 1e17).any():  # a float64 would round the last nanosecond of a day up to the next day
            whole = pc.if_else(pc.match_substring_regex(texts, NANOSECONDS), texts, None)
            microseconds = pc.utf8_slice_codeunits(whole, 0, -3).cast(pa.float64())
            seconds = np.where(whole.is_valid(), microseconds.to_numpy(zero_copy_only=False) / 1e6, seconds)
        seconds[~(np.abs(seconds) < 3e6 * SECONDS_A_DAY)] = np.nan  # the years of four digits
        names = {1e9: "nanoseconds", 1e6: "microseconds", 1e3: "milliseconds", 1.0: "seconds"}
        self._keep(seconds, " and ".join(f"unix {names[one]}" for one in np.unique(unit[~np.isnan(seconds)])))

    def dates(self, pattern: str, form: str, order: DayOrder | None = None) -> None:
        """Dates that match a pattern with y, m and d, and a clock behind them."""
        if not np.isnan(self.seconds).any():
            return
        parts = pc.extract_regex(self.texts, pattern)
        if parts.null_count == len(parts):
            return
        rows = np.flatnonzero(parts.is_valid().to_numpy(zero_copy_only=False))
        found = {part.name: parts.field(part.name).take(pa.array(rows)) for part in parts.type}
        year, day = (np.array(found[name].cast(pa.int64())) for name in "yd")
        month = _months(found["m"])
        if pattern == YEAR_LAST:
            day_first = self._day_first(rows, month, day, order)
            if day_first is None:
                return
            if day_first:
                month, day, form = day, month, "24/10/2020"
        year = _whole_years(found["y"], year, day)
        seconds = np.full(len(self.texts), np.nan)
        seconds[rows] = _seconds(year, month, day)
        if "tail" in found:
            clocks = found["tail"].dictionary_encode()
            parsed = np.array([_parse_clock(tail) for tail in clocks.dictionary.to_pylist()]).reshape(-1, 2)
            clock, labelled = parsed[clocks.indices.to_numpy()].T
            seconds[rows] += clock
            self.labelled[rows] |= (labelled == 1) & ~np.isnan(seconds[rows])
        self._keep(seconds, form)

    def _day_first(
        self, rows: np.ndarray, first: np.ndarray, second: np.ndarray, order: DayOrder | None
    ) -> bool | None:
        """Whether the day stands first; None, and `unsettled`, where no row settles it or two disagree."""
        if order:
            return order == "day-first"
        if (first > 12).any() != (second > 12).any():
            return bool((first > 12).any())
        self.unsettled = int(rows[0])
        return None

    def _keep(self, seconds: np.ndarray, form: str) -> None:
        new = np.isnan(self.seconds) & ~np.isnan(seconds)
        if new.any():
            self.seconds[new] = seconds[new]
            self.forms.append(form)

    def result(self) -> Days:
        """The days and clocks of all forms together."""
        day, clock = np.divmod(self.seconds, SECONDS_A_DAY)
        at_end = clock >= CLOSING
        days = np.full(len(day), NO_DAY)
        known = ~np.isnan(day)
        days[known] = (day[known].astype("int64") * SECONDS_A_DAY).astype("datetime64[s]")
        days[(days < YEAR_1) | (days > YEAR_9999)] = NO_DAY
        clock[at_end | np.isnan(clock)] = 0.0
        return Days(days, clock, self.labelled, at_end, " and ".join(self.forms), self.unsettled)


def parse_days(column: Any, order: DayOrder | None = None) -> Days:
    """The UTC day and time of each row of a column, text or typed.

    Dates such as 10/24/2020 are read as `order` says, else as the column settles it: a first or second number
    above 12. Eight digits are a date where all of the column are.
    """
    texts = _as_text(column)
    parser = _Parser(texts)
    first = texts[0].as_py() if len(texts) else ""
    if re.fullmatch(STAMP[1:-1], first, re.ASCII):
        filled = texts.filter(pc.not_equal(texts, ""))
        if pc.all(pc.match_substring_regex(filled, COMPACT)).as_py():
            parser.dates(COMPACT, "20201024")
        else:
            parser.stamps()
    parser.dates(YEAR_FIRST, "2020-10-24")
    parser.stamps()
    for pattern, form in OTHER_FORMS.items():
        parser.dates(pattern, form, order)
    return parser.result()


def parse_clocks(column: Any) -> np.ndarray | None:
    """(rows,) seconds after midnight UTC of a column of times of day alone, such as 00:00; else None."""
    texts = _as_text(column)
    encoded = texts.dictionary_encode()
    clocks = ["00:00" if text in ("", "0") else text for text in encoded.dictionary.to_pylist()]
    seconds = np.array([_parse_clock(f" {clock}")[0] for clock in clocks])
    if not len(texts) or np.isnan(seconds).any():
        return None
    return np.asarray(seconds[encoded.indices.to_numpy()])


def zones_in(line: str) -> list[str]:
    """The time zones that a line names; that of a line with a year is the one of an export's own time."""
    return [] if re.search(r"\d{4}", line) else ZONE.findall(line)


def _as_text(column: Any) -> Any:
    """A column of text as it is, typed numbers as the text of a time stamp."""
    if pa.types.is_string(column.type):
        return column
    return pa.array(
        ["" if value is None or value != value else repr(float(value)) for value in column.to_pylist()],
        pa.string(),
    )


def _whole_years(texts: Any, year: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Years of two digits as those of this century, where they cannot be the days: these differ more."""
    short = np.array(pc.equal(pc.binary_length(texts), 2))
    if short.any() and len(np.unique(year)) >= len(np.unique(day)):
        return np.where(short, -1, year)
    return np.where(short, year + 2000, year)


def _months(texts: Any) -> np.ndarray:
    """Months by number or English name; 0 for other names."""
    encoded = texts.dictionary_encode()
    months = encoded.dictionary.to_pylist()
    numbers = [int(month) if month.isdecimal() else MONTHS.get(month.lower(), 0) for month in months]
    return np.asarray(np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy()])


def _seconds(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Seconds since 1970 of midnight; NaN for a day that the calendar does not have."""
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + np.clip(month, 1, 12) - 1
    first = months.astype("datetime64[D]")
    days = first + np.clip(day, 1, 31) - 1
    right = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months) & (day <= 31)
    return np.where(right & (year >= 1), days.astype("int64") * float(SECONDS_A_DAY), np.nan)


def _parse_clock(tail: str) -> tuple[float, float]:
    """The text after the day as seconds after midnight UTC (NaN if unreadable), and 1 if it is a label."""
    if not tail:
        return 0.0, 0.0
    if match := CLOCK_24.fullmatch(tail):
        hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
        offset = int(match[6] or 0) * 3600 + int(match[7] or 0) * 60
        shift = -offset if match[5] == "+" else offset
        if hours < 24 and minutes < 60 and seconds < 60:
            thousandths = float((match[4] or "0")[:4])  # .9999999 would be rounded up to the next day
            return hours * 3600.0 + minutes * 60 + seconds + thousandths + shift, 0.0
    if (match := CLOCK_12.fullmatch(tail)) and 1 <= int(match[1]) <= 12:
        hours = int(match[1]) % 12 + 12 * (match[4] in "Pp")
        return hours * 3600.0 + int(match[2]) * 60 + int(match[3] or 0), 0.0
    if (match := HOUR_LABEL.fullmatch(tail)) and 1 <= int(match[1]) <= 12:
        return (int(match[1]) % 12 + 12 * (match[2] == "PM")) * 3600.0, 1.0
    return np.nan, 0.0
