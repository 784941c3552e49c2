"""The day: closes in, versioned forecasts of the next days out; of one product, or of a list of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from prefect import tags
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from closecast.flows.config import (
    configured_backfill_days,
    configured_product,
    configured_products,
    configured_profile,
    configured_source,
)
from closecast.flows.dask import tasks_on
from closecast.flows.day import Day, ingested, ingested_before, plan_day, stored_forecast, stored_row
from closecast.flows.flow import finished, flow
from closecast.flows.settings import prepared_home
from closecast.flows.several import common_origin, require_all, results_and_reasons
from closecast.storage.core.errors import NotEnoughHistory
from closecast.storage.core.home import Home
from closecast.storage.core.logs import hide_timeout_warnings
from closecast.storage.models.registry import Models
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.formatting import count
from closecast.tasks.core.settings import ProductId, Source
from closecast.tasks.core.steps import (
    closes_asset,
    forecast_asset,
    model_asset,
    result_of,
    run_step,
    step,
    submit_step,
)
from closecast.tasks.evaluation.scoring import score_due
from closecast.tasks.forecast.publish import (
    days_to_backfill,
    earlier_origins,
    publish_forecast,
    publish_further,
)
from closecast.tasks.prices.ingest import IngestedPrices, read_stored
from closecast.tasks.prices.sources import Market
from closecast.tasks.report.events import run_url
from closecast.tasks.report.page import write_page
from closecast.tasks.report.prefect_artifacts import show_artifacts, show_products, training_progress
from closecast.tasks.report.side_calls import side_call
from closecast.tasks.training.registration import load_model
from closecast.tasks.training.selection import ModelSelection, select_model
from closecast.tasks.upkeep.pruning import keep_few_files

log = logging.getLogger("closecast.daily")

MAX_NAMED = 3
# Networks that train side by side would share the cores, and gain nothing. (Prefect types its own runner more
# narrowly than it takes it.)
ONE_BY_ONE: Any = ThreadPoolTaskRunner(max_workers=1)
BackfillDays = Annotated[int, Field(ge=0, le=366)]


def configured_market() -> Market:
    """The configuration's first product from its source."""
    return Market(product_id=configured_product(), source=configured_source())


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    market = Market.model_validate(parameters.get("market") or configured_market())
    prices = ingested_before()
    day = prices.as_of if prices else common_origin(market.source, parameters.get("origin"))
    return f"{market.product_id} {day or 'newest day'}"


@flow(name="daily-forecast", flow_run_name=_run_name)
def daily_forecast(
    market: Market | None = None,
    profile: str | None = None,
    settings: dict[str, Any] | None = None,
    origin: date | None = None,
    home: str | None = None,
    backfill_days: BackfillDays | None = None,
) -> str:
    """Make the forecast of one product for the day after its origin, once.

    `market` is the product and the source of its prices; the other arguments are those of `daily-forecasts`.
    Returns the `prediction_id` of the forecast.
    """
    day = plan_day(market or configured_market(), profile, settings, origin, home, backfill_days)
    begin_run(day.home)
    with ingested(day) as prices:
        name_run(f"{prices.history.product_id} {prices.as_of}")
        backfill(day, prices)
        forecast, selection = forecast_once(day, prices)
        asked = row_asked_for(day, prices, forecast)
        board = None
        if selection or prices.horizon > 1:  # without a newer close another day is asked for, too
            warning = selection.warning if selection else None
            board = run_step(show_artifacts, day.home, asked, forecast, prices, warning)
            run_step(keep_few_files, day.home, forecast.product_id)
        # Last, so that a page that cannot be written loses nothing else.
        run_step(
            write_page,
            *(day.home, forecast, prices.history, board),
            day=day.request.observed_at.date(),
            as_of=prices.as_of,
            run_url=run_url(),
        )
        return finished(asked.first.prediction_id)


def forecast_once(day: Day, prices: IngestedPrices) -> tuple[Forecast, ModelSelection | None]:
    """The forecast from the last day of these prices, and its model's selection, None if it was stored."""
    home, profile, history = day.home, day.profile, prices.history
    stored = stored_forecast(day, prices)
    if stored:
        return stored, None
    moment = day.request.observed_at
    run_step(score_due, home, history, profile, moment)
    closes = closes_asset(home, history.product_id)
    model = model_asset(home, history.product_id, profile.name)
    with training_progress(home, history.product_id, profile):
        selection = run_step(select_model, home, profile, prices, makes=model, of=[closes])
    version = selection.version
    champion = load_model(Models(home), profile, history.product_id, version) if version else None
    forecast = run_step(
        publish_forecast,
        *(home, profile, champion, history),
        created_at=moment,
        flow_run_id=flow_run.get_id(),
        makes=forecast_asset(home, history.product_id, profile.name),
        of=[model, closes],
    )
    return forecast, selection


def row_asked_for(day: Day, prices: IngestedPrices, forecast: Forecast) -> Forecast:
    """The forecast of the day after the requested origin: a row of the fan, or an additional one."""
    return stored_row(day, prices, forecast) or run_step(
        publish_further,
        *(day.home, day.profile, prices.history, prices.horizon),
        created_at=day.request.observed_at,
        flow_run_id=flow_run.get_id(),
    )


