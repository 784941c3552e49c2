"""Days whose figures came more than once, each time otherwise."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pandas as pd
import sqlalchemy as sa

from storage.prices.database import Database
from storage.prices.queries import CANDLES, find_series

if TYPE_CHECKING:
    from storage.core.home import Home

COLUMNS = ["day_utc", "seq", "close", "observed_at"]


def restated(home: Home, product_id: str) -> pd.DataFrame:
    """Every observation of those days of the product's series that came with more than one set of figures.

    Returns:
        `day_utc` and `observed_at` as ISO text, `seq`, `close`; by day, then in the order they came.

    Raises:
        HomeUnusable: the price database cannot be used.
    """
    with closing(Database(home)) as database, database.read() as connection:
        series = find_series(connection, product_id)
        if series is None:
            return pd.DataFrame([], columns=COLUMNS)
        ours = (CANDLES.c.product_id == series.product_id, CANDLES.c.seq > series.after)
        days = sa.select(CANDLES.c.day_utc).where(*ours).group_by(CANDLES.c.day_utc)
        days = days.having(sa.func.count() > 1)
        query = sa.select(*(CANDLES.c[name] for name in COLUMNS)).where(*ours, CANDLES.c.day_utc.in_(days))
        found = connection.execute(query.order_by(CANDLES.c.day_utc, CANDLES.c.seq)).all()
    return pd.DataFrame([tuple(row) for row in found], columns=COLUMNS)
