"""How far a forecast was from what came, and from what the last close would have said; and the gate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.quantiles import crps
from tasks.core.types import Floats
from tasks.features.inputs import make_inputs, usable_rows
from tasks.features.volatility import log_returns
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble import Ensemble, ensemble_quantiles
from tasks.training.policy import MIN_UNSEEN_DAYS

LONG_GATE_DAYS = 365
# Of the gate's days, the share that must have a forecast: gaps leave some without.
ENOUGH = 0.5


def root_mean_squared_error(said: Floats, came: Floats) -> float:
    """In the unit of its arguments, both of shape (days,)."""
    return float(np.sqrt(np.mean(np.square(said - came))))


def mean_absolute_error(said: Floats, came: Floats) -> float:
    """In the unit of its arguments, both of shape (days,)."""
    return float(np.mean(np.abs(said - came)))


def against_naive(predicted_close: Floats, actual_close: Floats, last_closes: Floats) -> dict[str, float]:
    """Errors of a point forecast beside those of "tomorrow closes where today closed".

    Args:
        predicted_close: shape (days,), the forecasts.
        actual_close: shape (days,), the closes of their target days.
        last_closes: shape (days,), the closes of their origins.
    """
    figures = {
        "test_rmse": root_mean_squared_error(predicted_close, actual_close),
        "test_mae": mean_absolute_error(predicted_close, actual_close),
        "naive_rmse": root_mean_squared_error(last_closes, actual_close),
        "naive_mae": mean_absolute_error(last_closes, actual_close),
    }
    # A series that never moves has a perfect naive forecast, and no ratio to it.
    if figures["naive_rmse"] > 0:
        figures["rmse_ratio_to_naive"] = figures["test_rmse"] / figures["naive_rmse"]
    return figures


@dataclass(frozen=True)
class Gate:
    """What a challenger showed beside the champion on days that neither had seen."""

    first_day: date
    last_day: date
    days: int
    champion_crps: float
    challenger_crps: float
    ratio: float
    limit: float
    passed: bool

    def as_tags(self) -> dict[str, str]:
        """The figures as text, by name."""
        return {f"gate_{name}": str(value) for name, value in asdict(self).items()}

    def as_metrics(self) -> dict[str, float]:
        """The figures that are numbers, by name."""
        names: dict[str, Any] = asdict(self)
        return {
            f"gate_{name}": float(names[name])
            for name in ("days", "champion_crps", "challenger_crps", "ratio")
        }

    def __str__(self) -> str:
        said = "passed" if self.passed else "refused"
        return (
            f"{said}: CRPS ratio {self.ratio:.4f} over {self.days} days unseen by both,"
            f" {self.first_day} to {self.last_day}, at most {self.limit:g}"
        )


def gate(champion: Ensemble, challenger: Ensemble, candles: pd.DataFrame, recipe: Recipe) -> Gate:
    """Ask for non-inferiority in CRPS on the newest days that neither model has seen.

    Over a year of them the limit is `gate_ratio_365`; over half a year, where the noise between two seeds of
    one recipe is larger, `gate_ratio_180`. Fewer are a coin flip, and refused.

    Args:
        champion: compared before mixing and tracking.
        challenger: likewise.
        candles: up to the origin of the challenger.
        recipe: of both.
    """
    last: date = candles["day_utc"].iloc[-1].date()
    seen = max(champion.trained_through, challenger.trained_through)
    long = (last - seen).days >= LONG_GATE_DAYS
    span = LONG_GATE_DAYS if long else MIN_UNSEEN_DAYS
    limit = recipe.gate_ratio_365 if long else recipe.gate_ratio_180
    after = max(seen, last - timedelta(days=span))
    theirs, ours, days = _mean_crps(champion, challenger, candles, recipe, after)
    # Without a forecast there is nothing to compare, and a series that never moves has no error.
    ratio = ours / theirs if theirs > 0 else 1.0
    enough = (last - seen).days >= MIN_UNSEEN_DAYS and days >= ENOUGH * span
    return Gate(
        after + timedelta(days=1), last, days, theirs, ours, ratio, limit, bool(enough and ratio <= limit)
    )


def _mean_crps(
    champion: Ensemble, challenger: Ensemble, candles: pd.DataFrame, recipe: Recipe, after: date
) -> tuple[float, float, int]:
    """Both models' mean CRPS over the days later than `after` that both can forecast, and how many."""
    models = (champion, challenger)
    shown = [make_inputs(candles, recipe.input_settings, model.columns) for model in models]
    # Two models of other inputs need not have the same days, and only the same days compare.
    usable = [usable_rows(inputs, lookback=recipe.lookback) for inputs in shown]
    rows = np.intersect1d(usable[0], usable[1])
    # The target is the day after, so the first origin is the last seen day itself.
    rows = rows[shown[0].days[rows] >= np.datetime64(after)]
    rows = rows[np.all([np.isfinite(inputs.targets[rows]) for inputs in shown], axis=0)]
    if not len(rows):
        return 0.0, 0.0, 0
    came = log_returns(candles)[rows + 1]
    theirs, ours = (
        float(crps(came, ensemble_quantiles(model, inputs, rows, recipe)).mean())
        for model, inputs in zip(models, shown, strict=True)
    )
    return theirs, ours, len(rows)
