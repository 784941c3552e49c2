"""The sigma of HAR, Corsi (2009): log variance regressed on its means of a day, a week and a month.

The target's weekday is an input as well: Saturday, Sunday and Monday have a level of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.core.types import Floats, Rows
from tasks.features.volatility import MIN_SIGMA, daily_variance, garman_klass, log_returns, weekend_flags
from tasks.features.windows import DAY

MEAN_DAYS = (5, 22)
# The least variance that counts, in trailing medians: the logarithm of a still day stays finite.
FLOOR, FLOOR_DAYS = 0.02, 250
MIN_DAYS, MIN_RANGED_DAYS = 30, 250


@dataclass(frozen=True)
class Har:
    """The regression's table, arrays (days, ...)."""

    inputs: Floats  # (days, 7), known at each close; NaN before the first move
    log_variance: Floats
    returns: Floats  # log returns
    follows: NDArray[np.bool_]  # the day follows the row before without a gap
    ranged: NDArray[np.bool_]  # the day's range is known

    def fit(self, cut: int) -> tuple[Floats, Floats] | None:
        """Weights (7,) fitted on the rows before `cut`, and those days' returns in expected sigmas.

        None where the price has moved too seldom for a regression.
        """
        before, target = self.inputs[: cut - 1], self.log_variance[1:cut]
        usable = self.follows[1:cut] & ~np.isnan(target) & ~np.isnan(before).any(axis=1)
        if np.sum(usable) < MIN_DAYS:
            return None
        # A squared return is a noisy variance, often far too low: it is not used where ranges suffice.
        if np.sum(usable & self.ranged[1:cut]) >= MIN_RANGED_DAYS:
            usable &= self.ranged[1:cut]
        solution, *_ = np.linalg.lstsq(before[usable], target[usable], rcond=None)
        weights = np.asarray(solution, dtype=np.float64)
        returns = self.returns[1:cut]
        usable &= ~np.isnan(returns)
        return weights, returns[usable] / _sigma(before, weights)[usable]

    def sigma(self, rows: Rows, weights: Floats) -> Floats:
        """The expected sigma of the day after each row, shape (rows,)."""
        return _sigma(self.inputs[rows], weights)


def har(candles: pd.DataFrame) -> Har:
    """The regression's table; an unknown figure after a gap takes the value before it."""
    variance = daily_variance(candles)
    usual = pd.Series(np.where(variance > 0, variance, np.nan)).rolling(FLOOR_DAYS, min_periods=1).median()
    floor = np.maximum(FLOOR * usual.ffill().to_numpy(dtype=np.float64), MIN_SIGMA**2)
    logs = pd.Series(np.log(np.maximum(variance, floor)))
    means = [logs, *(logs.rolling(days, min_periods=1).mean() for days in MEAN_DAYS)]
    known = [mean.ffill().to_numpy(dtype=np.float64) for mean in means]
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]")
    return Har(
        inputs=np.column_stack([np.ones(len(logs)), *known, *weekend_flags(candles)]),
        log_variance=np.asarray(logs, dtype=np.float64),
        returns=log_returns(candles),
        follows=np.diff(days, prepend=days[0]) == DAY,
        ranged=~np.isnan(garman_klass(candles)),
    )


def _sigma(inputs: Floats, weights: Floats) -> Floats:
    """Summed column by column: a matrix product may round a row differently when there are more rows."""
    logs = np.zeros(len(inputs))
    for column, weight in zip(inputs.T, weights, strict=True):
        logs += column * weight
    return np.asarray(np.exp(logs / 2.0), dtype=np.float64)
