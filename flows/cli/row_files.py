"""Rows as CSV, JSON or Parquet: to a file, or to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from closecast.storage.core.errors import BadFile, BadQuery, BadSetting, HomeUnusable, reason_of
from closecast.storage.core.files import absolute_path, write_atomic
from closecast.tasks.core.formatting import finite

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["table", "csv", "json", "parquet"]


def chosen_format(given: Format | None, *, as_json: bool = False, file: Path | None = None) -> Format:
    """The format of the options: the named one, or that of the file's name, or a table.

    `BadSetting` for a table in a file, a file whose name tells no format, or Parquet on a terminal.
    """
    ending = file.suffix.removeprefix(".").lower() if file else ""
    by_name = next((name for name in get_args(Format) if name == ending), None)
    chosen: Format = "json" if as_json else given or by_name or "table"
    if file and chosen == "table":
        raise BadSetting(
            f"--output needs a file that ends with .csv, .json or .parquet, or --format, not {file}"
        )
    if chosen == "parquet" and not file and sys.stdout.isatty():
        raise BadSetting(
            "Parquet cannot be printed on a terminal: name a file with --output FILE, or pipe it"
        )
    return chosen


def write_rows(rows: pa.Table, output: Format, file: Path | None) -> None:
    """Write an Arrow table to a complete file (or to none), or to standard output.

    Raises:
        BadFile: the file cannot be written.
        BadQuery: Parquet has no such type, as for DuckDB's intervals.
    """
    content = _ENCODERS[output](rows)
    if file is None:
        sys.stdout.flush()
        stream = getattr(sys.stdout, "buffer", None)
        # A captured standard output takes texts alone.
        sys.stdout.write(content.decode()) if stream is None else stream.write(content)
        sys.stdout.flush()
        return
    path = absolute_path(file).resolve()  # a link stays
    if path.exists() and not path.is_file():
        raise BadFile(f"--output needs a regular file, and {file} is not one: choose another name")
    try:
        write_atomic(path, content)
    except HomeUnusable as error:
        raise BadFile(
            f"{file} cannot be written: {reason_of(error.__cause__ or error)}; choose another --output"
        ) from error


def as_json_text(value: object) -> str:
    """JSON that every parser reads: days and moments as text, null for NaN and infinity."""
    return json.dumps(_plain(value), default=str, indent=2, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return finite(value)


def _csv(rows: pa.Table) -> bytes:
    import pyarrow as pa

    frame = rows.to_pandas()
    # A list as JSON: pandas would print an array, over several lines.
    for name in (field.name for field in rows.schema if pa.types.is_list(field.type)):
        values = rows.column(name).to_pylist()
        frame[name] = [None if value is None else json.dumps(value, default=str) for value in values]
    text: str = frame.to_csv(index=False)
    return text.encode()


def _parquet(rows: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = pa.BufferOutputStream()
    try:
        pq.write_table(rows, stream, compression="zstd")
    except pa.ArrowException as error:
        raise BadQuery(f"Parquet cannot hold the result: cast the column ({error})") from error
    content: bytes = stream.getvalue().to_pybytes()
    return content


_ENCODERS = {
    "csv": _csv,
    "json": lambda rows: as_json_text(rows.to_pylist()).encode(),
    "parquet": _parquet,
}
