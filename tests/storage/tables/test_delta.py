from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from closecast.storage.core.errors import Damaged, HomeBusy
from closecast.storage.core.home import Home
from closecast.storage.core.location import Location
from closecast.storage.tables import delta, opening
from closecast.storage.tables.delta import Snapshot, Table, TableSchema, all_of, snapshot
from tests.engines import parquet_of
from tests.helpers import BTC, FIRST, die_at, one_line, synced_paths
from tests.processes import run_process
from tests.storage.tables.rows import NUMBERS, number, version

SCHEMA = TableSchema(
    "figures",
    pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("product_id", pa.string(), nullable=False),
            pa.field("day", pa.date32(), nullable=False),
            pa.field("group", pa.string(), nullable=False),
            pa.field("figures", pa.list_(pa.float64())),
            pa.field("note", pa.string()),
        ]
    ),
    key=("product_id", "group", "name", "day"),
    partition_by=("product_id", "group"),
    order_by=(),
)


def table_in(root: Path) -> Table:
    return Table(Home(root).shared / "figures", SCHEMA)


def row(name: str, offset: int = 0, product_id: str = BTC, **more: object) -> dict[str, Any]:
    day = FIRST + timedelta(days=offset)
    return {"name": name, "product_id": product_id, "day": day, "group": "g", "figures": [0.1], **more}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return table_in(tmp_path)


def names(table: Table, condition: ds.Expression | None = None) -> list[str]:
    return sorted(table.read(condition)["name"].to_pylist())


def test_before_its_first_row_a_table_is_empty_and_writes_nothing(table: Table) -> None:
    assert table.snapshot().dataset is None
    assert table.read() == SCHEMA.arrow.empty_table()
    assert table.read(ds.field("name") == "a", ["day", "name"]).schema.names == ["day", "name"]
    assert table.add([]) == 0
    assert not table.folder.is_dir()


def test_a_table_with_the_comments_of_an_earlier_release_takes_rows_and_keeps_them(tmp_path: Path) -> None:
    for comment in ("a name", "the name of the figure"):
        first = SCHEMA.arrow.field(0).with_metadata({"comment": comment})
        schema = replace(SCHEMA, arrow=pa.schema([first, *list(SCHEMA.arrow)[1:]]))
        table = Table(Home(tmp_path).shared / "figures", schema)
        assert table.add([row(comment)]) == 1
    assert names(table) == ["a name", "the name of the figure"]
    state = table.snapshot()
    assert state.delta.schema().fields[0].metadata == {"comment": "a name"}


def test_rows_keep_the_order_and_types_of_the_schema(table: Table) -> None:
    given = [
        row("a", figures=[0.1 + 0.2, 5e-324, 1e17], note="é 'quoted'"),
        row("b", figures=None),
        row("c", 1),
    ]
    assert table.add([dict(reversed(row.items())) for row in given]) == 3
    assert table.add(given) == 0
    assert table.read().schema == SCHEMA.arrow
    assert table.read().sort_by("name").to_pylist() == [{"note": None, **row} for row in given]
    some = table.read(ds.field("day") == FIRST, ["group", "day"])
    assert some.schema == pa.schema([SCHEMA.arrow.field("group"), SCHEMA.arrow.field("day")])
    assert some.num_rows == 2


def test_rows_of_one_file_can_be_filtered_by_every_column(table: Table) -> None:
    table.add([row("a", note="x"), row("b", 1, note="y"), row("c", 2, note="z")])
    assert names(table, ds.field("name") == "b") == ["b"]
    assert names(table, ds.field("name") >= "b") == ["b", "c"]
    assert names(table, ds.field("note").isin(["x", "z"])) == ["a", "c"]
    assert all_of() is None
    both = all_of(ds.field("day") > FIRST, ds.field("product_id") == BTC)
    assert names(table, both) == ["b", "c"]
    dataset = table.snapshot().dataset
    assert dataset is not None
    rows = duckdb.sql("SELECT name FROM dataset WHERE name > 'a' AND note <> 'z' AND \"group\" = 'g'")
    assert rows.fetchall() == [("b",)]


@pytest.mark.parametrize("name", ["ab" * 100, "~" * 100, "é" * 40, "\U0010ffff" * 40, "", "it's", "a\nb"])
def test_a_key_of_any_length_is_found_again(table: Table, name: str) -> None:
    assert table.add([row(name + "x"), row(name), row("m")]) == 3
    assert table.add([row(name), row("m"), row(name + "y")]) == 1
    assert table.add([row(name + "x")]) == 0
    assert table.read(ds.field("name") == name + "y").num_rows == 1


