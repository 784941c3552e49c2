"""Homes with forecasts, scores and a model for the tests of the report; nothing is trained for them."""

from __future__ import annotations

import math
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.models.training_run import TrainingRun
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import components
from closecast.tasks.core.forecast import Forecast, HorizonForecast
from closecast.tasks.core.model import Lineage, TwinLineage
from closecast.tasks.core.quantiles import MEDIAN
from closecast.tasks.evaluation.scoring import score_due
from closecast.tasks.forecast.publish import component_rows
from closecast.tasks.prices.ingest import IngestRequest, read_stored
from closecast.tasks.profiles.baselines import baselines_of
from closecast.tasks.profiles.named import profile_named
from tests.calibrated import spread
from tests.helpers import BTC, NOW, SHA, made_up, publish_all, store, without
from tests.once import made_once, session_folder

DAYS = 420
GAP = (date(2020, 1, 20), date(2020, 1, 22))
# The day that the newest forecast is for.
DAY = date(2020, 2, 25)
CODE = "0.0.0+test"
HORIZONS = (1, 2, 3, 7, 30)
LOSSES: dict[str, list[dict[str, Any]]] = {
    "calibrated": [
        {"loss": [1.5, 1.4, 1.35], "val_loss": [1.45, None, 1.41], "best_epoch": 3},
        {"loss": [1.6, 1.3], "val_loss": [1.5, 1.42], "best_epoch": 2},
    ],
    "article": [{"loss": [0.1, 0.02, 0.01], "val_loss": [0.2, 0.05, 0.04], "best_epoch": 3}],
}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c6350485800"
    "0001c40121625f8afd0000000049454e44ae426082"
)


def lineage(data_version: str, origin: date, product_id: str = BTC, profile: str = "calibrated") -> Lineage:
    """The lineage of a refit on an origin."""
    return Lineage(
        product_id=product_id,
        profile=profile,
        data_version=data_version,
        settings_version=f"{profile}-1",
        recipe_version="recipe-1",
        code_version=CODE,
        training_kind="refit",
        parent=None,
        series="csv@0",
        origin_day=origin,
        trained_through=origin,
        weights_sha256="cd" * 32,
        gaps=(GAP,),
        twin=TwinLineage(180, origin - timedelta(days=180), "ef" * 32, 3)
        if profile == "calibrated"
        else None,
        metrics={"test_rmse": 1088.25, "naive_rmse": 392.5} if profile == "article" else {},
    )


def put_model(home: Home, made_from: Lineage) -> None:
    """A model version without weights: what a page reads of it."""
    models, profile = Models(home), made_from.profile
    with models.draft(made_from.product_id, profile) as draft:
        draft.write_json("settings.json", {"max_model_age_days": 180} if profile == "calibrated" else {})
        draft.write_json("lineage.json", made_from.to_json())
        draft.write_json("losses.json", _losses(made_from))
        for name in ("prices", "losses", "predicted") if profile == "article" else ("losses",):
            draft.write(f"figures/{name}.png", PIXEL)
        models.register(draft, made_from.product_id, profile, TrainingRun("one"), tags=made_from.tags())


def _losses(made_from: Lineage) -> dict[str, Any]:
    losses = LOSSES[made_from.profile]
    if made_from.twin is None:
        return {"networks": losses}
    return {"networks": [{**one, "val_loss": [None] * len(one["loss"])} for one in losses], "twin": losses}


def one_day(
    prediction_id: str, origin: date, horizon: int, last_close: float, profile: str, point: float | None
) -> HorizonForecast:
    """The forecast of one horizon: wider the further ahead, or the article's point."""
    shared: Any = {
        "prediction_id": prediction_id if horizon == 1 else f"{prediction_id}+{horizon}",
        "horizon": horizon,
        "target_day": origin + timedelta(days=horizon),
    }
    if profile != "calibrated":
        return HorizonForecast(**shared, point=point or last_close * 1.01)
    root = math.sqrt(horizon)
    quantiles = tuple(spread(last_close, sd=0.03 * root))
    sds = {name: 0.02 + 0.005 * number for number, name in enumerate(("lstm", *baselines_of(horizon)))}
    return HorizonForecast(
        **shared,
        point=point or quantiles[MEDIAN],
        quantiles=quantiles,
        sigma=0.03 * root,
        components={name: tuple(spread(last_close, sd=sd * root)) for name, sd in sds.items()},
    )


