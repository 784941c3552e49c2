"""Daily variances of a price, and the sigmas (standard deviations of a day's log return) made from them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.core.types import Floats, Rows
from tasks.features.windows import DAY

GARMAN_KLASS = 2.0 * np.log(2.0) - 1.0
PARKINSON = 1.0 / (4.0 * np.log(2.0))
# Below this sigma nothing was traded that could be forecast.
MIN_SIGMA = 1e-6
# Yesterday's weight in the variance of RiskMetrics (J.P. Morgan 1996).
RISKMETRICS_DECAY = 0.94


def log_returns(candles: pd.DataFrame) -> Floats:
    """Log return from the day before's close, shape (days,); NaN on the first day and after a gap."""
    logs = np.log(candles["close"].to_numpy(dtype=np.float64))
    returns = np.full(len(logs), np.nan)
    steps = np.diff(candles["day_utc"].to_numpy(dtype="datetime64[D]"))
    returns[1:] = np.where(steps == DAY, np.diff(logs), np.nan)
    return returns


def with_outcome(candles: pd.DataFrame, rows: Rows) -> Rows:
    """Those of the rows that have a close on the day after."""
    rows = rows[rows < len(candles) - 1]
    return rows[np.isfinite(log_returns(candles)[rows + 1])]


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

    The squared daily return replaces it where a range is unknown or `ranges` is False; NaN where that is
    unknown too. After a gap, the return to the open counts as 0.
    """
    returns = log_returns(candles)
    if not ranges:
        return np.square(returns)
    opening, _, _, close = _logs(candles)
    overnight = returns - (close - opening)
    variance = garman_klass(candles) + np.nan_to_num(np.square(overnight))
    return np.where(np.isnan(variance), np.square(returns), variance)


def ewma(values: Floats, *, decay: float) -> Floats:
    """Exponentially weighted mean up to and including each day, shape (days,); NaN has no weight."""
    mean = pd.Series(values).ewm(alpha=1.0 - decay, adjust=True, ignore_na=True).mean()
    return mean.to_numpy(dtype=np.float64)


def ewma_sigma(returns: Floats) -> Floats:
    """RiskMetrics' sigma of each day from log returns (days,), shape (days,)."""
    return np.asarray(np.sqrt(ewma(np.square(returns), decay=RISKMETRICS_DECAY)))


def weekend_flags(candles: pd.DataFrame) -> list[Floats]:
    """Whether the next day is a Saturday, a Sunday, a Monday, shape (days,) each: weekends are quiet."""
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.int64)
    weekday = (days + 4) % 7  # of the next day; 1970-01-01 was a Thursday, Monday is 0
    return [(weekday == target).astype(np.float64) for target in (5, 6, 0)]


def _logs(candles: pd.DataFrame) -> list[Floats]:
    return [np.log(candles[name].to_numpy(dtype=np.float64)) for name in ("open", "high", "low", "close")]
