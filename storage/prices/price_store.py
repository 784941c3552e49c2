"""The price database: candles as observed, each product's series, and versions of the data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import sqlalchemy as sa

from storage.core.candle_schema import FIGURES, REJECTED_COLUMNS
from storage.core.errors import BadDay, BadInput, Damaged, SourceMismatch
from storage.core.home import check_product_id
from storage.prices import queries as rows
from storage.prices.database import Database
from storage.prices.digest import digest
from storage.prices.queries import CANDLES, CLOSES, DATA_VERSIONS, QUARANTINE, SERIES

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from storage.core.home import Home


@dataclass(frozen=True)
class Appended:
    """The effect of a page: days new, with other figures, or unchanged; rows newly quarantined."""

    new_days: int
    restated_days: int
    unchanged_days: int
    quarantined: int


@dataclass(frozen=True)
class StoredHistory:
    """All that a day needs of a product's prices.

    `candles` are a candle frame up to the last stored day that was asked for, oldest first, and
    `data_version` is their recorded name; `stored_days` (datetime64[s]) are all of the series, which
    `SOURCE@AFTER` names. `quarantined` and `restated` are as the methods of `Prices` give them.
    """

    product_id: str
    source: str
    series: str
    data_version: str
    candles: pd.DataFrame
    stored_days: pd.Series[pd.Timestamp]
    quarantined: pd.DataFrame
    restated: pd.DataFrame


class Prices(Database):
    """The price database of a home: `with Prices(home) as prices: ...`."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        # The series that was used last, and the highest candle number then, of any series: the table only
        # grows, so while that is still the highest, the series is not read again.
        self._cached: tuple[rows.Series, int, rows.Stored] | None = None

    def source_of(self, product_id: str) -> str | None:
        """The source of the product's series, None where it has none."""
        with self.read() as connection:
            series = rows.find_series(connection, product_id)
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
            old = rows.find_series(connection, product_id)
            if old and old.source == source:
                return
            if old and not replace:
                count = len(self._stored(connection, old).days)
                raise SourceMismatch(
                    f"{product_id} has {count} days from {old.source}, and prices of {source} do not mix with"
                    " them; give --replace-source to start over from the new source"
                )
            row = {"product_id": product_id, "source": source, "after_candle_seq": rows.highest(connection)}
            connection.execute(sa.insert(SERIES), [row | {"started_at": rows.iso_utc(started_at)}])

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
        days, figures = rows.to_arrays(candles)
        observation = (source, rows.iso_utc(observed_at), payload_sha256)
        common = {"product_id": product_id, **dict(zip(rows.OBSERVATION, observation, strict=True))}
        with self.write() as connection:
            series = rows.find_series(connection, product_id)
            if series is None or series.source != source:
                present = f"prices of {series.source}" if series else "no series yet"
                raise SourceMismatch(
                    f"{product_id} has {present}, and the page is of {source}; start a series of that source"
                    " (--replace-source) or use the one it has"
                )
            stored = self._stored(connection, series)
            is_stored, same = rows.compare(stored, days, figures)
            new = rows.insert_candles(connection, days[~same], figures[~same], common)
            rejected = rows.insert_rejected(connection, quarantined, common)
            last = rows.highest(connection)
        self._cached = (series, last, stored.updated(new))
        return Appended(int((~is_stored).sum()), int((is_stored & ~same).sum()), int(same.sum()), rejected)

    def first_day(self, product_id: str) -> date | None:
        """The oldest day of the product's series, None where it has none."""
        return self._newest(product_id).first_day

    def last_day(self, product_id: str) -> date | None:
        """The newest day of the product's series, None where it has none."""
        days = self._newest(product_id).days
        return days[-1].item() if len(days) else None

    def last_close_before(self, product_id: str, day: date) -> tuple[date, float] | None:
        """The newest stored day strictly before `day` and its close, None where there is none."""
        earlier = self._newest(product_id).upto(day - timedelta(days=1))
        if not len(earlier.days):
            return None
        return earlier.days[-1].item(), float(earlier.figures[-1, FIGURES.index("close")])

    def days(self, product_id: str, *, through: date | None = None) -> pd.Series[pd.Timestamp]:
        """The stored days of the product's series up to `through`, inclusive; datetime64[s], oldest first."""
        return self._newest(product_id).upto(through).day_series()

    def _newest(self, product_id: str) -> rows.Stored:
        with self.read() as connection:
            return self._stored(connection, rows.find_series(connection, product_id))

    def _stored(self, connection: sa.Connection, series: rows.Series | None) -> rows.Stored:
        """Each day's newest candle of a series, read once while nothing is added."""
        if series is None:
            return rows.NOTHING
        last = rows.highest(connection)
        if self._cached is None or self._cached[:2] != (series, last):
            self._cached = (series, last, rows.read_newest(connection, series))
        return self._cached[2]

    def read_history(self, product_id: str, through: date | None, *, created_at: datetime) -> StoredHistory:
        """Read all that a day needs of a product, and record the data version of its candles.

        `through` is the last day wanted, inclusive, None for all days; `created_at` has a time zone.

        Raises:
            BadDay: there is no close up to `through`.
            BadProduct: the id is malformed.
        """
        with self.read() as connection:
            series = rows.find_series(connection, product_id)
            stored = self._stored(connection, series)
        data_version = self._record(product_id, through, stored, created_at)
        assert series is not None  # noqa: S101 (it has candles)
        return StoredHistory(
            product_id=product_id,
            source=series.source,
            series=series.name,
            data_version=data_version,
            candles=rows.to_frame(stored.upto(through)),
            stored_days=stored.day_series(),
            quarantined=self.quarantined(product_id),
            restated=self.restated(product_id),
        )

    def data_version(self, product_id: str, through: date, *, created_at: datetime) -> str:
        """Name the closes up to and including `through` as they are now, for `closes_at` to read again.

        The name is `PRODUCT@SEQ:SHA256`: the greatest row number among them, and the digest of them all. The
        same rows always have the same name.

        Raises:
            BadDay: there is no close up to `through`.
            BadProduct: the id is malformed.
        """
        return self._record(product_id, through, self._newest(product_id), created_at)

    def _record(
        self, product_id: str, through: date | None, everything: rows.Stored, created_at: datetime
    ) -> str:
        """Write the data version of the candles up to `through`, unless it is written; returns its name."""
        check_product_id(product_id)
        stored = everything.upto(through)
        if not len(stored.days):
            first = everything.first_day
            state = (
                f"the first stored day is {first}"
                if first
                else "none is stored; fetch or import prices first"
            )
            wanted = f"{product_id} up to {through}" if through else product_id
            raise BadDay(f"a close of {wanted} is needed, but {state}")
        seq, sha256 = int(stored.seqs.max()), digest(stored.days, stored.figures)
        name = f"{product_id}@{seq}:{sha256}"
        values = {
            "data_version": name,
            "product_id": product_id,
            "seq": seq,
            # The last row's day, not `through`: the same rows are the same version for any `through`.
            "through_day_utc": str(stored.days[-1]),
            "rows": len(stored.days),
            "sha256": sha256,
            "created_at": rows.iso_utc(created_at),
        }
        with self.write() as connection:
            rows.insert_new(connection, DATA_VERSIONS, [values])
        return name

    def closes_at(self, data_version: str) -> pd.DataFrame:
        """The candles that a data version stands for, to the last bit, as a candle frame, oldest day first.

        Raises:
            BadInput: no such version is recorded here.
            Damaged: the rows are no longer those of the version.
        """
        with self.read() as connection:
            version, series = self._recorded(connection, data_version)
            through = date.fromisoformat(version.through_day_utc)
            stored = rows.read_newest(connection, series, upto=version.seq, through=through)
        # Against the name itself: the version's row could have been changed with the candles.
        if digest(stored.days, stored.figures) != data_version.rpartition(":")[2]:
            raise Damaged(
                f"the candles of data version {data_version} are not those that were recorded;"
                " restore prices.db from a backup"
            )
        return rows.to_frame(stored)

    def series_of(self, data_version: str) -> str:
        """The series of a data version, `SOURCE@AFTER`: prices of two series never meet in one model.

        Raises:
            BadInput: no such version is recorded here.
            Damaged: its series is missing.
        """
        with self.read() as connection:
            return self._recorded(connection, data_version)[1].name

    @staticmethod
    def _recorded(connection: sa.Connection, data_version: str) -> tuple[sa.Row[Any], rows.Series]:
        """The row of a data version, and its series."""
        query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.data_version == data_version)
        version = connection.execute(query).first()
        if version is None:
            raise BadInput(
                f"no data version {data_version!r:.140} is recorded in this home;"
                " check its spelling and --home"
            )
        series = rows.find_series(connection, version.product_id, at=version.seq)
        if series is None:
            raise Damaged(
                f"the series of data version {data_version} is missing; restore prices.db from a backup"
            )
        return version, series

    def quarantined(self, product_id: str) -> pd.DataFrame:
        """Quarantined rows: day_utc (ISO text or None), raw, reason, source, observed_at; oldest first."""
        names = [*REJECTED_COLUMNS, "source", "observed_at"]
        query = sa.select(*(QUARANTINE.c[name] for name in names)).order_by(QUARANTINE.c.seq)
        with self.read() as connection:
            rejected = connection.execute(query.where(QUARANTINE.c.product_id == product_id)).all()
        return pd.DataFrame([tuple(row) for row in rejected], columns=names, dtype=object)

    def restated(self, product_id: str) -> pd.DataFrame:
        """Every observation of the series's days that were observed with more than one set of figures.

        `day_utc` and `observed_at` are ISO text; by day, then in the order of observation.
        """
        names, day = ["day_utc", "seq", "close", "observed_at"], CANDLES.c.day_utc
        with self.read() as connection:
            series = rows.find_series(connection, product_id)
            ours = rows.belongs(series) if series else [sa.false()]
            days = sa.select(day).where(*ours).group_by(day).having(sa.func.count() > 1)
            query = sa.select(*(CANDLES.c[name] for name in names)).where(*ours, day.in_(days))
            observations = connection.execute(query.order_by(day, CANDLES.c.seq)).all()
        return pd.DataFrame([tuple(row) for row in observations], columns=names)

    def any_quarantined_before(self, product_id: str, source: str, day: date) -> bool:
        """Whether a row of that source was quarantined, of a day before `day` or without a readable day."""
        days = QUARANTINE.c.day_utc
        ours = (QUARANTINE.c.product_id == product_id) & (QUARANTINE.c.source == source)
        with self.read() as connection:
            rejected = sa.exists().where(ours & (days.is_(None) | (days < day.isoformat())))
            return bool(connection.scalar(sa.select(rejected)))

    def table(self, name: Literal["candles", "closes", "quarantine"]) -> pa.Table:
        """All rows of a table (by seq), or of `closes` (by product and day) for SQL, read in pieces.

        Days are date32, `observed_at` a UTC timestamp, figures float64.
        """
        table = QUARANTINE if name == "quarantine" else CANDLES
        query = sa.select(table).order_by(table.c.seq)
        if name == "closes":
            query = sa.select(CLOSES).order_by(CLOSES.c.product_id, CLOSES.c.day_utc)
        with self.read() as connection:
            return rows.to_arrow(connection, query)
