from __future__ import annotations

import json
import os
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from closecast.storage.core.errors import HomeBusy
from closecast.storage.core.home import Home
from closecast.storage.core.location import Location
from closecast.storage.tables.delta import Table
from closecast.storage.tables.schemas import TABLES, components
from closecast.storage.upkeep import compaction
from closecast.storage.upkeep.compaction import Compaction, compact_table
from tests.helpers import BTC, FIRST, die_at, synced_paths
from tests.processes import forked, process_for, run_process
from tests.storage.tables.rows import ROWS

DAY = 24 * 3600
COMPONENT_NAMES = ("har_t", "lstm")


def rows(number: int, product_id: str = BTC) -> list[dict[str, Any]]:
    """The components of the forecast of that number."""
    return [
        {
            **ROWS["components"],
            "prediction_id": f"p{number}",
            "product_id": product_id,
            "target_day": FIRST + timedelta(days=number),
            "component": component,
            "calibrator_version": None if component == "har_t" else f"r:{number}",
            "quantiles": [float(number), 5e-324, 1e17],
        }
        for component in COMPONENT_NAMES
    ]


def filled(home: Home, days: int, *, first: int = 0) -> Table:
    table = components(home)
    for number in range(first, first + days):
        assert table.add(rows(number)) == 2
    return table


def folder(home: Home) -> Path:
    return home.root / "components"


def delta(home: Home, version: int | None = None) -> DeltaTable:
    return DeltaTable(str(folder(home)), version=version)


def numbers(table: pa.Table) -> list[int]:
    """The numbers of the forecasts, rising, one for each row of the first component."""
    names = table.filter(ds.field("component") == COMPONENT_NAMES[0])["prediction_id"].to_pylist()
    return sorted(int(name[1:]) for name in names)


def data_files(home: Home) -> set[Path]:
    return {path for path in folder(home).rglob("*.parquet") if path.parent.name != "_delta_log"}


def grow_older(root: Path, days: int) -> None:
    """Move everything a Delta table knows of time back: the files' own times, and what the log says."""
    shift = days * DAY
    stamps = r'"(deletionTimestamp|timestamp|modificationTime|createdTime)":(\d+)'
    for path in [path for path in root.rglob("*") if path.is_file()]:
        written = path.stat().st_mtime - shift
        if path.suffix == ".json":
            text = path.read_text()
            path.write_text(re.sub(stamps, lambda m: f'"{m[1]}":{int(m[2]) - shift * 1000}', text))
        os.utime(path, (written, written))


def test_a_table_without_rows_is_not_created(home: Home) -> None:
    for name in TABLES:
        assert compact_table(home, name) is None
        assert not home.table(name).is_dir()


def test_many_files_become_one_a_partition_and_no_row_changes(home: Home) -> None:
    table = filled(home, 12)
    table.add(rows(0, "ETH-USD"))
    table.add(rows(1, "ETH-USD"))
    order = [("product_id", "ascending"), ("prediction_id", "ascending"), ("component", "ascending")]
    before = table.read().sort_by(order)
    assert compact_table(home, "components") == Compaction("components", 14, 2, 0)
    assert table.read().sort_by(order) == before
    assert table.read(ds.field("prediction_id").isin(["p1", "p3"])).num_rows == 6  # texts can be filtered
    assert table.read((ds.field("component") >= "l") & (ds.field("target_day") > FIRST)).num_rows == 12
    partitions = {Path(uri).parent.name for uri in delta(home).file_uris()}
    assert partitions == {"product_id=BTC-USD", "product_id=ETH-USD"}
    entry = folder(home) / "_delta_log" / f"{delta(home).version():020d}.json"
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    changes = [
        action[kind]["dataChange"] for action in actions for kind in ("add", "remove") if kind in action
    ]
    assert changes == [False] * 16


