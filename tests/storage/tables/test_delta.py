from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from storage.core.errors import Damaged, HomeBusy, HomeUnusable
from storage.tables.delta import State, Table, all_of, open_dataset
from tests.engines import parquet_of, place_for
from tests.helpers import BTC, FIRST, PROJECT, die
from tests.processes import process_for, run_process

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("figures", pa.list_(pa.float64())),
        pa.field("note", pa.string()),
    ]
)


def made(folder: Path) -> Table:
    return Table(
        folder,
        SCHEMA,
        name="figures",
        key=("product_id", "group", "name", "day"),
        partition_by=("product_id", "group"),
    )


def row(name: str, offset: int = 0, product_id: str = BTC, **more: object) -> dict[str, Any]:
    day = FIRST + timedelta(days=offset)
    return {"name": name, "product_id": product_id, "day": day, "group": "g", "figures": [0.1], **more}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return made(place_for(tmp_path) / "figures")


def names(table: Table, wanted: ds.Expression | None = None) -> list[str]:
    found: list[str] = table.read(wanted)["name"].to_pylist()
    return sorted(found)


def version(table: Table) -> int:
    return DeltaTable(str(table.folder)).version()


def test_before_its_first_row_it_is_empty_and_makes_nothing(table: Table) -> None:
    assert table.dataset() is None
    assert table.read() == SCHEMA.empty_table()
    assert table.read(ds.field("name") == "a", ["day", "name"]).schema.names == ["day", "name"]
    assert table.add([]) == 0
    assert not table.folder.exists()


def test_rows_come_back_as_they_were_in_the_schemas_order_and_types(table: Table) -> None:
    given = [
        row("a", figures=[0.1 + 0.2, 5e-324, 1e17], note="é 'quoted'"),
        row("b", figures=None),
        row("c", 1),
    ]
    assert table.add(given) == 3
    found = table.read()
    assert found.schema == SCHEMA
    assert found.sort_by("name").to_pylist() == [{"note": None, **row} for row in given]
    some = table.read(ds.field("day") == FIRST, ["group", "day"])
    assert some.schema == pa.schema([SCHEMA.field("group"), SCHEMA.field("day")])
    assert some.num_rows == 2
    assert DeltaTable(str(table.folder)).metadata().partition_columns == ["product_id", "group"]


def test_rows_of_one_file_can_be_filtered_by_every_column(table: Table) -> None:
    table.add([row("a", note="x"), row("b", 1, note="y"), row("c", 2, note="z")])
    assert names(table, ds.field("name") == "b") == ["b"]
    assert names(table, ds.field("name") >= "b") == ["b", "c"]
    assert names(table, ds.field("note").isin(["x", "z"])) == ["a", "c"]
    assert names(table, (ds.field("day") > FIRST) & (ds.field("product_id") == BTC)) == ["b", "c"]
    dataset = table.dataset()
    assert dataset is not None
    found = duckdb.sql("SELECT name FROM dataset WHERE name > 'a' AND note <> 'z' AND \"group\" = 'g'")
    assert found.fetchall() == [("b",)]


def test_an_arrow_table_is_taken_as_well(table: Table) -> None:
    given = pa.Table.from_pylist([row("a"), row("b")], schema=SCHEMA)
    assert table.add(given.select(SCHEMA.names[::-1])) == 2
    assert table.add(given) == 0
    assert table.read().schema == SCHEMA


def test_adding_again_changes_nothing(table: Table) -> None:
    table.add([row("a"), row("b")])
    before, rows = version(table), table.read()
    assert table.add([row("b", figures=[9.0]), row("a", note="other")]) == 0
    assert version(table) == before
    assert table.read() == rows


@pytest.mark.parametrize("name", ["ab" * 100, "~" * 100, "é" * 40, "\U0010ffff" * 40, "", "it's", "a\nb"])
def test_a_name_of_any_length_is_found_again(table: Table, name: str) -> None:
    assert table.add([row(name + "x"), row(name), row("m")]) == 3
    assert table.add([row(name), row("m"), row(name + "y")]) == 1
    assert table.add([row(name + "x")]) == 0
    assert table.read(ds.field("name") == name + "y").num_rows == 1


def test_only_the_rows_whose_key_is_new_are_added(table: Table) -> None:
    table.add([row("a"), row("b")])
    others = [row("a", 1), row("a", 0, "ETH-USD"), row("a", group="h"), row("c")]
    assert table.add([row("b", note="no"), *others, row("a", note="no")]) == 4
    assert table.read(ds.field("note").is_valid()).num_rows == 0
    assert table.read().num_rows == 6


@pytest.mark.parametrize("group", ["it's", "a/b", "a b:c%41", "é", "../up", "x') OR ('1'='1", "="])
def test_a_partition_of_any_name_is_found_again(table: Table, group: str) -> None:
    assert table.add([row("a", group=group)]) == 1
    assert table.add([row("a", group=group), row("b", group=group)]) == 1
    assert names(table, ds.field("group") == group) == ["a", "b"]
    assert {path.name for path in table.folder.iterdir()} == {
        "_delta_log",
        "_sha256sums",
        "product_id=BTC-USD",
    }
    assert [path.name for path in table.folder.parent.iterdir()] == [table.folder.name]


