"""Where a product's prices come from: the embedded sample, a file, or the exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from storage.core.errors import BadFile, BadProduct, ExchangeUnavailable
from storage.core.home import PRODUCT_ID, PROJECT, Home
from storage.prices.price_store import Prices
from tasks.core.settings import Frozen
from tasks.core.steps import step
from tasks.prices.csv_reader import OnDuplicate
from tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, read_stored_prices
from tasks.prices.ingest_csv import ingest_file

Source = Literal["sample", "coinbase", "csv"]
SAMPLE = PROJECT / "data" / "sample" / "coinbase_btc-usd_daily.csv"
SAMPLE_PRODUCT = "BTC-USD"
RETRY_DELAYS = [60, 120, 240]


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
