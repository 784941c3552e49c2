"""Returns, daily variances, their exponential means, weekdays, and GARCH."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from closecast.tasks.core.kept import kept_by_figures
from closecast.tasks.core.types import Floats, Rows

GARMAN_KLASS = 2.0 * np.log(2.0) - 1.0
PARKINSON = 1.0 / (4.0 * np.log(2.0))
# The least sigma that a return is divided by: a price that stands still has none.
MIN_SIGMA = 1e-6


def log_returns(candles: pd.DataFrame, *, days: int = 1) -> Floats:
    """Log return from the close `days` days before, shape (rows,); NaN where that day is missing."""
    logs = np.log(candles["close"].to_numpy(dtype=np.float64))
    before = rows_before(candles, days)
    return np.where(before >= 0, logs - logs[before], np.nan)


def rows_before(candles: pd.DataFrame, days: int) -> Rows:
    """The row of the day `days` days before each row, shape (rows,); -1 where that day is missing."""
    return rows_after(candles, -days)


def rows_after(candles: pd.DataFrame, days: int) -> Rows:
    """The row of the day `days` days after each row, shape (rows,); -1 where that day is missing."""
    numbers = day_numbers(candles)
    rows = np.minimum(np.searchsorted(numbers, numbers + days), len(numbers) - 1)
    return np.where(numbers[rows] == numbers + days, rows, -1)


def daily_moves(candles: pd.DataFrame) -> Floats:
    """Log return since the previous close, over the root of the days since then, shape (days,).

    A return over a gap is one of several days; this is one day's share of it. NaN on the first day.
    """
    logs = np.log(candles["close"].to_numpy(dtype=np.float64))
    days = np.diff(day_numbers(candles))
    return np.concatenate([np.full(min(1, len(logs)), np.nan), np.diff(logs) / np.sqrt(days)])


def with_outcome(candles: pd.DataFrame, rows: Rows, *, days: int = 1) -> Rows:
    """The given rows that have a close `days` days later."""
    return rows[rows_after(candles, days)[rows] >= 0]


def garman_klass(candles: pd.DataFrame) -> Floats:
    """Intraday variance from open, high, low and close, shape (days,); NaN where one is unknown.

    Garman and Klass (1980), "On the estimation of security price volatilities from historical data".
    """
    opening, high, low, close = _logs(candles)
    return np.asarray(0.5 * np.square(high - low) - GARMAN_KLASS * np.square(close - opening))


def parkinson(candles: pd.DataFrame) -> Floats:
    """Intraday variance from high and low, shape (days,); NaN where one is unknown.

    Parkinson (1980), "The extreme value method for estimating the variance of the rate of return".
    """
    _, high, low, _ = _logs(candles)
    return np.asarray(PARKINSON * np.square(high - low))


def daily_variance(candles: pd.DataFrame, *, ranges: bool = True) -> Floats:
    """Garman-Klass plus the squared return from the previous close to the open, shape (days,).

    On the first day and after a gap the return to the open counts as 0. The squared `daily_moves`, NaN on the
    first day, replace the sum if `ranges` is False, where a range is unknown, and where the price stood still
    on the first day or on one after a gap.
    """
    squares = np.square(daily_moves(candles))
    if not ranges:
        return squares
    opening, _, _, close = _logs(candles)
    overnight = log_returns(candles) - (close - opening)
    within = garman_klass(candles)
    variance = within + np.nan_to_num(np.square(overnight))
    # A day with a single trade has no range: after a gap its variance would be 0.
    unknown = np.isnan(within) | (np.isnan(overnight) & (within == 0))
    return np.where(unknown, squares, variance)


@dataclass(frozen=True)
class VarianceBounds:
    """How far a daily variance may lie from the median of the days before."""

    days: int = 60  # of the median
    low: float = 0.02  # in medians: bounds a frozen candle
    high: float = 16.0  # in medians: bounds one wild candle


def winsorised_variance(
    candles: pd.DataFrame, bounds: VarianceBounds | None = None, *, ranges: bool = True
) -> Floats:
    """`daily_variance`, clipped to multiples of the median of the days before, shape (days,).

    NaN where it is. If the price stands still on most days, the median is 0 and nothing is clipped.
    """
    bounds = bounds or VarianceBounds()
    variance = daily_variance(candles, ranges=ranges)
    medians = pd.Series(variance).rolling(bounds.days, min_periods=bounds.days // 6).median().shift(1)
    median = medians.to_numpy(dtype=np.float64)
    return np.where(median > 0, np.clip(variance, bounds.low * median, bounds.high * median), variance)


def log_variance(variance: Floats) -> Floats:
    """The logarithm of each day's variance, shape (days,); NaN where the variance is unknown or 0."""
    return np.log(np.where(variance > 0, variance, np.nan))


