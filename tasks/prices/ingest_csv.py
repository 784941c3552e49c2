"""A file's candles into the database."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from storage.core.errors import BadFile
from storage.core.files import read_bytes
from storage.core.progress import report_progress
from storage.prices.price_store import Prices
from tasks.prices.csv_reader import read_candles
from tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, check_source, read_prices
from tasks.prices.validation import check_candles

log = logging.getLogger("closecast.ingest")
# A file is opened, parsed, checked, stored, and the series is read back.
STAGES = 5


def ingest_file(
    prices: Prices, request: IngestRequest, *, source: Literal["sample", "csv"], path: Path
) -> IngestedPrices:
    """Append the candles of a CSV file, after checking that the run it is for is possible.

    Raises:
        BadFile, SourceMismatch, BadDay, StaleSeries, NotEnoughHistory: and nothing was stored.
    """
    data, product_id = read_bytes(path), request.product_id
    report_progress(path.name, 1, STAGES)
    parsed = read_candles(data, product_id, name=path.name, on_duplicate=request.on_duplicate)
    report_progress(path.name, 2, STAGES)
    joins = check_source(prices, request, source)
    first = parsed.candles["day_utc"].iloc[0].date()
    previous = prices.last_close_before(product_id, first) if joins else None
    accepted, refused = check_candles(
        parsed.candles, last_finished_day=request.last_finished_day, previous=previous
    )
    quarantined = pd.concat([parsed.rejected, refused], ignore_index=True)
    if accepted.empty and not joins:
        raise BadFile(
            f"{path.name} holds no usable candle: {len(quarantined)} rows were quarantined, the first"
            f" because: {quarantined['reason'].iloc[0]}"
        )
    report_progress(path.name, 3, STAGES)
    days = accepted["day_utc"].to_numpy()
    request.require_origin(pd.Series(np.union1d(prices.days(product_id), days) if joins else days))
    prices.start_series(product_id, source, started_at=request.observed_at, replace=request.replace_source)
    appended = prices.append(
        product_id,
        accepted,
        source=source,
        observed_at=request.observed_at,
        payload_sha256=hashlib.sha256(data).hexdigest(),
        quarantined=quarantined,
    )
    report_progress(path.name, 4, STAGES)
    rows = len(parsed.candles)
    log.info("%s: %d rows of %s, %d new days", product_id, rows, path.name, appended.new_days)
    counts = Counts()
    counts.add(appended, quarantined)
    ingested = read_prices(prices, request, counts)
    report_progress(path.name, STAGES, STAGES)
    return ingested