def backfill(day: Day, prices: IngestedPrices) -> None:
    """Make the forecasts of the missed days, oldest first, so that each learns from the earlier ones.

    A day with too short a history gets none.
    """
    history = prices.history
    days = days_to_backfill(day.home, history, day.profile.name, limit=day.backfill_days)
    if days:
        missed = count(len(days), "missed day")
        log.info("%s: backfilling %s from %s on", history.product_id, missed, days[0])
    elif day.backfill_days and not earlier_origins(day.home, history, day.profile.name):
        log.info(
            "%s: nothing to backfill: no forecast was made before %s, so none was missed;"
            " `closecast run --as-of DAY` makes the forecast of an earlier day",
            *(history.product_id, history.origin),
        )
    for origin in days:
        try:
            past = run_step(read_stored, day.home, replace(day.request, origin=origin))
            forecast_once(day, past)
            # So that no day takes longer than the one before.
            run_step(keep_few_files, day.home, history.product_id)
        except NotEnoughHistory as error:
            log.warning("%s: no forecast from %s: %s", history.product_id, origin, error)


def begin_run(home: Home) -> None:
    """Show closecast's lines in the run's log, and tag the run with its home.

    Prefect gives an extra logger a handler, but no level.
    """
    hide_timeout_warnings()
    ours = logging.getLogger("closecast")
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)
    run_id, known = UUID(flow_run.get_id()), set(flow_run.get_tags())
    tags = sorted(known | home_tags(home))
    if len(tags) > len(known):
        side_call("the run's tags", lambda client: client.update_flow_run(run_id, tags=tags))


def name_run(name: str) -> None:
    """Give the flow run this name."""
    run_id = UUID(flow_run.get_id())
    if flow_run.get_name() != name:
        side_call("the run's name", lambda client: client.update_flow_run(run_id, name=name))


def home_tags(home: Home) -> set[str]:
    """The tag of a home that is not the default one."""
    return {f"home:{home.label}"} if home.label else set()


def _run_name_of_products() -> str:
    parameters = flow_run.get_parameters()
    products = configured_products(parameters.get("products"))
    more = f" and {len(products) - MAX_NAMED} more" if len(products) > MAX_NAMED else ""
    day = common_origin(configured_source(parameters.get("source")), parameters.get("origin"))
    return f"{', '.join(products[:MAX_NAMED])}{more} {day or 'newest day'}"


@flow(name="daily-forecasts", flow_run_name=_run_name_of_products, task_runner=ONE_BY_ONE)
def daily_forecasts(
    products: Annotated[list[ProductId], Field(min_length=1, max_length=1000)] | None = None,
    source: Source | None = None,
    profile: str | None = None,
    settings: dict[str, Any] | None = None,
    origin: date | None = None,
    home: str | None = None,
    backfill_days: BackfillDays | None = None,
    dask: str | None = None,
) -> list[str]:
    """Make the day's forecast of each product, a run of `daily-forecast` each.

    Arguments that are not given come from the configuration file, else from the defaults.

    Args:
        products: exchange products, BTC-USD by default; repeated ones are forecast once.
        source: where closes come from; by default each product's stored source, else the sample.
        profile: `calibrated`, `article`, the name of an installed profile, or `package.module:Class`.
        settings: fields of the profile to change, such as {"members": 5}.
        origin: the last day that the run may know; the newest complete one by default.
        home: folder of all data; CLOSECAST_HOME or the project's `data/` by default.
        backfill_days: after an outage, also make the forecasts of up to this many missed days, each from the
            closes up to its own origin; `created_at` tells them from forecasts that were made in time.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process if that is not set.

    Returns:
        The `prediction_id` of each forecast, in the order of the products.

    Raises:
        ProductsFailed: some products have no forecast; all others were made first.
    """
    # Here, because a worker on another machine may have no configuration.
    products, source = configured_products(products), configured_source(source)
    profile, settings = configured_profile(profile, settings)
    backfill_days = configured_backfill_days(backfill_days)
    origin = common_origin(source, origin)
    data_home = prepared_home(home)
    begin_run(data_home)
    # Prefect gives a run the tags of its deployment, and none to the runs within it.
    with tags(*flow_run.tags, *home_tags(data_home)), tasks_on(dask, data_home):
        shared = (profile, settings, origin, str(data_home.root), backfill_days)
        markets = [Market(product_id=product, source=source) for product in products]
        futures = [submit_step(forecast_product, market, *shared) for market in markets]
        calls = {
            market.product_id: [partial(result_of, future, forecast_product, market, *shared)]
            for market, future in zip(markets, futures, strict=True)
        }
        made, reasons = results_and_reasons("forecast", calls)
    run_step(show_products, data_home, made, reasons)
    return finished(require_all(made, reasons))


@step(run_name="{market.product_id}")
def forecast_product(market: Market, *arguments: Any) -> str:
    """One product's day, as a flow run of its own; `arguments` are those of the flow after the market."""
    return daily_forecast(market, *arguments)
