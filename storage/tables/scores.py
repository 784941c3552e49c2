"""The Delta table of scores: how each forecast did against the close as it was known."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from storage.core.home import Home
from storage.tables.delta import Table, all_of, among

SCORES = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        pa.field("horizon", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("close", "error", "naive_error")),
        *(pa.field(name, pa.float64()) for name in ("crps", "naive_crps")),
        *(pa.field(f"hit_{level}", pa.bool_()) for level in (50, 80, 95)),
        pa.field("pit", pa.float64()),
        pa.field("data_version", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
_SEQ = re.compile(r"@(\d+):")  # in a data version, PRODUCT@SEQ:SHA256


class Scores:
    """The scores of one home: a restated close adds a row for its forecasts and changes none."""

    def __init__(self, home: Home) -> None:
        key = ("product_id", "prediction_id", "data_version")
        self._table = Table(home.scores, SCORES, name="scores", key=key, near=["target_day"])
        self.folder = home.scores

    def add(self, rows: Sequence[Mapping[str, object]]) -> int:
        """Add each score whose forecast has none, or whose `close` differs from its newest one's.

        Args:
            rows: every column of `SCORES`; those of one forecast and data version once.

        Returns:
            How many were added.

        Raises:
            ValueError: a column is foreign or lacking, or a forecast is there twice for a data version.
            HomeUnusable: the table cannot be written.
            HomeBusy: others write to it all the time.
            Damaged: there is a table that cannot be read.
        """
        given = self._table.given(rows)
        return self._table.attempt(self._add_once, given) if given.num_rows else 0

    def _add_once(self, given: pa.Table) -> int:
        state = self._table.of_rows(given).begin()
        names = ("product_id", "prediction_id", "target_day")
        same = (ds.field(name).isin(given[name].unique()) for name in names)
        columns = ["product_id", "prediction_id", "close", "data_version", "scored_at"]
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self._table.look(state, all_of(*same), columns).to_pylist():
            _keep_newer(newest, row)
        differs = []
        for row in given.select(columns).to_pylist():
            known = newest.get(_forecast(row))
            differs.append(known is None or known["close"] != row["close"])
            if differs[-1]:
                _keep_newer(newest, row)
        return self._table.insert(state, given.filter(pa.array(differs)))

    def read(
        self,
        product_id: str | None = None,
        *,
        first: date | None = None,
        last: date | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The scores whose target day lies in the inclusive span, by target day, then `scored_at`.

        Returns:
            A table of the named columns, of those of `SCORES` by default: what is not asked for is not read.
            The newest score of a forecast is the last one of its rows.
        """
        return self._sorted(product_id, _span(first, last), columns)

    def of_days(
        self, product_id: str, days: Collection[date], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """As `read`, of those target days alone, however far they lie apart."""
        return self._sorted(product_id, among("target_day", days), columns)

    def newest(
        self,
        product_id: str | None = None,
        *,
        first: date | None = None,
        last: date | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """As `read`, with the newest score of each forecast alone.

        The newest is the last by `scored_at`; of two of one moment, that of the later data version.
        """
        names = ["product_id", "prediction_id"]
        wanted = columns or SCORES.names
        columns = list(dict.fromkeys([*wanted, *names]))
        rows = self._sorted(product_id, _span(first, last), columns)
        places = rows.select(names).append_column("place", pa.array(range(rows.num_rows), pa.int64()))
        last_places = places.group_by(names).aggregate([("place", "max")])["place_max"].sort()
        return rows.take(last_places).select(wanted)

    def _sorted(
        self, product_id: str | None, wanted: ds.Expression | None, columns: Sequence[str] | None
    ) -> pa.Table:
        """The rows that match, as `_age` orders those of one forecast."""
        columns = columns or SCORES.names
        order = ["target_day", "scored_at", "product_id", "prediction_id", "seq", "data_version"]
        named = list(dict.fromkeys([*columns, *(set(order) - {"seq"})]))
        rows = self._table.of_products(product_id).read(wanted, named)
        seqs = pa.array(map(_seq, rows["data_version"].to_pylist()), pa.int64())
        rows = rows.append_column("seq", seqs)
        return rows.sort_by([(name, "ascending") for name in order]).select(columns)


def _span(first: date | None, last: date | None) -> ds.Expression | None:
    target = ds.field("target_day")
    return all_of(*([target >= first] if first else []), *([target <= last] if last else []))


def _seq(data_version: str) -> int:
    """The newest row of prices that a data version knows."""
    found = _SEQ.search(data_version)
    return int(found[1]) if found else -1


def _forecast(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["product_id"], row["prediction_id"]


def _age(row: Mapping[str, Any]) -> tuple[Any, int, str]:
    """What orders the scores of one forecast: the moment, then the rows of prices that were known."""
    return row["scored_at"], _seq(row["data_version"]), row["data_version"]


def _keep_newer(newest: dict[tuple[str, str], dict[str, Any]], row: dict[str, Any]) -> None:
    known = newest.setdefault(_forecast(row), row)
    if _age(row) > _age(known):
        newest[_forecast(row)] = row
