"""The bytes of a CSV file → its columns in use, as text, each row with its line number.

Here is decided where the header is, what its names mean and which rows have as many fields as it has; what
the texts mean as days and figures is for tasks/prices/csv_reader.py.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from storage.core.errors import BadFile

MAX_LINE_BYTES = 64 * 1024
MAX_COLUMNS = 100
MIB = 2**20
NUMBER = r"^-?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?$"
API_ORDER = ["time", "low", "high", "open", "close", "volume"]
NAMES = {
    "day": {"date", "day", "day_utc", "datetime", "date_utc"},
    "stamp": {"unix_timestamp", "unix", "unix_time", "unixtime", "timestamp", "time", "epoch"},
    "symbol": {"symbol", "product", "product_id", "pair", "ticker"},
    "open": {"open", "open_price", "price_open"},
    "high": {"high", "high_price", "price_high"},
    "low": {"low", "low_price", "price_low"},
    "close": {"close", "close_price", "price_close", "closing_price", "price", "price_usd"},
}


class _Lines(NamedTuple):
    text: bytes  # LF only, no byte order mark, no quotes, ends with LF
    starts: np.ndarray  # (lines + 1,) offsets, the last is the end

    def line(self, index: int) -> str:
        return self.text[self.starts[index] : self.starts[index + 1] - 1].decode("utf-8", "replace")


class _Layout(NamedTuple):
    header: list[str]  # as written
    delimiter: str
    columns: dict[str, int]  # role → position
    first_row: int  # index of the first line below the header


@dataclass(frozen=True)
class Rows:
    """The rows of a file that have as many fields as its header, and why the others have not been taken.

    `texts` holds a column of text (pyarrow, trimmed) for each role: `day`, `stamp`, `symbol`, the prices by
    their names in a candle_frame, and the volumes as `volume:0`, `volume:1` … by position. `numbers` are the
    rows' line numbers; the first line is 1. `reasons` says by line number why a row is not taken.
    """

    name: str
    texts: dict[str, Any]
    numbers: np.ndarray
    reasons: dict[int, str]
    _lines: _Lines
    _layout: _Layout

    def text(self, role: str, row: int) -> str:
        """What stands in that column of the row (its index, not its line)."""
        return str(self.texts[role][row].as_py())

    def heading(self, role: str) -> str:
        """The column's name in the header: lower case, words joined by `_`."""
        return _plain(self._layout.header[self._layout.columns[role]])

    def reject(self, row: int, reason: str) -> None:
        """Do not take a row; the first reason stands."""
        self.reasons.setdefault(int(self.numbers[row]), reason)

    def written(self, number: int) -> dict[str, str] | list[str]:
        """A line's fields by the header's names, or in their order where they do not fit the header."""
        fields = _fields(self._lines.line(number - 1), self._layout.delimiter)
        header = self._layout.header
        return dict(zip(header, fields, strict=True)) if len(fields) == len(header) else fields


def cut_rows(data: bytes, name: str) -> Rows:
    """Cut a CSV file into rows and columns; a banner line above the header is passed over.

    Raises:
        BadFile: empty, not UTF-8 text, a line or a number of columns past all measure, no known header, two
            columns for one role, or no row below the header with as many fields.
    """
    lines = _split_lines(data, name)
    layout = _find_layout(lines, name)
    fields = _count_fields(lines, layout, name)
    fits = fields == len(layout.header)
    above = layout.first_row + 1
    reasons = {
        row + above: f"{fields[row]} fields where the header has {len(layout.header)}"
        for row in np.flatnonzero(~fits).tolist()
        if lines.line(layout.first_row + row).strip()
    }
    if not fits.any():
        raise no_rows(reasons, name)
    bounds = lines.starts[layout.first_row :]
    body = np.frombuffer(lines.text, np.uint8)[bounds[0] :]
    if not fits.all():
        body = body[np.repeat(fits, np.diff(bounds))]
    return Rows(name, _columns(body, layout), np.flatnonzero(fits) + above, reasons, lines, layout)


def no_rows(reasons: dict[int, str], name: str) -> BadFile:
    """The error for a file without a row that can be read."""
    came = f"line {min(reasons)}: {reasons[min(reasons)]}" if reasons else "nothing below the header"
    return BadFile(f"{name}: rows of daily candles are needed, but none can be read ({came})")


def _split_lines(data: bytes, name: str) -> _Lines:
    """Refuse what is no text, or has endless lines; bring the rest to one form."""
    _require_text(data, name)
    endless = f"{name}: lines of at most {MAX_LINE_BYTES} bytes are needed, line "
    head = data[: MAX_LINE_BYTES + 2]
    if len(head) > MAX_LINE_BYTES and b"\n" not in head and b"\r" not in head:
        raise BadFile(f"{endless}1 is longer; is it a CSV file of candles?")
    text = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # Without quotes a comma is always a delimiter: "7,993.54" gives a row too long, never a wrong figure.
    text = text.replace(b'"', b"")
    text = text if text.endswith(b"\n") else text + b"\n"
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
    starts = np.concatenate([[0], ends])
    longest = int(np.argmax(np.diff(starts)))
    if starts[longest + 1] - starts[longest] > MAX_LINE_BYTES:
        raise BadFile(f"{endless}{longest + 1} is longer; is it a CSV file of candles?")
    return _Lines(text, starts)


