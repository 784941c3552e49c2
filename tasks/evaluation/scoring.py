"""Scores forecasts against the closes of their target days."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from closecast.storage.core.home import Home
from closecast.storage.core.intervals import COVERED, INTERVALS
from closecast.storage.prices.decisions import Splits
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.delta import among
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import components
from closecast.storage.tables.scores import Scores
from closecast.tasks.calibration.calibrator_states import advance_states
from closecast.tasks.core.forecast import Score
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import covered, crps, pit
from closecast.tasks.core.steps import step
from closecast.tasks.core.types import Floats
from closecast.tasks.evaluation.scoreboard import SCORE_COLUMNS, Scoreboard, scoreboard
from closecast.tasks.prices.ingest import IngestRequest, history_of
from closecast.tasks.profiles.baselines import baseline_quantiles

if TYPE_CHECKING:
    from closecast.tasks.profiles.base import Profile

log = logging.getLogger("closecast.scoring")

NAIVE = "last_close_250"
# The columns of a forecast that its score is made from.
FORECAST_COLUMNS = (
    *("prediction_id", "product_id", "origin_day", "target_day", "horizon", "last_close", "point"),
    "quantiles",
)
COMPONENT_COLUMNS = ("prediction_id", "component", "quantiles")
DueForecasts: TypeAlias = "list[tuple[dict[str, Any], float]]"
UNKNOWN_OF_A_POINT = ("crps", "pit", *COVERED, "component_names", "component_crps")


@step(timeout_seconds=300, run_name="{history.product_id}")
def score_due(
    home: Home, history: PriceHistory, profile: Profile, moment: datetime, due: DueForecasts | None = None
) -> int:
    """Score the product's due forecasts, of every profile, then advance the calibrator of this profile.

    The product's lock is held. A forecast that was scored with the same close adds nothing; a restated
    close adds a new row. `due` are the `due_forecasts`, if the caller has read them. Returns how many scores
    are new.
    """
    due = due_forecasts(home, history) if due is None else due
    scores = [asdict(_score(row, close, history, moment)) for row, close in due]
    added = Scores(home).add(scores)
    if added:
        log.info("%s: forecasts scored: %d", history.product_id, added)
    if profile.levels:
        from closecast.tasks.forecast.publish import chain_of  # loads the profiles

        advance_states(home, chain_of(profile, history.product_id), history.origin, moment)
    return added


def stored_history(home: Home, request: IngestRequest) -> PriceHistory | None:
    """All stored prices of the product, to score with; None if there are none."""
    with Prices(home) as prices:
        if prices.last_day(request.product_id) is None:
            return None
        known = prices.read_history(request.product_id, None, created_at=request.observed_at)
    return history_of(request.product_id, known)


def due_forecasts(home: Home, history: PriceHistory) -> DueForecasts:
    """The forecasts without a score of their target day's close, each with its components and that close."""
    names = ["prediction_id", "target_day", "origin_day"]
    predictions, last = Predictions(home), history.origin
    forecasts = predictions.between(history.product_id, last=last, columns=names)
    if not forecasts.num_rows:
        return []
    scores = Scores(home).newest(history.product_id, last=last, columns=["prediction_id", "close"])
    by_id = forecasts.to_pandas(date_as_object=False).set_index("prediction_id")
    days = by_id["target_day"]
    closes = days.map(history.candles.set_index("day_utc")["close"]).dropna()
    if history.splits:
        spans = by_id[["origin_day", "target_day"]].loc[closes.index].apply(lambda day: day.dt.date)
        closes[:] = [history.outcome(*span) for span in spans.itertuples(index=False)]
    scored = scores.to_pandas().set_index("prediction_id")["close"]
    due = closes[closes != scored.reindex(closes.index)]  # one without a score has NaN, which differs
    if due.empty:
        return []
    # Only of these are the quantiles read.
    due_days = days[due.index].dt.date.unique()
    rows = predictions.read(among("target_day", due_days), FORECAST_COLUMNS, history.product_id).to_pylist()
    beside = _components(home, history.product_id, due_days)
    return [
        (row | {"components": beside.get(row["prediction_id"], {})}, float(due[row["prediction_id"]]))
        for row in rows
        if row["prediction_id"] in due
    ]


def _components(home: Home, product_id: str, days: Collection[date]) -> dict[str, dict[str, list[float]]]:
    """The quantiles of each component forecast for those days, by name, by forecast."""
    beside: dict[str, dict[str, list[float]]] = {}
    stored = components(home, product_id).read(among("target_day", days), COMPONENT_COLUMNS)
    for row in stored.to_pylist():
        beside.setdefault(row["prediction_id"], {})[row["component"]] = row["quantiles"]
    return beside


def _score(row: Mapping[str, Any], close: float, history: PriceHistory, moment: datetime) -> Score:
    last = row["last_close"]
    outcome = np.log([close / last])
    figures: dict[str, Any] = dict.fromkeys(UNKNOWN_OF_A_POINT)
    if row["quantiles"] is not None:
        prices = np.array([row["quantiles"]])
        quantiles = np.log(prices / last)
        figures |= {"crps": float(crps(outcome, quantiles)[0]), "pit": float(pit(outcome, quantiles)[0])}
        # In prices, as the intervals stand in the table: no rounding comes between.
        for name, percent in zip(COVERED, INTERVALS, strict=True):
            figures[name] = bool(covered(np.array([close]), prices, percent)[0])
    by_component: dict[str, float] = {}
    if row["components"]:
        names, parts = zip(*sorted(row["components"].items()), strict=True)
        scores = crps(np.repeat(outcome, len(names)), np.log(np.array(parts) / last))
        by_component = dict(zip(names, scores.tolist(), strict=True))
        figures |= {"component_names": names, "component_crps": tuple(by_component.values())}
    naive_crps = by_component.get(NAIVE)
    if naive_crps is None:
        naive = _naive_quantiles(history.candles, row["origin_day"], row["horizon"])
        naive_crps = None if naive is None else float(crps(outcome, naive)[0])
    return Score(
        prediction_id=row["prediction_id"],
        product_id=row["product_id"],
        target_day=row["target_day"],
        horizon=row["horizon"],
        close=close,
        error=row["point"] - close,
        naive_error=last - close,
        naive_crps=naive_crps,
        data_version=history.data_version,
        scored_at=moment,
        **figures,
    )


def _naive_quantiles(candles: pd.DataFrame, origin: date, horizon: int) -> Floats | None:
    """Those of `last_close_250`, (1, levels)."""
    rows = np.flatnonzero(candles["day_utc"].to_numpy() == np.datetime64(origin))
    if not len(rows):  # the origin's candle went with its series
        return None
    return baseline_quantiles(candles, rows, horizons=(horizon,), components=(NAIVE,))[horizon][NAIVE]


def read_scoreboard(
    home: Home, product_id: str, profile: str, splits: Splits, *, horizon: int = 1
) -> Scoreboard:
    """The scoreboard of a product's published forecasts of one profile, each with its newest score.

    `splits` are those in force; the spans are of one horizon. The forecast's row tells whether a model made
    it.
    """
    wanted = (ds.field("profile") == profile) & (ds.field("revision") == 0)
    published = Predictions(home).read(wanted, ["prediction_id", "basis"], product_id)
    scores = Scores(home).newest(product_id, columns=["prediction_id", *SCORE_COLUMNS])
    ours = scores.to_pandas().merge(published.to_pandas(), on="prediction_id")
    return scoreboard(ours, splits, horizon=horizon)
