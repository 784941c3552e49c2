"""The Delta table of forecasts: append-only, partitioned by product."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from storage.core.home import Home
from storage.tables.delta import Table, all_of, among

PREDICTIONS = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("quote_currency", pa.string(), nullable=False),
        pa.field("origin_day", pa.date32(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        pa.field("horizon", pa.int32(), nullable=False),
        pa.field("profile", pa.string(), nullable=False),
        pa.field("basis", pa.string(), nullable=False),
        pa.field("model_version", pa.string()),
        pa.field("data_version", pa.string(), nullable=False),
        pa.field("settings_version", pa.string(), nullable=False),
        pa.field("code_version", pa.string(), nullable=False),
        pa.field("last_close", pa.float64(), nullable=False),
        pa.field("point", pa.float64(), nullable=False),
        *(pa.field(f"{side}_{level}", pa.float64()) for level in (50, 80, 95) for side in ("lower", "upper")),
        pa.field("quantile_levels", pa.list_(pa.float64())),
        pa.field("quantiles", pa.list_(pa.float64())),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("flow_run_id", pa.string()),
        pa.field("revision", pa.int32(), nullable=False),
    ]
)


_ORDER = ("target_day", "product_id", "profile", "revision")


@dataclass(frozen=True)
class Published:
    """What became of a forecast: `new` is False when its key was there before."""

    prediction_id: str
    revision: int
    new: bool


class Predictions:
    """The forecasts of one home: the first of a target day is published, later ones are revisions.

    They are counted for each profile on its own.
    """

    def __init__(self, home: Home) -> None:
        key = ("product_id", "prediction_id")
        self._table = Table(home.predictions, PREDICTIONS, name="predictions", key=key, near=["target_day"])
        self.folder = home.predictions

    def find(
        self, prediction_id: str, *, product_id: str | None = None, target_day: date | None = None
    ) -> dict[str, Any] | None:
        """The row of that id, or None; where product and day are known, only their files are read."""
        wanted = all_of(
            ds.field("prediction_id") == prediction_id,
            *([ds.field("target_day") == target_day] if target_day else []),
        )
        rows = self._table.of_products(product_id).read(wanted).to_pylist()
        return rows[0] if rows else None

    def publish(self, rows: Any) -> Any:
        """Temporary."""
        return [{**row, "revision": self.publish_one(row).revision} for row in rows]

    def publish_one(self, row: Mapping[str, object]) -> Published:
        """Add a forecast unless its `prediction_id` is there; its `revision` is counted here.

        Args:
            row: every column of `PREDICTIONS` but `revision`.

        Raises:
            HomeUnusable: the table cannot be written.
            HomeBusy: others write to it all the time.
            Damaged: there is a table that cannot be read.
        """
        return self._table.attempt(self._publish_once, row)

    def _publish_once(self, row: Mapping[str, object]) -> Published:
        prediction_id = str(row["prediction_id"])
        state = self._table.of_products(str(row["product_id"])).begin()
        same_day = all_of(*(ds.field(name) == row[name] for name in ("product_id", "profile", "target_day")))
        earlier = self._table.look(state, same_day, ["prediction_id", "revision"]).to_pylist()
        for known in earlier:
            if known["prediction_id"] == prediction_id:
                return Published(prediction_id, known["revision"], new=False)
        revision = 1 + max((known["revision"] for known in earlier), default=-1)
        source = pa.Table.from_pylist([{**row, "revision": revision}], schema=PREDICTIONS)
        return Published(prediction_id, revision, new=self._table.insert(state, source) == 1)

    def between(
        self,
        product_id: str | None = None,
        first: date | None = None,
        last: date | None = None,
        profile: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Forecasts whose target day lies in the inclusive span, by target day, then revision.

        Without `columns` those of `PREDICTIONS`, else the named ones: what is not asked for is not read.
        """
        target = ds.field("target_day")
        wanted = all_of(
            *([ds.field("profile") == profile] if profile else []),
            *([target >= first] if first else []),
            *([target <= last] if last else []),
        )
        return self._ordered(product_id, wanted, columns)

    def of_days(
        self, product_id: str, days: Collection[date], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """As `between`, of those target days alone, however far they lie apart."""
        return self._ordered(product_id, among("target_day", days), columns)

    def newest(
        self, product_id: str, profile: str, count: int, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The last `count` rows, one or more, that `between` would give; of others the day alone is read."""
        state = self._table.of_products(product_id).snapshot()
        wanted = ds.field("profile") == profile
        days = self._table.look(state, wanted, ["target_day"])["target_day"]
        if len(days) > count:
            wanted &= ds.field("target_day") >= days.sort("descending")[count - 1]
        rows = _in_order(self._table.look(state, wanted, _with_order(columns)), columns)
        return rows.slice(max(rows.num_rows - count, 0))

    def _ordered(
        self, product_id: str | None, wanted: ds.Expression | None, columns: Sequence[str] | None
    ) -> pa.Table:
        rows = self._table.of_products(product_id).read(wanted, _with_order(columns))
        return _in_order(rows, columns)

    def read(
        self,
        wanted: ds.Expression | None = None,
        columns: Sequence[str] | None = None,
        product_id: str | None = None,
    ) -> pa.Table:
        """The rows that match, in the schema of the design, with no row when there is no table yet."""
        return self._table.of_products(product_id).read(wanted, columns)

    def dataset(self) -> ds.Dataset | None:
        """The table as a PyArrow dataset, or None before the first forecast."""
        return self._table.dataset()


def _with_order(columns: Sequence[str] | None) -> Sequence[str] | None:
    """The columns, and those that the rows are sorted by."""
    return None if columns is None else list(dict.fromkeys([*columns, *_ORDER]))


def _in_order(rows: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    rows = rows.sort_by([(name, "ascending") for name in _ORDER])
    return rows if columns is None else rows.select(columns)
