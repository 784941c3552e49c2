"""The champion's forecast to a row of the table, once for each key."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

from prefect import task

from storage.home import Home
from storage.models import Models
from storage.predictions import Predictions
from storage.prices import Prices
from tasks.forecast import forecast_article
from tasks.steps import STEP

log = logging.getLogger("closecast.publish")

INTERVALS = ("50", "80", "95")


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
    prediction_id: str,
    model_version: str,
    data_version: str,
    settings_version: str,
    code_version: str,
    created_at: datetime,
    flow_run_id: str | None,
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
    version = models.version(product_id, profile, model_version)
    bundle = models.open(version)
    with Prices(home) as prices:
        closes = prices.closes_at(data_version)
    said = forecast_article(bundle, closes)
    models.promote(version)
    row: Mapping[str, Any] = {
        "prediction_id": prediction_id,
        "product_id": product_id,
        "origin_day": origin,
        "target_day": origin + timedelta(days=horizon),
        "horizon": horizon,
        "profile": profile,
        "model_version": model_version,
        "data_version": data_version,
        "settings_version": settings_version,
        "code_version": code_version,
        "last_close_usd": said.last_close_usd,
        "point_usd": said.point_usd,
        **{f"{side}_{level}_usd": None for level in INTERVALS for side in ("lower", "upper")},
        "quantile_levels": None,
        "quantiles_usd": None,
        "created_at": created_at,
        "flow_run_id": flow_run_id,
    }
    table = Predictions(home)
    published = table.publish(row)
    if not published.new:
        return table.find(prediction_id) or dict(row)
    log.info(
        "%s: forecast for %s written to the table (%s)",
        product_id,
        row["target_day"],
        "published" if published.revision == 0 else f"revision {published.revision}",
    )
    return {**row, "revision": published.revision}


look_up = task(name="look-up-forecast", timeout_seconds=60, **STEP)(find_prediction)
publish = task(
    name="publish-forecast", task_run_name="publish-forecast {product_id}", timeout_seconds=600, **STEP
)(publish_prediction)