def ewma(values: Floats, *, decay: float) -> Floats:
    """Exponentially weighted mean up to and including each day, shape (days,); NaN values are skipped."""
    mean = pd.Series(values).ewm(alpha=1.0 - decay, adjust=True, ignore_na=True).mean()
    return mean.to_numpy(dtype=np.float64)


def day_numbers(candles: pd.DataFrame) -> Rows:
    """Each day as the number of days since 1970-01-01, shape (days,)."""
    return candles["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.int64)


def weekdays(candles: pd.DataFrame) -> Rows:
    """The weekday of each day, shape (days,): Monday is 0."""
    return (day_numbers(candles) + 3) % 7  # 1970-01-01 was a Thursday


def weekend_flags(candles: pd.DataFrame, *, horizon: int = 1) -> list[Floats]:
    """Shares of Saturdays, Sundays and Mondays among the next `horizon` days, (days,) each."""
    later = weekdays(candles)[:, None] + np.arange(1, horizon + 1)
    return [(later % 7 == target).mean(axis=1) for target in (5, 6, 0)]


@dataclass(frozen=True)
class Garch:
    """Fitted GARCH(1,1) with Student t innovations.

    Bollerslev (1987), "A conditionally heteroskedastic time series model for speculative prices and rates of
    return".
    """

    omega: float  # in percent squared
    alpha: float
    beta: float
    dof: float  # of the t
    first_variance: float  # before the first return, in percent squared

    def sigma(self, returns: Floats) -> Floats:
        """Sigma after the first 0, 1, 2, ... log returns (returns,), of the next day each, (returns + 1,).

        NaN where it is infinite.
        """
        from arch.univariate import GARCH

        # By default arch bounds the variances by statistics of the whole sample, and a day depends on later
        # ones. The recursion does not use the last entry's own return.
        bounds = np.tile([0.0, np.inf], (len(returns) + 1, 1))
        parameters = np.array([self.omega, self.alpha, self.beta])
        empty = np.full(len(returns) + 1, np.nan)
        percent = np.append(100.0 * returns, 0.0)
        variance = GARCH(p=1, q=1).compute_variance(parameters, percent, empty, self.first_variance, bounds)
        return np.asarray(np.sqrt(np.where(variance < np.inf, variance, np.nan)) / 100.0)


@kept_by_figures
def fit_garch(returns: Floats) -> Garch | None:
    """Fit to log returns (days,), all known; None if all are equal or the optimizer does not converge."""
    from arch import arch_model

    sample = 100.0 * returns
    if not np.ptp(sample) > 0:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The optimizer warns of impossible values on its way; its flag shows whether it converged.
        warnings.simplefilter("ignore")
        model = arch_model(sample, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=True)
        result = model.fit(disp="off", show_warning=False)
    omega, alpha, beta, dof = result.params.to_numpy(dtype=np.float64).tolist()
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, dof]).all():
        return None
    # arch multiplies returns that are too small for the optimizer by `scale`.
    return Garch(omega / result.scale**2, alpha, beta, dof, float(model.volatility.backcast(sample)))


def weighted_sum(inputs: Floats, weights: Floats) -> Floats:
    """Each row's inputs (rows, columns) times the weights, added up column by column, shape (rows,).

    The weights are those of all rows, (columns,), or each row's own, (columns, rows).

    NumPy's own may round a row differently when there are more rows.
    """
    total = np.zeros(len(inputs))
    for column, weight in zip(inputs.T, weights, strict=True):
        total += column * weight
    return total


def _logs(candles: pd.DataFrame) -> list[Floats]:
    return [np.log(candles[name].to_numpy(dtype=np.float64)) for name in ("open", "high", "low", "close")]