def test_a_full_file_is_not_rewritten(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    components(home).add([row for number in range(3, 500) for row in rows(number)])
    (full,) = delta(home).file_uris()
    monkeypatch.setattr(compaction, "FULL_BYTES", Path(full).stat().st_size)
    filled(home, 3)
    assert compact_table(home, "components") == Compaction("components", 4, 2, 0)
    assert full in delta(home).file_uris()
    assert numbers(components(home).read()) == list(range(500))


@pytest.mark.parametrize(("days", "kept"), [(29, 4), (31, 0)])
def test_replaced_files_are_kept_for_thirty_days_however_old_their_rows(
    home: Home, days: int, kept: int
) -> None:
    filled(home, 4)
    grow_older(folder(home), 60)
    replaced = data_files(home)
    compaction._compact(home.components)
    grow_older(folder(home), days)
    assert compact_table(home, "components") == Compaction("components", 1, 1, 4 - kept)
    assert len(replaced & data_files(home)) == kept
    assert numbers(components(home).read()) == [0, 1, 2, 3]


def test_versions_of_thirty_days_can_be_read_and_older_entries_are_dropped(home: Home) -> None:
    filled(home, 5)
    compact_table(home, "components")
    old = delta(home).version()
    grow_older(folder(home), 40)
    filled(home, 3, first=5)
    compact_table(home, "components")
    entries = {path.name for path in (folder(home) / "_delta_log").glob("*.json")}
    assert f"{0:020d}.json" not in entries
    for back in range(4):
        version = delta(home).version() - back
        assert version > old
        days = 8 - max(0, back - 1)
        assert numbers(delta(home, version).to_pyarrow_table()) == list(range(days))


def test_old_files_of_killed_runs_are_deleted(home: Home) -> None:
    table = filled(home, 2)
    partition = next(iter(data_files(home))).parent
    young, old = partition / "young.parquet", partition / "old.parquet"
    for path in (young, old):
        path.write_bytes(b"not committed")
    long_ago = time.time() - 31 * DAY
    os.utime(old, (long_ago, long_ago))
    assert compact_table(home, "components") == Compaction("components", 2, 1, 1)
    assert young.exists()
    assert not old.exists()
    assert numbers(table.read()) == [0, 1]


def test_a_compaction_in_between_neither_makes_nor_hides_a_conflict(home: Home) -> None:
    table = filled(home, 3)
    state = table.begin()
    compact_table(home, "components")
    assert table.insert(state, table.checked(rows(3))) == 2
    state = table.begin()
    assert table.add(rows(4)) == 2
    compact_table(home, "components")
    with pytest.raises(CommitFailedError):
        table.insert(state, table.checked(rows(4)))
    assert table.add(rows(4)) == 0
    assert numbers(table.read()) == [0, 1, 2, 3, 4]


def test_one_compaction_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(home, 4)
    compact, refused = compaction._compact, []

    def try_another(location: Location) -> None:
        with pytest.raises(HomeBusy, match="another upkeep") as caught:
            compact_table(home, "components", wait_seconds=0.1)
        refused.append(str(caught.value))
        compact(location)

    monkeypatch.setattr(compaction, "_compact", try_another)
    assert compact_table(home, "components") == Compaction("components", 4, 1, 0)
    assert len(refused) == 1
    assert numbers(components(home).read()) == [0, 1, 2, 3]


def keep_adding(root: Path, product_id: str, count: int) -> None:
    table = components(Home(root))
    for number in range(count):
        assert table.add(rows(number, product_id)) == 2


def keep_compacting(root: Path, stop: Any) -> None:
    while not stop.is_set():
        compact_table(Home(root), "components")


def test_readers_see_each_row_once_while_others_add_and_two_compact(home: Home) -> None:
    filled(home, 1)
    stop = forked().Event()
    count = 8
    writers = [process_for(keep_adding, home.root, product, count) for product in ("ETH-USD", "LTC-USD")]
    others = [process_for(keep_compacting, home.root, stop) for _ in range(2)]
    for process in (*others, *writers):
        process.start()
    reads, seen = 0, {"ETH-USD": 0, "LTC-USD": 0}
    try:
        while any(writer.is_alive() for writer in writers):
            reads += 1
            for product in seen:
                found = numbers(components(home).read(ds.field("product_id") == product))
                assert found == list(range(len(found)))  # each once, none missing in between
                assert len(found) >= seen[product]
                seen[product] = len(found)
    finally:
        stop.set()
        for process in (*writers, *others):
            process.join(60)
    assert [process.exitcode for process in (*writers, *others)] == [0, 0, 0, 0]
    assert reads > 3
    operations = {commit["operation"] for commit in delta(home).history()}
    assert "OPTIMIZE" in operations
    for product in seen:
        found = numbers(components(home).read(ds.field("product_id") == product))
        assert found == list(range(count))


def dies_in(root: Path, name: str, call: int) -> None:
    die_at(compaction, name, call=call)
    compact_table(Home(root), "components")


@pytest.mark.parametrize(
    ("name", "call"), [("_compact", 1), ("sync_commit", 1), ("_vacuum", 1), ("sync_commit", 2)]
)
def test_killed_anywhere_no_row_is_lost_and_the_next_compaction_finishes(
    home: Home, name: str, call: int
) -> None:
    table = filled(home, 3)
    assert run_process(dies_in, home.root, name, call) == -9
    assert numbers(table.read()) == [0, 1, 2]
    found = compact_table(home, "components")
    assert found.files_after == 1
    assert numbers(table.read()) == [0, 1, 2]


def test_a_compaction_is_synced_files_before_the_log(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(home, 3)
    synced = synced_paths(monkeypatch)
    compact_table(home, "components")
    (file,) = delta(home).file_uris()
    log = folder(home) / "_delta_log"
    version = f"{delta(home).version():020d}"
    entry, checkpoint = str(log / f"{version}.json"), str(log / f"{version}.checkpoint.parquet")
    assert synced.index(file) < synced.index(entry) < synced.index(checkpoint)
    assert str(log) in synced
    assert str(Path(file).parent) in synced
