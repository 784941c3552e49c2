"""Rows to a file or to standard output."""

from __future__ import annotations

import io
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closecast.flows.cli.row_files import chosen_format, write_rows
from closecast.storage.core.errors import BadFile, BadQuery, BadSetting

ROWS = pa.table({"day": [date(2019, 10, 17), None], "close": [8034.32, 0.1 + 0.2], "q": [[0.1], None]})


def test_the_format_is_the_named_one_or_that_of_the_file() -> None:
    assert chosen_format(None) == "table"
    assert chosen_format("csv", as_json=True) == "json"
    for name, kind in (("a.parquet", "parquet"), ("a.CSV", "csv"), ("a.json", "json")):
        assert chosen_format(None, file=Path(name)) == kind
    assert chosen_format("parquet", file=Path("a.bin")) == "parquet"
    for given, name in ((None, "a.txt"), ("table", "a.csv"), (None, "a.table")):
        with pytest.raises(
            BadSetting, match=r"--output needs a file that ends with \.csv, \.json or \.parquet"
        ):
            chosen_format(given, file=Path(name))  # type: ignore[arg-type]


def test_parquet_is_not_printed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_format("parquet") == "parquet"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(
        BadSetting, match="Parquet cannot be printed on a terminal: name a file with --output"
    ):
        chosen_format("parquet")


@pytest.mark.parametrize("piped", [False, True])
def test_parquet_keeps_types_and_bits(tmp_path: Path, piped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.parquet"
    if piped:
        stream = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdout", stream)
        write_rows(ROWS, "parquet", None)
        file.write_bytes(stream.buffer.getvalue())
    else:
        write_rows(ROWS, "parquet", file)
    assert pq.read_table(file).equals(ROWS)
    assert duckdb.read_parquet(str(file)).fetchall() == duckdb.from_arrow(ROWS).fetchall()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("old")
    interval: Any = duckdb.sql("select interval 1 month as i").to_arrow_table()
    with pytest.raises(BadQuery, match="Parquet cannot hold the result: cast the column"):
        write_rows(interval, "parquet", file)
    assert file.read_text() == "old"
    write_rows(ROWS, "csv", file)
    assert file.read_text().splitlines()[:2] == ["day,close,q", "2019-10-17,8034.32,[0.1]"]
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "rows.json")
    write_rows(ROWS, "json", link)
    assert json.loads((tmp_path / "rows.json").read_text())[0]["close"] == 8034.32
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "rows.csv", "rows.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/rows.csv", "rows.csv cannot be written: No such file"),
        (".", "needs a regular file, and .* is not one"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BadFile, match=message) as caught:
        write_rows(ROWS, "csv", tmp_path / name)
    assert "--home" not in str(caught.value)
    with pytest.raises(BadFile, match="/dev/null is not one"):  # it would be replaced
        write_rows(ROWS, "csv", Path("/dev/null"))
