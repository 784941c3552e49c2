"""Where a product's prices come from: the embedded sample, a file, or the exchange."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from closecast.storage.core.errors import BadFile, BadProduct, ExchangeUnavailable, SourceMismatch
from closecast.storage.core.home import PACKAGE, PRODUCT_ID, Home, similar_product
from closecast.storage.prices.engine import stored_products
from closecast.storage.prices.price_store import Prices
from closecast.tasks.core.settings import Frozen, Source
from closecast.tasks.core.steps import step
from closecast.tasks.prices.file_reader import DEFAULTS
from closecast.tasks.prices.file_table import DayOrder, Decimal, FileOptions, OnDuplicate
from closecast.tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, read_stored_prices
from closecast.tasks.prices.ingest_file import ingest_file

SAMPLE = PACKAGE / "sample" / "coinbase_btc-usd_daily.csv"
SAMPLE_PRODUCT = "BTC-USD"
RETRY_DELAYS = [60, 120, 240]


class Market(Frozen):
    """A product and the source of its prices."""

    product_id: str = Field(
        "BTC-USD", pattern=f"^{PRODUCT_ID.pattern}$", description="Exchange product, such as BTC-USD"
    )
    source: Source | None = Field(
        None, description="Where closes come from; by default the product's stored source, else the sample"
    )
    csv: Path | None = Field(None, description="Candle file of any format for the source csv")
    on_duplicate: OnDuplicate = Field(
        "refuse", description="Which row counts when a file holds a day twice with different figures"
    )
    decimal: Decimal | None = Field(None, description="Decimal mark of the file's figures")
    dates: DayOrder | None = Field(None, description="What comes first in the file's dates")
    symbol: str | None = Field(
        None, description="Symbol of the rows, or the name that a file gives the product"
    )
    columns: dict[str, str] = Field({}, description="Role of a column to its heading or number in the file")
    replace_source: bool = Field(
        False, description="Start the product's series over when it has another source"
    )

    @property
    def file_options(self) -> FileOptions:
        """What the user says of the file."""
        return FileOptions(self.decimal, self.dates, self.symbol, self.columns, self.on_duplicate)


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
        BadFile: the source does not read the named file.
        BadProduct: the sample has another product.
        SourceMismatch: the source is csv without a file, and the product's prices are from another source.
        ClosecastError: as the source's own function.
    """
    with Prices(home) as prices:
        stored = prices.source_of(market.product_id)
        source = market.source or ("csv" if market.csv else stored or "sample")
        if market.csv and source != "csv":
            raise BadFile(f"--csv goes with the source csv, not {source}: leave one of them out")
        if not market.csv and replace(market.file_options, on_duplicate="refuse") != DEFAULTS:
            raise BadFile("--columns, --decimal, --dates and --symbol are about a file: name it with --csv")
        if source == "coinbase":
            # Other sources do without HTTP.
            from closecast.tasks.prices.coinbase_client import Client
            from closecast.tasks.prices.ingest_coinbase import ingest_exchange

            with Client(base_url) as client:
                return ingest_exchange(home, prices, request, client=client)
        if source == "csv":
            if market.csv is None:
                if stored not in (None, "csv"):
                    raise SourceMismatch(
                        f"{market.product_id} has prices of {stored}, and the source csv needs a file: name"
                        " one with --csv, or leave the source out"
                    )
                return Counts().finish(read_stored_prices(prices, request))
            return ingest_file(prices, request, source="csv", path=market.csv, options=market.file_options)
        if market.product_id != SAMPLE_PRODUCT:
            raise BadProduct(
                f"the sample has {SAMPLE_PRODUCT}, not {market.product_id}"
                f"{similar_product(market.product_id, stored_products(home))}: name a file with --csv, or"
                " --source coinbase"
            )
        return ingest_file(prices, request, source="sample", path=SAMPLE)
