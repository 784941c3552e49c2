"""The day: closes in, one versioned forecast out."""

from __future__ import annotations

import logging
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from pydantic import Field

from flows import clock
from flows.scoring import score_stored
from flows.settings import (
    DEFAULT_PROFILE,
    SAMPLE,
    SAMPLE_PRODUCT,
    Article,
    Market,
    Profile,
    ProfileName,
    environment,
    home_at,
    profile_named,
)
from storage.core.errors import BadDay, BadFile, BadProduct, NotEnoughHistory, StaleSeries
from storage.core.home import Home
from storage.core.logs import hide_timeout_warnings
from storage.core.provenance import code_version
from storage.locks.locks import product_lock
from tasks.core.assets import closes_asset, forecast_asset, making, model_asset
from tasks.core.steps import FLOW
from tasks.evaluation.scoring import score
from tasks.forecast.backfill import find_missed
from tasks.forecast.publish import look_up, prediction_key, publish, publish_calibrated
from tasks.prices.ingest_coinbase import fetch_candles
from tasks.prices.ingest_csv import read_database, read_file
from tasks.prices.series import Series, source_of
from tasks.profiles.article_fit import min_days
from tasks.profiles.article_refit import refit
from tasks.report.page import write_page
from tasks.report.prefect_artifacts import show_artifacts
from tasks.training.selection import ModelSelection, choose
from tasks.upkeep.pruning import few_files_step

log = logging.getLogger("closecast.daily")


def _run_name() -> str:
    given = flow_run.get_parameters()
    market = given.get("market") or Market()
    product_id = market["product_id"] if isinstance(market, dict) else market.product_id
    return f"{product_id} {given.get('origin') or 'newest day'}"


@flow(name="daily-forecast", flow_run_name=_run_name, **FLOW)
def daily_forecast(
    market: Market | None = None,
    profile: ProfileName = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    origin: date | None = None,
    home: str | None = None,
    backfill_days: Annotated[int, Field(ge=0, le=366)] = 0,
) -> str:
    """Make the forecast of one product for the day after its origin, once.

    Args:
        market: which prices, and where they come from.
        profile: the recipe.
        settings: fields of the profile to set otherwise.
        origin: the last day that the run may know; the newest complete one by default.
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        backfill_days: after an outage, also make the forecasts of so many missed days, each from the closes that
            were known on its own day; `created_at` tells them from forecasts that came in time.

    Returns:
        The `prediction_id` of the forecast.
    """
    speak_up()
    market, recipe, moment = market or Market(), profile_named(profile, settings), clock.now()
    place = home_at(home)
    require_finished(origin, moment)
    place.prepare()
    with product_lock(place, market.product_id):
        try:
            series = append_closes(place, market, recipe, origin, moment)
        except (NotEnoughHistory, StaleSeries):
            if origin is None:  # a gap keeps back the forecast, not the scores of those whose day has come
                score_stored(place, market.product_id, recipe, moment)
            raise
        name_run(series)
        fill_in(place, series, recipe, backfill_days, moment)
        row, choice = forecast_once(place, series, recipe, moment)
        if choice:
            show_artifacts(place, row, series, choice.warning)
            few_files_step.submit(place, series.product_id).result()
        # Last, so that a page that cannot be written costs nothing but the page.
        write_page.submit(place, row, day=moment.date()).result()
        return str(row["prediction_id"])


def forecast_once(
    place: Home, series: Series, recipe: Profile, moment: datetime
) -> tuple[dict[str, Any], ModelSelection | None]:
    """The forecast from a series' last day, and how its model was chosen: None when it was there before."""
    key = run_key(series, recipe)
    target = series.origin + timedelta(days=recipe.horizon)
    known = look_up(place, key["prediction_id"], product_id=series.product_id, target_day=target)
    if known:
        log.info("%s: nothing new, the forecast for %s stands", series.product_id, known["target_day"])
        return known, None
    score_due(place, series, recipe, moment)
    choice = keep_or_challenge(place, series, recipe, key, moment)
    return publish_forecast(place, series, recipe, key, choice, moment), choice


def fill_in(place: Home, series: Series, recipe: Profile, backfill_days: int, moment: datetime) -> None:
    """Make the forecasts of the days that were missed, oldest first, so that each learns from those before.

    A day that has too few days before it, or a gap, stays without one.
    """
    if not backfill_days:
        return
    days = find_missed(place, series.product_id, recipe.name, origin=series.origin, most=backfill_days)
    if days:
        log.info("%s: filling in what was missed, %d days from %s on", series.product_id, len(days), days[0])
    for day in days:
        try:
            missed = read_database.submit(
                place, series.product_id, origin=day, observed_at=moment, **days_needed(recipe)
            ).result()
            forecast_once(place, missed, recipe, moment)
        except NotEnoughHistory as error:
            log.warning("%s: no forecast from %s is filled in: %s", series.product_id, day, error)


def speak_up() -> None:
    """Let closecast's own lines into the run's log: Prefect gives an extra logger a handler, but no level."""
    hide_timeout_warnings()
    ours = logging.getLogger("closecast")
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)


def require_finished(origin: date | None, moment: datetime) -> None:
    """Refuse an origin that is not over.

    Raises:
        BadDay: today by UTC, or later.
    """
    last = clock.last_complete_day(moment)
    if origin and origin > last:
        raise BadDay(
            f"{origin} is not over: the last complete UTC day is {last}, choose --as-of {last} or earlier"
        )


