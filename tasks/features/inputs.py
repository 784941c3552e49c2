"""From candles to the network's inputs of each day, all of them known at that day's close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tasks.core.types import Floats, Rows
from tasks.features.volatility import (
    daily_sigma,
    daily_variance,
    ewma,
    garman_klass,
    log_returns,
    parkinson,
    weekend_flags,
)


@dataclass(frozen=True)
class InputSettings:
    """How inputs are made; `sigma_*` are the arguments of `daily_sigma`, a decay is yesterday's weight."""

    lookback: int  # days in a window
    sigma_decay: float
    sigma_low: float
    sigma_high: float
    sigma_days: int
    target_clip: float  # largest target, in sigmas
    return_clip: float  # largest return, in sigmas
    return_offset: float  # added to a return's size in sigmas before its logarithm: a still day has one
    min_spread: float  # least range, in sigmas
    slow_decay: float  # of the slow variance
    volume_days: int  # of the mean that log volume is compared with
    volume_clip: float  # largest distance from that mean
    level_days: int  # of the mean that log sigma is compared with


@dataclass(frozen=True)
class Columns:
    """Which inputs the candles allow: those from highs and lows, and the one from volume."""

    ranges: bool
    volume: bool

    def lacking(self, given: Columns) -> tuple[str, ...]:
        """Names of the candle columns that these inputs need and `given` does not have."""
        names = {
            "ranges (open, high, low)": self.ranges > given.ranges,
            "volume": self.volume > given.volume,
        }
        return tuple(name for name, lacks in names.items() if lacks)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the candle columns that no input uses."""
        return Columns(ranges=True, volume=True).lacking(self)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a product's days; NaN where one is unknown.

    Attributes:
        days: (days,) datetime64[D].
        returns: (days,), log returns of the close.
        spreads: (days, spreads), logs of sigmas, which a window shows relative to its origin's sigma.
        plain: (days, others), which a window shows as they are.
        sigma: (days,), daily volatility: the standard deviation of a day's log return.
        targets: (days,), the log return of the next day in sigmas, clipped.
    """

    days: NDArray[np.datetime64]
    returns: Floats
    spreads: Floats
    plain: Floats
    sigma: Floats
    targets: Floats


def columns_of(candles: pd.DataFrame, *, share: float) -> Columns:
    """The columns that are known on at least this share of the days."""
    ranges = candles[["open", "high", "low"]].notna().all(axis=1).mean()
    volume = (candles["volume"] > 0).mean()
    return Columns(bool(ranges >= share), bool(volume >= share))


def make_inputs(candles: pd.DataFrame, settings: InputSettings, columns: Columns) -> Inputs:
    """The inputs of every day; those of a day depend only on it and the days before.

    Args:
        candles: a candle frame, oldest day first; gaps stay.
        settings: of the profile.
        columns: the columns to use; a figure that a day lacks is replaced by one from its close.
    """
    sigma = daily_sigma(
        candles,
        decay=settings.sigma_decay,
        low=settings.sigma_low,
        high=settings.sigma_high,
        days=settings.sigma_days,
        ranges=columns.ranges,
    )
    returns = log_returns(candles)
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]")
    variances = [ewma(np.square(returns), decay=settings.slow_decay)]
    if columns.ranges:
        variances += _intraday_variances(candles, settings)
    level = np.log(sigma)
    plain = [level - _trailing_mean(level, settings.level_days)]
    if columns.volume:
        plain.append(_volume(candles, settings))
    targets = np.full(len(days), np.nan)
    targets[:-1] = np.clip(returns[1:] / sigma[:-1], -settings.target_clip, settings.target_clip)
    return Inputs(
        days=days,
        returns=returns,
        spreads=np.stack(
            [_log_sigma(variance, settings.min_spread * sigma) for variance in variances], axis=1
        ),
        plain=np.stack([*plain, *weekend_flags(candles)], axis=1),
        sigma=sigma,
        targets=targets,
    )


def usable_rows(inputs: Inputs, *, lookback: int) -> Rows:
    """Rows that can be an origin, (rows,): the lookback is complete, with no gap in it or before it."""
    rows = np.arange(lookback - 1, len(inputs.days))
    if not len(rows):
        return rows
    complete = np.isfinite(inputs.returns) & np.isfinite(inputs.spreads).all(axis=1)
    complete &= np.isfinite(inputs.plain).all(axis=1)
    return rows[sliding_window_view(complete, lookback).all(axis=1)]


def windows_at(inputs: Inputs, rows: Rows, settings: InputSettings) -> NDArray[np.float32]:
    """The window up to each origin row, (rows, lookback, features), relative to the origin's sigma."""
    window = rows[:, None] + np.arange(1 - settings.lookback, 1)[None, :]  # (rows, lookback)
    sigma = inputs.sigma[rows][:, None]
    returns = inputs.returns[window] / sigma
    features = [
        np.clip(returns, -settings.return_clip, settings.return_clip)[:, :, None],
        np.log(np.abs(returns) + settings.return_offset)[:, :, None],
        inputs.spreads[window] - np.log(sigma)[:, :, None],
        inputs.plain[window],
    ]
    return np.concatenate(features, axis=2).astype(np.float32)


def _intraday_variances(candles: pd.DataFrame, settings: InputSettings) -> list[Floats]:
    """Garman-Klass, Parkinson, and the mean of the first; the squared return where a range is unknown."""
    squared = daily_variance(candles, ranges=False)
    estimates = garman_klass(candles), parkinson(candles)
    first, second = (np.where(np.isnan(estimate), squared, estimate) for estimate in estimates)
    return [first, second, ewma(first, decay=settings.sigma_decay)]


def _volume(candles: pd.DataFrame, settings: InputSettings) -> Floats:
    """Log volume less its trailing mean; 0 where the volume is unknown."""
    volume = candles["volume"].to_numpy(dtype=np.float64)
    logs = np.log(np.where(volume > 0, volume, np.nan))
    distance = logs - _trailing_mean(logs, settings.volume_days)
    return np.nan_to_num(np.clip(distance, -settings.volume_clip, settings.volume_clip))


def _log_sigma(variance: Floats, minimum: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(np.sqrt(np.maximum(variance, 0.0)), minimum)), dtype=np.float64)


def _trailing_mean(values: Floats, days: int) -> Floats:
    mean = pd.Series(values).rolling(days, min_periods=min(days, 30) // 2).mean()
    return mean.to_numpy(dtype=np.float64)