def test_adding_looks_no_further_than_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("product_id", "group", "name")
    near, far = (
        Table(
            place_for(tmp_path) / word, SCHEMA, name="figures", key=keys, partition_by=keys[:2], near=columns
        )
        for word, columns in (("near", ["day"]), ("far", []))
    )
    left: list[int] = []
    look = Table.look

    def noted(self: Table, state: Any, wanted: Any = None, columns: Any = None) -> pa.Table:
        left.append(len(list(state.dataset.get_fragments(wanted))))
        return look(self, state, wanted, columns)

    for one in (near, far):
        for offset in range(5):
            one.add([row(f"a{offset}", offset), row(f"z{offset}", offset)])
        monkeypatch.setattr(Table, "look", noted)
        assert one.add([row("z3", 3), row("m", 3)]) == 1  # one that is there, and one that is not
        monkeypatch.setattr(Table, "look", look)
    assert left == [1, 5]  # names lie everywhere, and say nothing of where


def test_of_a_product_its_own_files_are_opened_alone(table: Table) -> None:
    """Opening is what takes long in a home of many products."""
    products = [f"P{number}-USD" for number in range(5)]
    for number, product in enumerate(products):
        table.add([row(f"a{number}", product_id=product), row(f"b{number}", product_id=product, group="h")])
    assert table.add([row("c", product_id=products[1]), row("c", product_id=products[2])]) == 2
    whole, part = table.snapshot(), table.of_products(products[1]).snapshot()
    assert whole
    assert part
    assert len(list(whole.dataset.get_fragments())) == 12
    assert len(list(part.dataset.get_fragments())) == 3
    assert names(table.of_products(products[1])) == ["a1", "b1", "c"]
    assert names(table.of_products(products[1], products[4])) == ["a1", "a4", "b1", "b4", "c"]
    assert names(table.of_products("NONE-USD")) == []
    assert names(table.of_products(None)) == names(table)
    assert table.of_products("NONE-USD").read().schema == SCHEMA


def test_rows_are_not_added_where_they_were_not_looked_for(table: Table) -> None:
    table.add([row("a")])
    state = table.of_products("ETH-USD").begin()
    with pytest.raises(ValueError, match="begin with theirs"):
        table.insert(state, table.given([row("a")]))
    assert names(table) == ["a"]


def test_several_looks_at_one_moment(table: Table) -> None:
    before = table.snapshot()
    assert before is None
    table.add([row("a")])
    then = table.snapshot()
    table.add([row("b")])
    assert table.look(before, None, ["name"]).num_rows == 0
    assert table.look(then)["name"].to_pylist() == ["a"]
    assert names(table) == ["a", "b"]


