"""Forecasts whose target day has come, scored against its close."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds

from storage.core.errors import NotEnoughHistory
from storage.core.home import Home
from storage.core.intervals import INTERVALS
from storage.tables.predictions import Predictions
from storage.tables.scores import Scores
from tasks.calibration.calibrator_states import advance_states
from tasks.core.forecast import Score
from tasks.core.history import PriceHistory
from tasks.core.quantiles import covered, crps, pit
from tasks.core.steps import step
from tasks.core.types import Floats
from tasks.evaluation.scoreboard import COLUMNS, Scoreboard, scoreboard
from tasks.forecast.publish import chain_of
from tasks.profiles.base import Profile
from tasks.profiles.baselines import baseline_quantiles

log = logging.getLogger("closecast.scoring")

NAIVE = "last_close_250"
# The columns of a forecast that its score is made from.
FORECAST_COLUMNS = (
    *("prediction_id", "product_id", "origin_day", "target_day", "horizon", "last_close", "point"),
    "quantiles",
)


@step(timeout_seconds=300, run_name="{history.product_id}")
def score_due(home: Home, history: PriceHistory, profile: Profile, moment: datetime) -> int:
    """Score the product's due forecasts, of every profile, then advance the calibrator of this profile.

    A forecast that was scored with the same close adds nothing, one whose close was restated a new row.

    Args:
        home: prepared, with the product's lock held.
        profile: whose calibrator learns from the outcomes.
        moment: of scoring.

    Returns:
        How many scores are new.
    """
    scores = [
        _score(row, close, history, moment) for row, close in _due(home, history.product_id, history.candles)
    ]
    added = Scores(home).add([asdict(score) for score in scores])
    if added:
        log.info("%s: forecasts scored: %d", history.product_id, added)
    for horizon in profile.horizons if profile.levels else ():
        advance_states(home, chain_of(profile, history.product_id, horizon), history.origin, moment)
    return added


def _due(home: Home, product_id: str, candles: pd.DataFrame) -> list[tuple[dict[str, Any], float]]:
    """The forecasts without a score of their target day's close, each with that close."""
    last = candles["day_utc"].iloc[-1].date()
    names = ["prediction_id", "target_day"]
    forecasts = Predictions(home).between(product_id, last=last, columns=names)
    if not forecasts.num_rows:
        return []
    scores = Scores(home).newest(product_id, last=last, columns=["prediction_id", "close"]).to_pandas()
    days = forecasts.to_pandas(date_as_object=False)
    closes = days["target_day"].map(candles.set_index("day_utc")["close"])
    scored = days["prediction_id"].map(scores.set_index("prediction_id")["close"])
    due = closes.notna() & (scored != closes)  # a forecast without a score has NaN, which differs
    if not due.any():
        return []
    actual = dict(zip(days["prediction_id"][due], closes[due], strict=True))
    # Only of these are the quantiles read.
    rows = Predictions(home).of_days(product_id, days["target_day"][due].dt.date.unique(), FORECAST_COLUMNS)
    return [
        (row, float(actual[row["prediction_id"]]))
        for row in rows.to_pylist()
        if row["prediction_id"] in actual
    ]


def _score(row: Mapping[str, Any], close: float, history: PriceHistory, moment: datetime) -> Score:
    last, naive = row["last_close"], _naive_quantiles(history.candles, row["origin_day"])
    outcome = np.log([close / last])
    figures: dict[str, Any] = {"crps": None, "pit": None}
    figures |= {f"covered_{percent}": None for percent in INTERVALS}
    if row["quantiles"] is not None:
        prices = np.array([row["quantiles"]])
        quantiles = np.log(prices / last)
        figures = {"crps": float(crps(outcome, quantiles)[0]), "pit": float(pit(outcome, quantiles)[0])}
        # In prices, as the intervals stand in the table: no rounding comes between.
        figures |= {
            f"covered_{percent}": bool(covered(np.array([close]), prices, percent)[0])
            for percent in INTERVALS
        }
    return Score(
        prediction_id=row["prediction_id"],
        product_id=row["product_id"],
        target_day=row["target_day"],
        horizon=row["horizon"],
        close=close,
        error=row["point"] - close,
        naive_error=last - close,
        naive_crps=None if naive is None else float(crps(outcome, naive)[0]),
        data_version=history.data_version,
        scored_at=moment,
        **figures,
    )


def _naive_quantiles(candles: pd.DataFrame, origin: date) -> Floats | None:
    """The quantiles of the newest 250 returns, (1, levels); None where there are fewer."""
    rows = np.flatnonzero(candles["day_utc"].to_numpy() == np.datetime64(origin))
    if not len(rows):  # the origin's candle went with its series
        return None
    try:
        return baseline_quantiles(candles, rows, components=(NAIVE,))[NAIVE]
    except NotEnoughHistory:
        return None


def read_scoreboard(home: Home, product_id: str, profile: str) -> Scoreboard:
    """The scoreboard of a product's published forecasts of one profile, each with its newest score."""
    wanted = (ds.field("profile") == profile) & (ds.field("revision") == 0)
    published = Predictions(home).read(wanted, ["prediction_id"], product_id)
    scores = Scores(home).newest(product_id, columns=["prediction_id", *COLUMNS])
    ours = pc.is_in(scores["prediction_id"], published["prediction_id"])
    return scoreboard(scores.filter(ours).to_pandas())
