from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from storage.core.home import Home
from storage.tables.delta import Table
from storage.tables.schemas import BACKTESTS, CALIBRATOR, COMPONENTS, backtests, calibrator, components
from tests.helpers import BTC, FIRST, NOW
from tests.processes import process_for

QUANTILES = [100.0 + n / 3 for n in range(23)]
INGREDIENT: dict[str, Any] = {
    "prediction_id": "p",
    "product_id": BTC,
    "target_day": FIRST,
    "component": "ensemble",
    "sigma": 0.1 + 0.2,
    "calibrator_version": None,
    "quantiles": QUANTILES,
}
TRACKER: dict[str, Any] = {
    "calibrator_version": "t1",
    "product_id": BTC,
    "profile": "calibrated",
    "recipe_version": "r",
    "target_day": FIRST,
    "revision": 0,
    "prediction_id": None,
    "previous_version": None,
    "quantile_offsets": [5e-324, *QUANTILES[1:]],
    "created_at": NOW,
}
BACKTEST: dict[str, Any] = {
    "backtest_id": "b",
    "product_id": BTC,
    "profile": "calibrated",
    "component": "ensemble",
    "fold": 3,
    "model": "m",
    "origin_day": FIRST,
    "target_day": FIRST + timedelta(days=1),
    "last_close": 99.0,
    "close": 101.0,
    "sigma": None,
    "quantile_levels": None,
    "quantiles": None,
    "point": 100.0,
    "created_at": NOW,
}
# The table, its columns, a row, the columns of the key beside product_id, those that may be missing.
LEDGERS = [
    pytest.param(
        components, COMPONENTS, INGREDIENT,
        {"prediction_id": "q", "component": "garch"},
        {"sigma", "calibrator_version"},
        id="components",
    ),
    pytest.param(
        calibrator, CALIBRATOR, TRACKER,
        {"calibrator_version": "t2"},
        {"prediction_id", "previous_version"},
        id="calibrator",
    ),
    pytest.param(
        backtests, BACKTESTS, BACKTEST,
        {"backtest_id": "c", "component": "garch", "origin_day": FIRST + timedelta(days=1)},
        {"sigma", "quantile_levels", "quantiles"},
        id="backtests",
    ),
]  # fmt: skip
Made = Callable[[Home], Table]


@pytest.mark.parametrize(("made", "schema", "row", "others", "nullable"), LEDGERS)
def test_a_row_comes_back_to_the_last_bit_and_once(
    tmp_path: Path,
    made: Made,
    schema: pa.Schema,
    row: dict[str, Any],
    others: dict[str, Any],
    nullable: set[str],
) -> None:
    home = Home(tmp_path).prepare()
    table = made(home)
    assert list(row) == schema.names
    assert {field.name for field in schema if field.nullable} == nullable
    assert table.read() == schema.empty_table()
    assert not table.folder.exists()
    assert table.add([row]) == 1
    assert table.read() == pa.Table.from_pylist([row], schema=schema)
    assert table.read().to_pylist() == [row]
    stored = DeltaTable(str(table.folder))
    assert [field.name for field in stored.schema().fields] == schema.names
    # Whatever else differs: the same key is the same row.
    changed = dict.fromkeys(nullable) | {"product_id": BTC}
    assert table.add([row | changed]) == 0
    assert DeltaTable(str(table.folder)).version() == stored.version()
    assert table.read().to_pylist() == [row]


@pytest.mark.parametrize(("made", "schema", "row", "others", "nullable"), LEDGERS)
def test_each_column_of_the_key_makes_another_row(
    tmp_path: Path,
    made: Made,
    schema: pa.Schema,
    row: dict[str, Any],
    others: dict[str, Any],
    nullable: set[str],
) -> None:
    table = made(Home(tmp_path).prepare())
    assert set(table.key) == {"product_id", *others}
    rows = [row, row | {"product_id": "ETH-USD"}, *(row | {name: other} for name, other in others.items())]
    assert table.add(rows) == len(rows)
    assert table.add(rows[::-1]) == 0
    assert table.read(ds.field("product_id") == "ETH-USD").to_pylist() == [rows[1]]


@pytest.mark.parametrize(("made", "schema", "row", "others", "nullable"), LEDGERS)
def test_what_has_to_be_there_is_asked_for(
    tmp_path: Path,
    made: Made,
    schema: pa.Schema,
    row: dict[str, Any],
    others: dict[str, Any],
    nullable: set[str],
) -> None:
    table = made(Home(tmp_path).prepare())
    for name in set(schema.names) - nullable:
        with pytest.raises(ValueError, match=name):
            table.add([row | {name: None}])
    assert not table.folder.exists()
    assert table.add([{name: row[name] for name in schema.names if name not in nullable}]) == 1


@pytest.mark.folder
def test_each_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert [home.components, home.calibrator, home.backtests] == [
        tmp_path / "components",
        tmp_path / "calibrator",
        tmp_path / "backtests",
    ]
    components(home).add([INGREDIENT])
    calibrator(home).add([TRACKER])
    backtests(home).add([BACKTEST])
    files = [path.parent.relative_to(tmp_path) for path in tmp_path.rglob("*.parquet")]
    assert sorted(files) == [
        Path("backtests/product_id=BTC-USD/backtest_id=b"),
        Path("components/product_id=BTC-USD"),
        Path("calibrator/product_id=BTC-USD"),
    ]


def add_folds(home: Home, worker: int) -> None:
    """Folds of one backtest and of two others, a day each; two of them are done by both workers."""
    table = backtests(home)
    for fold in (3 * worker, 3 * worker + 1, 100, 101):
        days = [FIRST + timedelta(days=10 * fold + n) for n in range(3)]
        more = {"fold": fold, "backtest_id": "same" if fold % 2 else f"own-{worker % 2}"}
        table.add([BACKTEST | more | {"origin_day": day, "component": m} for day in days for m in ("a", "b")])


def test_two_processes_that_work_on_one_backtest(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    workers = [process_for(add_folds, home, n) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    rows = backtests(home).read(columns=["backtest_id", "fold"]).to_pylist()
    found = [(row["backtest_id"], row["fold"]) for row in rows]
    folds = [
        ("own-0", 0),
        ("same", 1),
        ("own-0", 100),
        ("own-1", 100),
        ("same", 101),
        ("same", 3),
        ("own-1", 4),
    ]
    assert sorted(found) == sorted(folds * 6)
