"""A product's day as plain functions: without Prefect if there is nothing to make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from typing import Any

from closecast.flows import clock
from closecast.flows.config import configured_backfill_days, configured_profile
from closecast.flows.settings import environment, prepared_home
from closecast.storage.core.errors import BadDay, NotEnoughHistory, StaleSeries
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import product_lock
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.steps import closes_asset, run_step
from closecast.tasks.evaluation.scoring import score_due, stored_history
from closecast.tasks.forecast.publish import RunKey, days_to_backfill, find_forecast
from closecast.tasks.prices.ingest import IngestedPrices, IngestRequest
from closecast.tasks.prices.sources import Market, ingest_prices
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.named import profile_named
from closecast.tasks.report.page import write_page, write_report

log = logging.getLogger("closecast.daily")

_ingested: ContextVar[IngestedPrices | None] = ContextVar("ingested", default=None)


@dataclass(frozen=True)
class Day:
    """The request for a run of one product."""

    home: Home
    market: Market
    profile: Profile
    request: IngestRequest
    backfill_days: int


def plan_day(
    market: Market,
    profile: str | None,
    settings: dict[str, Any] | None,
    origin: date | None,
    home: str | None,
    backfill_days: int | None,
) -> Day:
    """The request with these arguments of the flow `daily-forecast`; prepares the home.

    Raises:
        BadDay: the origin is today by UTC, or later.
        BadSetting: an unknown profile or setting.
        HomeUnusable: the home cannot be made or written.
    """
    chosen, moment = profile_named(*configured_profile(profile, settings)), clock.now()
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
        min_days=chosen.min_fallback_days,
        replace_source=market.replace_source,
        pool_products=chosen.pool_products,
        model_days=chosen.min_days if chosen.min_pool_days < chosen.min_days else 0,
    )
    days = configured_backfill_days(backfill_days)
    return Day(prepared_home(home), market, chosen, request, days)


@contextmanager
def ingested(day: Day) -> Iterator[IngestedPrices]:
    """The day's prices, ingested under the product's lock, which the block holds.

    In a flow that `run_day` started, they are the prices that it ingested under its lock.

    Raises:
        ClosecastError: as `ingest_prices`.
        HomeBusy: another run held the lock for too long.
    """
    prices = ingested_before()
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
                makes=closes_asset(day.home, product_id),
            )
        except (NotEnoughHistory, StaleSeries):
            # The forecasts that are due are scored in any case.
            history = None if day.request.origin else stored_history(day.home, day.request)
            if history:
                score_due(day.home, history, day.profile, day.request.observed_at)
            raise
        yield prices


def ingested_before() -> IngestedPrices | None:
    """The prices that `run_day` ingested for the flow that it started, or None."""
    return _ingested.get()


def run_day(day: Day, run_flow: Callable[[bool], str]) -> str:
    """The `prediction_id` of the day's forecast: the stored one, or that of the flow.

    Args:
        run_flow: the day's flow, called in this thread if there is work, with whether a training is due. It
            gets the ingested prices.
    """
    with ingested(day) as prices:
        history = prices.history
        if not days_to_backfill(day.home, history, day.profile.name, limit=day.backfill_days):
            stored = stored_forecast(day, prices)
            asked = stored and stored_row(day, prices, stored)
            if stored and asked:
                written_on = day.request.observed_at.date()
                write_page(day.home, stored, history, day=written_on, as_of=prices.as_of)
                return asked.first.prediction_id
        from closecast.tasks.training.selection import is_training_due  # a day that is done does without

        token = _ingested.set(prices)
        try:
            return run_flow(is_training_due(day.home, day.profile, prices))
        finally:
            _ingested.reset(token)


def stored_forecast(day: Day, prices: IngestedPrices) -> Forecast | None:
    """The stored forecast from the last day of these prices, by the same code and settings, or None.

    If there is one, due forecasts are scored: those of earlier origins may have been made since.
    """
    history = prices.history
    key = RunKey.of_run(day.profile, history)
    stored = run_step(find_forecast, day.home, key, day.profile.horizons)
    if stored:
        if stored_row(day, prices, stored):
            of_day = f"from {history.origin}" if prices.horizon > 1 else f"for {stored.first.target_day}"
            log.info("%s: nothing new; the forecast %s is already stored", history.product_id, of_day)
        if run_step(score_due, day.home, history, day.profile, day.request.observed_at):
            written_on = day.request.observed_at.date()
            write_report(day.home, history.product_id, day.profile.name, day=written_on)
    return stored


def stored_row(day: Day, prices: IngestedPrices, forecast: Forecast) -> Forecast | None:
    """The stored forecast of only the day after the requested origin, or None.

    If the newest days have no close, it is a later row of the forecast, or one that was added to it.
    """
    key = RunKey.of_run(day.profile, prices.history)
    return forecast.only(prices.horizon) or find_forecast(day.home, key, (prices.horizon,))
