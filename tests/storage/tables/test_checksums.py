"""The list of a table's files that `sha256sum -c` reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from closecast.storage.core.errors import HomeUnusable
from closecast.storage.core.location import LocalPath
from closecast.storage.tables.checksums import (
    CHECKSUMS,
    LOOK_BACK,
    prune_checksums,
    read_checksums,
)
from closecast.storage.tables.delta import Table
from closecast.storage.tables.opening import data_files, open_table
from tests.processes import run_at_once
from tests.storage.tables.rows import NUMBERS, number


def table_in(folder: Path) -> Table:
    return Table(LocalPath(folder), NUMBERS)


@pytest.fixture
def folder(tmp_path: Path) -> LocalPath:
    for value in range(3):
        table_in(tmp_path / "numbers").add([number(value)])
    return LocalPath(tmp_path / "numbers")


def files(folder: LocalPath) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.files() if not path.name.startswith("_")}


@pytest.mark.parametrize("name", ["numbers", "sp ace ü # 50% {x}"])
def test_every_file_is_recorded_and_common_tools_read_the_list(tmp_path: Path, name: str) -> None:
    table, folder = table_in(tmp_path / name), LocalPath(tmp_path / name)
    for product_id in ("A-USD", "a b/c%", "ü"):
        table.add([number(1, product_id)])
    assert set(read_checksums(folder)[0]) == files(folder)
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS], cwd=folder)
    assert done.returncode == 0
    delta = open_table(folder)
    named = {path.relative_to(folder.resolve()).as_posix() for path in data_files(folder, delta)}
    assert {name for name in named if "A-USD" in name} <= files(folder)


@pytest.mark.parametrize("cut", [1, 30, 110, 200])
def test_the_next_commit_completes_lines_that_a_crash_cut(folder: LocalPath, cut: int) -> None:
    path = folder / CHECKSUMS
    path.write_bytes(path.read_bytes()[:-cut])
    table_in(folder).add([number(9)])
    assert read_checksums(folder)[1] == []
    recorded, _ = read_checksums(folder)
    assert all(recorded[name] == (folder / name).sha256() for name in files(folder))


def test_a_checkpoint_and_commits_of_killed_runs_are_recorded_by_the_next(folder: LocalPath) -> None:
    assert LOOK_BACK > 5
    (folder / CHECKSUMS).unlink()
    delta = open_table(folder)
    delta.create_checkpoint()
    table_in(folder).add([number(9)])
    assert set(read_checksums(folder)[0]) == files(folder)
    assert any(name.endswith(".checkpoint.parquet") for name in read_checksums(folder)[0])


def test_files_that_are_gone_are_pruned(folder: LocalPath) -> None:
    gone = next(path for path in folder.files() if path.suffix == ".parquet")
    gone.unlink()
    prune_checksums(folder)
    assert set(read_checksums(folder)[0]) == files(folder)
    assert gone.name not in (folder / CHECKSUMS).read_text()


def _add(folder: Path, product_id: str) -> None:
    for value in range(5):
        table_in(folder).add([number(value, product_id)])


def test_processes_at_once_lose_and_mix_no_line(folder: LocalPath) -> None:
    run_at_once(_add, *((folder, f"P{n}-USD") for n in range(3)))
    assert read_checksums(folder)[1] == []
    assert set(read_checksums(folder)[0]) == files(folder)


def test_a_list_that_cannot_be_written_raises_home_unusable(folder: LocalPath) -> None:
    (folder / CHECKSUMS).unlink()
    (folder / CHECKSUMS).mkdir()
    with pytest.raises(HomeUnusable, match=CHECKSUMS):
        table_in(folder).add([number(9)])
