"""What every way of bringing prices into the database shares: the request, the result, what is read of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

import pandas as pd

from storage.core.candle_schema import REJECTED_COLUMNS
from storage.core.errors import BadDay, BadInput, NotEnoughHistory, StaleSeries
from storage.core.home import Home
from storage.prices.price_store import Appended, Prices
from tasks.core.history import PriceHistory
from tasks.core.steps import step
from tasks.prices.gaps import find_gaps

log = logging.getLogger("closecast.ingest")

SHOWN_QUARANTINED = 5


@dataclass(frozen=True)
class IngestRequest:
    """Which prices a run needs.

    Attributes:
        origin: the last day that the run may know; the last day present when None.
        observed_at: the moment of the run, with a time zone.
        last_finished_day: no later candle enters.
        min_days: closes that the profile needs up to the origin.
        consecutive_days: of these, the newest ones that may have no gap.
        on_duplicate: which row of a file counts when a day comes twice with different figures.
        replace_source: start the product's series over when it has another source.
        pool_products: further products whose stored prices the profile may train on.
    """

    product_id: str
    origin: date | None
    observed_at: datetime
    last_finished_day: date
    min_days: int = 1
    consecutive_days: int = 1
    on_duplicate: Literal["refuse", "first", "last"] = "refuse"
    replace_source: bool = False
    pool_products: tuple[str, ...] = ()

    def require_origin(self, days: pd.Series[pd.Timestamp]) -> None:
        """Check that `days` (datetime64, rising) hold the origin and enough closes before it.

        Raises:
            BadDay: the origin is before the first day.
            StaleSeries: the origin's day is missing.
            NotEnoughHistory: fewer than `min_days` closes up to the origin, or a gap in the newest ones.
        """
        product_id = self.product_id
        if days.empty:
            raise StaleSeries(f"{product_id} has no closes at all: choose another source or a later --as-of")
        origin = self.origin or days.iloc[-1].date()
        until = days[days <= pd.Timestamp(origin)]
        if until.empty:
            begins = f"{product_id} begins on {days.iloc[0].date()}, the origin is {origin}"
            raise BadDay(f"{begins}: choose a later --as-of")
        newest = until.iloc[-1].date()
        if newest != origin:
            raise StaleSeries(
                f"{product_id} has no close of {origin}, the newest before it is of {newest}:"
                f" no forecast is made from old prices; get that day, or choose --as-of {newest}"
            )
        if len(until) < self.min_days:
            raise NotEnoughHistory(
                f"the profile needs {self.min_days} days of closes up to {origin}, there are {len(until)}:"
                " import more history"
            )
        gaps = find_gaps(until)
        if gaps and (origin - gaps[-1][1]).days < self.consecutive_days:
            raise NotEnoughHistory(
                f"the forecast needs {self.consecutive_days} consecutive days up to {origin}, there are"
                f" {(origin - gaps[-1][1]).days} since the gap that ends on {gaps[-1][1]}:"
                " choose a later --as-of"
            )


@dataclass(frozen=True)
class IngestedPrices:
    """The prices of a run: the product's history, those of the pool, and what the run brought.

    `not_pooled` says why a pool product has no history.
    """

    history: PriceHistory
    pool: Mapping[str, PriceHistory] = field(default_factory=dict)
    not_pooled: Mapping[str, str] = field(default_factory=dict)
    new_days: int = 0
    restated_days: int = 0
    quarantined: int = 0

    def facts(self) -> dict[str, Any]:
        """The state of the closes and what the run brought, as plain values."""
        history = self.history
        return {
            "product_id": history.product_id,
            "source": history.source,
            "origin": history.origin,
            "data_version": history.data_version,
            "first_day": history.first_day,
            "days": len(history.candles),
            "gaps": len(find_gaps(history.candles["day_utc"])),
            "new_days": self.new_days,
            "restated_days": self.restated_days,
            "quarantined": self.quarantined,
        }


@dataclass
class Counts:
    """What a run brought; a row that is quarantined again when its day is requested again counts once."""

    new_days: int = 0
    restated_days: int = 0
    quarantined: set[tuple[object, ...]] = field(default_factory=set)

    def add(self, appended: Appended, quarantined: pd.DataFrame) -> None:
        """Count a stored page, and its quarantined rows."""
        self.new_days += appended.new_days
        self.restated_days += appended.restated_days
        self.quarantined |= set(quarantined[REJECTED_COLUMNS].itertuples(index=False, name=None))


def check_source(prices: Prices, request: IngestRequest, source: str) -> bool:
    """Whether the product's stored series is of this source.

    Raises:
        SourceMismatch: it is of another one, which is not to be replaced.
    """
    stored = prices.source_of(request.product_id)
    if stored and not request.replace_source:
        prices.start_series(request.product_id, source, started_at=request.observed_at)  # raises
    return stored == source


def read_prices(prices: Prices, request: IngestRequest, counts: Counts | None = None) -> IngestedPrices:
    """The stored prices up to the origin, read and digested once; an ingest's counts and gaps are logged."""
    history = _read_history(prices, request, request.product_id, request.origin)
    product_id, origin = request.product_id, history.origin
    if counts:
        _log_ingest(history, counts)
    counts = counts or Counts()
    pool, not_pooled = dict[str, PriceHistory](), dict[str, str]()
    for product in request.pool_products:
        if product == product_id:
            continue
        first = prices.first_day(product)
        if first is None or first > origin:
            not_pooled[product] = "is not in the database" if first is None else f"begins on {first}"
            continue
        pool[product] = _read_history(prices, request, product, origin)
        if pool[product].origin < origin:
            text = "%s: the closes of %s, which is pooled, end on %s"
            log.info(text, product_id, product, pool[product].origin)
    return IngestedPrices(
        history, pool, not_pooled, counts.new_days, counts.restated_days, len(counts.quarantined)
    )


