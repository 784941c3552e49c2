"""A file's candles into the database, all of them or none."""

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
from tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, read_prices
from tasks.prices.validation import check_candles

log = logging.getLogger("closecast.ingest")

STAGES = 5  # a file is opened, parsed, checked, stored, and the series is read back


def ingest_file(
    prices: Prices, request: IngestRequest, *, source: Literal["sample", "csv"], path: Path
) -> IngestedPrices:
    """Append the candles of a CSV file, after checking that the run it is for is possible.

    Raises:
        BadFile, SourceMismatch, BadDay, StaleSeries, NotEnoughHistory: and nothing was stored.
    """
    data, product_id = read_bytes(path), request.product_id
    report_progress(path.name, 1, STAGES)
    candles, rejected = read_candles(data, product_id, name=path.name, on_duplicate=request.on_duplicate)
    report_progress(path.name, 2, STAGES)
    joins = prices.source_of(product_id) == source
    first = candles["day_utc"].iloc[0].date()
    accepted, refused = check_candles(
        candles,
        last_finished_day=request.last_finished_day,
        previous=prices.last_close_before(product_id, first) if joins else None,
    )
    quarantined = pd.concat([rejected, refused], ignore_index=True)
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
    log.info("%s: %d rows of %s, %d new days", product_id, len(candles), path.name, appended.new_days)
    counts = Counts()
    counts.add(appended, quarantined)
    ingested = counts.finish(read_prices(prices, request))
    report_progress(path.name, STAGES, STAGES)
    return ingested
