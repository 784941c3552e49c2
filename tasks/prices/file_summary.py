"""What a user is told of a file that was read: short remarks at an import, all of it at a dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from closecast.tasks.prices.file_reader import FileCandles, FileReading
from closecast.tasks.prices.gaps import describe_gaps, find_gaps
from closecast.tasks.prices.validation import Checked

SHOWN_ROWS = 5


@dataclass(frozen=True)
class FileSummary:
    """What an import of a file would read."""

    file: str
    format: str
    columns: Mapping[str, str]  # role → heading or number
    units: str
    remarks: tuple[str, ...]  # how it was read, and what is unknown
    first_day: date
    last_day: date
    days: int
    gaps: tuple[tuple[date, date], ...]
    gaps_text: tuple[str, ...]
    quarantined: tuple[str, ...]  # the reason of each row that would be
    first_rows: tuple[dict[str, Any], ...]
    last_rows: tuple[dict[str, Any], ...]  # none that is among the first


def summarize(name: str, product_id: str | None, read: FileCandles, checked: Checked) -> FileSummary:
    """The summary of a file that was read, with the candles that would be stored and those that would not."""
    days = checked.accepted["day_utc"]
    shown = checked.accepted.assign(day_utc=days.dt.strftime("%Y-%m-%d"))
    rows = tuple(
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in shown.to_dict("records")
    )
    return FileSummary(
        name,
        describe_format(read.reading),
        read.reading.columns,
        _units(read.reading, product_id),
        tuple(remarks(read.reading)),
        days.iloc[0].date(),
        days.iloc[-1].date(),
        len(days),
        tuple(find_gaps(days)),
        tuple(describe_gaps(days)),
        (*read.rejected["reason"], *checked.quarantined["reason"]),
        rows[:SHOWN_ROWS],
        rows[SHOWN_ROWS:][-SHOWN_ROWS:],
    )


def describe_format(reading: FileReading) -> str:
    """The format and the kind of file, such as `investing.com, text separated by ,`."""
    known = " or ".join(reading.formats) if reading.formats else "named columns"
    above = f", below {reading.above} lines" if reading.above else ""
    return f"{known}, {reading.kind}{above}"


def _units(reading: FileReading, product_id: str | None) -> str:
    """How the days are written, and the currencies of the figures."""
    base, quote = product_id.split("-") if product_id else ("the base currency", "the quote currency")
    volume = f", volume in {base}" if "volume" in reading.columns else ""
    return f"days written like {reading.dates}, decimal {reading.decimal}, prices in {quote}{volume}"


def remarks(reading: FileReading) -> list[str]:
    """What was understood, where it does not go without saying; a short line each."""
    lines = []
    if reading.settled_by:
        start = "" if reading.midnight_ends_day else "; a time of 00:00 begins its day"
        lines.append(
            f"no header: the columns are {', '.join(reading.columns)}, by {reading.settled_by}{start}"
        )
    if reading.decimal == "comma":
        lines.append("figures have a decimal comma, a point separates thousands")
    if reading.midnight_ends_day:
        lines.append("a time of 00:00 is the end of a day: its price is the close of the day before")
    if reading.volume_in_quote:
        lines.append("the volume is in the quote currency, or in an unknown one: it stays unknown")
    if unknown := [f"{name} on {count}" for name, count in reading.unknown.items() if count]:
        lines.append(f"unknown: {', '.join(unknown)} days")
    if reading.rounded:
        lines.append(
            f"{reading.rounded} rows have an open or close just outside of low to high: there the open, or"
            " the range, is unknown"
        )
    return lines
