"""Whether the losses of one model are really lower than those of another: ratio, interval, test.

Outcomes over `horizon` days overlap, so losses of days that lie closer together are not independent: a test
or an interval that ignores this would call chance a difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from closecast.tasks.core.types import Floats

CONFIDENCE = 0.95
RESAMPLES = 2000
# Over fewer days, or horizons without an overlap, neither a p value nor a bootstrap says anything.
MIN_DAYS, MIN_HORIZONS = 30, 10


@dataclass(frozen=True)
class Comparison:
    """Mean CRPS over a baseline's, its 95 % bootstrap interval, and the Diebold-Mariano p value."""

    ratio: float | None
    lower: float | None
    upper: float | None
    p_value: float | None


def compare(first: Floats, second: Floats, *, horizon: int = 1, seed: int) -> Comparison:
    """The losses of the model against those of a baseline, both (days,), oldest first, over that horizon."""
    enough = is_enough(len(first), horizon)
    interval = ratio_interval(first, second, horizon=horizon, seed=seed) if enough else None
    lower, upper = interval or (None, None)
    p_value = diebold_mariano(first, second, horizon=horizon) if enough else None
    return Comparison(ratio(float(first.mean()), float(second.mean())), lower, upper, p_value)


def is_enough(days: int, horizon: int) -> bool:
    """Whether this many days can tell a difference of losses over that horizon from chance."""
    return days >= max(MIN_DAYS, MIN_HORIZONS * horizon)


def diebold_mariano(first: Floats, second: Floats, *, horizon: int = 1) -> float | None:
    """Two-sided p value of equal mean loss; None if the losses differ by the same amount on every day.

    Diebold and Mariano (1995), "Comparing predictive accuracy", with the variance of Newey and West (1987) at
    the lags of Newey and West (1994), and the correction and the t distribution of Harvey, Leybourne and
    Newbold (1997), "Testing the equality of prediction mean squared errors". Outcomes of days that lie closer
    together than the horizon overlap: there are at least so many lags, and the variance is at least that of
    Diebold and Mariano's own, whose weights do not fall with the lag. The losses of both models are of the
    same days, (days,), oldest first; None, too, where all of them overlap.
    """
    from scipy.special import stdtr

    difference, days = first - second, len(first)
    if days <= horizon or _is_constant(difference, first, second):
        return None
    lags = min(max(math.floor(4 * (days / 100) ** (2 / 9)), horizon - 1), days - 1)
    variance = newey_west_variance(difference, lags)
    if horizon > 1:
        variance = max(variance, overlap_variance(difference, horizon - 1))
    correction = (days + 1 - 2 * horizon + horizon * (horizon - 1) / days) / days
    statistic = difference.mean() / math.sqrt(variance / days) * math.sqrt(correction)
    return float(2 * stdtr(days - 1, -abs(statistic)))


def newey_west_variance(values: Floats, lags: int) -> float:
    """Long-run variance of values (days,), days up to `lags` apart weighted by Bartlett's kernel.

    That of the library `arch` is the same, and takes a second to load, where a scoreboard is read at once.
    """
    days, centred = len(values), values - values.mean()
    variance = float(centred @ centred) / days
    for lag in range(1, lags + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag]) / days
    return variance


def overlap_variance(values: Floats, lags: int) -> float:
    """Long-run variance of values (days,) of which only days up to `lags` apart depend on each other.

    No weights reduce it, so chance can make it negative.
    """
    centred = values - values.mean()
    covariances = [float(centred[lag:] @ centred[:-lag]) for lag in range(1, lags + 1)]
    return (float(centred @ centred) + 2.0 * sum(covariances)) / len(values)


def ratio_interval(
    first: Floats, second: Floats, *, horizon: int = 1, seed: int
) -> tuple[float, float] | None:
    """95 % interval of mean(first) / mean(second), both (days,), from resampled runs of days.

    The stationary bootstrap of Politis and Romano (1994), both models' losses drawn on the same days, the
    mean run by Politis and White (2004), or the horizon where that is more: over so many days outcomes
    overlap. None when a resample has no loss to divide by.
    """
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    if not second.any():
        return None

    def resampled_ratio(ours: Floats, theirs: Floats) -> Floats:
        return np.array([ours.sum() / theirs.sum() if theirs.any() else np.nan])

    # The ratio moves as the mean of this does, so this decides how long the runs must be.
    moves, run = first - resampled_ratio(first, second) * second, 1.0
    if not _is_constant(moves, first, second):
        # Of a series that is flat but for one of its ends the rule divides nothing by nothing.
        with np.errstate(divide="ignore", invalid="ignore"):
            run = float(optimal_block_length(moves)["stationary"].iloc[0])
        run = run if math.isfinite(run) else len(first) ** (1 / 3)
    bootstrap = StationaryBootstrap(max(horizon, math.ceil(run)), first, second, seed=seed)
    lower, upper = bootstrap.conf_int(
        resampled_ratio, reps=RESAMPLES, method="percentile", size=CONFIDENCE
    ).ravel()
    return (float(lower), float(upper)) if np.isfinite(lower + upper) else None


def ratio(ours: float, theirs: float) -> float | None:
    """Their ratio, None when there is nothing to divide by."""
    return ours / theirs if theirs > 0 else None


def _is_constant(difference: Floats, first: Floats, second: Floats) -> bool:
    """Whether the difference moves by no more than rounding."""
    return bool(np.ptp(difference) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max()))
