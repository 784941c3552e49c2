"""Forecasts whose day has come, beside the close that came."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
from prefect import task

from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.scores import Scores
from tasks.calibration.calibrator_states import advance_tracker
from tasks.core.steps import STEP
from tasks.evaluation.scoreboard import COLUMNS, Scoreboard, scoreboard
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.min_max import Floats

log = logging.getLogger("closecast.score")

NAIVE = "last_close_250"
# What a score is made from.
FORECAST = (
    "prediction_id",
    "product_id",
    "origin_day",
    "target_day",
    "horizon",
    "last_close",
    "point",
    "quantiles",
)


def score_due(home: Home, product_id: str, *, data_version: str, moment: datetime) -> int:
    """Score the product's forecasts whose target day is among the closes; returns how many rows that added.

    A forecast that was scored with the same close adds nothing, one whose close was restated a new row.

    Args:
        home: prepared, with the product's lock held.
        product_id: whose forecasts, of every profile.
        data_version: of the closes up to the origin.
        moment: of scoring.
    """
    return _score_by(home, product_id, _candles(home, data_version), data_version, moment)


def _candles(home: Home, data_version: str) -> pd.DataFrame:
    with Prices(home) as prices:
        return prices.closes_at(data_version)


def _score_by(home: Home, product_id: str, candles: pd.DataFrame, data_version: str, moment: datetime) -> int:
    """As `score_due`, by candles that were read."""
    rows = [
        {
            **_score(row, close, _naive_quantiles(candles, row["origin_day"])),
            "data_version": data_version,
            "scored_at": moment,
        }
        for row, close in _due(home, product_id, candles)
    ]
    added = Scores(home).add(rows)
    if added:
        log.info("%s: forecasts scored: %d", product_id, added)
    return added


def _due(home: Home, product_id: str, candles: pd.DataFrame) -> list[tuple[dict[str, Any], float]]:
    """The forecasts to score, each with its close in USD: those without a score of that close.

    Of the others their names and days are read, and no figure of theirs.
    """
    last = candles["day_utc"].iloc[-1].date()
    names = ["prediction_id", "target_day"]
    forecasts = Predictions(home).between(product_id, last=last, columns=names)
    if not forecasts.num_rows:
        return []
    known = Scores(home).newest(product_id, last=last, columns=["prediction_id", "close"]).to_pandas()
    asked = forecasts.to_pandas(date_as_object=False)
    closes = asked["target_day"].map(candles.set_index("day_utc")["close"])
    scored = asked["prediction_id"].map(known.set_index("prediction_id")["close"])
    due = closes.notna() & (scored != closes)  # what has no score has NaN, which differs
    if not due.any():
        return []
    came = dict(zip(asked["prediction_id"][due], closes[due], strict=True))
    rows = Predictions(home).of_days(product_id, asked["target_day"][due].dt.date.unique(), FORECAST)
    return [
        (row, float(came[row["prediction_id"]])) for row in rows.to_pylist() if row["prediction_id"] in came
    ]


def _score(row: Mapping[str, Any], close: float, naive: Floats | None) -> dict[str, object]:
    """One forecast's figures; CRPS and PIT are of the log return, None for a point without intervals."""
    from tasks.core.quantiles import crps, inside, pit

    last = row["last_close"]
    came = np.log([close / last])
    score: dict[str, object] = {
        "prediction_id": row["prediction_id"],
        "product_id": row["product_id"],
        "target_day": row["target_day"],
        "horizon": row["horizon"],
        "close": close,
        "error": row["point"] - close,
        "naive_error": last - close,
        "crps": None,
        "naive_crps": None if naive is None else float(crps(came, naive)[0]),
        **{f"covered_{percent}": None for percent in (50, 80, 95)},
        "pit": None,
    }
    if row["quantiles"] is None:
        return score
    said = np.log(np.array([row["quantiles"]]) / last)
    usd = np.array([row["quantiles"]])
    return {
        **score,
        "crps": float(crps(came, said)[0]),
        # In USD, as the intervals stand in the table: no rounding comes between.
        **{
            f"covered_{percent}": bool(inside(np.array([close]), usd, percent)[0]) for percent in (50, 80, 95)
        },
        "pit": float(pit(came, said)[0]),
    }


def _naive_quantiles(candles: pd.DataFrame, origin: date) -> Floats | None:
    """What the last close and its newest 250 returns would have said, (1, 23); None where there are fewer."""
    from storage.core.errors import NotEnoughHistory
    from tasks.profiles.baselines import baseline_quantiles

    rows = np.flatnonzero(candles["day_utc"].to_numpy() == np.datetime64(origin))
    if not len(rows):  # the origin's candle went with its series
        return None
    try:
        return baseline_quantiles(candles, rows, methods=(NAIVE,))[NAIVE]
    except NotEnoughHistory:
        return None


def board_of(home: Home, product_id: str, profile: str) -> Scoreboard:
    """The scoreboard of a product's published forecasts of one profile, each with its newest score."""
    wanted = (ds.field("profile") == profile) & (ds.field("revision") == 0)
    published = Predictions(home).read(wanted, ["prediction_id"], product_id)
    scores = Scores(home).newest(product_id, columns=["prediction_id", *COLUMNS])
    ours = pc.is_in(scores["prediction_id"], published["prediction_id"])
    return scoreboard(scores.filter(ours).to_pandas())


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
    candles = _candles(home, data_version)
    added = _score_by(home, product_id, candles, data_version, moment)
    if settings is not None:
        origin = candles["day_utc"].iloc[-1].date()
        advance_tracker(home, product_id, Recipe.model_validate(dict(settings)), origin, moment)
    return added


score = task(name="score-due", task_run_name="score-due {product_id}", timeout_seconds=300, **STEP)(
    score_and_track
)
