"""The scores of a home: each forecast compared with the close as it was known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from closecast.storage.core.home import Home
from closecast.storage.tables.delta import Rows, Select, Snapshot, Table, all_of, among, between, sorted_by
from closecast.storage.tables.schemas import SCORES

_FORECAST = ["product_id", "prediction_id"]
# Of one forecast: by moment, then by how many rows of prices were known.
_ORDER = ["target_day", "scored_at", *_FORECAST, "seq", "data_version"]
_SEQ = r"@(?P<seq>\d+):"  # in a data version, PRODUCT@SEQ:SHA256


class Scores(Table):
    """The Delta table of scores: a restated close adds a row for its forecasts and changes none."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.scores, SCORES)

    def add(self, rows: Rows, select: Select | None = None) -> int:
        """As `Table.add`, for scores whose forecast has none, or a newest one with another `close`."""
        return super().add(rows, select or _with_other_closes)

    def between(
        self,
        product_id: str | None = None,
        first: date | None = None,
        last: date | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The scores whose target day lies in the inclusive span, by target day, then `scored_at`.

        Only the named columns are read, all by default. A forecast's newest score is the last of its rows.
        """
        condition = all_of(*between("target_day", first, last))
        return _by_age(self.of_products(product_id).snapshot(), condition, columns)

    def of_days(
        self, product_id: str, days: Collection[date], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """As `between`, but only these target days, however far apart."""
        return _by_age(self.of_products(product_id).snapshot(), among("target_day", days), columns)

    def newest(
        self,
        product_id: str | None = None,
        first: date | None = None,
        last: date | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """As `between`, but only the newest score of each forecast.

        The newest is the last by `scored_at`; of two at the same moment, that of the later data version.
        """
        columns = columns or SCORES.arrow.names
        rows = self.between(product_id, first, last, [*dict.fromkeys([*columns, *_FORECAST])])
        older = rows.select(_FORECAST).to_pandas().duplicated(keep="last")
        return rows.filter(pa.array(~older)).select(columns)


def _by_age(state: Snapshot, condition: ds.Expression | None, columns: Sequence[str] | None) -> pa.Table:
    columns = columns or SCORES.arrow.names
    rows = state.read(condition, [*dict.fromkeys([*columns, *_ORDER[:4], "data_version"])])
    seqs = pc.struct_field(pc.extract_regex(rows["data_version"], _SEQ), "seq")
    return sorted_by(rows.append_column("seq", seqs.cast(pa.int64())), _ORDER).select(columns)


def _with_other_closes(state: Snapshot, rows: pa.Table) -> pa.Table:
    """The scores whose close is not that of the forecast's newest score."""
    same = all_of(*(among(name, rows[name].unique()) for name in (*_FORECAST, "target_day")))
    names = [*_FORECAST, "close"]
    scored = _by_age(state, same, names).to_pylist()
    newest = {(row["product_id"], row["prediction_id"]): row["close"] for row in scored}
    closes = rows.select(names).to_pylist()
    differs = [newest.get((row["product_id"], row["prediction_id"])) != row["close"] for row in closes]
    return rows.filter(pa.array(differs, pa.bool_()))
