"""The text of a file → its cells, each row with its line number: the header, the separator, the quotes.

What the columns are is decided in tasks/prices/file_columns.py, what the cells mean in the modules of days
and figures.
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

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_coins import coins_in, is_other_figure, told_by
from closecast.tasks.prices.file_days import parse_days, zones_in
from closecast.tasks.prices.file_figures import UNKNOWN
from closecast.tasks.prices.file_formats import INDICES, key_of, read_heading
from closecast.tasks.prices.file_table import FileOptions, FileTable, Rejections

MAX_LINE_BYTES = 64 * 1024
SEPARATORS = ",;\t|"
HEADER_LINES = 50  # the header is looked for in so many filled lines
COLUMNS_HINT = "name the columns with --columns date=…,close=…"
SPACES_BEFORE_A_QUOTE = re.compile(rb'(^|[,;\t|])[ ]+(?=")', re.MULTILINE)
FIGURE = re.compile(rb"\d[^,;\t|]*")  # a candle has two, its day and its close
# The first cell of a row of figures: a time of any form. Its other cells are figures, or words for none.
TIME_CELL = re.compile(r"[\d/.: TZ+-]{1,40}( ?UTC)?")
FIGURE_CELL = re.compile(r"-?[\d.,' ]*\d[\d.,' ]*([eE][+-]?\d+)?[KMB]?|true|false", re.ASCII)
# Words for times that are no starts of candles, or no seconds since 1970.
TIMES = re.compile(
    r"^(?=.*(time|stamp|label)).*(\b(candle|bar|period|interval)'?s? (end|close|closing)\b"
    r"|\b(end|close) of (\w{1,9} )?(candle|bar|period|interval)|\blabel\W{1,3}right)"
    r"|\b(seconds|days) since (?!1970)",
    re.IGNORECASE,
)


def read_text(text: bytes, options: FileOptions) -> FileTable:
    """The cells of a delimited text in UTF-8; lines above its header, if it has one, are skipped."""
    lines = _split_lines(text)
    found = _ticker_header(lines) or _find_header(lines, options)
    return _read_below(lines, found)


@dataclass(frozen=True)
class _Header:
    """The header of a text: without one as many empty headings as the first row has cells."""

    headings: list[str]
    separator: str
    above: int  # lines above it
    start: int  # the index of the first row's line
    tickers: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        return any(self.headings)


def _read_below(lines: list[bytes], found: _Header) -> FileTable:
    """The cells of all lines below the header; rows may lack their last cells, or end in empty ones."""
    header, separator, start = found.headings, found.separator, found.start
    nothing = b' "' + separator.encode()  # a spreadsheet writes its empty rows
    below, rejections = [line if line.strip(nothing) else b"" for line in lines[start:]], Rejections()
    for row, line in enumerate(below if b'"' in b"\n".join(below) else ()):
        if line.count(b'"') % 2:
            rejections.add(start + row + 1, "a quote is not closed")
            below[row] = b""
    numbers = np.flatnonzero(np.fromiter(map(len, below), np.int64)) + start + 1
    columns, widths = _parse([line for line in below if line], len(header), separator)
    if found.is_there and not found.tickers:
        none_fits = len(widths) == len(numbers)
        _check_commas_in_headings(found, lines[start - 1], columns, none_fits=none_fits)
    short: dict[int, int] = {}
    if widths:
        for row, width in widths.items():
            number, missing = int(numbers[row]), len(header) - width
            surplus = separator.encode() * -missing  # empty cells behind the last one
            is_cut = number == len(lines) and len(widths) == 1  # within the row, by an end of a download
            if missing > 0 and lines[number - 1].strip() and not is_cut:
                short[number] = width
                below[number - 1 - start] += separator.encode() * missing
            elif surplus and below[number - 1 - start].endswith(surplus):
                below[number - 1 - start] = below[number - 1 - start].removesuffix(surplus)
        columns, widths = _parse([line for line in below if line], len(header), separator)
    for row, width in widths.items():
        number = int(numbers[row])
        if lines[number - 1].strip():
            first = "header" if found.is_there else "first row"
            rejections.add(number, f"{width} fields where the {first} has {len(header)}")
    beside = _lines_beside(lines, found)

    def cells(number: int) -> dict[str, str] | list[str]:
        texts = _split(lines[number - 1], separator)
        fits = found.is_there and len(texts) == len(header)
        return dict(zip(header, texts, strict=True)) if fits else texts

    return FileTable(
        f"text separated by {'a tab' if separator == chr(9) else separator}",
        header,
        found.is_there,
        columns,
        np.delete(numbers, list(widths)),
        cells,
        rejections,
        found.tickers,
        short,
        found.above,
        tuple(coin for line in beside for coin in coins_in(line)),
        (
            *(one for line in beside for one in told_by(line)),
            *(("time", line) for line in beside if TIMES.search(line)),
            *(("zone", zone) for line in beside for zone in zones_in(line)),
            *(("figure", line) for line in beside if is_other_figure(line)),
        ),
    )


def _lines_beside(lines: list[bytes], found: _Header) -> list[str]:
    """The lines that are no candles: those above the header, units below it, a footer."""
    units_end = found.start + 2
    outer = [*lines[found.start : units_end], *lines[max(units_end, len(lines) - HEADER_LINES) :]]
    texts = [*lines[: found.above], *(line for line in outer if len(FIGURE.findall(line)) < 2)]
    return [line.decode() for line in texts]


def _check_commas_in_headings(found: _Header, line: bytes, columns: list[Any], *, none_fits: bool) -> None:
    """Refuse a header that a comma inside a heading seems to have cut: a space begins some headings alone.

    So it is where no row has as many cells, or where commas can have cut the figures below alike.
    """
    cells = line.decode().split(found.separator)
    spaced = [at for at, cell in enumerate(cells) if cell.startswith(" ")]
    if not spaced or len(spaced) == len(cells) - 1:
        return
    for at in spaced:
        if none_fits or (at < len(columns) and _are_whole(columns[at - 1]) and _are_whole(columns[at])):
            raise BadFile(
                f"a heading for each column is needed, but {cells[at - 1]}{found.separator}{cells[at]!s:.40}"
                " can be one heading or two; put quotes around headings that have a separator in them"
            )


def _are_whole(column: Any) -> bool:
    """Whether the first cells of a column are whole numbers, with or without a mark between thousands."""
    return bool(pc.all(pc.match_substring_regex(column.slice(0, 1000), r"^[\d\s\x{a0}\x{202f}'’]*$")).as_py())


def _split_lines(text: bytes) -> list[bytes]:
    """The lines of a text without their ends; no space stands before a quote that opens a cell."""
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b' "' in text:
        text = SPACES_BEFORE_A_QUOTE.sub(rb"\1", text)
    lines = text.split(b"\n")
    longest = max(lines, key=len)
    if len(longest) > MAX_LINE_BYTES:
        raise BadFile(
            f"lines of at most {MAX_LINE_BYTES} bytes are needed, line {lines.index(longest) + 1} is"
            " longer; is it a file of candles?"
        )
    return lines


def _find_header(lines: list[bytes], options: FileOptions) -> _Header:
    """The first header that has what is needed, or the first row where there are only figures."""
    filled = [index for index, line in enumerate(lines[: 4 * HEADER_LINES]) if line.strip()][:HEADER_LINES]
    if not filled:
        raise BadFile("a file of daily candles is needed, but it is empty or begins so")
    top = filled[0]
    if options.columns and all(text.isdecimal() for text in options.columns.values()):
        return _above_first_day(lines, filled, options)
    first, separator = _most_cells(lines[top])
    start = top + (first == list(map(str, range(len(first)))))  # a data frame numbers columns without names
    bare = _Header([""] * len(first), separator, top, start)
    candidates = [(index, mark, _split(lines[index], mark)) for index in filled for mark in SEPARATORS]
    index, separator, header = min(
        candidates, key=lambda candidate: (len(_missing(candidate[2], options)), -len(candidate[2]))
    )
    missing = _missing(header, options)
    if not missing:
        return _Header(header, separator, index, index + 1)
    if start > top or _is_row(first):
        return bare
    raise BadFile(
        f"a header with a date and a close is needed (such as Date,Open,High,Low,Close,Volume),"
        f" {' and '.join(missing)} not found in {lines[index].decode()[:60]!r}; {COLUMNS_HINT}"
    )


def _above_first_day(lines: list[bytes], filled: list[int], options: FileOptions) -> _Header:
    """The header where columns are named by number: the line above the first row with a day, if as wide."""
    numbers = {role: int(text) for role, text in options.columns.items()}
    widest, day = max(numbers.values()), numbers.get("date", numbers.get("end", 1))
    for at, index in enumerate(filled):
        for mark in SEPARATORS:
            cells = _split(lines[index], mark)
            if len(cells) >= widest and is_day(cells[day - 1]):
                above = filled[at - 1] if at else index
                heading = _split(lines[above], mark)
                if at and len(heading) == len(cells):
                    return _Header(heading, mark, above, index)
                return _Header([""] * len(cells), mark, index, index)
    raise BadFile(
        f"a day is needed in column {day}, and {widest} columns, but no row has them, such as"
        f" {lines[filled[-1]].decode()[:60]!r}; number other columns with --columns date=…,close=…"
    )


def is_day(text: str) -> bool:
    """Whether a text is a day, in either order of day and month."""
    days = parse_days(pa.array([text]), "day-first").days
    return not np.isnat(days[0]) or not np.isnat(parse_days(pa.array([text]), "month-first").days[0])


def _missing(header: list[str], options: FileOptions) -> list[str]:
    """What the header lacks: the columns named in the options, else a date and a close."""
    if options.columns:
        keys = {key_of(heading) for heading in header}
        named = options.columns.values()
        return [
            repr(heading)
            for heading in named
            if not (int(heading) <= len(header) if heading.isdecimal() else key_of(heading) in keys)
        ]
    if len(header) == 1:
        return ["date", "close"]
    roles = {read_heading(heading).role for heading in header}
    if key_of(header[0]) in INDICES:
        roles.add("date")
    needed = {"date": {"date", "end"}, "close": {"close", "price"}}
    return [name for name, suitable in needed.items() if not roles & suitable]


def _ticker_header(lines: list[bytes]) -> _Header | None:
    """The header of yfinance: rows of prices and of tickers, the date's heading in the latter or below."""
    for separator in SEPARATORS:
        rows = [_split(line, separator) for line in lines[:3]]
        if len(rows) < 3 or len(rows[0]) < 2 or len({len(row) for row in rows}) > 1:
            continue
        names, tickers = rows[0], rows[1]
        if read_heading(rows[2][0]).role == "date" and not any(rows[2][1:]):
            date, start = rows[2][0], 3
        elif read_heading(tickers[0]).role == "date" and all(map(str.isupper, tickers[1:])):
            date, start = tickers[0], 2
        else:
            continue
        if not any(read_heading(heading).role == "close" for heading in names[1:]):
            names, tickers = tickers, names
        if any(read_heading(heading).role == "close" for heading in names[1:]):
            return _Header([date, *names[1:]], separator, 0, start, ("", *tickers[1:]))
    return None


