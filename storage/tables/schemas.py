"""The one list of the Delta tables: columns, keys and partitions, as the design fixes them."""

from __future__ import annotations

import pyarrow as pa

from closecast.storage.core.home import Home
from closecast.storage.core.intervals import BOUNDS, COVERED
from closecast.storage.tables.delta import Table, TableSchema

TEXT, FLOAT, WHOLE, BOOLEAN, DAY = pa.string(), pa.float64(), pa.int32(), pa.bool_(), pa.date32()
FLOATS, TEXTS, MOMENT = pa.list_(pa.float64()), pa.list_(pa.string()), pa.timestamp("us", tz="UTC")


def column(name: str, kind: pa.DataType, comment: str, *, null: bool = False) -> pa.Field:
    """A column; Delta stores the comment with it."""
    return pa.field(name, kind, nullable=null, metadata={"comment": comment})


PREDICTION_ID = column("prediction_id", TEXT, "digest of the run's key and the horizon: names the forecast")
PRODUCT_ID = column("product_id", TEXT, "base and quote currency, such as BTC-USD")
PROFILE = column("profile", TEXT, "name of the kind of model")
ORIGIN_DAY = column("origin_day", DAY, "last UTC day that the forecast may know")
TARGET_DAY = column("target_day", DAY, "UTC day whose close is forecast")
HORIZON = column("horizon", WHOLE, "days from the origin to the target day")
DATA_VERSION = column("data_version", TEXT, "PRODUCT@SEQ:SHA256 of the prices that were used")
LAST_CLOSE = column("last_close", FLOAT, "close of the origin day in the quote currency: the naive forecast")
POINT = column("point", FLOAT, "forecast of the close in the quote currency")
LEVELS = column("quantile_levels", FLOATS, "levels of the quantiles; null for a point only", null=True)

