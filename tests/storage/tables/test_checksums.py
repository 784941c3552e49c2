"""The list of a table's files that `sha256sum -c` reads."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from storage.core.errors import HomeUnusable
from storage.core.files import sha256_file
from storage.tables.checksums import (
    CHECKSUMS,
    prune_checksums,
    read_checksums,
    record_checksums,
    unreadable_checksums,
)
from storage.tables.delta import Table, open_table
from storage.upkeep.file_integrity import data_files
from tests.processes import process_for

SCHEMA = pa.schema(
    [pa.field("product_id", pa.string(), nullable=False), pa.field("number", pa.int64(), nullable=False)]
)


def table_in(folder: Path) -> Table:
    return Table(folder, SCHEMA, name="numbers", key=("product_id", "number"))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    found = table_in(tmp_path / "numbers")
    for number in range(3):
        found.add([{"product_id": "A-USD", "number": number}])
    return found


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("_"))
    return {path.relative_to(folder).as_posix() for path in found}


def test_the_files_of_a_table_in_a_folder_whose_name_delta_quotes(tmp_path: Path) -> None:
    table = table_in(tmp_path / "sp ace ü # 50% {x}" / "numbers")
    table.add([{"product_id": "A-USD", "number": 1}])
    opened = open_table(table.folder)
    assert opened is not None
    (path,) = data_files(table.folder, opened)
    assert path.is_file()
    assert path.relative_to(table.folder.resolve()).as_posix() in files(table.folder)


def test_every_file_is_in_it_and_common_tools_read_it(table: Table) -> None:
    assert set(read_checksums(table.folder)) == files(table.folder)
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS], cwd=table.folder)
    assert done.returncode == 0


@pytest.mark.parametrize("cut", [1, 12, 30, 60, 110, 140, 200])
def test_lines_that_a_crash_cut_short_are_made_good_by_the_next_commit(table: Table, cut: int) -> None:
    path = table.folder / CHECKSUMS
    path.write_bytes(path.read_bytes()[:-cut])
    table.add([{"product_id": "A-USD", "number": 9}])
    assert unreadable_checksums(table.folder) == []
    found = read_checksums(table.folder)
    assert all(found[name] == sha256_file(table.folder / name) for name in files(table.folder))


def test_an_append_after_a_line_without_its_end_begins_a_new_one(table: Table) -> None:
    path = table.folder / CHECKSUMS
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    table.add([{"product_id": "A-USD", "number": 9}])
    assert set(read_checksums(table.folder)) == files(table.folder)


def test_a_table_without_a_list_gets_one_of_all_it_has(table: Table) -> None:
    (table.folder / CHECKSUMS).unlink()
    for entry in sorted((table.folder / "_delta_log").glob("*.json"))[:2]:
        entry.unlink()  # as a checkpoint would have let them go
    record_checksums(table.folder)
    assert set(read_checksums(table.folder)) == files(table.folder)


def test_what_is_gone_is_forgotten(table: Table) -> None:
    gone = next(table.folder.rglob("*.parquet"))
    gone.unlink()
    prune_checksums(table.folder)
    assert set(read_checksums(table.folder)) == files(table.folder)
    assert gone.name not in (table.folder / CHECKSUMS).read_text()


def test_it_is_no_data_to_anybody(table: Table) -> None:
    import pandas as pd

    assert len(pd.read_parquet(table.folder)) == 3
    assert table.read().num_rows == 3


def _add(folder: Path, product_id: str) -> None:
    for number in range(10):
        table_in(folder).add([{"product_id": product_id, "number": number}])


def test_many_at_once_lose_and_mix_no_line(table: Table) -> None:
    started = [process_for(_add, table.folder, f"P{n}-USD") for n in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    assert unreadable_checksums(table.folder) == []
    assert set(read_checksums(table.folder)) == files(table.folder)


def test_a_list_that_cannot_be_written_is_said(table: Table) -> None:
    (table.folder / CHECKSUMS).unlink()
    (table.folder / CHECKSUMS).mkdir()
    with pytest.raises(HomeUnusable, match=CHECKSUMS):
        table.add([{"product_id": "A-USD", "number": 9}])


def test_names_of_odd_partitions_are_found(tmp_path: Path) -> None:
    table = table_in(tmp_path / "odd")
    table.add([{"product_id": "a b/c%", "number": 1}])
    assert set(read_checksums(table.folder)) == files(table.folder)
    entry = table.folder / "_delta_log" / f"{1:020d}.json"
    assert any("add" in json.loads(line) for line in entry.read_text().splitlines())
