"""The champion's forecast to a row of the table, once for each key."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any, TypedDict, Unpack

from prefect import task
from prefect.assets import materialize

from storage.core.home import Home
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from tasks.calibration.calibrator_states import OWN, first_state, state_at
from tasks.calibration.quantile_tracker import to_price
from tasks.core.assets import FORECAST, noting
from tasks.core.quantiles import BANDS, LEVELS
from tasks.core.steps import STEP
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble_io import read_ensemble
from tasks.profiles.forecast_models import (
    DistributionForecast,
    forecast_article,
    forecast_calibrated,
    read_article,
)
from tasks.profiles.min_max import Floats

log = logging.getLogger("closecast.publish")

INTERVALS = (50, 80, 95)


class Made(TypedDict):
    """What a forecast is made of and by, a column of its row each."""

    prediction_id: str
    model_version: str
    data_version: str
    settings_version: str
    code_version: str
    created_at: datetime
    flow_run_id: str | None


def prediction_key(
    *,
    product_id: str,
    origin: date,
    profile: str,
    data_version: str,
    settings_version: str,
    code_version: str,
) -> str:
    """The digest of what goes into a run: the same key, the same forecast, so it is made once."""
    parts = [product_id, origin.isoformat(), profile, data_version, settings_version, code_version]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def find_prediction(
    home: Home, prediction_id: str, *, product_id: str, target_day: date
) -> dict[str, Any] | None:
    """The stored forecast of that key, or None."""
    return Predictions(home).find(prediction_id, product_id=product_id, target_day=target_day)


def publish_prediction(
    home: Home,
    product_id: str,
    profile: str,
    *,
    origin: date,
    horizon: int,
    **made: Unpack[Made],
) -> dict[str, Any]:
    """Promote the model version, forecast with it, and add the row unless it is there.

    The champion moves before its first forecast is written and after its bundle is whole, so a run that is
    killed in between leaves a champion that the next run forecasts with.

    Returns:
        The stored row.

    Raises:
        Damaged: the bundle or the closes are not what was recorded.
        HomeUnusable: the table cannot be written.
    """
    models = Models(home)
    version = models.version(product_id, profile, made["model_version"])
    bundle = models.open(version)
    with Prices(home) as prices:
        closes = prices.closes_at(made["data_version"])
    said = forecast_article(read_article(bundle), closes)
    models.promote(version)
    row = row_of(
        (product_id, profile, origin, horizon),
        (said.last_close, said.point, None),
        made,
    )
    return _write(home, row)


def publish_distribution(
    home: Home,
    product_id: str,
    *,
    origin: date,
    settings: Mapping[str, Any],
    **made: Unpack[Made],
) -> dict[str, Any]:
    """Forecast with the champion and the tracker, and add the row and what stands beside it.

    The components are written first: a row of the table always has its own.

    Returns:
        The stored row.

    Raises:
        Damaged: the bundle or the closes are not what was recorded.
        HomeUnusable: a table cannot be written.
        NotEnoughHistory: a gap in the input window.
    """
    recipe = Recipe.model_validate(dict(settings))
    models = Models(home)
    stored = read_ensemble(
        models.open(models.version(product_id, recipe.name, made["model_version"])), recipe
    )
    with Prices(home) as prices:
        candles = prices.closes_at(made["data_version"])
    state = state_at(home, product_id, recipe, origin) or first_state(
        home, product_id, recipe, origin, stored.quantile_offsets, made["created_at"]
    )
    said = forecast_calibrated(stored.ensemble, state.quantile_offsets, candles, recipe)
    asked: dict[str, Any] = {"product_id": product_id, "prediction_id": made["prediction_id"]}
    asked["horizon"] = recipe.horizon
    asked["target_day"] = origin + timedelta(days=recipe.horizon)
    components(home).add(beside(asked, said, state.calibrator_version))
    row = row_of(
        (product_id, recipe.name, origin, recipe.horizon),
        (said.last_close, said.point, said.quantiles),
        made,
    )
    return _write(home, row)


def beside(
    asked: Mapping[str, Any], said: DistributionForecast, calibrator_version: str
) -> list[dict[str, Any]]:
    """The rows of what stands beside a forecast: the ensemble's own word, and each baseline's.

    Args:
        asked: `product_id`, `prediction_id` and `target_day` of the forecast.
        said: the forecast.
        calibrator_version: the state that it was made with.
    """
    methods = {OWN: said.said.own, **said.said.baselines}
    return [
        {
            **{name: asked[name] for name in ("prediction_id", "product_id", "target_day", "horizon")},
            "component": method,
            "sigma": float(said.said.scales[0]),
            "calibrator_version": calibrator_version if method == OWN else None,
            "quantiles": to_price(quantiles[0], said.last_close).tolist(),
        }
        for method, quantiles in methods.items()
    ]


def row_of(
    asked: tuple[str, str, date, int], said: tuple[float, float, Floats | None], made: Made
) -> dict[str, Any]:
    """A row of the table; without quantiles its intervals are null.

    Args:
        asked: product, profile, origin and horizon.
        said: last close, point, and quantiles in USD, (23,).
        made: the id, the versions, when and by which run.
    """
    product_id, profile, origin, horizon = asked
    last_close, point, quantiles = said
    row: dict[str, Any] = {
        **made,
        "product_id": product_id,
        "quote_currency": product_id.partition("-")[2],
        "basis": "model",
        "origin_day": origin,
        "target_day": origin + timedelta(days=horizon),
        "horizon": horizon,
        "profile": profile,
        "last_close": last_close,
        "point": point,
        "quantile_levels": None if quantiles is None else list(LEVELS),
        "quantiles": None if quantiles is None else quantiles.tolist(),
    }
    for percent in INTERVALS:
        for side, place in zip(("lower", "upper"), BANDS[percent], strict=True):
            bound = None if quantiles is None else float(quantiles[place])
            row[f"{side}_{percent}"] = bound
    return row


def _write(home: Home, row: Mapping[str, Any]) -> dict[str, Any]:
    """Add the row unless its id is there; the stored one."""
    (stored,) = Predictions(home).publish([row])
    log.info(
        "%s: forecast for %s written to the table (%s)",
        row["product_id"],
        row["target_day"],
        f"revision {stored['revision']}" if stored["revision"] else "published",
    )
    return stored


look_up = task(
    name="look-up-forecast", task_run_name="look-up-forecast {product_id}", timeout_seconds=60, **STEP
)(find_prediction)


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("prediction_id", "target_day", "revision", "point", "lower_80", "upper_80")
    return {name: row[name] for name in (*names, "model_version", "data_version", "code_version")}


publishing = materialize(
    FORECAST,
    name="publish-forecast",
    task_run_name="publish-forecast {product_id}",
    timeout_seconds=600,
    **STEP,
)
publish = publishing(noting(publish_prediction, _facts))
publish_calibrated = publishing(noting(publish_distribution, _facts))
