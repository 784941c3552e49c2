"""The bytes of a CSV file → its columns in use, as text, each row with its line number.

This module decides where the header is, which column has which role and which rows fit the header. What the
texts mean as days and figures is decided in tasks/prices/csv_reader.py.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from storage.core.errors import BadFile

MAX_LINE_BYTES = 64 * 1024
NUMBER = r"^-?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?$"
API_ORDER = ["time", "low", "high", "open", "close", "volume"]
NAMES = {
    "day": {"date", "day", "day_utc", "datetime", "date_utc"},
    "stamp": {"unix_timestamp", "unix", "unix_time", "unixtime", "timestamp", "time", "epoch"},
    "symbol": {"symbol", "product", "product_id", "pair", "ticker"},
    "open": {"open", "open_price", "price_open"},
    "high": {"high", "high_price", "price_high"},
    "low": {"low", "low_price", "price_low"},
    "close": {"close", "close_usd", "close_price", "price_close", "closing_price", "price", "price_usd"},
}


@dataclass(frozen=True)
class CsvRows:
    """The rows of a file that have as many fields as its header, and the reasons for all that are rejected.

    `texts` holds a trimmed pyarrow column for each role: `day`, `stamp`, `symbol`, the prices by their names
    in a candle_frame, and the volumes as `volume:0`, `volume:1` … by position.
    """

    name: str
    header: list[str]
    delimiter: str
    lines: list[bytes]
    texts: dict[str, Any]
    numbers: np.ndarray  # (rows,) line number of each row; the first line is 1
    reasons: dict[int, str]  # by line number

    def text(self, role: str, row: int) -> str:
        """The text in that column of the row (its index, not its line)."""
        return str(self.texts[role][row].as_py())

    def reject(self, row: int, reason: str) -> None:
        """Reject a row; the first reason stands."""
        self.reasons.setdefault(int(self.numbers[row]), reason)

    def fields(self, number: int) -> dict[str, str] | list[str]:
        """The fields of a line by the header's names, or in their order where they do not fit the header."""
        fields = _split(self.lines[number - 1], self.delimiter)
        return dict(zip(self.header, fields, strict=True)) if len(fields) == len(self.header) else fields


def split_rows(data: bytes, name: str) -> CsvRows:
    """Split a CSV file into rows and columns; a banner line above the header is skipped.

    Raises:
        BadFile: empty, not UTF-8 text, a line beyond the limit, no known header, two columns for one role, a
            quoted field over two lines, or nothing below the header.
    """
    lines = _split_lines(data, name)
    header, delimiter, first_row = _find_header(lines, name)
    below, reasons = lines[first_row:], dict[int, str]()
    for row, line in enumerate(below if b'"' in data else ()):
        if line.count(b'"') % 2:
            reasons[first_row + row + 1] = "a quote is not closed"
            below[row] = b""
    numbers = np.flatnonzero(np.fromiter(map(len, below), np.int64)) + first_row + 1
    if not len(numbers):
        raise no_rows(reasons, name)
    body = b"\n".join(filter(None, below))
    texts, widths = _parse(body, header, delimiter, name, len(numbers))
    for row, width in widths.items():
        number = int(numbers[row])
        if lines[number - 1].strip():
            reasons[number] = f"{width} fields where the header has {len(header)}"
    return CsvRows(name, header, delimiter, lines, texts, np.delete(numbers, list(widths)), reasons)


def no_rows(reasons: dict[int, str], name: str) -> BadFile:
    """The error for a file without a row that can be read."""
    first = f"line {min(reasons)}: {reasons[min(reasons)]}" if reasons else "nothing below the header"
    return BadFile(f"{name}: rows of daily candles are needed, but none can be read ({first})")


