"""The price database: candles as observed, each product's series, and versions of the data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import sqlalchemy as sa

from storage.core.candle_schema import CANDLE_COLUMNS, FIGURES, OBSERVATION, REJECTED_COLUMNS, arrow_schema
from storage.core.errors import BadDay, BadInput, Damaged, SourceMismatch
from storage.core.home import check_product_id
from storage.prices import queries
from storage.prices.database import Database
from storage.prices.digest import digest
from storage.prices.schema import CANDLES, CLOSES, DATA_VERSIONS, QUARANTINE, SERIES

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from storage.core.home import Home

# The tables that SQL reads, and the order of their rows.
READABLE: dict[str, tuple[sa.FromClause, tuple[str, ...]]] = {
    "closes": (CLOSES, ("product_id", "day_utc")),
    "candles": (CANDLES, ("seq",)),
    "quarantine": (QUARANTINE, ("seq",)),
}


@dataclass(frozen=True)
class Appended:
    """The effect of a page: days new, with other figures, or unchanged; rows newly quarantined."""

    new_days: int
    restated_days: int
    unchanged_days: int
    quarantined: int


class Prices(Database):
    """The price database of a home: `with Prices(home) as prices: ...`."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        # The series that was used last, and the highest candle number then, of any series: the table only
        # grows, so while that is still the highest, the series is not read again.
        self._cached: tuple[queries.Series, int, pd.DataFrame] | None = None

    def source_of(self, product_id: str) -> str | None:
        """The source of the product's series, None where it has none."""
        with self.read() as connection:
            series = queries.find_series(connection, product_id)
        return series.source if series else None

    def start_series(
        self, product_id: str, source: str, *, started_at: datetime, replace: bool = False
    ) -> None:
        """Give the product a series from `source`; nothing happens when that is its source already.

        Raises:
            SourceMismatch: the product has another source, and `replace` is False.
            BadProduct: the id is malformed.
        """
        check_product_id(product_id)
        with self.write() as connection:
            old = queries.find_series(connection, product_id)
            if old and old.source == source:
                return
            if old and not replace:
                count = len(self._stored(connection, old))
                raise SourceMismatch(
                    f"{product_id} has {count} days from {old.source}, and prices of {source} do not mix with"
                    " them; give --replace-source to start over from the new source"
                )
            row = {
                "product_id": product_id,
                "source": source,
                "after_candle_seq": queries.highest(connection),
            }
            connection.execute(sa.insert(SERIES), [row | {"started_at": queries.iso_utc(started_at)}])

    def append(
        self,
        product_id: str,
        candles: pd.DataFrame,
        *,
        source: str,
        observed_at: datetime,
        payload_sha256: str,
        quarantined: pd.DataFrame | None = None,
    ) -> Appended:
        """Store one page of observations, all of it or nothing.

        A day with the figures of its newest row adds nothing; with others, a row beside the old one. A
        quarantined row that is stored adds nothing, either. The time has a zone, the SHA-256 is that of the
        raw response or the file.

        Raises:
            SourceMismatch: the product's series has another source, or there is none.
            BadInput: a figure no price can have, or a day twice with different figures.
        """
        check_product_id(product_id)
        page = queries.check_page(candles)
        observation = (source, queries.iso_utc(observed_at), payload_sha256)
        common = {"product_id": product_id, **dict(zip(OBSERVATION, observation, strict=True))}
        with self.write() as connection:
            series = queries.find_series(connection, product_id)
            if series is None or series.source != source:
                present = f"prices of {series.source}" if series else "no series yet"
                raise SourceMismatch(
                    f"{product_id} has {present}, and the page is of {source}; start a series of that source"
                    " (--replace-source) or use the one it has"
                )
            stored = self._stored(connection, series)
            before = stored.set_index("day_utc").reindex(page["day_utc"]).reset_index(drop=True)
            # An unknown figure equals an unknown one; no figure is negative.
            same = (before[FIGURES].fillna(-1) == page[FIGURES].fillna(-1)).all(axis="columns")
            new = queries.insert_candles(connection, page[~same], common)
            rejected = queries.insert_rejected(connection, quarantined, common)
            last = queries.highest(connection)
        self._cached = (series, last, queries.newest_of_days(pd.concat([stored, new])))
        new_days, unchanged = int(before["seq"].isna().sum()), int(same.sum())
        return Appended(new_days, len(page) - new_days - unchanged, unchanged, rejected)

    def first_day(self, product_id: str) -> date | None:
        """The oldest day of the product's series, None where it has none."""
        days = self.days(product_id)
        return days.iloc[0].date() if len(days) else None

    def last_day(self, product_id: str) -> date | None:
        """The newest day of the product's series, None where it has none."""
        days = self.days(product_id)
        return days.iloc[-1].date() if len(days) else None

    def last_close_before(self, product_id: str, day: date) -> tuple[date, float] | None:
        """The newest stored day strictly before `day` and its close, None where there is none."""
        earlier = queries.upto(self._newest(product_id), day - timedelta(days=1))
        if earlier.empty:
            return None
        return earlier["day_utc"].iloc[-1].date(), float(earlier["close"].iloc[-1])

    def days(self, product_id: str, *, through: date | None = None) -> pd.Series[pd.Timestamp]:
        """The stored days of the product's series up to `through`, inclusive; datetime64[s], oldest first."""
        return queries.upto(self._newest(product_id), through)["day_utc"]

    def _newest(self, product_id: str) -> pd.DataFrame:
        with self.read() as connection:
            return self._stored(connection, queries.find_series(connection, product_id))

    def _stored(self, connection: sa.Connection, series: queries.Series | None) -> pd.DataFrame:
        """Each day's newest candle of a series, read once while nothing is added."""
        if series is None:
            return queries.NO_CANDLES
        last = queries.highest(connection)
        if self._cached is None or self._cached[:2] != (series, last):
            self._cached = (series, last, queries.read_newest(connection, series))
        return self._cached[2]

    def data_version(self, product_id: str, through: date, *, created_at: datetime) -> str:
        """Name the closes up to and including `through` as they are now, for `closes_at` to read again.

        The name is `PRODUCT@SEQ:SHA256`: the greatest row number among them, and the digest of them all. The
        same rows always have the same name.

        Raises:
            BadDay: there is no close up to `through`.
            BadProduct: the id is malformed.
        """
        return self.read_history(product_id, through, created_at=created_at)[0]

    def read_history(
        self, product_id: str, through: date | None, *, created_at: datetime
    ) -> tuple[str, str, pd.DataFrame]:
        """The candles up to and including `through`, None for all, with the `data_version` that names them.

        Returns the data version, the series as `series_of` names it, and the candle frame. `created_at` has a
        time zone; the errors are those of `data_version`.
        """
        check_product_id(product_id)
        with self.read() as connection:
            series = queries.find_series(connection, product_id)
            everything = self._stored(connection, series)
        stored = queries.upto(everything, through)
        if series is None or stored.empty:
            state = "none is stored; fetch or import prices first"
            if len(everything):
                state = f"the first stored day is {everything['day_utc'].iloc[0].date()}"
            wanted = f"{product_id} up to {through}" if through else product_id
            raise BadDay(f"a close of {wanted} is needed, but {state}")
        seq, sha256 = int(stored["seq"].max()), digest(stored)
        name = f"{product_id}@{seq}:{sha256}"
        values = {
            "data_version": name,
            "product_id": product_id,
            "seq": seq,
            # The last row's day, not `through`: the same rows are the same version for any `through`.
            "through_day_utc": str(stored["day_utc"].iloc[-1].date()),
            "rows": len(stored),
            "sha256": sha256,
            "created_at": queries.iso_utc(created_at),
        }
        with self.write() as connection:
            queries.insert_new(connection, DATA_VERSIONS, [values])
        return name, series.name, stored[CANDLE_COLUMNS]

    def closes_at(self, data_version: str) -> pd.DataFrame:
        """The candles that a data version stands for, to the last bit, as a candle frame, oldest day first.

        Raises:
            BadInput: no such version is recorded here.
            Damaged: the rows are no longer those of the version.
        """
        with self.read() as connection:
            version, series = self._recorded(connection, data_version)
            through = date.fromisoformat(version.through_day_utc)
            stored = queries.read_newest(connection, series, at=version.seq, through=through)
        # Against the name itself: the version's row could have been changed with the candles.
        if digest(stored) != data_version.rpartition(":")[2]:
            raise Damaged(
                f"the candles of data version {data_version} are not those that were recorded;"
                " restore prices.db from a backup"
            )
        return stored[CANDLE_COLUMNS]

    def series_of(self, data_version: str) -> str:
        """The series of a data version, `SOURCE@AFTER`: prices of two series never meet in one model.

        Raises:
            BadInput: no such version is recorded here.
            Damaged: its series is missing.
        """
        with self.read() as connection:
            return self._recorded(connection, data_version)[1].name

    @staticmethod
    def _recorded(connection: sa.Connection, data_version: str) -> tuple[sa.Row[Any], queries.Series]:
        """The row of a data version, and its series."""
        query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.data_version == data_version)
        version = connection.execute(query).first()
        if version is None:
            raise BadInput(
                f"no data version {data_version!r:.140} is recorded in this home;"
                " check its spelling and --home"
            )
        series = queries.find_series(connection, version.product_id, at=version.seq)
        if series is None:
            raise Damaged(
                f"the series of data version {data_version} is missing; restore prices.db from a backup"
            )
        return version, series

    def quarantined(self, product_id: str) -> pd.DataFrame:
        """Quarantined rows: day_utc (ISO text or None), raw, reason, source, observed_at; oldest first."""
        names = (*REJECTED_COLUMNS, "source", "observed_at")
        query = sa.select(*QUARANTINE.c[names]).where(QUARANTINE.c.product_id == product_id)
        with self.read() as connection:
            rejected = connection.execute(query.order_by(QUARANTINE.c.seq)).tuples().all()
        return pd.DataFrame(rejected, columns=names, dtype=object)

    def restated(self, product_id: str) -> pd.DataFrame:
        """Every observation of the series's days that were observed with more than one set of figures.

        `day_utc` and `observed_at` are ISO text; by day, then in the order of observation.
        """
        names, day = ("day_utc", "seq", "close", "observed_at"), CANDLES.c.day_utc
        with self.read() as connection:
            series = queries.find_series(connection, product_id)
            ours = queries.belongs(series) if series else sa.false()
            days = sa.select(day).where(ours).group_by(day).having(sa.func.count() > 1)
            query = sa.select(*CANDLES.c[names]).where(ours, day.in_(days))
            return pd.read_sql(query.order_by(day, CANDLES.c.seq), connection)

    def any_quarantined_before(self, product_id: str, source: str, day: date) -> bool:
        """Whether a row of that source was quarantined, of a day before `day` or without a readable day."""
        days = QUARANTINE.c.day_utc
        ours = (QUARANTINE.c.product_id == product_id) & (QUARANTINE.c.source == source)
        with self.read() as connection:
            rejected = sa.exists().where(ours & (days.is_(None) | (days < day.isoformat())))
            return bool(connection.scalar(sa.select(rejected)))

    def table(self, name: str) -> pa.Table:
        """All rows of one of `PRICE_VIEWS`, read in pieces; types as `arrow_schema` gives them."""
        table, order = READABLE[name]
        with self.read() as connection:
            query = sa.select(table).order_by(*(table.c[column] for column in order))
            return queries.read_arrow(connection, query, arrow_schema(table.c.keys()))
