"""A product's day as plain functions: without Prefect where there is nothing to make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from typing import Any

from flows import clock
from flows.settings import environment, home_at
from storage.core.errors import BadDay, NotEnoughHistory, StaleSeries
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import product_lock
from tasks.core.forecast import Forecast
from tasks.core.steps import closes_asset, run_step
from tasks.forecast.publish import RunKey, days_to_backfill, find_forecast
from tasks.prices.ingest import IngestedPrices, IngestRequest
from tasks.prices.sources import Market, ingest_prices
from tasks.profiles.base import Profile
from tasks.profiles.named import profile_named
from tasks.report.page import write_page

log = logging.getLogger("closecast.daily")

_ingested: ContextVar[IngestedPrices | None] = ContextVar("ingested", default=None)


@dataclass(frozen=True)
class Day:
    """What a run of one product was asked for."""

    home: Home
    market: Market
    profile: Profile
    request: IngestRequest
    backfill_days: int


def plan_day(
    market: Market,
    profile: str,
    settings: dict[str, Any] | None,
    origin: date | None,
    home: str | None,
    backfill_days: int,
) -> Day:
    """The day of these arguments, which are those of the flow `daily-forecast`; the home is prepared.

    Raises:
        BadDay: the origin is today by UTC, or later.
        BadSetting: an unknown profile or setting.
        HomeUnusable: the home cannot be made or written.
    """
    chosen, moment = profile_named(profile, settings), clock.now()
    last = clock.last_complete_day(moment)
    if origin and origin > last:
        raise BadDay(
            f"{origin} is not over: the last complete UTC day is {last}, choose --as-of {last} or earlier"
        )
    request = IngestRequest(
        product_id=market.product_id,
        origin=origin,
        observed_at=moment,
        last_finished_day=last,
        min_days=chosen.min_days,
        consecutive_days=chosen.consecutive_days,
        on_duplicate=market.on_duplicate,
        replace_source=market.replace_source,
        pool_products=chosen.pool_products,
    )
    return Day(prepare_home(home_at(home)), market, chosen, request, backfill_days)


@contextmanager
def ingested(day: Day) -> Iterator[IngestedPrices]:
    """The day's prices, ingested under the product's lock, which is held in the block.

    In a flow that `run_day` has started they are those that it has ingested, under its lock.

    Raises:
        ClosecastError: as `ingest_prices`.
        HomeBusy: another run held the lock for too long.
    """
    prices = _ingested.get()
    if prices is not None:
        yield prices
        return
    product_id, url = day.market.product_id, environment().coinbase_url
    with product_lock(day.home, product_id):
        try:
            prices = run_step(
                ingest_prices,
                *(day.home, day.market, day.request),
                base_url=url,
                makes=closes_asset(product_id),
            )
        except (NotEnoughHistory, StaleSeries):
            # A gap keeps back the forecast, not the scores of those that are due.
            if day.request.origin is None:
                from tasks.evaluation.scoring import score_stored  # a day that is done does without

                score_stored(day.home, day.request, day.profile)
            raise
        yield prices


def run_day(day: Day, run_flow: Callable[[bool], str]) -> str:
    """The `prediction_id` of the day's forecast: the stored one, or that of the flow.

    Args:
        run_flow: called where there is work, with whether a training is due; the day's flow, in the same
            thread. What was ingested is handed on to it.
    """
    with ingested(day) as prices:
        history = prices.history
        if not days_to_backfill(day.home, history, day.profile.name, limit=day.backfill_days):
            stored = stored_forecast(day, prices)
            if stored:
                write_page(day.home, stored, history, day=day.request.observed_at.date())
                return stored.first.prediction_id
        from tasks.training.selection import is_training_due  # a day that is done does without

        token = _ingested.set(prices)
        try:
            return run_flow(is_training_due(day.home, day.profile, prices))
        finally:
            _ingested.reset(token)


def stored_forecast(day: Day, prices: IngestedPrices) -> Forecast | None:
    """The forecast that was made before from the last day of these prices, by the same code and settings."""
    history = prices.history
    key = RunKey.of_run(day.profile, history)
    stored = run_step(find_forecast, day.home, key, day.profile.horizons)
    if stored:
        log.info("%s: nothing new, the forecast for %s stands", history.product_id, stored.first.target_day)
    return stored
