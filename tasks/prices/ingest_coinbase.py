"""The exchange's closes into the database, page by page, checked; gaps are asked for again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import pandas as pd
from prefect.assets import materialize
from prefect.runtime import deployment
from prefect.tasks import exponential_backoff

from storage.core.errors import BadDay, ExchangeUnavailable, StaleSeries
from storage.core.files import keep_raw
from storage.core.home import Home
from storage.prices.price_store import Prices
from tasks.core.assets import CLOSES, noting
from tasks.core.steps import STEP
from tasks.prices.coinbase_client import MAX_DAYS, Client, Page, spans
from tasks.prices.gaps import find_gaps, require_origin
from tasks.prices.series import Counts, Gap, Series, check_source, summed_up
from tasks.prices.validation import check_candles

log = logging.getLogger("closecast.ingest")

# Coinbase has no candle before this day; its oldest product, BTC-USD, begins in 2015.
FIRST_DAY = date(2014, 12, 1)
REFETCHED_DAYS = 7
MAX_GAPS_A_RUN = 10


def ingest_exchange(
    home: Home,
    product_id: str,
    *,
    client: Client,
    origin: date,
    observed_at: datetime,
    min_days: int = 1,
    consecutive_days: int = 1,
    replace_source: bool = False,
) -> Series:
    """Fetch what the exchange has up to the origin, store it page by page, and ask again for gaps.

    The first time from the first day there is, later from `REFETCHED_DAYS` before the last stored day.

    Raises:
        ExchangeRefused, ExchangeUnavailable, BadProduct: pages that came before are kept.
        SourceMismatch, BadDay, StaleSeries: as they say.
    """
    if origin < FIRST_DAY:
        raise BadDay(
            f"the exchange has no candle before {FIRST_DAY}, asked for {origin}: choose a later --as-of"
        )
    counts = Counts()
    with Prices(home) as prices:
        kept = check_source(prices, product_id, "coinbase", observed_at, replace_source)

        def store(page: Page) -> None:
            # Only once the exchange has shown rows of the product does it get a series.
            if page.candles.empty and page.rejected.empty and prices.source_of(product_id) != "coinbase":
                return
            prices.start_series(product_id, "coinbase", started_at=observed_at, replace=replace_source)
            _store_page(home, prices, product_id, page, origin, observed_at, counts)

        last = prices.last_day(product_id) if kept else None
        first = max(FIRST_DAY, min(last, origin) - timedelta(days=REFETCHED_DAYS)) if last else FIRST_DAY
        begun = last is not None
        # Nobody knows on which day a product begins: empty pages before it are believed at once, unless
        # there was nothing else.
        for insist in (False, True):
            for start, end in spans(first, origin):
                page = client.page(product_id, start, end, expect_rows=begun or insist)
                begun = begun or len(page.candles) > 0
                store(page)
            if begun:
                break
        if prices.source_of(product_id) == "coinbase":
            for page in _pages_before(client, product_id, prices.first_day(product_id)):
                store(page)
        for start, end in _worth_asking_again(prices, product_id, origin):
            log.info("%s: asking again for %s to %s", product_id, start, end)
            store(client.page(product_id, start, end, expect_rows=False))
        if prices.source_of(product_id) != "coinbase":
            raise StaleSeries(
                f"the exchange has no candle of {product_id} up to {origin}: choose a later --as-of"
            )
        require_origin(
            product_id, prices.days(product_id), origin, min_days=min_days, consecutive_days=consecutive_days
        )
        return summed_up(prices, product_id, origin, observed_at, counts)


def _store_page(
    home: Home,
    prices: Prices,
    product_id: str,
    page: Page,
    origin: date,
    observed_at: datetime,
    counts: Counts,
) -> None:
    previous = prices.last_close_before(product_id, page.first)
    checked = check_candles(
        page.candles,
        last_finished_day=origin,
        previous=previous,
        stored=lambda day: prices.last_close_before(product_id, day + timedelta(days=1)),
    )
    quarantined = pd.concat([page.rejected, checked.quarantined], ignore_index=True)
    appended = prices.append(
        product_id,
        checked.accepted,
        source="coinbase",
        observed_at=observed_at,
        payload_sha256=keep_raw(home, page.payload),
        quarantined=quarantined,
    )
    counts.add(appended, quarantined)


def _pages_before(client: Client, product_id: str, first: date | None) -> Iterator[Page]:
    """The page before a history that begins just where a page began, and so on to one that is empty.

    It may have come back empty for no reason, and nobody would ever ask for it again.
    """
    while first and first > FIRST_DAY and (first - FIRST_DAY).days % MAX_DAYS == 0:
        page = client.page(product_id, first - timedelta(days=MAX_DAYS), first - timedelta(days=1))
        yield page
        first = page.candles["day_utc"].iloc[0].date() if len(page.candles) else None


def _worth_asking_again(prices: Prices, product_id: str, origin: date) -> Iterator[Gap]:
    """Holes up to the origin, the newest ones first, in spans that one request can ask for."""
    days = prices.days(product_id, through=origin)
    if days.empty:
        return
    first, last = days.iloc[0].date(), days.iloc[-1].date()
    gaps = find_gaps(days)
    # No run comes again to a first day that was quarantined, on the page that the series begins in.
    page = first - timedelta(days=(first - FIRST_DAY).days % MAX_DAYS)
    if FIRST_DAY <= page < first and prices.any_quarantined_before(product_id, "coinbase", first):
        gaps.insert(0, (page, first - timedelta(days=1)))
    if last < origin:
        gaps.append((last + timedelta(days=1), origin))
    for start, end in gaps[::-1][:MAX_GAPS_A_RUN]:
        yield start, min(end, start + timedelta(days=MAX_DAYS - 1))


def _passes_by_itself(_task: object, _run: object, state: object) -> bool:
    """Try again later for a schedule; a person at a terminal sees what is wrong at once."""
    return deployment.get_id() is not None and isinstance(getattr(state, "data", None), ExchangeUnavailable)


def _fetch(
    home: Home,
    product_id: str,
    *,
    base_url: str,
    origin: date,
    observed_at: datetime,
    min_days: int = 1,
    consecutive_days: int = 1,
    replace_source: bool = False,
) -> Series:
    """The network step: `ingest_exchange` with a client of its own."""
    with Client(base_url) as client:
        return ingest_exchange(
            home,
            product_id,
            client=client,
            origin=origin,
            observed_at=observed_at,
            min_days=min_days,
            consecutive_days=consecutive_days,
            replace_source=replace_source,
        )


fetch_candles = materialize(
    CLOSES,
    name="fetch-candles",
    task_run_name="fetch-candles {product_id}",
    retries=3,
    retry_delay_seconds=exponential_backoff(60),
    retry_jitter_factor=0.5,
    retry_condition_fn=_passes_by_itself,
    timeout_seconds=900,
    **STEP,
)(noting(_fetch, Series.facts))
