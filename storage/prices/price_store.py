"""The price database: candles as observed, each product's series, and versions of the data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
import sqlalchemy as sa

from storage.core.candle_schema import REJECTED_COLUMNS
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
    """What a page brought: days never seen, with other figures, or as they were; rows newly quarantined."""

    new_days: int
    restated_days: int
    unchanged_days: int
    quarantined: int


class Prices:
    """The price database of a home: `with Prices(home) as prices: ...`.

    Raises (all methods):
        HomeUnusable: the database is locked for too long, not writable, or no database.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._database: Database | None = None
        # A series that was stored whole, and the highest number then: while that is the highest number in
        # the table, which is only ever added to, the series need not be read again.
        self._whole: tuple[rows.Series, int, rows.Stored] | None = None

    def __enter__(self) -> Self:
        self._database = Database(self._home)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._database = None

    @property
    def _open(self) -> Database:
        if self._database is None:
            raise RuntimeError("use Prices in a with statement")
        return self._database

    def source_of(self, product_id: str) -> str | None:
        """The source of the product's series, None where it has none."""
        with self._open.read() as connection:
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
        with self._open.write() as connection:
            old = rows.find_series(connection, product_id)
            if old and old.source == source:
                return
            if old and not replace:
                count = connection.scalar(sa.select(sa.func.count()).select_from(rows.newest(old).subquery()))
                raise SourceMismatch(
                    f"{product_id} has {count} days from {old.source}, and prices of {source} do not mix with"
                    " them; give --replace-source to start over from the new source"
                )
            after = connection.scalar(sa.select(sa.func.max(CANDLES.c.seq))) or 0
            row = {"product_id": product_id, "source": source, "after_candle_seq": after}
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

        A day with the figures of its newest row adds nothing; with others, a row beside the old one.

        Args:
            product_id: whose candles these are.
            candles: a candle frame, in any order, a day once.
            source: must be the source of the product's series.
            observed_at: when the page was read, with a time zone.
            payload_sha256: of the raw answer or the file.
            quarantined: a frame of rejected rows, stored for reading only; a row known already adds nothing.

        Raises:
            SourceMismatch: the product's series has another source, or there is none.
            BadInput: a figure no price can have, or a day twice with different figures.
        """
        check_product_id(product_id)
        page = rows.to_page(candles)
        common: dict[str, str] = {
            "product_id": product_id,
            "source": source,
            "observed_at": rows.iso_utc(observed_at),
            "payload_sha256": payload_sha256,
        }
        with self._open.write() as connection:
            series = rows.find_series(connection, product_id)
            if series is None or series.source != source:
                have = f"prices of {series.source}" if series else "no series yet"
                raise SourceMismatch(
                    f"{product_id} has {have}, and prices of {source} came; start a series of that source"
                    " (--replace-source) or use the one it has"
                )
            known, same = rows.compare(connection, series, page)
            first, before = rows.is_empty(connection, series), rows.highest(connection)
            new = rows.Page(page.days[~same], page.figures[~same])
            rows.insert_candles(connection, new, common)
            after = rows.highest(connection)
            rows.insert_checks(connection, new, common, after)
            kept = rows.insert_rejected(connection, quarantined, common)
        if first and after - before == len(page.days):
            numbers = np.arange(before, after) + 1
            self._whole = (series, after, rows.Stored(numbers, page.days, page.figures))
        return Appended(int((~known).sum()), int((known & ~same).sum()), int(same.sum()), kept)

    def first_day(self, product_id: str) -> date | None:
        """The oldest day of the product's series, None where it has none."""
        found = self._one(product_id, CANDLES.c.day_utc.asc())
        return found[0] if found else None

    def last_day(self, product_id: str) -> date | None:
        """The newest day of the product's series, None where it has none."""
        found = self._one(product_id, CANDLES.c.day_utc.desc())
        return found[0] if found else None

    def last_close_before(self, product_id: str, day: date) -> tuple[date, float] | None:
        """The newest stored day strictly before `day` and its close in USD, None where there is none."""
        return self._one(product_id, CANDLES.c.day_utc.desc(), CANDLES.c.day_utc < day.isoformat())

    def days(self, product_id: str, *, through: date | None = None) -> pd.Series[pd.Timestamp]:
        """The stored days of the product's series up to `through`, inclusive; datetime64[s], oldest first."""
        with self._open.read() as connection:
            series = rows.find_series(connection, product_id)
            if series is None:
                return rows.to_frame(rows.NOTHING)["day_utc"]
            if whole := self._unchanged(connection, series):
                return pd.Series(whole.upto(through).days.astype("datetime64[s]"), name="day_utc")
            return rows.read_days(connection, series, through=through)

    def _unchanged(self, connection: sa.Connection, series: rows.Series) -> rows.Stored | None:
        """The series as this object stored it, if nothing was added since."""
        if self._whole is None or self._whole[:2] != (series, rows.highest(connection)):
            return None
        return self._whole[2]

    def _one(
        self, product_id: str, order: sa.UnaryExpression[Any], *conditions: sa.ColumnElement[bool]
    ) -> tuple[date, float] | None:
        """The first day in that order and its close in USD."""
        with self._open.read() as connection:
            series = rows.find_series(connection, product_id)
            if series is None:
                return None
            query = rows.newest(series).where(*conditions).order_by(order).limit(1)
            row = connection.execute(query).first()
        return (date.fromisoformat(row.day_utc), float(row.close)) if row else None

    def data_version(self, product_id: str, through: date, *, created_at: datetime) -> str:
        """Name the closes up to and including `through` as they are now, for `closes_at` to read again.

        The name is `PRODUCT@SEQ:SHA256`: the greatest row number among them, and the digest of them all.

        Returns:
            The same name for the same rows, always.

        Raises:
            BadDay: there is no close up to `through`.
        """
        check_product_id(product_id)
        with self._open.read() as connection:
            series = rows.find_series(connection, product_id)
            whole = self._unchanged(connection, series) if series else rows.NOTHING
            if series and whole is None:
                whole = rows.read_newest(connection, series, through=through)
        found = (whole or rows.NOTHING).upto(through)
        if not len(found.days):
            first = self.first_day(product_id)
            known = (
                f"the first stored day is {first}"
                if first
                else "none is stored; fetch or import prices first"
            )
            raise BadDay(f"a close of {product_id} up to {through} is needed, but {known}")
        seq, sha256 = int(found.seqs.max()), digest(found.days, found.figures)
        name = f"{product_id}@{seq}:{sha256}"
        values = {
            "data_version": name,
            "product_id": product_id,
            "seq": seq,
            # Of the rows, not of the question: a later day asked for that has no row is the same state.
            "through_day_utc": str(found.days[-1]),
            "rows": len(found.days),
            "sha256": sha256,
            "created_at": rows.iso_utc(created_at),
        }
        with self._open.write() as connection:
            rows.insert_new(connection, DATA_VERSIONS, [values])
        return name

    def closes_at(self, data_version: str) -> pd.DataFrame:
        """The candles that a data version stands for, to the last bit, whatever was stored since.

        Returns:
            A candle frame, oldest day first.

        Raises:
            BadInput: no such version is recorded here.
            Damaged: the rows are no longer those of the version.
        """
        with self._open.read() as connection:
            query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.data_version == data_version)
            version = connection.execute(query).first()
            if version is None:
                raise BadInput(
                    f"no data version {data_version!r:.140} is recorded in this home;"
                    " check its spelling and --home"
                )
            series = rows.find_series(connection, version.product_id, at=version.seq)
            found = rows.NOTHING
            if series is not None:
                through = date.fromisoformat(version.through_day_utc)
                found = rows.read_newest(connection, series, upto=version.seq, through=through)
        # Against the name itself: the row of the version could have been changed with the candles.
        if digest(found.days, found.figures) != data_version.rpartition(":")[2]:
            raise Damaged(
                f"the candles of data version {data_version} are not those that were recorded;"
                " restore prices.db from a backup"
            )
        return rows.to_frame(found)

    def series_of(self, data_version: str) -> str:
        """Which series a data version is of, `SOURCE@AFTER`: prices of two series never meet in one model.

        Raises:
            BadInput: no such version is recorded here.
        """
        with self._open.read() as connection:
            query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.data_version == data_version)
            version = connection.execute(query).first()
            series = rows.find_series(connection, version.product_id, at=version.seq) if version else None
        if series is None:
            raise BadInput(
                f"no data version {data_version!r:.140} is recorded in this home;"
                " check its spelling and --home"
            )
        return f"{series.source}@{series.after}"

    def quarantined(self, product_id: str) -> pd.DataFrame:
        """What was quarantined: day_utc (ISO text or None), raw, reason, source, observed_at; oldest first."""
        names = [*REJECTED_COLUMNS, "source", "observed_at"]
        query = sa.select(*(QUARANTINE.c[name] for name in names)).order_by(QUARANTINE.c.seq)
        with self._open.read() as connection:
            found = connection.execute(query.where(QUARANTINE.c.product_id == product_id)).all()
        return pd.DataFrame([tuple(row) for row in found], columns=names, dtype=object)

    def any_quarantined_before(self, product_id: str, source: str, day: date) -> bool:
        """Whether a row of that source was quarantined, of a day before `day` or of nobody knows which."""
        days = QUARANTINE.c.day_utc
        ours = (QUARANTINE.c.product_id == product_id) & (QUARANTINE.c.source == source)
        with self._open.read() as connection:
            asked = sa.exists().where(ours & (days.is_(None) | (days < day.isoformat())))
            return bool(connection.scalar(sa.select(asked)))

    def table(self, name: Literal["candles", "closes", "quarantine"]) -> pa.Table:
        """All rows of a table (by seq), or of `closes` (by product and day) for SQL, read in pieces.

        Days are date32, `observed_at` a UTC timestamp, figures float64.
        """
        kept = QUARANTINE if name == "quarantine" else CANDLES
        query = sa.select(kept).order_by(kept.c.seq)
        if name == "closes":
            query = sa.select(CLOSES).order_by(CLOSES.c.product_id, CLOSES.c.day_utc)
        with self._open.read() as connection:
            return rows.to_arrow(connection, query)
