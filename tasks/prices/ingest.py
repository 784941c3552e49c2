"""What all ways of ingesting prices share: the request, the result, and the reading of the history."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

import pandas as pd

from closecast.storage.core.candle_schema import REJECTED_COLUMNS
from closecast.storage.core.errors import BadDay, BadInput, NotEnoughHistory, StaleSeries
from closecast.storage.core.home import Home
from closecast.storage.prices.decisions import Decision, KnownPrices
from closecast.storage.prices.price_store import Appended, Prices
from closecast.tasks.core.formatting import count
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.steps import step
from closecast.tasks.prices.gaps import describe_gaps, find_gaps
from closecast.tasks.prices.validation import Checked

log = logging.getLogger("closecast.ingest")

SHOWN_QUARANTINED = 5
# More products would make the training of a young one last, and teach it little.
MAX_POOL = 10
# Days ahead that a forecast reaches while a product is not traded.
MAX_DAYS_AHEAD = 30


@dataclass(frozen=True)
class IngestRequest:
    """Which prices a run needs."""

    product_id: str
    origin: date | None  # the last day that the run may know; the last day present when None
    observed_at: datetime  # the moment of the run, with a time zone
    last_finished_day: date  # no later candle enters
    min_days: int = 1  # from the first close to the origin; half of them need a close
    replace_source: bool = False  # start the product's series over when it has another source
    pool_products: tuple[str, ...] = ()  # whose stored prices the profile may train on, too
    # Closes below which a product is young: its pool are the oldest of the products with so many.
    model_days: int = 0

    def require_origin(self, days: pd.Series[pd.Timestamp]) -> None:
        """Check that `days` (datetime64, rising) hold enough closes up to the origin, none of them too old.

        Raises:
            BadDay: the origin is before the first day.
            StaleSeries: the newest close is too old for a forecast of the day after the origin.
            NotEnoughHistory: fewer than `min_days` days, or closes on less than half of them.
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
        if (origin - newest).days >= MAX_DAYS_AHEAD:
            raise StaleSeries(
                f"{self.product_id} has no close after {newest}, and no forecast reaches more than"
                f" {MAX_DAYS_AHEAD} days: get the closes up to {origin}, or choose --as-of {newest}"
            )
        days_before = (newest - until.iloc[0].date()).days + 1
        if days_before < self.min_days or 2 * len(until) < self.min_days:
            raise NotEnoughHistory(
                f"a forecast needs {self.min_days} days up to {newest} and closes on half of them,"
                f" {self.product_id} has {days_before} with {len(until)} closes: import more history"
            )


@dataclass(frozen=True)
class IngestedPrices:
    """The prices of a run: the product's history, those of the pool, and what the run added."""

    history: PriceHistory
    as_of: date  # the origin asked for: later than that of the history where its newest days have no close
    pool: Mapping[str, PriceHistory] = field(default_factory=dict)
    not_pooled: Mapping[str, str] = field(default_factory=dict)  # why a pool product has no history
    new_days: int = 0
    restated_days: int = 0
    quarantined: int = 0

    @property
    def horizon(self) -> int:
        """Days from the newest close to the day after the requested origin."""
        return (self.as_of - self.history.origin).days + 1

    def facts(self) -> dict[str, Any]:
        """The state of the closes and what the run added, as plain values."""
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
    """What a run added; a row that is quarantined again when its day is requested again counts once."""

    new_days: int = 0
    restated_days: int = 0
    quarantined: set[tuple[object, ...]] = field(default_factory=set)
    decisions: list[Decision] = field(default_factory=list)

    def store(
        self,
        prices: Prices,
        request: IngestRequest,
        checked: Checked,
        rejected: pd.DataFrame,
        *,
        source: str,
        payload_sha256: str,
    ) -> Appended:
        """Append a page to the product's series, and count it; `rejected` rows were no candles."""
        quarantined = pd.concat([rejected, checked.quarantined], ignore_index=True)
        appended = prices.append(
            request.product_id,
            checked.accepted,
            source=source,
            observed_at=request.observed_at,
            payload_sha256=payload_sha256,
            quarantined=quarantined,
            decisions=checked.decisions,
        )
        self.new_days += appended.new_days
        self.restated_days += appended.restated_days
        self.decisions += appended.decisions
        self.quarantined |= set(quarantined[REJECTED_COLUMNS].itertuples(index=False, name=None))
        return appended

    def warn(self, product_id: str) -> None:
        """Log what was quarantined or decided by rule, with the command that changes it."""
        command = f"`closecast quarantine --product {product_id}`"
        for _, raw, reason in sorted(self.quarantined, key=str)[:SHOWN_QUARANTINED]:
            log.warning("%s: quarantined %.200s: %s", product_id, raw, reason)
        if self.quarantined:
            rows = count(len(self.quarantined), "row")
            log.warning("%s: %s quarantined; list and decide with %s", product_id, rows, command)
        for one in self.decisions:
            decided = "a true jump" if one.kind == "accepted" else "a bad print, and a gap"
            text = "%s: %s is %s, by rule, known from %s on; decide otherwise with %s"
            log.warning(text, product_id, one.day, decided, one.known_from, command)

    def finish(self, prices: IngestedPrices) -> IngestedPrices:
        """Log the restated days and the gaps, and return the prices with these counts."""
        product_id = prices.history.product_id
        if self.restated_days:
            log.info("%s: %s restated with other figures", product_id, count(self.restated_days, "day"))
        if prices.horizon > 1:
            text = "%s: no close of %s, the newest is of %s"
            log.warning(text, product_id, prices.as_of, prices.history.origin)
        for line in describe_gaps(prices.history.candles["day_utc"]):
            log.warning("%s: %s", product_id, line)
        counts: dict[str, Any] = {"new_days": self.new_days, "restated_days": self.restated_days}
        return replace(prices, quarantined=len(self.quarantined), **counts)


def history_of(product_id: str, known: KnownPrices) -> PriceHistory:
    """The history of known prices and the decisions among them, without what else the series has now."""
    return PriceHistory(
        *(product_id, known.candles, known.data_version, known.series),
        recorded=known.recorded,
        decisions=known.recorded.decisions,
    )


def known_days(prices: Prices, request: IngestRequest) -> pd.Series[pd.Timestamp]:
    """The days that the origin knows; if the series begins after it, those of the newest origin."""
    days = prices.days(request.product_id, through=request.origin)
    return days if len(days) else prices.days(request.product_id)


def read_prices(prices: Prices, request: IngestRequest) -> IngestedPrices:
    """The stored prices up to the origin, and those of the pool, read and digested once."""

    def read(product_id: str, through: date | None) -> PriceHistory:
        known = prices.read_history(product_id, through, created_at=request.observed_at)
        return replace(
            history_of(product_id, known),
            stored_days=prices.days(product_id),
            quarantined=prices.quarantined(product_id),
            restated=prices.restated(product_id),
        )

    history = read(request.product_id, request.origin)
    pool, not_pooled = dict[str, PriceHistory](), dict[str, str]()
    products: Sequence[str] = request.pool_products
    if len(history.candles) < request.model_days:
        products = prices.oldest_products(history.origin, min_days=request.model_days, limit=MAX_POOL)
    for product in products:
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
    return IngestedPrices(history, request.origin or history.origin, pool, not_pooled)


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
    request.require_origin(known_days(prices, request))
    return read_prices(prices, request)