PREDICTIONS = TableSchema(
    "predictions",
    pa.schema(
        [
            PREDICTION_ID,
            PRODUCT_ID,
            column("quote_currency", TEXT, "currency of all prices in the row"),
            ORIGIN_DAY,
            TARGET_DAY,
            HORIZON,
            PROFILE,
            column("basis", TEXT, "model, pool (the others' network) or fallback (baselines alone)"),
            column("model_version", TEXT, "version in the model registry; null for a fallback", null=True),
            DATA_VERSION,
            column("settings_version", TEXT, "digest of the profile's settings"),
            column("code_version", TEXT, "release and digest of the code that decides figures"),
            LAST_CLOSE,
            POINT,
            *(
                column(end, FLOAT, f"{end[:5]} end of the {end[-2:]} % interval, quote currency", null=True)
                for end in BOUNDS
            ),
            LEVELS,
            column("quantiles", FLOATS, "quantiles of the close in the quote currency", null=True),
            column("created_at", MOMENT, "when the forecast was computed"),
            column("flow_run_id", TEXT, "Prefect's id of the run, null outside of one", null=True),
            column("revision", WHOLE, "0 for the published forecast, 1 and more for revisions"),
        ]
    ),
    key=("product_id", "prediction_id"),
    description="Forecasts of daily closes, a row for each target day; later ones of a day are revisions",
)
SCORES = TableSchema(
    "scores",
    pa.schema(
        [
            PREDICTION_ID,
            PRODUCT_ID,
            TARGET_DAY,
            HORIZON,
            column("close", FLOAT, "actual close in the quote currency", null=True),
            column("error", FLOAT, "point less close, quote currency", null=True),
            column("naive_error", FLOAT, "last close less close, quote currency", null=True),
            column("crps", FLOAT, "CRPS of the log return; null for a point only", null=True),
            column("naive_crps", FLOAT, "CRPS of the naive forecast's log return", null=True),
            *(
                column(name, BOOLEAN, f"whether the close lies in the {name[-2:]} % interval", null=True)
                for name in COVERED
            ),
            column("pit", FLOAT, "probability integral transform of the close, 0 to 1", null=True),
            DATA_VERSION,
            column("scored_at", MOMENT, "when the score was computed"),
            column("component_names", TEXTS, "components that are scored, too; null for a point", null=True),
            column("component_crps", FLOATS, "CRPS of each component's log return", null=True),
        ]
    ),
    key=("product_id", "prediction_id", "data_version", "scored_at"),
    description="Forecasts compared with the close of their target day; the newest row of a forecast counts",
)
COMPONENTS = TableSchema(
    "components",
    pa.schema(
        [
            PREDICTION_ID,
            PRODUCT_ID,
            TARGET_DAY,
            HORIZON,
            column("component", TEXT, "name of the component forecast: the ensemble or a baseline"),
            column(
                "sigma", FLOAT, "standard deviation of the log return that scales the quantiles", null=True
            ),
            column("calibrator_version", TEXT, "calibrator state applied to the ensemble", null=True),
            column("quantiles", FLOATS, "quantiles of the close before calibration, quote currency"),
        ]
    ),
    key=("product_id", "prediction_id", "component"),
    description="The forecasts behind each forecast: the model alone, before calibration, and the baselines",
)
CALIBRATOR = TableSchema(
    "calibrator",
    pa.schema(
        [
            column("calibrator_version", TEXT, "digest that names the state"),
            PRODUCT_ID,
            PROFILE,
            HORIZON,
            column("recipe_version", TEXT, "digest of the calibration's settings"),
            column("target_day", DAY, "UTC day of the newest outcome in the state"),
            column("revision", WHOLE, "0 for the first state of that outcome, more after restated closes"),
            column("prediction_id", TEXT, "forecast of the newest outcome; null in a first state", null=True),
            column("previous_version", TEXT, "state before it; null in a first state", null=True),
            column("quantile_offsets", FLOATS, "offset of each quantile in units of sigma"),
            column("created_at", MOMENT, "when the state was computed"),
        ]
    ),
    key=("product_id", "calibrator_version"),
    description="States of the online quantile calibrator, one for each scored outcome and horizon",
)
BACKTESTS = TableSchema(
    "backtests",
    pa.schema(
        [
            column("backtest_id", TEXT, "digest of the backtest's plan"),
            PRODUCT_ID,
            PROFILE,
            column("component", TEXT, "name of the component forecast"),
            column("fold", WHOLE, "number of the fold, from 0"),
            column("model", TEXT, "model of the fold that forecast"),
            column("basis", TEXT, "model, pool (the others' network) or fallback (baselines alone)"),
            ORIGIN_DAY,
            TARGET_DAY,
            HORIZON,
            LAST_CLOSE,
            column("close", FLOAT, "actual close in the quote currency"),
            column("sigma", FLOAT, "standard deviation of the log return; null for a point only", null=True),
            LEVELS,
            column("quantiles", FLOATS, "quantiles of the close in the quote currency", null=True),
            POINT,
            column("created_at", MOMENT, "when the row was computed"),
        ]
    ),
    key=("product_id", "backtest_id", "component", "horizon", "origin_day"),
    partition_by=("product_id", "backtest_id"),
    order_by=(),
    description="Every component forecast of every origin of every backtest, with the actual close",
)

TABLES = {table.name: table for table in (PREDICTIONS, SCORES, COMPONENTS, CALIBRATOR, BACKTESTS)}
# The tables that every run adds to.
DAILY_TABLES = tuple(name for name, table in TABLES.items() if table.order_by)


def components(home: Home, product_id: str | None = None) -> Table:
    """The component forecasts of every forecast, or of a product's."""
    return Table(home.components, COMPONENTS).of_products(product_id)


def calibrator(home: Home, product_id: str | None = None) -> Table:
    """The states of the online quantile calibrator, of all products or of one."""
    return Table(home.calibrator, CALIBRATOR).of_products(product_id)


def backtests(home: Home, product_id: str | None = None) -> Table:
    """Every component forecast of every backtest, or of a product's, with the actual close."""
    return Table(home.backtests, BACKTESTS).of_products(product_id)