def append_closes(
    home: Home, market: Market, recipe: Profile, origin: date | None, moment: datetime
) -> Series:
    """Bring the product's closes up to the origin from its source.

    Raises:
        BadFile: a file was named that the source does not read.
    """
    needed, closes = days_needed(recipe), closes_asset(market.product_id)
    source = market.source or ("csv" if market.csv else source_of(home, market.product_id) or "sample")
    if market.csv and source != "csv":
        raise BadFile(f"--csv goes with the source csv, not {source}: leave one of them out")
    if source == "coinbase":
        fetched = making(fetch_candles, closes)
        return fetched.submit(
            home,
            market.product_id,
            base_url=environment().coinbase_url,
            origin=origin or clock.last_complete_day(moment),
            observed_at=moment,
            replace_source=market.replace_source,
            **needed,
        ).result()
    kind, path = _file_of(market, source)
    if path is None:
        return read_database.submit(
            home, market.product_id, origin=origin, observed_at=moment, **needed
        ).result()
    read = making(read_file, closes)
    return read.submit(
        home,
        market.product_id,
        source=kind,
        path=path,
        origin=origin,
        last_finished_day=clock.last_complete_day(moment),
        observed_at=moment,
        on_duplicate=market.on_duplicate,
        replace_source=market.replace_source,
        **needed,
    ).result()


def days_needed(recipe: Profile) -> dict[str, int]:
    """How many closes the profile needs up to the origin, and how many of them without a gap."""
    if not isinstance(recipe, Article):  # a return on the window's first day needs the day before
        return {"min_days": recipe.min_days, "consecutive_days": recipe.lookback + 1}
    fewest = min_days(
        lookback=recipe.lookback,
        horizon=recipe.horizon,
        train_share=recipe.train_share,
        validation_split=recipe.validation_split,
    )
    return {"min_days": fewest, "consecutive_days": recipe.lookback}


def _file_of(market: Market, source: str) -> tuple[Literal["sample", "csv"], Path | None]:
    """The source and its file; None where the stored closes are meant.

    Raises:
        BadProduct: the sample is of another product.
    """
    if source == "csv":
        return "csv", market.csv
    if market.product_id != SAMPLE_PRODUCT:
        raise BadProduct(
            f"the sample holds {SAMPLE_PRODUCT}, not {market.product_id}:"
            " name a file with --csv, or --source coinbase"
        )
    return "sample", SAMPLE


def name_run(series: Series) -> None:
    """Give the flow run its product and day, now that the day is known."""
    run_id = flow_run.get_id()
    if run_id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run_id), name=f"{series.product_id} {series.origin}")


def run_key(series: Series, recipe: Profile) -> dict[str, str]:
    """What goes into the run, and the id that it gives the forecast."""
    parts = {
        "data_version": series.data_version,
        "settings_version": recipe.version,
        "code_version": code_version(),
    }
    prediction_id = prediction_key(
        product_id=series.product_id, origin=series.origin, profile=recipe.name, **parts
    )
    return {"prediction_id": prediction_id, **parts}


def score_due(home: Home, series: Series, recipe: Profile, moment: datetime) -> None:
    """Score the forecasts whose day has come, and let the tracker learn from them."""
    score.submit(
        home,
        series.product_id,
        data_version=series.data_version,
        settings=None if isinstance(recipe, Article) else recipe.model_dump(mode="json"),
        moment=moment,
    ).result()


def keep_or_challenge(
    home: Home, series: Series, recipe: Profile, key: dict[str, str], moment: datetime
) -> ModelSelection:
    """The version that forecasts; the article's is trained anew on every data version."""
    closes, model = closes_asset(series.product_id), model_asset(series.product_id, recipe.name)
    if isinstance(recipe, Article):
        trained = making(refit, model, closes)
        version = trained.submit(
            home,
            series.product_id,
            recipe.name,
            data_version=key["data_version"],
            settings=recipe.model_dump(mode="json"),
            settings_version=key["settings_version"],
            code_version=key["code_version"],
        ).result()
        return ModelSelection(version, "the article trains on all that is known")
    chosen = making(choose, model, closes)
    return chosen.submit(
        home,
        series.product_id,
        data_version=key["data_version"],
        settings=recipe.model_dump(mode="json"),
        code_version=key["code_version"],
        moment=moment,
    ).result()


def publish_forecast(
    home: Home, series: Series, recipe: Profile, key: dict[str, str], choice: ModelSelection, moment: datetime
) -> dict[str, Any]:
    """The champion's forecast, written to the table."""
    made: dict[str, Any] = {**key, "model_version": choice.version}
    made |= {"created_at": moment, "flow_run_id": flow_run.get_id()}
    closes, model = closes_asset(series.product_id), model_asset(series.product_id, recipe.name)
    forecast = forecast_asset(series.product_id, recipe.name)
    if isinstance(recipe, Article):
        point = making(publish, forecast, model, closes)
        return point.submit(  # type: ignore[no-any-return]
            home,
            series.product_id,
            recipe.name,
            origin=series.origin,
            horizon=recipe.horizon,
            **made,
        ).result()
    distribution = making(publish_calibrated, forecast, model, closes)
    return distribution.submit(  # type: ignore[no-any-return]
        home,
        series.product_id,
        origin=series.origin,
        settings=recipe.model_dump(mode="json"),
        **made,
    ).result()
