"""Several tables as they were at one moment."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from storage.core.errors import HomeBusy
from storage.core.home import Home
from storage.tables import delta
from storage.tables.delta import Table, snapshot
from tests.storage.tables.rows import NUMBERS, number


def numbers_in(root: Path, name: str) -> Table:
    return Table(Home(root).shared / name, NUMBERS)


def test_tables_that_do_not_exist_are_none(tmp_path: Path) -> None:
    assert snapshot([Home(tmp_path).shared / "a", Home(tmp_path).shared / "b"]) == [None, None]


def test_a_snapshot_never_sees_the_second_write_without_the_first(tmp_path: Path) -> None:
    first, second, stop = numbers_in(tmp_path, "a"), numbers_in(tmp_path, "b"), threading.Event()

    def write() -> None:
        for value in range(25):
            first.add([number(value)])
            second.add([number(value)])
            stop.wait(0.03)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    counts = set()
    while not stop.is_set():
        one, two = snapshot([first.folder, second.folder])
        if one and two:
            rows = [table.to_pyarrow_dataset().count_rows() for table in (one, two)]
            assert 0 <= rows[0] - rows[1] <= 1
            counts.add(rows[0])
    thread.join()
    assert len(counts) > 2


def test_tables_that_always_change_raise_home_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = itertools.count()
    monkeypatch.setattr(delta, "_version", lambda _: next(versions))
    monkeypatch.setattr(delta, "TRIES", 3)
    with pytest.raises(HomeBusy, match="all the time"):
        snapshot([Home(tmp_path).shared / "a"])
