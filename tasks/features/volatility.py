"""How far a price moved within a day and from one day to the next, and the scale that everything is over."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.core.types import Floats
from tasks.features.windows import DAY

GARMAN_KLASS = 2.0 * np.log(2.0) - 1.0
PARKINSON = 1.0 / (4.0 * np.log(2.0))
# A standard deviation of a day's return; below it nothing was traded that could be forecast.
MIN_SIGMA = 1e-6


def log_returns(candles: pd.DataFrame) -> Floats:
    """Log return of each close on the day before's, shape (days,); NaN on the first day and after a gap."""
    logs = np.log(candles["close"].to_numpy(dtype=np.float64))
    returns = np.full(len(logs), np.nan)
    steps = np.diff(candles["day_utc"].to_numpy(dtype="datetime64[D]"))
    returns[1:] = np.where(steps == DAY, np.diff(logs), np.nan)
    return returns


def garman_klass(candles: pd.DataFrame) -> Floats:
    """Variance within each day from its open, high, low and close, shape (days,); NaN where one is unknown.

    Garman and Klass (1980), "On the estimation of security price volatilities from historical data".
    """
    opened, high, low, close = _logs(candles)
    found: Floats = 0.5 * np.square(high - low) - GARMAN_KLASS * np.square(close - opened)
    return found


def parkinson(candles: pd.DataFrame) -> Floats:
    """Variance within each day from its high and low, shape (days,); NaN where one is unknown.

    Parkinson (1980), "The extreme value method for estimating the variance of the rate of return".
    """
    _, high, low, _ = _logs(candles)
    found: Floats = PARKINSON * np.square(high - low)
    return found


def daily_variance(candles: pd.DataFrame, *, ranges: bool = True) -> Floats:
    """Variance of each day, (days,): Garman-Klass plus the squared overnight return.
    (days,).

    Where a range is unknown, or `ranges` is False, the squared return stands for it; NaN where that is
    unknown too. After a gap that return counts as none.
    """
    returns = log_returns(candles)
    if not ranges:
        return np.square(returns)
    opened, _, _, close = _logs(candles)
    overnight = returns - (close - opened)
    found = garman_klass(candles) + np.nan_to_num(np.square(overnight))
    return np.where(np.isnan(found), np.square(returns), found)


def ewma(values: Floats, *, decay: float) -> Floats:
    """Exponentially weighted mean up to and including each day, shape (days,); NaN weighs nothing."""
    return (
        pd.Series(values)
        .ewm(alpha=1.0 - decay, adjust=True, ignore_na=True)
        .mean()
        .to_numpy(dtype=np.float64)
    )


def scale(candles: pd.DataFrame, *, decay: float, low: float, high: float, days: int, ranges: bool) -> Floats:
    """The scale `s` of each day, shape (days,): a standard deviation of log returns, known at its close.

    The root of an exponentially weighted mean of the daily variance, which is first held between `low` and
    `high` times its median over the `days` before: one wild candle must not blind the scale for weeks.

    Args:
        candles: a candle frame, oldest day first.
        decay: weight of yesterday's mean.
        low: least multiple of the median.
        high: greatest multiple of the median.
        days: that the median goes back.
        ranges: use highs and lows.
    """
    variance = pd.Series(daily_variance(candles, ranges=ranges))
    median = variance.rolling(days, min_periods=days // 6).median().shift(1)
    # A median of 0, of a price that stands still on most days, would hold the others' moves at nothing.
    held = variance.clip(low * median, high * median).where(median > 0, variance)
    sigma: Floats = np.sqrt(ewma(np.asarray(held, dtype=np.float64), decay=decay))
    return np.maximum(sigma, MIN_SIGMA)


def _logs(candles: pd.DataFrame) -> tuple[Floats, Floats, Floats, Floats]:
    opened, high, low, close = (
        np.log(candles[f"{name}"].to_numpy(dtype=np.float64)) for name in ("open", "high", "low", "close")
    )
    return opened, high, low, close
