"""What the steps of reading a file hand on: its options, its table of texts, its rejected rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from closecast.tasks.prices.file_formats import read_heading

OnDuplicate = Literal["refuse", "first", "last"]
Decimal = Literal["point", "comma"]
DayOrder = Literal["day-first", "month-first"]


@dataclass(frozen=True)
class FileOptions:
    """What a user says of a file; what is None is taken from the file, or the file is refused."""

    decimal: Decimal | None = None
    dates: DayOrder | None = None
    symbol: str | None = None  # of the rows to read, where a file has several coins
    # Role → heading or position (from 1); where given, no other column is read.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Of a day with different figures the row that counts: the one nearer the top or the end of the file.
    on_duplicate: OnDuplicate = "refuse"


@dataclass(frozen=True)
class Rejections:
    """The rejected rows of a file: number → reason; the first reason of a row stands.

    `unreadable` are those that should have been candles and are none. The others are known not to be: a day
    without a close, a day that is not over, a day that another row has.
    """

    reasons: dict[int, str] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)

    def add(self, number: int, reason: str, *, readable: bool = False) -> None:
        """Reject a row, by its number."""
        if number not in self.reasons:
            self.reasons[number] = reason
            if not readable:
                self.unreadable.add(number)


@dataclass(frozen=True)
class FileTable:
    """The cells of a file.

    A column is a pyarrow array: trimmed text, or typed as in JSON, Parquet and feather. Rows that do not fit
    the header are rejected and not among them.
    """

    kind: str  # such as `CSV (;)`
    header: list[str]  # empty texts where `has_header` is false
    has_header: bool
    columns: list[Any]
    numbers: np.ndarray  # (rows,) line number of each row, from 1; in JSON and the like the row's number
    # The cells of a row, by its number, for the quarantine.
    fields: Callable[[int], dict[str, Any] | list[Any]]
    rejections: Rejections = field(default_factory=Rejections)
    tickers: tuple[str, ...] = ()  # of each column, from a second header row
    short: Mapping[int, int] = field(default_factory=dict)  # the number of cells of rows that lack the last
    above: int = 0  # lines above the header
    coins: tuple[str, ...] = ()  # coins and currencies that the file names outside of its rows
    # What it says there under a word that has a role, or of the meaning of its `time`: role and text.
    told: tuple[tuple[str | None, str], ...] = ()
    unit: Literal["line", "row"] = "line"

    def place(self, row: int) -> str:
        """Where a row of the columns is in the file, such as `line 7`."""
        return f"{self.unit} {self.numbers[row]}"

    def text(self, position: int, row: int) -> str:
        """A cell for a message."""
        return f"{str(self.columns[position][row].as_py())!r:.40}"

    def texts(self, role: str) -> list[str]:
        """What is told of a role, and the distinct cells of the columns that have it."""
        columns = [at for at, heading in enumerate(self.header) if read_heading(heading).role == role]
        cells = (cell for at in columns for cell in pc.unique(self.columns[at]))
        return [*(text for one, text in self.told if one == role), *map(str, cells)]

    def heading(self, position: int) -> str:
        """The heading of a column, or its number."""
        return repr(self.header[position])[:27] if self.header[position] else f"column {position + 1}"
