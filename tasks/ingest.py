"""A source's closes into the database, checked, and what the run may know of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

import pandas as pd
from prefect import task
from prefect.runtime import deployment
from prefect.tasks import exponential_backoff

from storage.errors import BadDay, BadFile, BadInput, ExchangeUnavailable, StaleSeries
from storage.files import keep_raw, read_bytes
from storage.frames import REJECTED_COLUMNS
from storage.home import Home
from storage.prices import Appended, Prices
from tasks.check import check_candles, find_holes, require_origin
from tasks.fetch import MOST_DAYS, Client, Page, spans
from tasks.read_csv import read_candles
from tasks.steps import STEP

log = logging.getLogger("closecast.ingest")

Hole = tuple[date, date]
# Coinbase has no candle before this day; its oldest product, BTC-USD, begins in 2015.
FIRST_DAY = date(2014, 12, 1)
REFETCHED_DAYS = 7
MOST_HOLES_A_RUN = 10
SHOWN_SET_ASIDE = 5


@dataclass(frozen=True)
class Series:
    """What a run knows of a product's closes: those of `data_version`, which end on `origin`."""

    product_id: str
    source: str
    origin: date
    data_version: str
    first_day: date
    days: int
    new_days: int
    restated_days: int
    set_aside: int
    holes: tuple[Hole, ...]


@dataclass
class _Counts:
    """What a run brought; a row that is set aside again when its day is asked for again counts once."""

    new_days: int = 0
    restated_days: int = 0
    set_aside: set[tuple[object, ...]] = field(default_factory=set)

    def add(self, appended: Appended, set_aside: pd.DataFrame) -> None:
        self.new_days += appended.new_days
        self.restated_days += appended.restated_days
        self.set_aside |= set(set_aside[REJECTED_COLUMNS].itertuples(index=False, name=None))


def ingest_file(
    home: Home,
    product_id: str,
    *,
    source: Literal["sample", "csv"],
    path: Path,
    origin: date | None,
    last_finished_day: date,
    observed_at: datetime,
    fewest_days: int = 1,
    unbroken_days: int = 1,
    on_duplicate: Literal["refuse", "first", "last"] = "refuse",
    replace_source: bool = False,
) -> Series:
    """Append what a CSV file holds, after the run it is for was found possible.

    Args:
        home: prepared.
        product_id: whose closes the file holds.
        source: the name under which the closes are kept.
        path: of the file.
        origin: the last day that the run may know; the file's last day when None.
        last_finished_day: no later candle enters.
        observed_at: the moment of reading.
        fewest_days: closes that the model needs up to the origin.
        unbroken_days: of these, the newest ones that no hole may break.
        on_duplicate: as `read_candles`.
        replace_source: start the series over when it has another source.

    Raises:
        BadFile, SourceMismatch, BadDay, StaleSeries, NotEnoughHistory: and nothing was stored.
    """
    data = read_bytes(path)
    read = read_candles(data, product_id, name=path.name, on_duplicate=on_duplicate)
    with Prices(home) as prices:
        kept = _refuse_mixing(prices, product_id, source, observed_at, replace_source)
        previous = (
            prices.last_close_before(product_id, read.candles["day_utc"].iloc[0].date())
            if kept and len(read.candles)
            else None
        )
        checked = check_candles(read.candles, last_finished_day=last_finished_day, previous=previous)
        set_aside = pd.concat([read.rejected, checked.set_aside], ignore_index=True)
        if checked.accepted.empty and not kept:
            raise BadFile(
                f"{path.name} holds no candle that can be used, {len(set_aside)} rows were set aside,"
                f" the first because: {set_aside['reason'].iloc[0]}"
            )
        known = prices.days(product_id) if kept else pd.Series([], dtype="datetime64[s]")
        days = pd.Series(pd.concat([known, checked.accepted["day_utc"]]).unique()).sort_values()
        require_origin(product_id, days, origin, fewest_days=fewest_days, unbroken_days=unbroken_days)
        prices.start_series(product_id, source, started_at=observed_at, replace=replace_source)
        appended = prices.append(
            product_id,
            checked.accepted,
            source=source,
            observed_at=observed_at,
            payload_sha256=hashlib.sha256(data).hexdigest(),
            set_aside=set_aside,
        )
        log.info(
            "%s: %d rows of %s, %d days new", product_id, len(read.candles), path.name, appended.new_days
        )
        counts = _Counts()
        counts.add(appended, set_aside)
        return _series(prices, product_id, origin, observed_at, counts)


def ingest_exchange(
    home: Home,
    product_id: str,
    *,
    client: Client,
    origin: date,
    observed_at: datetime,
    fewest_days: int = 1,
    unbroken_days: int = 1,
    replace_source: bool = False,
) -> Series:
    """Fetch what the exchange has up to the origin, store it page by page, and ask again for holes.

    The first time from the first day there is, later from `REFETCHED_DAYS` before the last stored day.

    Raises:
        ExchangeRefused, ExchangeUnavailable, BadProduct: pages that came before are kept.
        SourceMismatch, BadDay, StaleSeries: as they say.
    """
    if origin < FIRST_DAY:
        raise BadDay(
            f"the exchange has no candle before {FIRST_DAY}, asked for {origin}: choose a later --as-of"
        )
    counts = _Counts()
    with Prices(home) as prices:
        kept = _refuse_mixing(prices, product_id, "coinbase", observed_at, replace_source)

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
            product_id, prices.days(product_id), origin, fewest_days=fewest_days, unbroken_days=unbroken_days
        )
        return _series(prices, product_id, origin, observed_at, counts)


