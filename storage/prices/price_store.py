"""The price database: candles as observed, each product's series, and versions of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import sqlalchemy as sa

from closecast.storage.core.candle_schema import FIGURES, OBSERVATION, upto
from closecast.storage.core.errors import BadDay, BadInput, Damaged, SourceMismatch
from closecast.storage.core.home import check_product_id
from closecast.storage.prices import queries
from closecast.storage.prices.decisions import Decision, KnownPrices, RecordedSeries, decision_frame
from closecast.storage.prices.digest import digest
from closecast.storage.prices.price_tables import PriceTables
from closecast.storage.prices.schema import CANDLES, DATA_VERSIONS, PRICE_DECISIONS, SERIES

if TYPE_CHECKING:
    from datetime import datetime

    from closecast.storage.core.home import Home


@dataclass(frozen=True)
class Appended:
    """The effect of a page: numbers of new and of restated days, and of newly quarantined rows.

    `decisions` are the new decisions of the rules.
    """

    new_days: int
    restated_days: int
    quarantined: int
    decisions: tuple[Decision, ...] = ()


class Prices(PriceTables):
    """The price database of a home: `with Prices(home) as prices: ...`."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        # The series that was used last, and the highest numbers then, of any series: the tables only grow, so
        # while those are still the highest, the series is not read again.
        self._cached: tuple[queries.Series, int, int, RecordedSeries] | None = None

    def source_of(self, product_id: str) -> str | None:
        """The source of the product's series, None if it has none."""
        with self.read() as connection:
            series = queries.find_series(connection, product_id)
        return series.source if series else None

    def start_series(
        self, product_id: str, source: str, *, started_at: datetime, replace: bool = False
    ) -> None:
        """Give the product a series from `source`, unless that is its source already.

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
                count = len(self._recorded_of(connection, old).newest)
                raise SourceMismatch(
                    f"{product_id} has {count} days from {old.source}, and prices of {source} do not mix with"
                    " them; give --replace-source to start over from the new source"
                )
            row = {"product_id": product_id, "source": source, "started_at": queries.iso_utc(started_at)}
            connection.execute(sa.insert(SERIES), [row | {"after_candle_seq": queries.highest(connection)}])

    def append(
        self,
        product_id: str,
        candles: pd.DataFrame,
        *,
        source: str,
        observed_at: datetime,
        payload_sha256: str,
        quarantined: pd.DataFrame | None = None,
        decisions: Sequence[Decision] = (),
    ) -> Appended:
        """Store one page of observations, all of it or nothing.

        A day with the figures of its newest row adds nothing; with others, a row beside the old one. A
        quarantined row that is stored adds nothing, either. The time has a zone, the SHA-256 is that of the
        raw response or the file. `decisions` are what the rules decided about days of the page: an
        acceptance is recorded with a new day, a rejection where the rules had accepted the day.

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
            recorded = self._recorded_of(connection, series)
            before = recorded.newest.set_index("day_utc").reindex(page["day_utc"]).reset_index(drop=True)
            # An unknown figure equals an unknown one; no figure is negative.
            same = (before[FIGURES].fillna(-1) == page[FIGURES].fillna(-1)).all(axis="columns")
            new = queries.insert_candles(connection, page[~same], common)
            rejected = queries.insert_rejected(connection, quarantined, common)
            decided = [*recorded.by_rule(new[before["seq"].isna()[~same]], decisions)]
            queries.insert_decisions(connection, product_id, decided, observed_at)
            last, last_decision = queries.highest(connection), queries.highest(connection, PRICE_DECISIONS)
            known = recorded.decisions
            if decided:
                known = queries.read_decisions(connection, product_id, series.after)
        rows = pd.concat([recorded.rows, new]).sort_values(["day_utc", "seq"], ignore_index=True)
        self._cached = (series, last, last_decision, RecordedSeries(rows, known))
        new_days = int(before["seq"].isna().sum())
        made = tuple(one for one, _ in decided)
        return Appended(new_days, len(new) - new_days, rejected, made)

    def first_day(self, product_id: str) -> date | None:
        """The oldest day of the product's series, None if it has none."""
        days = self.days(product_id)
        return days.iloc[0].date() if len(days) else None

    def last_day(self, product_id: str) -> date | None:
        """The newest day of the product's series, None if it has none."""
        days = self.days(product_id)
        return days.iloc[-1].date() if len(days) else None

    def last_close_before(self, product_id: str, day: date) -> tuple[date, float] | None:
        """The newest known day strictly before `day` and its stored close, None if there is none."""
        earlier = upto(self.recorded(product_id).known(), day - timedelta(days=1))
        if earlier.empty:
            return None
        return earlier["day_utc"].iloc[-1].date(), float(earlier["close"].iloc[-1])

    def days(self, product_id: str, *, through: date | None = None) -> pd.Series[pd.Timestamp]:
        """The days that an origin up to `through` knows, datetime64[s], oldest first."""
        recorded = self.recorded(product_id)
        origin = recorded.origin(through)
        return recorded.known(origin)["day_utc"] if origin else queries.NO_CANDLES["day_utc"]

    def recorded(self, product_id: str) -> RecordedSeries:
        """The rows of the product's series, and the decisions about its days."""
        with self.read() as connection:
            return self._recorded_of(connection, queries.find_series(connection, product_id))

    def _recorded_of(self, connection: sa.Connection, series: queries.Series | None) -> RecordedSeries:
        """The whole series, read only once as long as nothing is added."""
        if series is None:
            return RecordedSeries(queries.NO_CANDLES, decision_frame())
        last = queries.highest(connection), queries.highest(connection, PRICE_DECISIONS)
        if self._cached is None or self._cached[:3] != (series, *last):
            self._cached = (series, *last, queries.read_recorded(connection, series))
        return self._cached[3]

    def decide(
        self,
        product_id: str,
        decision: Decision,
        *,
        decided_at: datetime,
        candle: tuple[pd.DataFrame, Mapping[str, str]] | None = None,
    ) -> None:
        """Record a person's decision, with the candle that it makes from a quarantined row.

        `candle` is a candle frame of one row, and how it was observed: OBSERVATION by name.

        Raises:
            BadInput: a figure is not a possible price.
        """
        with self.write() as connection:
            after = queries.highest(connection)
            if candle is not None:
                page = queries.check_page(candle[0])
                queries.insert_candles(connection, page, {"product_id": product_id, **candle[1]})
            queries.insert_decisions(connection, product_id, [(decision, after)], decided_at)

    def data_version(self, product_id: str, through: date, *, created_at: datetime) -> str:
        """The name that `read_history` gives the closes up to and including `through`."""
        return self.read_history(product_id, through, created_at=created_at).data_version

    def read_history(self, product_id: str, through: date | None, *, created_at: datetime) -> KnownPrices:
        """The candles up to and including `through`, None for all, with the data version that names them.

        They are as the newest of their days knew them: an origin before a decision's `known_from` reads as
        if there were none. The name is `PRODUCT@SEQ:SHA256`: the greatest row number among them, and the
        digest of them all; the same rows always have the same name, by which `prices_at` reads them again.
        `created_at` has a time zone.

        Raises:
            BadDay: there is no close up to `through`.
            BadProduct: the id is malformed.
        """
        check_product_id(product_id)
        with self.read() as connection:
            series = queries.find_series(connection, product_id)
            recorded = self._recorded_of(connection, series)
        origin = recorded.origin(through)
        if series is None or origin is None:
            state = "none is stored; fetch or import prices first"
            if len(recorded.rows):
                state = f"the first stored day is {recorded.rows['day_utc'].iloc[0].date()}"
            wanted = f"{product_id} up to {through}" if through else product_id
            raise BadDay(f"a close of {wanted} is needed, but {state}")
        stored = recorded.known(origin)
        seq, sha256 = int(stored["seq"].max()), digest(stored, recorded.lines(origin))
        name = f"{product_id}@{seq}:{sha256}"
        values = {
            "data_version": name,
            "product_id": product_id,
            "seq": seq,
            "decision_seq": int(recorded.decisions["seq"].max()) if len(recorded.decisions) else 0,
            # The last row's day, not `through`: the same rows are the same version for any `through`.
            "through_day_utc": str(origin),
            "rows": len(stored),
            "sha256": sha256,
            "created_at": queries.iso_utc(created_at),
        }
        with self.write() as connection:
            queries.insert_new(connection, DATA_VERSIONS, [values])
        return KnownPrices(name, series.name, origin, recorded)

    def prices_at(self, data_version: str) -> KnownPrices:
        """The prices that a data version stands for, to the last bit.

        Raises:
            BadInput: no such version is recorded here.
            Damaged: its series is missing, or the rows or the decisions are no longer those of the version.
        """
        with self.read() as connection:
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
            recorded = queries.read_recorded(
                connection, series, at=version.seq, decision_at=version.decision_seq
            )
        origin = queries.stored_day(version.through_day_utc)
        # Against the name itself: the version's row could have been changed with the candles.
        if digest(recorded.known(origin), recorded.lines(origin)) != data_version.rpartition(":")[2]:
            raise Damaged(
                f"the candles of data version {data_version} are not those that were recorded;"
                " restore prices.db from a backup"
            )
        return KnownPrices(data_version, series.name, origin, recorded)

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
