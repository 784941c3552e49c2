"""The bytes of a file → its cells, whatever holds them: text, JSON, Parquet or feather, packed or not."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather, parquet

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_json import read_json
from closecast.tasks.prices.file_table import FileOptions, FileTable
from closecast.tasks.prices.file_text import read_text

MAX_BYTES = 2**28  # of an unpacked file, and of JSON
MAX_ROWS = 10_000_000
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SHOWN = 5


def open_table(data: bytes, options: FileOptions) -> FileTable:
    """The cells of a file of any kind that the reader knows, by its first bytes."""
    data = _unpack(_unpack(data))  # such as a gzip in a zip
    if data.startswith((b"PAR1", b"ARROW1", b"FEA1")):
        return _read_arrow(data)
    text = _decode(data)
    if text.lstrip()[:1] in (b"[", b"{"):
        if len(text) > MAX_BYTES:
            raise BadFile(f"JSON of at most {MAX_BYTES} bytes is needed, this is larger; split it")
        return read_json(text)
    if text.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<table")):
        raise BadFile("a file of daily candles is needed, but this is a web page; download the data")
    return read_text(text, options)


def _unpack(data: bytes) -> bytes:
    """The content of a gzip or of the one file in a zip; other bytes as they are."""
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as packed:
                content = packed.read(MAX_BYTES + 1)
        elif data.startswith(b"PK\x03\x04"):
            content = _unzip(data)
        else:
            return data
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise BadFile(f"a whole packed file is needed, but it cannot be unpacked: {error}") from error
    if len(content) > MAX_BYTES:
        raise BadFile(f"a file of at most {MAX_BYTES} bytes is needed, unpacked it is larger; split it")
    return content


def _unzip(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [
            one.filename
            for one in archive.infolist()
            if not one.is_dir() and not one.filename.startswith("__MACOSX/")
            if not one.filename.rpartition("/")[2].startswith(".")
        ]
        if "xl/workbook.xml" in names:
            raise BadFile("a file of daily candles is needed, this is a workbook; save the sheet as CSV")
        if len(names) != 1:
            shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
            raise BadFile(f"a zip with one file is needed, it has {len(names)} ({shown}); unpack it")
        with archive.open(names[0]) as packed:
            return packed.read(MAX_BYTES + 1)


def _decode(data: bytes) -> bytes:
    """The text in UTF-8, without a mark."""
    if data.startswith(UTF16_MARKS):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise BadFile("its text begins as UTF-16, but is not; save it as UTF-8") from error
        data = text.encode()
    bad = data.find(b"\0")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = max(data.count(b"\n", 0, bad), data.count(b"\r", 0, bad)) + 1
        raise BadFile(
            f"text in UTF-8, JSON, Parquet or feather is needed, line {line} is not:"
            f" {data[bad : bad + 20]!r:.60}; unpack it, or save it as UTF-8"
        )
    return data.removeprefix(b"\xef\xbb\xbf")


def _read_arrow(data: bytes) -> FileTable:
    try:
        if data.startswith(b"PAR1"):
            file = parquet.ParquetFile(pa.BufferReader(data))  # which can have two columns of one name
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"it has more than {MAX_ROWS} rows")
            table = file.read()
        else:
            table = feather.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:100]
        raise BadFile(f"a whole Parquet or feather file is needed: {problem}; fetch it again") from error
    header, tickers = list(table.column_names), []
    for position, heading in enumerate(header):
        # The two levels of a data frame's columns, as text.
        parts = (
            [part.strip(" '\"") for part in heading.strip("()").split(",")] if heading.startswith("(") else []
        )
        if len(parts) == 2:
            header[position] = parts[0]
        tickers.append(parts[1] if len(parts) == 2 else "")
    header = ["" if heading.startswith("__index_level") else heading for heading in header]

    def fields(number: int) -> dict[str, Any]:
        row = table.slice(number - 1, 1).to_pylist()[0]
        return {
            key: value if isinstance(value, str | float | int) else str(value) for key, value in row.items()
        }

    return FileTable(
        "Parquet" if data.startswith(b"PAR1") else "feather",
        header,
        True,
        [_typed(column.combine_chunks()) for column in table.columns],
        np.arange(table.num_rows) + 1,
        fields,
        tickers=tuple(tickers) if any(tickers) else (),
        unit="row",
    )


def _typed(column: Any) -> Any:
    """Times, whole numbers and texts as text, other numbers as float64; what is unknown is an empty text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_decimal(kind):  # a cast is not the nearest float
        return pa.array([None if one is None else float(one) for one in column.to_pylist()], pa.float64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_timestamp(kind):
        zone = "UTC" if kind.tz else None
        column = pc.strftime(column.cast(pa.timestamp("us", zone), safe=False), format="%Y-%m-%dT%H:%M:%S")
    try:
        return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([""] * len(column))  # lists and the like are no part of a candle