def _log_ingest(history: PriceHistory, counts: Counts) -> None:
    product_id = history.product_id
    for _, raw, reason in sorted(counts.quarantined, key=str)[:SHOWN_QUARANTINED]:
        log.warning("%s: quarantined %.200s: %s", product_id, raw, reason)
    if counts.quarantined:
        log.warning("%s: %d rows quarantined, see the view quarantine", product_id, len(counts.quarantined))
    if counts.restated_days:
        log.info("%s: %d days restated with other figures", product_id, counts.restated_days)
    for start, end in find_gaps(history.candles["day_utc"]):
        log.warning("%s: gap from %s to %s, %d days", product_id, start, end, (end - start).days + 1)


def _read_history(
    prices: Prices, request: IngestRequest, product_id: str, through: date | None
) -> PriceHistory:
    data_version, series, candles = prices.read_history(product_id, through, created_at=request.observed_at)
    return PriceHistory(
        product_id=product_id,
        candles=candles,
        data_version=data_version,
        series=series,
        stored_days=prices.days(product_id),
        quarantined=prices.quarantined(product_id),
        restated=prices.restated(product_id),
    )


@step(timeout_seconds=300, run_name="{request.product_id}")
def read_stored(home: Home, request: IngestRequest) -> IngestedPrices:
    """The stored prices up to the origin, with nothing read or fetched.

    Raises:
        BadInput: there are none.
        BadDay, StaleSeries, NotEnoughHistory: no forecast can be made from them.
    """
    with Prices(home) as prices:
        return read_stored_prices(home, prices, request)


def read_stored_prices(
    home: Home, prices: Prices, request: IngestRequest, counts: Counts | None = None
) -> IngestedPrices:
    """As `read_stored`, from an open database."""
    if prices.source_of(request.product_id) is None:
        raise BadInput(f"{request.product_id} has no closes in {home.root}: name a file with --csv")
    request.require_origin(prices.days(request.product_id))
    return read_prices(prices, request, counts)


def source_of(home: Home, product_id: str) -> str | None:
    """The source of the product's stored series, or None."""
    with Prices(home) as prices:
        return prices.source_of(product_id)
