"""What every way of bringing prices into the database shares: the request, the result, what is read of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    """Which prices a run needs."""

    product_id: str
    origin: date | None  # the last day that the run may know; the last day present when None
    observed_at: datetime  # the moment of the run, with a time zone
    last_finished_day: date  # no later candle enters
    min_days: int = 1  # closes that the profile needs up to the origin
    consecutive_days: int = 1  # of these, the newest ones that may have no gap
    # Which row of a file counts when a day comes twice with different figures.
    on_duplicate: Literal["refuse", "first", "last"] = "refuse"
    replace_source: bool = False  # start the product's series over when it has another source
    pool_products: tuple[str, ...] = ()  # whose stored prices the profile may train on, too

    def require_origin(self, days: pd.Series[pd.Timestamp]) -> None:
        """Check that `days` (datetime64, rising) hold the origin and enough closes before it.

        Raises:
            BadDay: the origin is before the first day.
            StaleSeries: the origin's day is missing.
            NotEnoughHistory: fewer than `min_days` closes up to the origin, or a gap in the newest ones.
        """
        if days.empty:
            raise StaleSeries(
                f"{self.product_id} has no closes at all: choose another source or a later --as-of"
            )
        origin = self.origin or days.iloc[-1].date()
        until = days[days <= pd.Timestamp(origin)]
        if until.empty:
            raise BadDay(
                f"{self.product_id} begins on {days.iloc[0].date()}, the origin is {origin}:"
                " choose a later --as-of"
            )
        newest = until.iloc[-1].date()
        if newest != origin:
            raise StaleSeries(
                f"{self.product_id} has no close of {origin}, the newest before it is of {newest}:"
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
    """The prices of a run: the product's history, those of the pool, and what the run brought."""

    history: PriceHistory
    pool: Mapping[str, PriceHistory] = field(default_factory=dict)
    not_pooled: Mapping[str, str] = field(default_factory=dict)  # why a pool product has no history
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

    def finish(self, prices: IngestedPrices) -> IngestedPrices:
        """Log what the run brought and the gaps, and give the prices these counts."""
        product_id, count = prices.history.product_id, len(self.quarantined)
        for _, raw, reason in sorted(self.quarantined, key=str)[:SHOWN_QUARANTINED]:
            log.warning("%s: quarantined %.200s: %s", product_id, raw, reason)
        if count:
            log.warning("%s: %d rows quarantined, see the view quarantine", product_id, count)
        if self.restated_days:
            log.info("%s: %d days restated with other figures", product_id, self.restated_days)
        for start, end in find_gaps(prices.history.candles["day_utc"]):
            log.warning("%s: gap from %s to %s, %d days", product_id, start, end, (end - start).days + 1)
        return replace(prices, new_days=self.new_days, restated_days=self.restated_days, quarantined=count)


def read_prices(prices: Prices, request: IngestRequest) -> IngestedPrices:
    """The stored prices up to the origin, and those of the pool, read and digested once."""

    def read(product_id: str, through: date | None) -> PriceHistory:
        data_version, series, candles = prices.read_history(
            product_id, through, created_at=request.observed_at
        )
        return PriceHistory(
            product_id=product_id,
            candles=candles,
            data_version=data_version,
            series=series,
            stored_days=prices.days(product_id),
            quarantined=prices.quarantined(product_id),
            restated=prices.restated(product_id),
        )

    history = read(request.product_id, request.origin)
    pool, not_pooled = dict[str, PriceHistory](), dict[str, str]()
    for product in request.pool_products:
        if product == request.product_id:
            continue
        first = prices.first_day(product)
        if first is None or first > history.origin:
            not_pooled[product] = "is not in the database" if first is None else f"begins on {first}"
            continue
        pool[product] = read(product, history.origin)
        if pool[product].origin < history.origin:
            text = "%s: the closes of %s, which is pooled, end on %s"
            log.info(text, request.product_id, product, pool[product].origin)
    return IngestedPrices(history, pool, not_pooled)


@step(timeout_seconds=300, run_name="{request.product_id}")
def read_stored(home: Home, request: IngestRequest) -> IngestedPrices:
    """As `read_stored_prices`, from the home's database."""
    with Prices(home) as prices:
        return read_stored_prices(prices, request)


def read_stored_prices(prices: Prices, request: IngestRequest) -> IngestedPrices:
    """The stored prices up to the origin, with nothing ingested.

    Raises:
        BadInput: there are none.
        BadDay, StaleSeries, NotEnoughHistory: no forecast can be made from them.
    """
    if prices.source_of(request.product_id) is None:
        raise BadInput(f"{request.product_id} has no stored closes: name a file with --csv")
    request.require_origin(prices.days(request.product_id))
    return read_prices(prices, request)


def source_of(home: Home, product_id: str) -> str | None:
    """The source of the product's stored series, or None."""
    with Prices(home) as prices:
        return prices.source_of(product_id)
