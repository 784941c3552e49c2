"""A valid row of each Delta table, to be changed by name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa

from closecast.storage.core.home import Home
from closecast.storage.core.intervals import BOUNDS, COVERED
from closecast.storage.tables.delta import Table, TableSchema
from closecast.storage.tables.schemas import TABLES
from tests.helpers import BTC, FIRST, NOW

QUANTILES = [100.0 + n / 3 for n in range(23)]
ROWS: dict[str, dict[str, Any]] = {
    "predictions": {
        "prediction_id": "p",
        "product_id": BTC,
        "quote_currency": "USD",
        "origin_day": FIRST,
        "target_day": FIRST + timedelta(days=1),
        "horizon": 1,
        "profile": "article",
        "basis": "model",
        "model_version": "1",
        "data_version": f"{BTC}@1:ab",
        "settings_version": "article-0",
        "code_version": "0+0",
        "last_close": 100.0,
        "point": 0.1 + 0.2,
        **dict.fromkeys(BOUNDS),
        "quantile_levels": None,
        "quantiles": None,
        "created_at": NOW,
        "flow_run_id": None,
        "revision": 0,
    },
    "scores": {
        "prediction_id": "p",
        "product_id": BTC,
        "target_day": FIRST,
        "horizon": 1,
        "close": 101.0,
        "error": 0.1 + 0.2,
        "naive_error": -1.0,
        "crps": None,
        "naive_crps": None,
        **dict.fromkeys(COVERED, False),
        "pit": 0.5,
        "data_version": f"{BTC}@1:ab",
        "scored_at": NOW,
        "component_names": ["ensemble", "other"],
        "component_crps": [0.1 + 0.2, 0.25],
    },
    "components": {
        "prediction_id": "p",
        "product_id": BTC,
        "target_day": FIRST,
        "horizon": 1,
        "component": "ensemble",
        "sigma": 0.1 + 0.2,
        "calibrator_version": None,
        "quantiles": QUANTILES,
    },
    "calibrator": {
        "calibrator_version": "t1",
        "product_id": BTC,
        "profile": "calibrated",
        "horizon": 1,
        "recipe_version": "r",
        "target_day": FIRST,
        "revision": 0,
        "prediction_id": None,
        "previous_version": None,
        "quantile_offsets": [5e-324, *QUANTILES[1:]],
        "created_at": NOW,
    },
    "backtests": {
        "backtest_id": "b",
        "product_id": BTC,
        "profile": "calibrated",
        "component": "ensemble",
        "fold": 3,
        "basis": "model",
        "model": "m",
        "origin_day": FIRST,
        "target_day": FIRST + timedelta(days=1),
        "horizon": 1,
        "last_close": 99.0,
        "close": 101.0,
        "sigma": None,
        "quantile_levels": None,
        "quantiles": None,
        "point": 100.0,
        "created_at": NOW,
    },
}


def forecast(prediction_id: str, offset: int = 0, product_id: str = BTC, **more: object) -> dict[str, Any]:
    """A forecast of the day FIRST + offset + 1, without its revision."""
    days = {"origin_day": FIRST + timedelta(days=offset), "target_day": FIRST + timedelta(days=offset + 1)}
    row = {**ROWS["predictions"], "prediction_id": prediction_id, "product_id": product_id, **days, **more}
    return {name: value for name, value in row.items() if name != "revision"}


def table(home: Home, name: str) -> Table:
    return Table(home.table(name), TABLES[name])


def version(table: Table) -> int:
    """The number of the newest commit."""
    return table.begin().delta.version()


NUMBERS = TableSchema(
    "numbers",
    pa.schema(
        [
            pa.field("product_id", pa.string(), nullable=False),
            pa.field("number", pa.int64(), nullable=False),
        ]
    ),
    key=("product_id", "number"),
    order_by=(),
)


def number(value: int, product_id: str = "A-USD") -> dict[str, object]:
    return {"product_id": product_id, "number": value}
