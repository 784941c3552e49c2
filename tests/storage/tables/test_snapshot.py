"""Several tables as they were at one moment."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from storage.core.errors import HomeBusy
from storage.tables import snapshot as module
from storage.tables.delta import Table
from storage.tables.snapshot import cut
from tests.engines import place_for

SCHEMA = pa.schema(
    [pa.field("product_id", pa.string(), nullable=False), pa.field("number", pa.int64(), nullable=False)]
)


def numbers_in(folder: Path) -> Table:
    return Table(folder, SCHEMA, name="numbers", key=("product_id", "number"))


def test_tables_that_are_not_there_are_none(tmp_path: Path) -> None:
    assert cut([place_for(tmp_path) / "a", place_for(tmp_path) / "b"]) == [None, None]


def test_the_second_never_lags_behind_the_first(tmp_path: Path) -> None:
    """A row goes into one table, then into the other: no cut sees it in the second alone, or two apart."""
    first, second, stop = (
        numbers_in(place_for(tmp_path) / "a"),
        numbers_in(place_for(tmp_path) / "b"),
        threading.Event(),
    )

    def write() -> None:
        for number in range(25):
            first.add([{"product_id": "A-USD", "number": number}])
            second.add([{"product_id": "A-USD", "number": number}])
            stop.wait(0.03)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    while not stop.is_set():
        one, two = cut([first.folder, second.folder])
        if one and two:
            rows = [table.to_pyarrow_dataset().count_rows() for table in (one, two)]
            assert 0 <= rows[0] - rows[1] <= 1
            seen.append(rows[0])
    thread.join()
    assert len(set(seen)) > 2


def test_tables_that_never_stand_still_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, count = numbers_in(place_for(tmp_path) / "a"), iter(range(1000))
    found = module.open_table

    def grow(folder: Path) -> object:
        table.add([{"product_id": "A-USD", "number": next(count)}])
        return found(folder)

    monkeypatch.setattr(module, "open_table", grow)
    monkeypatch.setattr(module, "TRIES", 3)
    with pytest.raises(HomeBusy, match="all the time"):
        cut([table.folder])
