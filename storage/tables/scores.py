"""The scores of a home: the figures of each forecast against the close as it was known."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from storage.core.home import Home
from storage.tables.delta import Snapshot, Table, all_of, among, between
from storage.tables.schemas import SCORES

_SEQ = re.compile(r"@(\d+):")  # in a data version, PRODUCT@SEQ:SHA256


class Scores:
    """The Delta table of scores: a restated close adds a row for its forecasts and changes none."""

    def __init__(self, home: Home) -> None:
        self._table = Table(home.scores, SCORES)
        self.folder = home.scores

    def add(self, rows: Sequence[Mapping[str, object]]) -> int:
        """As `Table.add`, each score whose forecast has none, or a newest one of another `close`."""
        return self._table.add(rows, _with_other_closes)

    def read(
        self,
        product_id: str | None = None,
        *,
        first: date | None = None,
        last: date | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The scores whose target day lies in the inclusive span, by target day, then `scored_at`.

        Only the named columns are read, all by default. A forecast's newest score is the last of its rows.
        """
        return self._sorted(product_id, all_of(*between("target_day", first, last)), columns)

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
        columns = columns or SCORES.arrow.names
        rows = self.read(product_id, first=first, last=last, columns=list(dict.fromkeys([*columns, *names])))
        numbered = rows.select(names).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
        last_rows = numbered.group_by(names).aggregate([("row", "max")])["row_max"].sort()
        return rows.take(last_rows).select(columns)

    def _sorted(
        self, product_id: str | None, condition: ds.Expression | None, columns: Sequence[str] | None
    ) -> pa.Table:
        """The rows that match, as `_age` orders those of one forecast."""
        columns = columns or SCORES.arrow.names
        order = ["target_day", "scored_at", "product_id", "prediction_id", "seq", "data_version"]
        names = list(dict.fromkeys([*columns, *(set(order) - {"seq"})]))
        rows = self._table.of_products(product_id).read(condition, names)
        rows = rows.append_column("seq", pa.array(map(_seq, rows["data_version"].to_pylist()), pa.int64()))
        return rows.sort_by([(name, "ascending") for name in order]).select(columns)


def _with_other_closes(state: Snapshot, rows: pa.Table) -> pa.Table:
    """The scores whose close is not that of the forecast's newest score."""
    same = all_of(
        *(among(name, rows[name].unique()) for name in ("product_id", "prediction_id", "target_day"))
    )
    columns = ["product_id", "prediction_id", "close", "data_version", "scored_at"]
    scored = sorted(state.read(same, columns).to_pylist(), key=_age)
    newest = {(row["product_id"], row["prediction_id"]): row for row in scored}
    differs = []
    for row in rows.select(columns).to_pylist():
        key = row["product_id"], row["prediction_id"]
        earlier = newest.get(key)
        differs.append(earlier is None or earlier["close"] != row["close"])
        if differs[-1]:
            newest[key] = max(earlier or row, row, key=_age)
    return rows.filter(pa.array(differs))


def _age(row: Mapping[str, Any]) -> tuple[Any, int, str]:
    """The order of one forecast's scores: the moment, then how many rows of prices were known."""
    return row["scored_at"], _seq(row["data_version"]), row["data_version"]


def _seq(data_version: str) -> int:
    """The newest row of prices in a data version."""
    return int(match[1]) if (match := _SEQ.search(data_version)) else -1
