"""The day: closes in, versioned forecasts of the next days out; of one product, or of a list of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from typing import Annotated, Any

from prefect import tags
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.dask import tasks_on
from flows.day import Day, ingested, plan_day, stored_forecast
from flows.flow import flow
from flows.settings import home_at
from flows.several import common_origin, require_all, results_and_reasons
from storage.core.errors import NotEnoughHistory
from storage.core.logs import hide_timeout_warnings
from storage.locks.bucket_owner import prepare_home
from storage.models.registry import Models
from tasks.core.forecast import Forecast
from tasks.core.settings import ProductId
from tasks.core.steps import closes_asset, forecast_asset, model_asset, run_step, step, submit_step
from tasks.evaluation.scoring import score_due
from tasks.forecast.publish import days_to_backfill, publish_forecast
from tasks.prices.ingest import IngestedPrices, read_stored
from tasks.prices.sources import Market, Source
from tasks.profiles.named import DEFAULT_PROFILE
from tasks.report.page import write_page
from tasks.report.prefect_artifacts import show_artifacts, show_products, training_progress
from tasks.training.registration import load_model
from tasks.training.selection import ModelSelection, select_model
from tasks.upkeep.pruning import keep_few_files

log = logging.getLogger("closecast.daily")

MAX_NAMED = 3
# Networks that train side by side would share the cores, and gain nothing. (Prefect types its own runner more
# narrowly than it takes it.)
ONE_BY_ONE: Any = ThreadPoolTaskRunner(max_workers=1)


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    market = parameters.get("market") or Market()
    product_id = market["product_id"] if isinstance(market, dict) else market.product_id
    return f"{product_id} {parameters.get('origin') or 'newest day'}"


@flow(name="daily-forecast", flow_run_name=_run_name)
def daily_forecast(
    market: Market | None = None,
    profile: str = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    origin: date | None = None,
    home: str | None = None,
    backfill_days: Annotated[int, Field(ge=0, le=366)] = 0,
) -> str:
    """Make the forecast of one product for the day after its origin, once.

    `market` is which prices, and where they come from; the other arguments are those of `daily-forecasts`.
    Returns the `prediction_id` of the forecast.
    """
    show_log_lines()
    day = plan_day(market or Market(), profile, settings, origin, home, backfill_days)
    with ingested(day) as prices:
        name_run(prices)
        backfill(day, prices)
        forecast, selection = forecast_once(day, prices)
        board = None
        if selection:
            board = run_step(show_artifacts, day.home, forecast, prices, selection.warning)
            run_step(keep_few_files, day.home, forecast.product_id)
        # Last, so that a page that cannot be written costs nothing but the page.
        written_on = day.request.observed_at.date()
        run_step(write_page, day.home, forecast, prices.history, board, day=written_on)
        return forecast.first.prediction_id


def forecast_once(day: Day, prices: IngestedPrices) -> tuple[Forecast, ModelSelection | None]:
    """The forecast from the last day of these prices, and its model's selection: None when it is stored."""
    home, profile, history = day.home, day.profile, prices.history
    stored = stored_forecast(day, prices)
    if stored:
        return stored, None
    moment = day.request.observed_at
    run_step(score_due, home, history, profile, moment)
    closes, model = closes_asset(history.product_id), model_asset(history.product_id, profile.name)
    with training_progress(history.product_id, profile):
        selection = run_step(select_model, home, profile, prices, makes=model, of=[closes])
    forecast = run_step(
        publish_forecast,
        home,
        profile,
        load_model(Models(home), profile, history.product_id, selection.version),
        history,
        created_at=moment,
        flow_run_id=flow_run.get_id(),
        makes=forecast_asset(history.product_id, profile.name),
        of=[model, closes],
    )
    return forecast, selection


def backfill(day: Day, prices: IngestedPrices) -> None:
    """Make the forecasts of the missed days, oldest first, so that each learns from those before.

    A day with too few days before it, or with a gap, stays without one.
    """
    history = prices.history
    days = days_to_backfill(day.home, history, day.profile.name, limit=day.backfill_days)
    if days:
        log.info("%s: backfilling %d missed days from %s on", history.product_id, len(days), days[0])
    for origin in days:
        try:
            past = run_step(read_stored, day.home, replace(day.request, origin=origin))
            forecast_once(day, past)
            # So that no day takes longer than the one before.
            run_step(keep_few_files, day.home, history.product_id)
        except NotEnoughHistory as error:
            log.warning("%s: no forecast from %s: %s", history.product_id, origin, error)


def show_log_lines() -> None:
    """Let closecast's own lines into the run's log: Prefect gives an extra logger a handler, but no level."""
    hide_timeout_warnings()
    ours = logging.getLogger("closecast")
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)


def name_run(prices: IngestedPrices) -> None:
    """Give the flow run its product and day, now that the day is known."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        history = prices.history
        client: Any = context.client  # that of a flow without `async`
        client.update_flow_run(context.flow_run.id, name=f"{history.product_id} {history.origin}")


def _run_name_of_products() -> str:
    parameters = flow_run.get_parameters()
    products = list(dict.fromkeys(parameters["products"]))
    more = f" and {len(products) - MAX_NAMED} more" if len(products) > MAX_NAMED else ""
    day = common_origin(parameters.get("source"), parameters.get("origin"))
    return f"{', '.join(products[:MAX_NAMED])}{more} {day or 'newest day'}"


@flow(name="daily-forecasts", flow_run_name=_run_name_of_products, task_runner=ONE_BY_ONE)
def daily_forecasts(
    products: Annotated[list[ProductId], Field(min_length=1, max_length=1000)],
    source: Source | None = None,
    profile: str = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    origin: date | None = None,
    home: str | None = None,
    backfill_days: Annotated[int, Field(ge=0, le=366)] = 0,
    dask: str | None = None,
) -> list[str]:
    """Make the day's forecast of each product, a run of `daily-forecast` each.

    Args:
        products: exchange products, such as BTC-USD; one that is named twice is forecast once.
        source: where closes come from; by default each product's stored source, else the sample.
        profile: `calibrated`, `article`, an installed one's name, or `package.module:Class`.
        settings: fields of the profile to set otherwise, such as {"members": 5}.
        origin: the last day that the run may know; the newest complete one by default.
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        backfill_days: after an outage, also make the forecasts of so many missed days, each from the closes
            that were known on its own day; `created_at` tells them from forecasts that were made in time.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process where that is not set.

    Returns:
        The `prediction_id` of each forecast, in the order of the products.

    Raises:
        ProductsFailed: some have no forecast; all others were made before.
    """
    show_log_lines()
    products = list(dict.fromkeys(products))
    origin = common_origin(source, origin)
    data_home = prepare_home(home_at(home))
    # Prefect gives a run the tags of its deployment, and none to the runs within it.
    with tags(*flow_run.tags), tasks_on(dask, data_home):
        shared = (profile, settings, origin, str(data_home.root), backfill_days)
        markets = [Market(product_id=product, source=source) for product in products]
        futures = {market.product_id: submit_step(forecast_product, market, *shared) for market in markets}
        made, reasons = results_and_reasons(
            "forecast", {name: [future.result] for name, future in futures.items()}
        )
    run_step(show_products, data_home, made, reasons)
    return require_all(made, reasons)


@step(run_name="{market.product_id}")
def forecast_product(market: Market, *arguments: Any) -> str:
    """One product's day, as a flow run of its own; `arguments` are those of the flow after the market."""
    return daily_forecast(market, *arguments)
