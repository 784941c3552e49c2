"""A file's candles into the database, without a forecast."""

from __future__ import annotations

from flows import clock
from flows.settings import Market
from storage.core.errors import BadFile
from storage.core.home import Home
from storage.locks.locks import product_lock
from tasks.prices.ingest_csv import ingest_file
from tasks.prices.series import Series


def import_file(home: Home, market: Market) -> Series:
    """Append the market's CSV file to its product's series.

    Raises:
        BadFile, SourceMismatch: and nothing was stored.
    """
    if market.csv is None:
        raise BadFile("an import needs a CSV file, none was named")
    moment = clock.now()
    with product_lock(home, market.product_id):
        return ingest_file(
            home,
            market.product_id,
            source="csv",
            path=market.csv,
            origin=None,
            last_finished_day=clock.last_complete_day(moment),
            observed_at=moment,
            on_duplicate=market.on_duplicate,
            replace_source=market.replace_source,
        )