def _split_lines(data: bytes, name: str) -> list[bytes]:
    """The lines of a text without their ends."""
    bad = data.find(b"\0")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = max(data.count(b"\n", 0, bad), data.count(b"\r", 0, bad)) + 1
        raise BadFile(
            f"{name}: a CSV file in UTF-8 text is needed, line {line} is not: {data[bad : bad + 20]!r:.60};"
            " unpack it, or save it as UTF-8"
        )
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = text.split(b"\n")
    longest = max(lines, key=len)
    if len(longest) > MAX_LINE_BYTES:
        raise BadFile(
            f"{name}: lines of at most {MAX_LINE_BYTES} bytes are needed, line {lines.index(longest) + 1} is"
            " longer; is it a CSV file of candles?"
        )
    return lines


def _find_header(lines: list[bytes], name: str) -> tuple[list[str], str, int]:
    """The header, its delimiter and the index of the first line below it.

    It may stand below a banner line. Without a header the API's order is assumed.
    """
    filled = [index for index, line in enumerate(lines[:50]) if line.strip()][:2]
    if not filled:
        raise BadFile(f"{name}: a CSV file of daily candles is needed, but it is empty or begins so")
    candidates = [(index, mark, _split(lines[index], mark)) for index in filled for mark in ",;\t"]
    index, delimiter, header = min(candidates, key=lambda candidate: len(_missing(candidate[2])))
    missing = _missing(header)
    if not missing:
        return header, delimiter, index + 1
    first = _split(lines[filled[0]], ",")
    if len(first) == len(API_ORDER) and all(re.fullmatch(NUMBER, field) for field in first):
        return API_ORDER, ",", filled[0]
    raise BadFile(
        f"{name}: a header with a date and a close is needed (such as Date,Open,High,Low,Close,Volume),"
        f" {' and '.join(missing)} not found in {lines[index].decode()[:60]!r}"
    )


def _missing(header: list[str]) -> list[str]:
    roles = {_role(heading) for heading in header}
    needed = {"date": {"day", "stamp"}, "close": {"close"}}
    return [name for name, suitable in needed.items() if not roles & suitable]


def _split(line: bytes, delimiter: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line.decode()], delimiter=delimiter), [""])]


def plain(heading: str) -> str:
    """A column's name in lower case, its words joined by `_`."""
    return re.sub(r"[\W_]+", "_", heading.lower()).strip("_")


def _role(heading: str) -> str | None:
    """The role of a column, None where it is not used."""
    column = plain(heading)
    if column.startswith("vol") or column.endswith("volume"):
        return "volume"
    return next((role for role, names in NAMES.items() if column in names), None)


def _positions(header: list[str], name: str) -> dict[str, int]:
    """Role → position; volumes as `volume:0`, `volume:1` … by position."""
    positions: dict[str, int] = {}
    for position, heading in enumerate(header):
        role = _role(heading)
        if role in positions:
            both = f"{header[positions[role]]!r:.25} and {heading!r:.25}"
            raise BadFile(f"{name}: one column is needed for the {role}, the header has two: {both}")
        if role:
            positions[f"volume:{position}" if role == "volume" else role] = position
    return positions


def _parse(
    body: bytes, header: list[str], delimiter: str, name: str, lines: int
) -> tuple[dict[str, Any], dict[int, int]]:
    """The columns in use as trimmed text; by index, the width of each line that does not fit the header."""
    names = [str(position) for position in range(len(header))]
    roles = {role: names[position] for role, position in _positions(header, name).items()}
    widths: dict[int, int] = {}

    def skip(row: arrow_csv.InvalidRow) -> str:
        widths[row.number - 1] = row.actual_columns
        return "skip"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(body),
            arrow_csv.ReadOptions(column_names=names, use_threads=False),  # threads would lose row numbers
            arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(roles.values(), pa.string()),
                include_columns=list(roles.values()),
                strings_can_be_null=False,
            ),
        )
        consistent = table.num_rows + len(widths) == lines
    except pa.ArrowInvalid:
        consistent = False
    if not consistent:
        raise BadFile(f"{name}: each candle is needed on one line, but a quoted field goes over a line's end")
    return {
        role: pc.utf8_trim_whitespace(table[column].combine_chunks()) for role, column in roles.items()
    }, widths
