"""The tables of the price database as they are, for lists and for SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import sqlalchemy as sa

from closecast.storage.core.candle_schema import OBSERVATION, REJECTED_COLUMNS, arrow_schema
from closecast.storage.prices import queries
from closecast.storage.prices.database import Database
from closecast.storage.prices.engine_base import PRODUCTS
from closecast.storage.prices.schema import CANDLES, CLOSES, PRICE_DECISIONS, QUARANTINE, SERIES

if TYPE_CHECKING:
    from datetime import date

    import pyarrow as pa

READABLE = {table.name: table for table in (CLOSES, CANDLES, QUARANTINE, PRICE_DECISIONS)}  # by SQL


class PriceTables(Database):
    """A price database whose tables are read whole, or by product."""

    def products(self) -> list[str]:
        """The products that have a series, by name."""
        with self.read() as connection:
            return list(connection.scalars(sa.text(PRODUCTS)))

    def oldest_products(self, through: date, *, min_days: int, limit: int) -> list[str]:
        """The products with at least this many stored days up to `through`, the oldest product first."""
        newest = sa.select(sa.func.max(SERIES.c.seq)).group_by(SERIES.c.product_id)
        series, day = sa.select(SERIES).where(SERIES.c.seq.in_(newest)).subquery(), CANDLES.c.day_utc
        query = (
            sa.select(CANDLES.c.product_id)
            .join(series, CANDLES.c.product_id == series.c.product_id)
            .where(CANDLES.c.seq > series.c.after_candle_seq, day <= through.isoformat())
            .group_by(CANDLES.c.product_id)
            .having(sa.func.count(day.distinct()) >= min_days)
            .order_by(sa.func.min(day), CANDLES.c.product_id)
            .limit(limit)
        )
        with self.read() as connection:
            return list(connection.scalars(query))

    def quarantined(self, product_id: str) -> pd.DataFrame:
        """Quarantined rows: day_utc (ISO text or None), raw, reason and OBSERVATION; oldest first."""
        names = (*REJECTED_COLUMNS, *OBSERVATION)
        query = sa.select(*QUARANTINE.c[names]).where(QUARANTINE.c.product_id == product_id)
        with self.read() as connection:
            rejected = connection.execute(query.order_by(QUARANTINE.c.seq)).tuples().all()
        return pd.DataFrame(rejected, columns=names, dtype=object)

    def any_quarantined_before(self, product_id: str, source: str, day: date) -> bool:
        """Whether a row of that source was quarantined, of a day before `day` or without a readable day."""
        days = QUARANTINE.c.day_utc
        ours = (QUARANTINE.c.product_id == product_id) & (QUARANTINE.c.source == source)
        with self.read() as connection:
            rejected = sa.exists().where(ours & (days.is_(None) | (days < day.isoformat())))
            return bool(connection.scalar(sa.select(rejected)))

    def table(self, name: str) -> pa.Table:
        """All rows of one of `PRICE_VIEWS`, read in pieces; types as `arrow_schema` gives them."""
        table = READABLE[name]
        order = table.c["product_id", "day_utc"] if table is CLOSES else [table.c.seq]
        with self.read() as connection:
            query = sa.select(table).order_by(*order)
            return queries.read_arrow(connection, query, arrow_schema(table.c.keys()))