def _require_text(data: bytes, name: str) -> None:
    """Refuse what is not UTF-8 throughout; in pieces, as one text can take four times its size."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    bad = data.find(b"\0")
    try:
        for start in range(0, len(data) if bad < 0 else bad, MIB):
            decode(data[start : start + MIB], final=start + MIB >= len(data))
    except UnicodeDecodeError as error:
        # What was decoded begins with what the piece before had left over.
        bad = min(start + MIB, len(data)) - len(error.object) + error.start
    if bad >= 0:
        line = max(data.count(b"\n", 0, bad), data.count(b"\r", 0, bad)) + 1
        raise BadFile(
            f"{name}: a CSV file in UTF-8 text is needed, line {line} is not: {data[bad : bad + 20]!r:.60};"
            " unpack it, or save it as UTF-8"
        )


def _find_layout(lines: _Lines, name: str) -> _Layout:
    """The header, below a banner line or not, or the API's order where there is none."""
    filled = [i for i in range(min(len(lines.starts) - 1, 50)) if lines.line(i).strip()][:2]
    if not filled:
        raise BadFile(f"{name}: a CSV file of daily candles is needed, but it is empty or begins so")
    half: _Layout | None = None  # a header with a date or a close alone, for the message
    for index in filled:
        for delimiter in ",;\t":
            header = _fields(lines.line(index), delimiter)
            columns = _roles(header, name) if len(header) <= MAX_COLUMNS else {}
            layout = _Layout(header, delimiter, columns, index + 1)
            dated = "day" in columns or "stamp" in columns
            if dated and "close" in columns:
                return layout
            if half is None and (dated or "close" in columns):
                half = layout
    first = _fields(lines.line(filled[0]), ",")
    if len(first) == len(API_ORDER) and all(re.fullmatch(NUMBER, field) for field in first):
        return _Layout(API_ORDER, ",", _roles(API_ORDER, name), filled[0])
    if len(first) > MAX_COLUMNS:
        raise _too_wide(name, filled[0] + 1, len(first))
    came = lines.line(half.first_row - 1 if half else filled[0])
    missing = "date and close" if half is None else "date" if "close" in half.columns else "close"
    raise BadFile(
        f"{name}: a header with a date and a close is needed (such as Date,Open,High,Low,Close,Volume),"
        f" {missing} not found in {came[:60]!r}"
    )


def _fields(line: str, delimiter: str) -> list[str]:
    return [field.strip() for field in line.split(delimiter)]


def _plain(written: str) -> str:
    return re.sub(r"[\W_]+", "_", written.lower()).strip("_")


def _roles(header: list[str], name: str) -> dict[str, int]:
    """Role → position; volumes as `volume:0`, `volume:1` … by position."""
    roles: dict[str, int] = {}
    for position, written in enumerate(header):
        plain = _plain(written)
        role = next((role for role, names in NAMES.items() if plain in names), None)
        if plain.startswith("vol") or plain.endswith("volume"):
            role = f"volume:{position}"
        if role in roles:
            twice = f"{header[roles[role]]!r:.25} and {written!r:.25}"
            raise BadFile(f"{name}: one column is needed for the {role}, two came: {twice}")
        if role:
            roles[role] = position
    return roles


def _too_wide(name: str, line: int, came: int) -> BadFile:
    return BadFile(f"{name}: at most {MAX_COLUMNS} columns are expected, line {line} has {came}")


def _count_fields(lines: _Lines, layout: _Layout, name: str) -> np.ndarray:
    """Fields of each line below the header."""
    bounds = lines.starts[layout.first_row :]
    if len(bounds) == 1:
        raise no_rows({}, name)
    body = np.frombuffer(lines.text, np.uint8)[bounds[0] :]
    delimiters = np.flatnonzero(body == ord(layout.delimiter)) + bounds[0]
    fields = np.diff(np.searchsorted(delimiters, bounds)) + 1
    if fields.max() > MAX_COLUMNS:
        raise _too_wide(name, int(np.argmax(fields)) + layout.first_row + 1, fields.max())
    return fields


def _columns(body: np.ndarray, layout: _Layout) -> dict[str, Any]:
    """The columns in use as trimmed text, from rows that all have the header's number of fields."""
    names = [str(position) for position in range(len(layout.header))]
    used = {names[position]: pa.string() for position in layout.columns.values()}
    table = arrow_csv.read_csv(
        pa.BufferReader(body),
        arrow_csv.ReadOptions(column_names=names),
        arrow_csv.ParseOptions(delimiter=layout.delimiter, quote_char=False),
        arrow_csv.ConvertOptions(column_types=used, include_columns=list(used), strings_can_be_null=False),
    )
    return {
        role: pc.utf8_trim_whitespace(table[names[position]].combine_chunks())
        for role, position in layout.columns.items()
    }
