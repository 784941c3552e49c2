"""Homes with forecasts, scores and a model for the tests of the report; nothing is trained for them."""

from __future__ import annotations

import functools
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.core.home import Home
from storage.models.registry import Models
from storage.models.version import ModelVersion
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, MEDIAN
from tasks.profiles.baselines import BASELINES
from tests.calibrated import spread
from tests.helpers import BTC, NOW, SHA, made_up, publish_all, store, without

DAYS = 420
HOLE = (pd.Timestamp("2020-01-20").date(), pd.Timestamp("2020-01-22").date())
# The day that the newest forecast is for.
DAY = date(2020, 2, 25)
CODE = "0.0.0+test"
LOSSES = {
    "calibrated": {
        "members": [
            {"loss": [1.5, 1.4, 1.35], "val_loss": [1.45, None, 1.41], "best_epoch": 3},
            {"loss": [1.6, 1.3], "val_loss": [1.5, 1.42], "best_epoch": 2},
        ]
    },
    "article": {"loss": [0.1, 0.02, 0.01], "val_loss": [0.2, 0.05, 0.04]},
}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c6350485800"
    "0001c40121625f8afd0000000049454e44ae426082"
)


def put_model(
    home: Home,
    product_id: str = BTC,
    profile: str = "calibrated",
    key: str = "one",
    lineage: dict[str, Any] | None = None,
    **tags: str,
) -> ModelVersion:
    """A model version without weights: what a page reads of it."""
    models = Models(home)
    lineage = {"gaps": [[str(HOLE[0]), str(HOLE[1])]], **(lineage or {})}
    if profile == "article":
        lineage["metrics"] = {"test_rmse": 1088.25, "naive_rmse": 392.5}
    with models.draft(product_id, profile) as draft:
        draft.write_json("settings.json", {"max_model_age_days": 180} if profile == "calibrated" else {})
        draft.write_json("lineage.json", lineage)
        draft.write_json("losses.json", LOSSES[profile])
        for name in ("prices", "losses", "predicted") if profile == "article" else ("losses",):
            draft.write(f"figures/{name}.png", PIXEL)
        return models.register(
            draft,
            product_id=product_id,
            profile=profile,
            key=key,
            tags={"training_kind": "refit", "code_version": CODE, **tags},
            params={},
            metrics={},
            curves={},
        )


def put_days(
    home: Home,
    candles: pd.DataFrame,
    data_version: str,
    count: int,
    *,
    product_id: str = BTC,
    profile: str = "calibrated",
    **changed: object,
) -> list[dict[str, Any]]:
    """Forecasts from the last `count` days, the last one of them not scored yet, oldest first."""
    rows, beside = [], []
    for place in range(len(candles) - count, len(candles)):
        origin = candles["day_utc"].iloc[place].date()
        last = float(candles["close"].iloc[place])
        said = spread(last) if profile == "calibrated" else None
        row: dict[str, Any] = {
            "prediction_id": f"{product_id}-{profile}-{origin}",
            "product_id": product_id,
            "origin_day": origin,
            "target_day": origin + timedelta(days=1),
            "horizon": 1,
            "profile": profile,
            "model_version": "1",
            "data_version": data_version,
            "settings_version": f"{profile}-1",
            "code_version": CODE,
            "last_close": last,
            "point": said[MEDIAN] if said else last * 1.01,
            **{
                f"{side}_{percent}": said[INTERVAL_INDEXES[percent][end]] if said else None
                for percent in (50, 80, 95)
                for end, side in enumerate(("lower", "upper"))
            },
            "quantile_levels": list(LEVELS) if said else None,
            "quantiles": said,
            "created_at": pd.Timestamp(origin, tz="UTC") + pd.Timedelta(hours=24.25),
            "flow_run_id": None,
            **changed,
        }
        rows.append(row)
        names = ("prediction_id", "product_id", "target_day")
        beside += [
            {
                **{name: row[name] for name in names},
                "component": method,
                "sigma": 0.03,
                "calibrator_version": "made-up" if method == "lstm" else None,
                "quantiles": spread(last, sd=0.02 + 0.005 * number),
            }
            for number, method in enumerate(("lstm", *BASELINES))
            if said
        ]
    if count > 1:
        publish_all(home, rows)
    else:  # perhaps a revision
        Predictions(home).publish([rows[0]])
    if beside:
        components(home).add(beside)
    return rows


def score_all(home: Home, data_version: str, product_id: str = BTC) -> None:
    """Score every forecast whose close is known."""
    from tasks.evaluation.scoring import score_and_track

    score_and_track(home, product_id, data_version=data_version, settings=None, moment=NOW)


def put_product(
    home: Home,
    product_id: str = BTC,
    profile: str = "calibrated",
    *,
    count: int = 120,
    seed: int = 1,
    price: float = 1.0,
) -> pd.DataFrame:
    """Closes with a gap, times `price`, a model, forecasts and their scores; returns the closes."""
    candles = without(made_up(DAYS, seed=seed), *HOLE)
    candles[["open", "high", "low", "close"]] *= price
    data_version = store(home, candles, product_id=product_id)
    origin = candles["day_utc"].iloc[-40].date()
    tags = {"origin_day": str(origin), "trained_through": str(origin)} if profile == "calibrated" else {}
    put_model(home, product_id, profile, data_version=data_version, **tags)
    put_days(home, candles, data_version, count, product_id=product_id, profile=profile)
    score_all(home, data_version, product_id)
    return candles


@functools.cache
def _empty(folder: Path) -> Path:
    home = Home(folder / "empty").prepare()
    assert Models(home).client.search_registered_models() == []  # MLflow takes seconds to make its own
    return home.root


@functools.cache
def _full(folder: Path) -> Path:
    home = empty_home_in(folder, folder / "pages")
    put_product(home)
    return home.root


def empty_home_in(folder: Path, place: Path) -> Home:
    """As `empty_home`, of that folder of the session."""
    shutil.copytree(_empty(folder), place)
    return Home(place)


def empty_home(factory: pytest.TempPathFactory, place: Path) -> Home:
    """A home in `place` with a registry and nothing else."""
    return empty_home_in(factory.getbasetemp(), place)


def full_home(factory: pytest.TempPathFactory, place: Path) -> Home:
    """A home in `place` with 120 forecasts of BTC-USD, 119 scored; made once a session."""
    shutil.copytree(_full(factory.getbasetemp()), place)
    return Home(place)


def spoil(home: Home, raw: str, product_id: str = BTC) -> None:
    """Set a row aside that says `raw`, and restate a close."""
    reason = {"day_utc": "2019-05-01", "raw": raw, "reason": raw}
    row = made_up(DAYS).iloc[[100]].assign(close=1234.5)
    with Prices(home) as prices:
        prices.append(
            product_id,
            row,
            source="csv",
            observed_at=NOW,
            payload_sha256=SHA,
            quarantined=pd.DataFrame([reason]),
        )


def closes_of(home: Home, data_version: str) -> np.ndarray:
    """The closes in USD of a data version."""
    with Prices(home) as prices:
        return prices.closes_at(data_version)["close"].to_numpy()
