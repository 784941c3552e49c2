"""The exchange's candles into the database, page by page; gaps are requested again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

from closecast.storage.core.candle_schema import upto
from closecast.storage.core.errors import BadDay, StaleSeries
from closecast.storage.core.home import Home
from closecast.storage.prices.price_store import Prices
from closecast.storage.prices.raw_responses import keep_raw
from closecast.tasks.core.formatting import count
from closecast.tasks.core.types import Gap
from closecast.tasks.prices.coinbase_client import MAX_DAYS, Client, Page, spans
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, known_days, read_prices
from closecast.tasks.prices.validation import check_candles

log = logging.getLogger("closecast.ingest")

# Coinbase has no candle before this day; its oldest product, BTC-USD, begins in 2015.
FIRST_DAY = date(2014, 12, 1)
REFETCHED_DAYS = 7
MAX_GAPS_A_RUN = 10
ONE_DAY = timedelta(days=1)


def ingest_exchange(home: Home, prices: Prices, request: IngestRequest, *, client: Client) -> IngestedPrices:
    """Fetch the exchange's candles up to the origin, store them page by page, and request gaps again.

    The first time it starts from the first day, later from `REFETCHED_DAYS` before the last stored day. The
    raw responses are kept in `home`.

    Raises:
        ExchangeRefused, ExchangeUnavailable, BadProduct: earlier pages are kept.
        SourceMismatch, BadDay, StaleSeries: as they say.
    """
    product_id, origin = request.product_id, request.origin or request.last_finished_day
    if origin < FIRST_DAY:
        raise BadDay(
            f"the exchange has no candle before {FIRST_DAY}, and the origin is {origin}:"
            " choose a later --as-of"
        )
    if prices.source_of(product_id) and not request.replace_source:
        prices.start_series(product_id, "coinbase", started_at=request.observed_at)  # or SourceMismatch
    request, counts, empty = replace(request, origin=origin), Counts(), list[Page]()
    for page in _pages(client, prices, product_id, origin):
        empty += [page] if page.candles.empty else []
        # A product gets a series only once the exchange has sent rows of it.
        if len(page.candles) or len(page.rejected) or prices.source_of(product_id) == "coinbase":
            _store_page(home, prices, request, page, counts)
    if empty:
        first, last = min(one.first for one in empty), max(one.last for one in empty)
        pages = count(len(empty), "page")
        log.info("%s: no candles on %s between %s and %s", product_id, pages, first, last)
    if prices.source_of(product_id) != "coinbase":
        raise StaleSeries(
            f"the exchange has no candle of {product_id} up to {origin}: choose a later --as-of"
        )
    counts.warn(product_id)
    request.require_origin(known_days(prices, request))
    return counts.finish(read_prices(prices, request))


def _pages(client: Client, prices: Prices, product_id: str, origin: date) -> Iterator[Page]:
    """Every page of a run; each is stored before the next one is requested."""
    last = prices.last_day(product_id) if prices.source_of(product_id) == "coinbase" else None
    first = max(FIRST_DAY, min(last, origin) - timedelta(days=REFETCHED_DAYS)) if last else FIRST_DAY
    # The first day of a product is unknown: empty pages before it are accepted at once, unless all are empty.
    begun = last is not None
    for insist in (False, True):
        if not (insist and begun):
            for start, end in spans(first, origin):
                page = client.page(product_id, start, end, expect_rows=begun or insist)
                begun = begun or len(page.candles) > 0
                yield page
    if prices.source_of(product_id) != "coinbase":
        return
    # Where a history begins just where a page begins, the page before it may have been empty by mistake, and
    # no later run requests it: here it is, and so on to one that is empty.
    begins = prices.first_day(product_id)
    while begins and begins > FIRST_DAY and (begins - FIRST_DAY).days % MAX_DAYS == 0:
        page = client.page(product_id, begins - timedelta(days=MAX_DAYS), begins - ONE_DAY)
        yield page
        begins = page.candles["day_utc"].iloc[0].date() if len(page.candles) else None
    for start, end in _gaps_to_request(prices, product_id, origin):
        log.info("%s: requesting %s to %s again", product_id, start, end)
        yield client.page(product_id, start, end, expect_rows=False)


def _store_page(home: Home, prices: Prices, request: IngestRequest, page: Page, counts: Counts) -> None:
    product_id = request.product_id
    prices.start_series(
        product_id, "coinbase", started_at=request.observed_at, replace=request.replace_source
    )
    checked = check_candles(
        page.candles,
        last_finished_day=request.origin or request.last_finished_day,
        previous=prices.last_close_before(product_id, page.first),
        stored=prices.recorded(product_id),
    )
    sha256 = keep_raw(home, page.payload)
    counts.store(prices, request, checked, page.rejected, source="coinbase", payload_sha256=sha256)


def _gaps_to_request(prices: Prices, product_id: str, origin: date) -> list[Gap]:
    """Gaps up to the origin, the newest ones first, each no longer than a request."""
    # A rejected day is there.
    days = upto(prices.recorded(product_id).newest, origin)["day_utc"]
    if days.empty:
        return []
    first, last = days.iloc[0].date(), days.iloc[-1].date()
    gaps = find_gaps(days)
    # No later run requests a quarantined first day, which is on the page that the series begins in.
    page = first - timedelta(days=(first - FIRST_DAY).days % MAX_DAYS)
    if FIRST_DAY <= page < first and prices.any_quarantined_before(product_id, "coinbase", first):
        gaps.insert(0, (page, first - ONE_DAY))
    if last < origin:
        gaps.append((last + ONE_DAY, origin))
    longest = timedelta(days=MAX_DAYS - 1)
    return [(start, min(end, start + longest)) for start, end in gaps[::-1][:MAX_GAPS_A_RUN]]