def read_stored(
    home: Home,
    product_id: str,
    *,
    origin: date | None,
    observed_at: datetime,
    fewest_days: int = 1,
    unbroken_days: int = 1,
) -> Series:
    """The closes that are there, with nothing read or fetched.

    Raises:
        BadInput: there are none.
        BadDay, StaleSeries: as they say.
    """
    with Prices(home) as prices:
        if prices.source_of(product_id) is None:
            raise BadInput(f"{product_id} has no closes in {home.root}: name a file with --csv")
        require_origin(
            product_id,
            prices.days(product_id),
            origin,
            fewest_days=fewest_days,
            unbroken_days=unbroken_days,
        )
        return _series(prices, product_id, origin, observed_at, _Counts())


def source_of(home: Home, product_id: str) -> str | None:
    """The source of the product's stored series, or None."""
    with Prices(home) as prices:
        return prices.source_of(product_id)


def _refuse_mixing(
    prices: Prices, product_id: str, source: str, moment: datetime, replace_source: bool
) -> bool:
    """True when the product's stored series is of this source; raises where the two may not meet."""
    stored = prices.source_of(product_id)
    if stored not in (None, source) and not replace_source:
        prices.start_series(product_id, source, started_at=moment)  # raises, and knows what to say
    return stored == source


def _store_page(
    home: Home,
    prices: Prices,
    product_id: str,
    page: Page,
    origin: date,
    observed_at: datetime,
    counts: _Counts,
) -> None:
    previous = prices.last_close_before(product_id, page.first)
    checked = check_candles(page.candles, last_finished_day=origin, previous=previous)
    set_aside = pd.concat([page.rejected, checked.set_aside], ignore_index=True)
    appended = prices.append(
        product_id,
        checked.accepted,
        source="coinbase",
        observed_at=observed_at,
        payload_sha256=keep_raw(home, page.payload),
        set_aside=set_aside,
    )
    counts.add(appended, set_aside)


def _pages_before(client: Client, product_id: str, first: date | None) -> Iterator[Page]:
    """The page before a history that begins just where a page began, and so on to one that is empty.

    It may have come back empty for no reason, and nobody would ever ask for it again.
    """
    while first and first > FIRST_DAY and (first - FIRST_DAY).days % MOST_DAYS == 0:
        page = client.page(product_id, first - timedelta(days=MOST_DAYS), first - timedelta(days=1))
        yield page
        first = page.candles["day_utc"].iloc[0].date() if len(page.candles) else None


def _worth_asking_again(prices: Prices, product_id: str, origin: date) -> Iterator[Hole]:
    """Holes up to the origin, the newest ones first, in spans that one request can ask for."""
    days = prices.days(product_id, through=origin)
    if days.empty:
        return
    last = days.iloc[-1].date()
    holes = find_holes(days)
    if last < origin:
        holes.append((last + timedelta(days=1), origin))
    for start, end in holes[::-1][:MOST_HOLES_A_RUN]:
        yield start, min(end, start + timedelta(days=MOST_DAYS - 1))


def _series(
    prices: Prices, product_id: str, origin: date | None, observed_at: datetime, counts: _Counts
) -> Series:
    days = prices.days(product_id, through=origin)
    source = prices.source_of(product_id)
    last = days.iloc[-1].date()
    holes = tuple(find_holes(days))
    for _, raw, reason in sorted(counts.set_aside, key=str)[:SHOWN_SET_ASIDE]:
        log.warning("%s: set aside %.200s: %s", product_id, raw, reason)
    if counts.set_aside:
        log.warning("%s: %d rows set aside, kept in the table quarantine", product_id, len(counts.set_aside))
    for start, end in holes:
        log.warning("%s: hole from %s to %s, %d days", product_id, start, end, (end - start).days + 1)
    return Series(
        product_id=product_id,
        source=source or "",
        origin=last,
        data_version=prices.data_version(product_id, last, created_at=observed_at),
        first_day=days.iloc[0].date(),
        days=len(days),
        new_days=counts.new_days,
        restated_days=counts.restated_days,
        set_aside=len(counts.set_aside),
        holes=holes,
    )


def _passes_by_itself(_task: object, _run: object, state: object) -> bool:
    """Try again later for a schedule; a person at a terminal sees what is wrong at once."""
    return deployment.get_id() is not None and isinstance(getattr(state, "data", None), ExchangeUnavailable)


@task(
    name="fetch-candles",
    task_run_name="fetch-candles {product_id}",
    retries=3,
    retry_delay_seconds=exponential_backoff(60),
    retry_jitter_factor=0.5,
    retry_condition_fn=_passes_by_itself,
    timeout_seconds=900,
    **STEP,
)
def fetch_candles(
    home: Home,
    product_id: str,
    *,
    base_url: str,
    origin: date,
    observed_at: datetime,
    fewest_days: int = 1,
    unbroken_days: int = 1,
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
            fewest_days=fewest_days,
            unbroken_days=unbroken_days,
            replace_source=replace_source,
        )


read_file = task(name="read-csv", task_run_name="read-csv {product_id}", timeout_seconds=900, **STEP)(
    ingest_file
)
read_database = task(
    name="read-closes", task_run_name="read-closes {product_id}", timeout_seconds=300, **STEP
)(read_stored)
