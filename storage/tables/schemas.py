"""The Delta tables beside the forecasts: what they were made of, calibrator and backtests; append-only."""

from __future__ import annotations

import pyarrow as pa

from storage.core.home import Home
from storage.tables.delta import Table

COMPONENTS = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        pa.field("horizon", pa.int32(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("sigma", pa.float64()),
        pa.field("calibrator_version", pa.string()),
        pa.field("quantiles", pa.list_(pa.float64()), nullable=False),
    ]
)
CALIBRATOR = pa.schema(
    [
        pa.field("calibrator_version", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("profile", pa.string(), nullable=False),
        pa.field("horizon", pa.int32(), nullable=False),
        pa.field("recipe_version", pa.string(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        pa.field("revision", pa.int32(), nullable=False),
        pa.field("prediction_id", pa.string()),
        pa.field("previous_version", pa.string()),
        pa.field("quantile_offsets", pa.list_(pa.float64()), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
BACKTESTS = pa.schema(
    [
        pa.field("backtest_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("profile", pa.string(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("origin_day", pa.date32(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        pa.field("horizon", pa.int32(), nullable=False),
        pa.field("last_close", pa.float64(), nullable=False),
        pa.field("close", pa.float64(), nullable=False),
        pa.field("sigma", pa.float64()),
        pa.field("quantile_levels", pa.list_(pa.float64())),
        pa.field("quantiles", pa.list_(pa.float64())),
        pa.field("point", pa.float64(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


def components(home: Home, product_id: str | None = None) -> Table:
    """What stands beside each forecast: the ensemble's quantiles before calibration, every baseline's.

    Of one product, where it is named. `sigma` is the scale: a standard deviation of the day's log
    return. `quantiles` are at the 23 levels.
    """
    key = ("product_id", "prediction_id", "component")
    table = Table(home.components, COMPONENTS, name="components", key=key, near=["target_day"])
    return table.of_products(product_id)


def calibrator(home: Home, product_id: str | None = None) -> Table:
    """The states of the online quantile calibrator, each with the one it came from.

    Of one product, where it is named. `target_day` is the day of the newest outcome in it, `prediction_id`
    the forecast that it came with (null in a first state), `quantile_offsets` 23 figures in units of the
    scale.
    """
    key = ("product_id", "calibrator_version")
    table = Table(home.calibrator, CALIBRATOR, name="calibrator", key=key, near=["target_day"])
    return table.of_products(product_id)


def backtests(home: Home, product_id: str | None = None) -> Table:
    """Every origin of every backtest, or of a product's: each method's quantiles and the close that came."""
    key = ("product_id", "backtest_id", "component", "origin_day")
    table = Table(home.backtests, BACKTESTS, name="backtests", key=key, partition_by=key[:2])
    return table.of_products(product_id)
