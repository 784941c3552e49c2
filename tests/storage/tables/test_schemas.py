"""Each table of the design: its columns, their comments, its key; rows come back unchanged and once."""

from __future__ import annotations

import pytest
from deltalake import DeltaTable

from closecast.storage.core.home import Home
from closecast.storage.tables.schemas import TABLES
from tests.storage.tables.rows import ROWS, table, version

# As the design fixes them, in their order.
COLUMNS = {
    "predictions": "prediction_id product_id quote_currency origin_day target_day horizon profile basis"
    " model_version data_version settings_version code_version last_close point lower_50 upper_50 lower_80"
    " upper_80 lower_95 upper_95 quantile_levels quantiles created_at flow_run_id revision",
    "scores": "prediction_id product_id target_day horizon close error naive_error crps naive_crps covered_50"
    " covered_80 covered_95 pit data_version scored_at component_names component_crps",
    "components": "prediction_id product_id target_day horizon component sigma calibrator_version quantiles",
    "calibrator": "calibrator_version product_id profile horizon recipe_version target_day revision"
    " prediction_id previous_version quantile_offsets created_at",
    "backtests": "backtest_id product_id profile component fold model basis origin_day target_day horizon"
    " last_close close sigma quantile_levels quantiles point created_at",
}
NULLABLE = {
    "predictions": "model_version lower_50 upper_50 lower_80 upper_80 lower_95 upper_95 quantile_levels"
    " quantiles flow_run_id",
    "scores": "close error naive_error crps naive_crps covered_50 covered_80 covered_95 pit"
    " component_names component_crps",
    "components": "sigma calibrator_version",
    "calibrator": "prediction_id previous_version",
    "backtests": "sigma quantile_levels quantiles",
}
each_table = pytest.mark.parametrize("name", TABLES)


@each_table
def test_columns_stand_in_the_order_of_the_design_with_a_comment_each(home: Home, name: str) -> None:
    schema = TABLES[name].arrow
    assert list(TABLES) == list(COLUMNS)
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
    assert rows.add([row]) == 1
    assert rows.read().schema == schema
    assert rows.read().to_pylist() == [row]
    before = version(rows)
    # The same key is the same row, whatever else differs.
    assert rows.add([row | dict.fromkeys(NULLABLE[name].split())]) == 0
    assert version(rows) == before
    assert rows.read().to_pylist() == [row]
