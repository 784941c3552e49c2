"""The 23 quantiles that every distribution here is made of, and how far they were from what came."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from tasks.core.types import Floats

LEVELS: tuple[float, ...] = (0.01, 0.025, *(round(0.05 * n, 2) for n in range(1, 20)), 0.975, 0.99)
MEDIAN = LEVELS.index(0.5)
# Where the central interval of that many percent begins and ends among the levels.
BANDS: dict[int, tuple[int, int]] = {
    percent: (LEVELS.index(low), LEVELS.index(round(1.0 - low, 3)))
    for percent, low in ((50, 0.25), (80, 0.1), (90, 0.05), (95, 0.025))
}


def shares() -> Floats:
    """The part of (0, 1) that each level stands for, shape (23,), which sums to 1."""
    edges = [0.0, *((low + high) / 2 for low, high in itertools.pairwise(LEVELS)), 1.0]
    return np.diff(edges)


def crps(came: Floats, quantiles: Floats) -> Floats:
    """Continuous ranked probability score of each forecast, shape (days,), in the unit of its arguments.

    Twice the mean pinball loss, each level weighted by its share: Gneiting and Ranjan (2011), "Comparing
    density forecasts using threshold- and quantile-weighted scoring rules", without weights of their own.

    Args:
        came: outcomes, shape (days,).
        quantiles: at `LEVELS`, shape (days, 23).
    """
    import scoringrules

    pinball = scoringrules.quantile_score(came[:, None], quantiles, np.array(LEVELS)[None, :])
    return np.asarray(2.0 * (pinball @ shares()), dtype=np.float64)


def pit(came: Floats, quantiles: Floats) -> Floats:
    """The level at which each outcome lies, shape (days,): uniform when the forecasts are calibrated.

    Linear between the quantiles; beyond the outermost ones the middle of what is left.
    """
    below, above = LEVELS[0] / 2, (1.0 + LEVELS[-1]) / 2
    return np.array(
        [
            np.interp(outcome, row, LEVELS, left=below, right=above)
            for outcome, row in zip(came, quantiles, strict=True)
        ]
    )


def inside(came: Floats, quantiles: Floats, percent: int) -> NDArray[np.bool_]:
    """Which outcomes lie within the central interval of that many percent, shape (days,)."""
    low, high = BANDS[percent]
    hit: NDArray[np.bool_] = (quantiles[:, low] <= came) & (came <= quantiles[:, high])
    return hit


def student_t(mean: Floats, sigma: Floats, dof: Floats) -> Floats:
    """Quantiles (days, 23) of Student's t with that mean, standard deviation and dof > 2, each (days,)."""
    from scipy.special import stdtrit

    unit = stdtrit(dof[:, None], np.array(LEVELS)[None, :])
    spread = sigma * np.sqrt((dof - 2.0) / dof)
    return np.asarray(mean[:, None] + spread[:, None] * unit, dtype=np.float64)
