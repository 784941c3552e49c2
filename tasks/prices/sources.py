"""Where a product's prices come from: the embedded sample, a file, or the exchange."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from storage.core.errors import BadFile, BadProduct, ExchangeUnavailable
from storage.core.files import read_bytes
from storage.core.home import PRODUCT_ID, PROJECT, Home
from storage.core.progress import report_progress
from storage.prices.price_store import Prices
from tasks.core.settings import Frozen
from tasks.core.steps import step
from tasks.prices.csv_reader import OnDuplicate, read_candles
from tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, read_prices, read_stored_prices
from tasks.prices.validation import check_candles

Source = Literal["sample", "coinbase", "csv"]
SAMPLE = PROJECT / "data" / "sample" / "coinbase_btc-usd_daily.csv"
SAMPLE_PRODUCT = "BTC-USD"
RETRY_DELAYS = [60, 120, 240]
STAGES = 5  # a file is opened, parsed, checked, stored, and the series is read back

log = logging.getLogger("closecast.ingest")


class Market(Frozen):
    """Which prices, and where they come from."""

    product_id: str = Field(
        "BTC-USD", pattern=f"^{PRODUCT_ID.pattern}$", description="Exchange product, such as BTC-USD"
    )
    source: Source | None = Field(
        None, description="Where closes come from; by default the product's stored source, else the sample"
    )
    csv: Path | None = Field(None, description="Candle file for the source csv")
    on_duplicate: OnDuplicate = Field(
        "refuse", description="Which row counts when a file holds a day twice with different figures"
    )
    replace_source: bool = Field(
        False, description="Start the product's series over when it has another source"
    )


def _retry_later(_task: object, _run: object, state: object) -> bool:
    """Retry for a schedule; a person at a terminal sees at once what is wrong."""
    from prefect.runtime import deployment

    return deployment.get_id() is not None and isinstance(getattr(state, "data", None), ExchangeUnavailable)


@step(
    timeout_seconds=900,
    run_name="{market.product_id}",
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=0.5,
    retry_condition_fn=_retry_later,
)
def ingest_prices(home: Home, market: Market, request: IngestRequest, *, base_url: str) -> IngestedPrices:
    """Bring the product's prices up to the origin from its source; the product's lock must be held.

    Raises:
        BadFile: a file was named that the source does not read.
        BadProduct: the sample is of another product.
        ClosecastError: as the source's own function.
    """
    with Prices(home) as prices:
        stored = prices.source_of(market.product_id)
        source = market.source or ("csv" if market.csv else stored or "sample")
        if market.csv and source != "csv":
            raise BadFile(f"--csv goes with the source csv, not {source}: leave one of them out")
        if source == "coinbase":
            # Other sources do without HTTP.
            from tasks.prices.coinbase_client import Client
            from tasks.prices.ingest_coinbase import ingest_exchange

            with Client(base_url) as client:
                return ingest_exchange(home, prices, request, client=client)
        if source == "csv":
            if market.csv is None:
                return Counts().finish(read_stored_prices(prices, request))
            return ingest_file(prices, request, source="csv", path=market.csv)
        if market.product_id != SAMPLE_PRODUCT:
            raise BadProduct(
                f"the sample holds {SAMPLE_PRODUCT}, not {market.product_id}: name a file with --csv, or"
                " --source coinbase"
            )
        return ingest_file(prices, request, source="sample", path=SAMPLE)


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