@pytest.mark.parametrize("group", ["it's", "a/b", "a b:c%41", "é", "../up", "x') OR ('1'='1", "="])
def test_a_partition_of_any_name_is_found_again(table: Table, tmp_path: Path, group: str) -> None:
    assert table.add([row("a", group=group)]) == 1
    assert table.add([row("a", group=group), row("b", group=group)]) == 1
    assert names(table, ds.field("group") == group) == ["a", "b"]
    assert sorted(table.folder.folder_names())[-1] == "product_id=BTC-USD"
    assert Home(tmp_path).shared.folder_names() == ["figures"]


def test_adding_reads_no_further_than_order_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, fragments, read = ("product_id", "group", "name"), list[int](), Snapshot.read

    def counted(state: Snapshot, condition: Any = None, columns: Any = None) -> pa.Table:
        fragments.append(len(list(state.dataset.get_fragments(condition))))
        return read(state, condition, columns)

    for name, order_by in (("near", ("day",)), ("far", ())):
        schema = TableSchema(name, SCHEMA.arrow, key=key, partition_by=key[:2], order_by=order_by)
        table = Table(Home(tmp_path).shared / name, schema)
        for offset in range(5):
            table.add([row(f"a{offset}", offset), row(f"z{offset}", offset)])
        opening._opened.clear()  # as in a new process, which has no rows in memory
        monkeypatch.setattr(Snapshot, "read", counted)
        assert table.add([row("z3", 3), row("m", 3)]) == 1  # an existing row and a new one
        monkeypatch.setattr(Snapshot, "read", read)
    assert fragments == [1, 5]  # names lie everywhere


def test_only_the_files_of_the_products_are_opened(table: Table) -> None:
    products = [f"P{number}-USD" for number in range(5)]
    for n, product in enumerate(products):
        table.add([row(f"a{n}", product_id=product), row(f"b{n}", product_id=product, group="h")])
    assert table.add([row("c", product_id=products[1]), row("c", product_id=products[2])]) == 2
    whole, part = table.snapshot().dataset, table.of_products(products[1]).snapshot().dataset
    assert len(list(whole.get_fragments())) == 12
    assert len(list(part.get_fragments())) == 3
    assert names(table.of_products(products[1])) == ["a1", "b1", "c"]
    assert names(table.of_products(products[1], products[4])) == ["a1", "a4", "b1", "b4", "c"]
    assert names(table.of_products("NONE-USD")) == []
    assert names(table.of_products(None)) == names(table)
    assert table.of_products("NONE-USD").read().schema == SCHEMA.arrow


def test_rows_added_by_this_process_are_read_as_they_are_stored(table: Table, tmp_path: Path) -> None:
    everyone = [(), (BTC,), ("ETH-USD",), (BTC, "ETH-USD"), ("NONE-USD",)]
    order = [("name", "ascending"), ("group", "ascending")]

    def read_all() -> list[pa.Table]:
        parts = [table.of_products(*products) if products else table for products in everyone]
        return [part.read().sort_by(order) for part in parts]

    table.add([row("a"), row("a", product_id="ETH-USD")])
    for offset, figures in enumerate([[], [0.1, float("nan"), -0.0], None]):
        read_all()
        more: dict[str, Any] = {"figures": figures, "note": None if offset else "it's"}
        table.add([row(f"b{offset}", offset, group="h", **more), row(f"c{offset}", offset)])
        table.add([row(f"d{offset}", offset, product_id="ETH-USD", **more)])
    here = read_all()
    opening._opened.clear()
    there = read_all()
    assert [rows.num_rows for rows in here] == [11, 7, 4, 11, 0]
    assert [repr(rows.to_pylist()) for rows in here] == [repr(rows.to_pylist()) for rows in there]
    assert [rows.schema for rows in here] == [rows.schema for rows in there]


