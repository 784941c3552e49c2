"""Forecasts whose day has come, beside the close that came."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
from prefect import task

from storage.home import Home
from storage.predictions import Predictions
from storage.prices import Prices
from storage.scores import Scores
from tasks.recipe import Recipe
from tasks.scale import Floats
from tasks.scoreboard import Scoreboard, scoreboard
from tasks.steps import STEP
from tasks.track import advance_tracker

log = logging.getLogger("closecast.score")

NAIVE = "last_close_250"


def score_due(home: Home, product_id: str, *, data_version: str, moment: datetime) -> int:
    """Score the product's forecasts whose target day is among the closes; returns how many rows that added.

    A forecast that was scored with the same close adds nothing, one whose close was restated a new row.

    Args:
        home: prepared, with the product's lock held.
        product_id: whose forecasts, of every profile.
        data_version: of the closes up to the origin.
        moment: of scoring.
    """
    with Prices(home) as prices:
        candles = prices.closes_at(data_version)
    last = candles["day_utc"].iloc[-1].date()
    forecasts = Predictions(home).between(product_id, last=last).to_pylist()
    if not forecasts:
        return 0
    closes = dict(zip(candles["day_utc"].dt.date, candles["close_usd"], strict=True))
    known = {row["prediction_id"]: row["close_usd"] for row in Scores(home).newest(product_id).to_pylist()}
    due = [
        row
        for row in forecasts
        if row["target_day"] in closes and known.get(row["prediction_id"]) != closes[row["target_day"]]
    ]
    rows = [
        {
            **_score(row, float(closes[row["target_day"]]), _naive_quantiles(candles, row["origin_day"])),
            "data_version": data_version,
            "scored_at": moment,
        }
        for row in due
    ]
    added = Scores(home).add(rows)
    if added:
        log.info("%s: forecasts scored: %d", product_id, added)
    return added


def _score(row: Mapping[str, Any], close: float, naive: Floats | None) -> dict[str, object]:
    """One forecast's figures; CRPS and PIT are of the log return, None for a point without intervals."""
    from tasks.quantiles import crps, inside, pit

    last = row["last_close_usd"]
    came = np.log([close / last])
    score: dict[str, object] = {
        "prediction_id": row["prediction_id"],
        "product_id": row["product_id"],
        "target_day": row["target_day"],
        "close_usd": close,
        "error_usd": row["point_usd"] - close,
        "naive_error_usd": last - close,
        "crps": None,
        "naive_crps": None if naive is None else float(crps(came, naive)[0]),
        **{f"hit_{percent}": None for percent in (50, 80, 95)},
        "pit": None,
    }
    if row["quantiles_usd"] is None:
        return score
    said = np.log(np.array([row["quantiles_usd"]]) / last)
    usd = np.array([row["quantiles_usd"]])
    return {
        **score,
        "crps": float(crps(came, said)[0]),
        # In USD, as the intervals stand in the table: no rounding comes between.
        **{f"hit_{percent}": bool(inside(np.array([close]), usd, percent)[0]) for percent in (50, 80, 95)},
        "pit": float(pit(came, said)[0]),
    }


def _naive_quantiles(candles: pd.DataFrame, origin: date) -> Floats | None:
    """What the last close and its newest 250 returns would have said, (1, 23); None where there are fewer."""
    from storage.errors import NotEnoughHistory
    from tasks.baselines import baseline_quantiles

    rows = np.flatnonzero(candles["day_utc"].to_numpy() == np.datetime64(origin))
    if not len(rows):  # the origin's candle went with its series
        return None
    try:
        return baseline_quantiles(candles, rows, methods=(NAIVE,))[NAIVE]
    except NotEnoughHistory:
        return None


def board_of(home: Home, product_id: str, profile: str) -> Scoreboard:
    """The scoreboard of a product's published forecasts of one profile, each with its newest score."""
    published = {
        row["prediction_id"]
        for row in Predictions(home).between(product_id, profile=profile).to_pylist()
        if row["revision"] == 0
    }
    rows = Scores(home).newest(product_id).to_pandas()
    return scoreboard(rows[rows["prediction_id"].isin(published)].reset_index(drop=True))


def score_and_track(
    home: Home, product_id: str, *, data_version: str, settings: Mapping[str, Any] | None, moment: datetime
) -> int:
    """Score what is due, then advance the recipe's tracker by it.

    Args:
        home: prepared, with the product's lock held.
        product_id: whose forecasts.
        data_version: of the closes up to the origin.
        settings: of the recipe whose tracker is advanced; None where the profile has none.
        moment: of the run.
    """
    added = score_due(home, product_id, data_version=data_version, moment=moment)
    if settings is not None:
        with Prices(home) as prices:
            origin = prices.closes_at(data_version)["day_utc"].iloc[-1].date()
        advance_tracker(home, product_id, Recipe.model_validate(dict(settings)), origin, moment)
    return added


score = task(name="score-due", task_run_name="score-due {product_id}", timeout_seconds=300, **STEP)(
    score_and_track
)
