"""The forecasts of a home: the first of each target day is published, later ones are revisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from closecast.storage.core.home import Home
from closecast.storage.tables.delta import Snapshot, Table, all_of, among, between
from closecast.storage.tables.schemas import PREDICTIONS

_ORDER = ("target_day", "horizon", "product_id", "profile", "revision")
# Within these, revisions are counted.
_PUBLISHED_ONCE = ("product_id", "profile", "target_day", "horizon")


class Predictions(Table):
    """The Delta table of forecasts."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.predictions, PREDICTIONS)

    def find(self, prediction_id: str, *, product_id: str | None = None) -> dict[str, Any] | None:
        """The row of that id, or None; with a product only its files are read."""
        rows = self.read(ds.field("prediction_id") == prediction_id, product_id=product_id)
        return rows.to_pylist()[0] if rows.num_rows else None

    def find_all(
        self, prediction_ids: Sequence[str], product_id: str, days: Collection[date]
    ) -> list[dict[str, Any]]:
        """The existing rows of these ids and target days, in the order of the ids."""
        wanted = among("prediction_id", prediction_ids) & among("target_day", days)
        rows = self.read(wanted, product_id=product_id).to_pylist()
        return sorted(rows, key=lambda row: prediction_ids.index(row["prediction_id"]))

    def publish(self, rows: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
        """Add a run's forecasts in one commit, without those already stored; returns the stored rows.

        The rows are of one product and have every column except `revision`, which is counted here.

        Raises as `Table.add`.
        """
        self.add([{**row, "revision": 0} for row in rows], _with_revisions)
        ids = [str(row["prediction_id"]) for row in rows]
        days: Any = {row["target_day"] for row in rows}
        return self.find_all(ids, str(rows[0]["product_id"]), days)

    def between(
        self,
        product_id: str | None = None,
        first: date | None = None,
        last: date | None = None,
        profile: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        horizon: int | None = None,
    ) -> pa.Table:
        """Forecasts whose target day lies in the inclusive span, by target day, horizon, then revision.

        Only the named columns are read, all by default; None is every product, day, profile or horizon.
        """
        named = {"profile": profile, "horizon": horizon}
        wanted = [ds.field(name) == value for name, value in named.items() if value is not None]
        condition = all_of(*wanted, *between("target_day", first, last))
        return self.of_products(product_id).snapshot().read(condition, columns, _ORDER)

    def newest(
        self, product_id: str, profile: str, count: int, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The last `count` forecasts of the next day, at least one; for the others only the day is read."""
        state = self.of_products(product_id).snapshot()
        condition = (ds.field("profile") == profile) & (ds.field("horizon") == 1)
        days = state.read(condition, ["target_day"])["target_day"]
        if len(days) > count:
            condition &= ds.field("target_day") >= days.sort("descending")[count - 1]
        rows = state.read(condition, columns, _ORDER)
        return rows.slice(max(rows.num_rows - count, 0))


def with_quantile_columns(rows: pa.Table) -> pa.Table:
    """The forecasts with a column for each quantile, such as `q0.050`, instead of the two lists.

    The names sort as the levels do; null if a row has no such quantile.
    """
    levels, quantiles = (rows[name].to_pylist() for name in ("quantile_levels", "quantiles"))
    by_row = [
        dict(zip(own or (), values or (), strict=True)) for own, values in zip(levels, quantiles, strict=True)
    ]
    wide = rows.drop_columns(["quantile_levels", "quantiles"])
    for level in sorted({level for row in by_row for level in row}):
        wide = wide.append_column(f"q{level:.3f}", pa.array([row.get(level) for row in by_row], pa.float64()))
    return wide


def _with_revisions(state: Snapshot, rows: pa.Table) -> pa.Table:
    """The rows that are not in the table yet, each with the next revision of its forecast."""
    same = all_of(*(among(name, rows[name].unique()) for name in _PUBLISHED_ONCE))
    columns = ["prediction_id", "revision", *_PUBLISHED_ONCE]
    earlier = state.read(same, columns, ["revision"]).to_pylist()
    ids = {row["prediction_id"] for row in earlier}
    revisions = {tuple(row[name] for name in _PUBLISHED_ONCE): row["revision"] for row in earlier}
    new = [row for row in rows.to_pylist() if row["prediction_id"] not in ids]
    for row in new:
        row["revision"] = revisions.get(tuple(row[name] for name in _PUBLISHED_ONCE), -1) + 1
    return pa.Table.from_pylist(new, schema=PREDICTIONS.arrow)