def test_other_partitions_are_neither_read_nor_in_the_way(table: Table) -> None:
    table.add([row("a")])
    table.add([row("a", 0, "ETH-USD")])
    (file,) = parquet_of(table.folder, "ETH-USD")
    file.write_bytes(b"no longer Parquet")
    assert table.add([row("b")]) == 1
    state = table.begin()
    table.add([row("c", 0, "LTC-USD")])  # a commit that came between
    assert table.insert(state, table.given([row("c")])) == 1
    assert names(table, ds.field("product_id") == BTC) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("a"), row("b"), row("a", note="again")], "twice"),
        ([row("a"), row("b", extra=1)], "extra"),
        ([row("a"), row("b") | {"day": None}], "day"),
        ([{"name": "a", "product_id": BTC, "day": FIRST}], "group"),
        (pa.table({"name": ["a"], "product_id": [BTC]}), "day"),
    ],
)
def test_rows_of_another_form_are_refused_before_anything_is_made(
    table: Table, rows: list[dict[str, Any]] | pa.Table, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        table.add(rows)
    assert "\n" not in str(caught.value)
    assert not table.folder.exists()


def test_a_commit_that_came_between_is_looked_at_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.add([row("a")])
    begin, turns = table.begin, []

    def begin_and_be_overtaken() -> State:
        state = begin()
        turns.append(state.delta.version())
        if len(turns) == 1:
            assert made(table.folder).add([row("b", note="faster"), row("c")]) == 2
        return state

    monkeypatch.setattr(table, "begin", begin_and_be_overtaken)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert table.add([row("b", note="slower"), row("d")]) == 1
    assert turns[1] > turns[0]
    assert names(table) == ["a", "b", "c", "d"]
    assert table.read(ds.field("name") == "b")["note"].to_pylist() == ["faster"]


def test_others_that_never_let_one_write(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake.exceptions import CommitFailedError

    def conflict(*_: object) -> int:
        raise CommitFailedError("somebody else was faster")

    monkeypatch.setattr(table, "insert", conflict)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with pytest.raises(HomeBusy, match="try again") as caught:
        table.add([row("a")])
    assert str(table.folder) in str(caught.value)


def add_some(folder: Path, worker: int) -> None:
    table = made(folder)
    for turn in range(4):
        product_id = ("ETH-USD", BTC)[turn % 2]
        own = row(f"own-{worker}-{turn}", 0, product_id)
        assert table.add([own, row(f"same-{turn}", 0, product_id, note=str(worker))]) in (1, 2)


def test_several_processes_at_once(tmp_path: Path) -> None:
    workers = [process_for(add_some, place_for(tmp_path) / "t", n) for n in range(2)]
    for worker in workers:
        worker.start()  # the first of them make the table at once
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    own = [f"own-{worker}-{turn}" for worker in range(2) for turn in range(4)]
    assert names(made(place_for(tmp_path) / "t")) == sorted([*own, *(f"same-{turn}" for turn in range(4))])


@contextmanager
def dying_at(name: str, call: int) -> Iterator[None]:
    """In this process `storage.tables.delta.name` ends it when called for that time."""
    from storage.tables import delta as tables

    usual, calls = getattr(tables, name), []

    def count(*args: Any) -> Any:
        calls.append(args)
        return die() if len(calls) == call else usual(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, name, count)
        yield


def add_and_die(folder: Path, name: str, call: int) -> None:
    with dying_at(name, call):
        made(folder).add([row("a"), row("b")])


@pytest.mark.parametrize(
    ("name", "call", "kept"),
    [("_sync", 1, []), ("_partitions", 1, []), ("_sync", 2, ["a", "b"])],
    ids=["made, not yet synced", "before the rows", "rows there, not yet synced"],
)
def test_killed_in_its_first_commits(tmp_path: Path, name: str, call: int, kept: list[str]) -> None:
    table = made(place_for(tmp_path) / "t")
    assert run_process(add_and_die, table.folder, name, call) == -9
    assert names(table) == kept
    assert table.add([row("a"), row("b"), row("c")]) == 3 - len(kept)
    assert names(table) == ["a", "b", "c"]


@pytest.mark.folder
def test_a_table_that_was_begun_and_not_made(table: Table) -> None:
    (table.folder / "_delta_log").mkdir(parents=True)
    (table.folder / "_delta_log" / "_commit_0.json.tmp").write_text("{")
    assert table.read().num_rows == 0
    assert table.add([row("a")]) == 1
    assert names(table) == ["a"]


@pytest.mark.folder
def test_what_was_added_is_synced_files_before_the_log(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))

    table.add([row("a")])
    monkeypatch.setattr(os, "fsync", fsync)
    table.add([row("b"), row("b", 0, "ETH-USD")])
    entry = str(table.folder / "_delta_log" / f"{version(table):020d}.json")
    files = {path for path in synced if path.endswith(".parquet")}
    assert len(files) == 2
    assert all(synced.index(path) < synced.index(entry) for path in files)
    assert {str(Path(path).parent) for path in [*files, entry]} <= set(synced)


def test_after_a_checkpoint(table: Table) -> None:
    for name in "abc":
        table.add([row(name)])
    DeltaTable(str(table.folder)).create_checkpoint()
    assert table.add([row("c"), row("d")]) == 1
    assert names(table) == ["a", "b", "c", "d"]


def test_a_damaged_table_says_so(table: Table) -> None:
    table.add([row("a")])
    (file,) = parquet_of(table.folder, BTC)
    file.unlink()
    for call in (table.read, lambda: table.add([row("a"), row("b")])):
        with pytest.raises(Damaged, match="restore"):
            call()
    log = table.folder / "_delta_log" / "00000000000000000000.json"
    log.write_bytes(log.read_bytes()[:20])
    for call in (table.read, lambda: table.add([row("b")]), lambda: open_dataset(table.folder)):
        with pytest.raises(Damaged, match="restore") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.folder
def test_a_file_in_the_place_of_the_table(table: Table) -> None:
    table.folder.write_text("a file")
    with pytest.raises(HomeUnusable, match="--home"):
        table.add([row("a")])


def test_tests_are_joined_by_and(table: Table) -> None:
    table.add([row("a"), row("b"), row("b", 1)])
    assert all_of() is None
    assert names(table, all_of(ds.field("name") == "b")) == ["b", "b"]
    assert names(table, all_of(ds.field("name") == "b", ds.field("day") > date(2019, 1, 1))) == ["b"]


def test_an_empty_table_loads_no_delta(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.core.home import Home;"
        " from storage.tables.schemas import backtests; from storage.tables.scores import Scores;"
        f" home = Home(Path({str(tmp_path)!r}));"
        " assert backtests(home).read().num_rows == Scores(home).newest().num_rows == 0;"
        " assert not {'deltalake', 'tensorflow', 'mlflow', 'duckdb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)