def test_other_partitions_are_neither_read_nor_in_conflict(table: Table) -> None:
    table.add([row("a")])
    table.add([row("a", 0, "ETH-USD")])
    (file,) = parquet_of(table.folder, "ETH-USD")
    file.put(b"no longer Parquet")
    assert table.add([row("b")]) == 1
    state = table.begin()
    table.add([row("c", 0, "LTC-USD")])  # a commit in between
    assert table.insert(state, table.checked([row("c")])) == 1
    assert names(table.of_products(BTC)) == ["a", "b", "c"]
    assert names(table.of_products("LTC-USD")) == ["c"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a"), row("b"), row("a", note="again")], "twice"),
        ([row("a"), row("b", extra=1)], "extra"),
        ([row("a"), row("b") | {"day": None}], "day"),
        ([{"name": "a", "product_id": BTC, "day": FIRST}], "group"),
    ],
)
def test_rows_of_another_form_are_refused_before_anything_is_written(
    table: Table, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message, check=one_line):
        table.add(rows)
    assert not table.folder.is_dir()


def test_after_a_conflict_the_table_is_read_again(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add([row("a")])
    begin, versions = Table.begin, list[int]()

    def begin_and_be_overtaken(self: Table) -> Snapshot:
        state = begin(self)
        versions.append(state.delta.version())
        if len(versions) == 1:
            assert table_in(tmp_path).add([row("b", note="faster"), row("c")]) == 2
        return state

    monkeypatch.setattr(Table, "begin", begin_and_be_overtaken)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert table.add([row("b", note="slower"), row("d")]) == 1
    assert versions[-1] > versions[0]
    assert names(table) == ["a", "b", "c", "d"]
    assert table.read(ds.field("name") == "b")["note"].to_pylist() == ["faster"]


def add_and_die(folder: Location, name: str, call: int) -> None:
    die_at(delta, name, call=call)
    Table(folder, SCHEMA).add([row("a"), row("b")])


@pytest.mark.parametrize(
    ("name", "call", "kept"),
    [("sync_commit", 1, []), ("_partitions", 1, []), ("sync_commit", 2, ["a", "b"])],
    ids=["created, not yet synced", "before the rows", "rows there, not yet synced"],
)
def test_killed_in_the_first_commits(table: Table, name: str, call: int, kept: list[str]) -> None:
    assert run_process(add_and_die, table.folder, name, call) == -9
    assert names(table) == kept
    assert table.add([row("a"), row("b"), row("c")]) == 3 - len(kept)
    assert names(table) == ["a", "b", "c"]


@pytest.mark.folder
def test_killed_before_the_first_commit(table: Table, tmp_path: Path) -> None:
    (tmp_path / "figures" / "_delta_log").mkdir(parents=True)
    (tmp_path / "figures" / "_delta_log" / "_commit_0.json.tmp").write_text("{")
    assert table.read().num_rows == 0
    assert table.add([row("a")]) == 1
    assert names(table) == ["a"]


@pytest.mark.folder
def test_data_is_synced_before_the_log(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.add([row("a")])
    synced = synced_paths(monkeypatch)
    table.add([row("b"), row("b", 0, "ETH-USD")])
    entry = str(table.folder / "_delta_log" / f"{version(table):020d}.json")
    files = {path for path in synced if path.endswith(".parquet")}
    assert len(files) == 2
    assert all(synced.index(path) < synced.index(entry) for path in files)
    assert {str(Path(path).parent) for path in [*files, entry]} <= set(synced)


@pytest.mark.parametrize(
    ("named", "message"),
    [("../other/a.parquet", "which is not in it: restore"), ("gone.parquet", "cannot be read: restore")],
)
def test_a_log_that_names_another_file_is_damage(table: Table, named: str, message: str) -> None:
    table.add([row("a")])
    log: Location = table.folder / "_delta_log" / f"{version(table):020d}.json"
    (file,) = parquet_of(table.folder, BTC)
    log.put(log.read_bytes().replace(str(file.relative_to(table.folder)).encode(), named.encode()))
    for part in (table, table.of_products(BTC)):
        with pytest.raises(Damaged, match=message, check=one_line):
            part.read()


def test_a_log_that_was_cut_is_damage(table: Table) -> None:
    table.add([row("a")])
    log: Location = table.folder / "_delta_log" / f"{version(table):020d}.json"
    log.put(log.read_bytes()[:40])
    for use in (table.read, lambda: table.add([row("b")])):
        with pytest.raises(Damaged, match="restore", check=one_line):
            use()


def numbers_in(root: Path, name: str) -> Table:
    return Table(Home(root).shared / name, NUMBERS)


def test_missing_tables_are_none(tmp_path: Path) -> None:
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
