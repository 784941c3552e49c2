"""Each table of the design: its columns, their comments, its key; rows come back unchanged and once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from storage.core.home import Home
from storage.core.intervals import COVERED, INTERVALS, LOWER_UPPER
from storage.tables.schemas import TABLES
from tests.helpers import BTC, FIRST
from tests.storage.tables.rows import ROWS, table

# As the design fixes them, in their order.
COLUMNS = {
    "predictions": "prediction_id product_id quote_currency origin_day target_day horizon profile basis"
    " model_version data_version settings_version code_version last_close point lower_50 upper_50 lower_80"
    " upper_80 lower_95 upper_95 quantile_levels quantiles created_at flow_run_id revision",
    "scores": "prediction_id product_id target_day horizon close error naive_error crps naive_crps covered_50"
    " covered_80 covered_95 pit data_version scored_at",
    "components": "prediction_id product_id target_day horizon component sigma calibrator_version quantiles",
    "calibrator": "calibrator_version product_id profile horizon recipe_version target_day revision"
    " prediction_id previous_version quantile_offsets created_at",
    "backtests": "backtest_id product_id profile component fold model origin_day target_day horizon"
    " last_close close sigma quantile_levels quantiles point created_at",
}
# The columns of the key beside product_id, with values that make other rows.
NEXT_DAY = FIRST + timedelta(days=1)
OTHERS: dict[str, dict[str, object]] = {
    "predictions": {"prediction_id": "q"},
    "scores": {"prediction_id": "q", "data_version": f"{BTC}@2:ab"},
    "components": {"prediction_id": "q", "component": "garch"},
    "calibrator": {"calibrator_version": "t2"},
    "backtests": {"backtest_id": "c", "component": "garch", "origin_day": NEXT_DAY},
}
NULLABLE = {
    "predictions": "model_version lower_50 upper_50 lower_80 upper_80 lower_95 upper_95 quantile_levels"
    " quantiles flow_run_id",
    "scores": "close error naive_error crps naive_crps covered_50 covered_80 covered_95 pit",
    "components": "sigma calibrator_version",
    "calibrator": "prediction_id previous_version",
    "backtests": "sigma quantile_levels quantiles",
}
each_table = pytest.mark.parametrize("name", TABLES)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare()


def test_the_tables_are_those_of_the_design() -> None:
    assert list(TABLES) == list(COLUMNS)
    assert (INTERVALS, COVERED[0], LOWER_UPPER[2]) == ((50, 80, 95), "covered_50", ("lower_95", "upper_95"))


@each_table
def test_columns_stand_in_the_order_of_the_design_with_a_comment_each(home: Home, name: str) -> None:
    schema = TABLES[name].arrow
    assert schema.names == COLUMNS[name].split()
    assert {field.name for field in schema if field.nullable} == set(NULLABLE[name].split())
    table(home, name).add([ROWS[name]])
    stored = DeltaTable(str(home.table(name)), storage_options=home.table(name).storage_options)
    assert [field.name for field in stored.schema().fields] == schema.names
    for field in stored.schema().fields:
        comment = field.metadata["comment"]
        assert comment == schema.field(field.name).metadata[b"comment"].decode()
        assert len(comment) > 10
    assert stored.metadata().partition_columns == list(TABLES[name].partition_by)


@each_table
def test_a_row_comes_back_to_the_last_bit_and_once(home: Home, name: str) -> None:
    rows, schema, row = table(home, name), TABLES[name].arrow, ROWS[name]
    assert rows.read() == schema.empty_table()
    assert not rows.folder.is_dir()
    assert rows.add([row]) == 1
    assert rows.read().schema == schema
    assert rows.read().to_pylist() == [row]
    version = rows.begin().delta.version()
    # The same key is the same row, whatever else differs.
    assert rows.add([row | dict.fromkeys(NULLABLE[name].split())]) == 0
    assert rows.begin().delta.version() == version
    assert rows.read().to_pylist() == [row]


@each_table
def test_each_column_of_the_key_makes_another_row(home: Home, name: str) -> None:
    rows, row, others = table(home, name), ROWS[name], OTHERS[name]
    assert set(TABLES[name].key) == {"product_id", *others}
    given = [
        row,
        row | {"product_id": "ETH-USD"},
        *(row | {column: other} for column, other in others.items()),
    ]
    assert rows.add(given) == len(given)
    assert rows.add(given[::-1]) == 0
    assert rows.read(ds.field("product_id") == "ETH-USD").to_pylist() == [given[1]]


@each_table
def test_columns_that_may_not_be_null_are_required(home: Home, name: str) -> None:
    rows, row = table(home, name), ROWS[name]
    required = [column for column in row if column not in NULLABLE[name].split()]
    for column in required:
        with pytest.raises(ValueError, match=column):
            rows.add([row | {column: None}])
    assert not rows.folder.is_dir()
    assert rows.add([{column: row[column] for column in required}]) == 1
