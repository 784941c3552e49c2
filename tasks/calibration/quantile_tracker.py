"""The online quantile tracker: keeps coverage at its levels, and turns log returns into prices."""

from __future__ import annotations

import numpy as np

from tasks.core.quantiles import LEVELS
from tasks.core.types import Floats

# In sigmas. An offset belongs to an index among the sorted quantiles; while these cross, outcomes of its
# neighbors could move it without end, and it would be wrong for years after. At a step of 0.002 it takes
# at least 1,500 days on one side to get there.
MAX_OFFSET = 3.0


def mix(own: Floats, other: Floats, *, share: float) -> Floats:
    """Average two distributions' quantiles, each (..., 23), with weight `share` on the other's."""
    return np.asarray((1.0 - share) * own + share * other, dtype=np.float64)


def apply_offsets(quantiles: Floats, offsets: Floats, sigma: float) -> Floats:
    """Quantiles of a log return (23,) moved by offsets (23,) in sigmas of the origin, and sorted."""
    return np.sort(quantiles + offsets * sigma)


def update_offsets(offsets: Floats, actual_close: float, quantiles: Floats, *, step: float) -> Floats:
    """The offsets (23,) after one outcome: each rises by `step` times its level less (close <= quantile).

    Quantile tracking of Angelopoulos, Candès and Tibshirani (2023), "Conformal PID control for time series
    prediction", its proportional part alone. Every offset stays within `MAX_OFFSET` of 0.
    """
    below = actual_close <= quantiles
    moved = offsets + step * (np.array(LEVELS) - below)
    return np.asarray(np.clip(moved, -MAX_OFFSET, MAX_OFFSET), dtype=np.float64)


def to_prices(log_returns: Floats, last_close: float) -> Floats:
    """Closes in the quote currency, of the shape of the log returns."""
    return np.asarray(last_close * np.exp(log_returns), dtype=np.float64)


def track(
    quantiles: Floats,
    sigmas: Floats,
    last_closes: Floats,
    actual_closes: Floats,
    offsets: Floats,
    *,
    step: float,
) -> tuple[Floats, Floats]:
    """Forecast and learn day after day, from the offsets (23,) before the first day.

    Quantiles (days, 23) are of the log return, sigmas and last closes (days,) of the origins; an actual close
    that is NaN teaches nothing. Returns the tracked prices (days, 23), and the offsets after the last day.
    """
    prices = np.empty_like(quantiles)
    for day, row in enumerate(quantiles):
        prices[day] = to_prices(apply_offsets(row, offsets, sigmas[day]), last_closes[day])
        if np.isfinite(actual_closes[day]):
            offsets = update_offsets(offsets, actual_closes[day], prices[day], step=step)
    return prices, offsets
