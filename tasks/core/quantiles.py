"""The 23 quantiles that stand for a distribution, and their scores."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from closecast.tasks.core.types import Floats

LEVELS: tuple[float, ...] = (0.01, 0.025, *(round(0.05 * n, 2) for n in range(1, 20)), 0.975, 0.99)
MEDIAN = LEVELS.index(0.5)
# Percent of a central interval → the indexes of its lower and upper bound in `LEVELS`.
INTERVAL_INDEXES: dict[int, tuple[int, int]] = {
    percent: (LEVELS.index(low), LEVELS.index(round(1.0 - low, 3)))
    for percent, low in ((50, 0.25), (80, 0.1), (90, 0.05), (95, 0.025))
}


def level_weights() -> Floats:
    """The part of (0, 1) that is nearest to each level, (23,); the parts add up to 1."""
    edges = [0.0, *((low + high) / 2 for low, high in itertools.pairwise(LEVELS)), 1.0]
    return np.diff(edges)


def crps(actual: Floats, quantiles: Floats) -> Floats:
    """Continuous ranked probability score (days,) of outcomes (days,) and quantiles (days, 23).

    Twice the pinball loss, averaged over the levels by `level_weights`: the integral over quantile scores of
    Gneiting and Ranjan (2011), "Comparing density forecasts using threshold- and quantile-weighted scoring
    rules", with a constant weight function.
    """
    import scoringrules

    pinball = scoringrules.quantile_score(actual[:, None], quantiles, np.array(LEVELS)[None, :])
    return np.asarray(2.0 * (pinball @ level_weights()), dtype=np.float64)


def pit(actual: Floats, quantiles: Floats) -> Floats:
    """Probability integral transform of each outcome, shape (days,): uniform for calibrated forecasts.

    Linear between the quantiles; beyond the outermost level, halfway from it to 0 or 1.
    """
    below, above = LEVELS[0] / 2, (1.0 + LEVELS[-1]) / 2
    rows = zip(actual, quantiles, strict=True)
    return np.array([np.interp(outcome, row, LEVELS, left=below, right=above) for outcome, row in rows])


def covered(actual: Floats, quantiles: Floats, percent: int) -> NDArray[np.bool_]:
    """Whether each outcome lies in the central interval of `percent`, bounds included, shape (days,)."""
    low, high = INTERVAL_INDEXES[percent]
    return np.asarray((quantiles[:, low] <= actual) & (actual <= quantiles[:, high]))


def student_t(mean: Floats, sigma: Floats, dof: Floats) -> Floats:
    """Quantiles (..., 23) of Student t distributions by mean, standard deviation and dof > 2, each (...)."""
    from scipy.special import stdtrit

    unit = stdtrit(dof[..., None], np.array(LEVELS))
    spread = sigma * np.sqrt((dof - 2.0) / dof)
    return np.asarray(mean[..., None] + spread[..., None] * unit, dtype=np.float64)
