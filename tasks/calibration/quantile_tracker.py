"""Quantiles that hold what they say: the mixture, the online tracker, and the step to USD."""

from __future__ import annotations

import numpy as np

from tasks.core.quantiles import LEVELS
from tasks.profiles.min_max import Floats

# In scales. A correction answers for the level at its place among the sorted quantiles; while these cross it
# could be pushed on without end by outcomes that were its neighbour's, and would be wrong for years after.
# At the recipe's step of .002 one comes there after 1,500 days on one side at the earliest.
MOST_CORRECTION = 3.0


def mix(own: Floats, other: Floats, *, share: float) -> Floats:
    """Average two distributions' quantiles, any shape (..., 23), with weight `share` on the other's."""
    return np.asarray((1.0 - share) * own + share * other, dtype=np.float64)


def track(quantiles: Floats, corrections: Floats, scale: float) -> Floats:
    """Move each quantile by its correction, sorted, (23,).

    Args:
        quantiles: of the log return, (23,).
        corrections: in scales, (23,).
        scale: the origin's `s`.
    """
    return np.sort(quantiles + corrections * scale)


def advance(corrections: Floats, came_usd: float, quantiles_usd: Floats, *, step: float) -> Floats:
    """The corrections, (23,), after one outcome: each rises by level less whether the close was below.

    Quantile tracking of Angelopoulos, Candès and Tibshirani (2023), "Conformal PID control for time series
    prediction", with its proportional part alone. Within `MOST_CORRECTION` of zero, whatever comes.
    """
    below = came_usd <= quantiles_usd
    moved = corrections + step * (np.array(LEVELS) - below)
    return np.asarray(np.clip(moved, -MOST_CORRECTION, MOST_CORRECTION), dtype=np.float64)


def to_usd(quantiles: Floats, last_close_usd: float) -> Floats:
    """Quantiles of the log return as closes in USD, (23,)."""
    return np.asarray(last_close_usd * np.exp(quantiles), dtype=np.float64)


def follow(
    quantiles: Floats,
    scales: Floats,
    last_usd: Floats,
    came_usd: Floats,
    corrections: Floats,
    *,
    step: float,
) -> tuple[Floats, Floats]:
    """Forecast and learn day after day.

    Args:
        quantiles: of the log return before tracking, (days, 23).
        scales: `s` of each origin, (days,).
        last_usd: the closes of the origins, (days,).
        came_usd: the closes of the target days, (days,); NaN where it is not known: nothing is learned then.
        corrections: before the first day, (23,).
        step: of the tracker, in scales.

    Returns:
        The tracked quantiles in USD, (days, 23), and the corrections after the last day.
    """
    said = np.empty_like(quantiles)
    for day, row in enumerate(quantiles):
        said[day] = to_usd(track(row, corrections, scales[day]), last_usd[day])
        if np.isfinite(came_usd[day]):
            corrections = advance(corrections, came_usd[day], said[day], step=step)
    return said, corrections
