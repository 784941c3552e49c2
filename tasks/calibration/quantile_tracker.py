"""Quantiles that hold what they say: the mixture, the online tracker, and the step to USD."""

from __future__ import annotations

import numpy as np

from tasks.core.quantiles import LEVELS
from tasks.core.types import Floats

# In scales. A correction answers for the level at its place among the sorted quantiles; while these cross it
# could be pushed on without end by outcomes that were its neighbour's, and would be wrong for years after.
# At the recipe's step of .002 one comes there after 1,500 days on one side at the earliest.
MAX_OFFSET = 3.0


def mix(own: Floats, other: Floats, *, share: float) -> Floats:
    """Average two distributions' quantiles, any shape (..., 23), with weight `share` on the other's."""
    return np.asarray((1.0 - share) * own + share * other, dtype=np.float64)


def track(quantiles: Floats, quantile_offsets: Floats, scale: float) -> Floats:
    """Move each quantile by its correction, sorted, (23,).

    Args:
        quantiles: of the log return, (23,).
        quantile_offsets: in scales, (23,).
        scale: the origin's `s`.
    """
    return np.sort(quantiles + quantile_offsets * scale)


def advance(quantile_offsets: Floats, actual_close: float, quantiles: Floats, *, step: float) -> Floats:
    """The quantile_offsets, (23,), after one outcome: each rises by level less whether the close was below.

    Quantile tracking of Angelopoulos, Candès and Tibshirani (2023), "Conformal PID control for time series
    prediction", with its proportional part alone. Within `MAX_OFFSET` of zero, whatever comes.
    """
    below = actual_close <= quantiles
    moved = quantile_offsets + step * (np.array(LEVELS) - below)
    return np.asarray(np.clip(moved, -MAX_OFFSET, MAX_OFFSET), dtype=np.float64)


def to_price(quantiles: Floats, last_close: float) -> Floats:
    """Quantiles of the log return as closes in USD, (23,)."""
    return np.asarray(last_close * np.exp(quantiles), dtype=np.float64)


def follow(
    quantiles: Floats,
    scales: Floats,
    last_closes: Floats,
    actual_close: Floats,
    quantile_offsets: Floats,
    *,
    step: float,
) -> tuple[Floats, Floats]:
    """Forecast and learn day after day.

    Args:
        quantiles: of the log return before tracking, (days, 23).
        scales: `s` of each origin, (days,).
        last_closes: the closes of the origins, (days,).
        actual_close: the closes of the target days, (days,); NaN where it is not known: nothing is learned
            then.
        quantile_offsets: before the first day, (23,).
        step: of the tracker, in scales.

    Returns:
        The tracked quantiles in USD, (days, 23), and the quantile_offsets after the last day.
    """
    said = np.empty_like(quantiles)
    for day, row in enumerate(quantiles):
        said[day] = to_price(track(row, quantile_offsets, scales[day]), last_closes[day])
        if np.isfinite(actual_close[day]):
            quantile_offsets = advance(quantile_offsets, actual_close[day], said[day], step=step)
    return said, quantile_offsets