def _most_cells(line: bytes) -> tuple[list[str], str]:
    """The cells of a line by the separator that makes it a row, or gives the most; and that separator."""
    split = [(_split(line, mark), mark) for mark in SEPARATORS]
    return max(split, key=lambda pair: (_is_row(pair[0]), len(pair[0])))


def _is_row(fields: list[str]) -> bool:
    figures = fields[1:]
    return (
        (TIME_CELL.fullmatch(fields[0]) is not None or is_day(fields[0]))
        and sum(any(map(str.isdecimal, text)) for text in figures) >= min(len(figures), 4)
        and all(FIGURE_CELL.fullmatch(text) or text.lower() in UNKNOWN for text in figures)
        and bool(figures)
    )


def _split(line: bytes, separator: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line.decode()], delimiter=separator), [""])]


def _parse(lines: list[bytes], width: int, separator: str) -> tuple[list[Any], dict[int, int]]:
    """The columns as trimmed text; by index, the width of each line that has another one."""
    names = [str(position) for position in range(width)]
    widths: dict[int, int] = {}

    def skip(row: arrow_csv.InvalidRow) -> str:
        widths[row.number - 1] = row.actual_columns
        return "skip"

    if not lines:
        return [pa.array([], pa.string())] * width, widths
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(b"\n".join(lines)),
            arrow_csv.ReadOptions(column_names=names, use_threads=False),  # threads would lose row numbers
            arrow_csv.ParseOptions(delimiter=separator, invalid_row_handler=skip),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
        consistent = table.num_rows + len(widths) == len(lines)
    except pa.ArrowInvalid:
        consistent = False
    if not consistent:
        raise BadFile("each candle is needed on one line, but a quoted field goes over a line's end")
    return [pc.utf8_trim_whitespace(column.combine_chunks()) for column in table.columns], widths