def put_forecasts(
    home: Home,
    candles: pd.DataFrame,
    data_version: str,
    count: int,
    *,
    product_id: str = BTC,
    profile: str = "calibrated",
    created_at: datetime | None = None,
    **changed: Any,
) -> list[Forecast]:
    """Forecasts from the last `count` days, the last one of them without an outcome, oldest first.

    `changed` are other `horizons` (days ahead), or fields of all the forecasts.
    """
    horizons = changed.get("horizons", HORIZONS if profile == "calibrated" else (1,))
    forecasts = []
    for day, last_close in candles[["day_utc", "close"]].tail(count).itertuples(index=False):
        origin = day.date()
        prediction_id = changed.get("prediction_id", f"{product_id}-{profile}-{origin}")
        forecast = Forecast(
            product_id=product_id,
            origin_day=origin,
            profile=profile,
            model_version=None if changed.get("basis") == "fallback" else "1",
            basis=changed.get("basis", "model"),
            data_version=data_version,
            settings_version=changed.get("settings_version", f"{profile}-1"),
            code_version=changed.get("code_version", CODE),
            last_close=float(last_close),
            created_at=created_at or (day.tz_localize("UTC") + pd.Timedelta(hours=24.25)).to_pydatetime(),
            flow_run_id=changed.get("flow_run_id"),
            horizons=tuple(
                one_day(prediction_id, origin, horizon, float(last_close), profile, changed.get("point"))
                for horizon in horizons
            ),
        )
        forecasts.append(forecast)
    if count > 1:
        publish_all(home, [row for forecast in forecasts for row in forecast.rows()])
    else:  # perhaps a revision
        Predictions(home).publish(forecasts[0].rows())
    rows = [row for forecast in forecasts for row in component_rows(profile_named(profile), forecast)]
    if rows:
        components(home).add(rows)
    return forecasts


def put_product(
    home: Home,
    product_id: str = BTC,
    profile: str = "calibrated",
    *,
    count: int = 120,
    seed: int = 1,
    price: float = 1.0,
) -> None:
    """Closes with a gap, times `price`, a model, forecasts and their scores."""
    candles = without(made_up(DAYS, seed=seed), *GAP)
    candles[["open", "high", "low", "close"]] *= price
    data_version = store(home, candles, product_id=product_id)
    # The article is trained for each forecast, the calibrated profile now and then.
    origin = candles["day_utc"].iloc[-40 if profile == "calibrated" else -1].date()
    put_model(home, lineage(data_version, origin, product_id, profile))
    put_forecasts(home, candles, data_version, count, product_id=product_id, profile=profile)
    history = read_stored(home, IngestRequest(product_id, None, NOW, DAY)).history
    score_due(home, history, profile_named(profile), NOW)


def empty_home(factory: pytest.TempPathFactory, folder: Path) -> Home:
    """A home in `folder` with a registry and nothing else."""
    home = Home(folder).prepare()
    assert Models(home).client.search_registered_models() == []
    return home


def full_home(factory: pytest.TempPathFactory, folder: Path) -> Home:
    """A home in `folder` with 120 forecasts of BTC-USD, 118 scored; made once a session."""
    root = session_folder(factory) / "pages"
    made_once(root, lambda root: put_product(Home(root).prepare()))
    shutil.copytree(root, folder)
    return Home(folder)


def spoil(home: Home, raw: str) -> None:
    """Quarantine a row of BTC-USD with that text, and restate a close."""
    rejected = pd.DataFrame([{"day_utc": "2019-05-01", "raw": raw, "reason": raw}])
    restated = made_up(DAYS).iloc[[100]].assign(close=1234.5)
    page: dict[str, Any] = {"source": "csv", "observed_at": NOW, "payload_sha256": SHA}
    with Prices(home) as prices:
        prices.append(BTC, restated, quarantined=rejected, **page)
