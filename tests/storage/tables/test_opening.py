"""Tables stay open for reading as long as they have no other commit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.tables import opening
from closecast.storage.tables.delta import Table
from closecast.storage.tables.opening import open_table, opened
from tests.helpers import BTC
from tests.storage.tables.rows import NUMBERS, number


def numbers(table: Table) -> list[int]:
    return sorted(table.read()["number"].to_pylist())


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(Home(tmp_path).shared / "numbers", NUMBERS)


def test_a_table_is_opened_once_for_all_reads_between_two_commits(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add([number(1)])
    openings = list[Location]()

    def counted(folder: Location) -> DeltaTable | None:
        openings.append(folder)
        return open_table(folder)

    monkeypatch.setattr(opening, "open_table", counted)
    before = table.snapshot()
    assert numbers(table) == [1]
    assert table.snapshot().dataset is before.dataset
    assert table.of_products(BTC).snapshot().delta is before.delta
    table.add([number(2)])
    assert numbers(table) == [1, 2]
    assert openings == []  # what adds opens for itself, and hands on what it has added to
    assert before.read()["number"].to_pylist() == [1]


def test_a_commit_of_another_process_is_seen(table: Table) -> None:
    table.add([number(1)])
    assert numbers(table) == [1]
    write_deltalake(str(table.folder), table.checked([number(2)]), mode="append")
    assert numbers(table) == [1, 2]


@pytest.mark.folder
def test_a_restored_backup_is_seen(table: Table, tmp_path: Path) -> None:
    folder = LocalPath(str(table.folder))
    table.add([number(1)])
    shutil.copytree(folder, tmp_path / "backup")
    table.add([number(2)])
    assert numbers(table) == [1, 2]
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    assert numbers(table) == [1]
    table.add([number(3)])  # the same version as with b, by another commit
    assert numbers(table) == [1, 3]
    shutil.rmtree(folder)
    assert opened(table.folder) is None
    assert numbers(table) == []


def test_few_tables_and_products_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_TABLES", 2)
    tables = [Table(Home(tmp_path).shared / f"t{place}", NUMBERS) for place in range(4)]
    for one in tables:
        one.add([number(1)])
        for place in range(2 * opening.MAX_PARTS):
            one.of_products(f"P{place}-USD").read()
    assert len(opening._opened) == 2
    assert max(len(state.parts) for state in opening._opened.values()) <= opening.MAX_PARTS
    assert [numbers(one) for one in tables] == [[1]] * 4
