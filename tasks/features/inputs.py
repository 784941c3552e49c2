"""Candles to what the calibrated network sees of each day, all of it known at that day's close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tasks.core.types import Floats
from tasks.features.volatility import daily_variance, ewma, garman_klass, log_returns, parkinson, scale
from tasks.profiles.calibrated_settings import Recipe


@dataclass(frozen=True)
class Columns:
    """Which inputs the candles can give: those that need highs and lows, and that of the volume."""

    ranges: bool
    volume: bool

    def lacking(self, given: Columns) -> tuple[str, ...]:
        """What these inputs need and `given` does not give, in words."""
        words = {
            "ranges (open, high, low)": self.ranges > given.ranges,
            "volume": self.volume > given.volume,
        }
        return tuple(text for text, lacks in words.items() if lacks)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is dropped, in words."""
        return Columns(ranges=True, volume=True).lacking(self)


@dataclass(frozen=True)
class Inputs:
    """A product's days, as far as the network is shown of them; NaN where something is unknown.

    Attributes:
        days: (days,) datetime64[D].
        returns: (days,), log returns of the close.
        spreads: (days, spreads), logs of standard deviations, to be shown over the origin's scale.
        plain: (days, others), shown as they are.
        scale: (days,), the standard deviation `s` of a day's log return.
        targets: (days,), the log return of the day after over `s`, clipped.
    """

    days: NDArray[np.datetime64]
    returns: Floats
    spreads: Floats
    plain: Floats
    scale: Floats
    targets: Floats


def columns_of(candles: pd.DataFrame, *, share: float = 0.9) -> Columns:
    """What at least that share of the days have."""
    ranges = candles[["open", "high", "low"]].notna().all(axis=1).mean()
    volume = (candles["volume"] > 0).mean()
    return Columns(bool(ranges >= share), bool(volume >= share))


def make_inputs(candles: pd.DataFrame, recipe: Recipe, columns: Columns) -> Inputs:
    """The inputs of every day; those of a day depend on it and the days before only.

    Args:
        candles: a candle frame, oldest day first, gaps left as they are.
        recipe: how.
        columns: of which inputs; a figure that a day lacks falls back to what its close says.
    """
    sigma = scale(
        candles,
        decay=recipe.scale_decay,
        low=recipe.scale_low,
        high=recipe.scale_high,
        days=recipe.scale_days,
        ranges=columns.ranges,
    )
    returns = log_returns(candles)
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]")
    variances = [ewma(np.square(returns), decay=recipe.slow_decay)]
    if columns.ranges:
        variances += _within_days(candles, recipe)
    level = np.log(sigma)
    plain = [level - _trailing_mean(level, recipe.level_days)]
    if columns.volume:
        plain.append(_volume(candles, recipe))
    targets = np.full(len(days), np.nan)
    targets[:-1] = np.clip(returns[1:] / sigma[:-1], -recipe.target_clip, recipe.target_clip)
    return Inputs(
        days=days,
        returns=returns,
        spreads=np.stack([_log_sigma(variance, sigma, recipe.min_spread) for variance in variances], axis=1),
        plain=np.stack([*plain, *_weekday_flags(days)], axis=1),
        scale=sigma,
        targets=targets,
    )


def _within_days(candles: pd.DataFrame, recipe: Recipe) -> list[Floats]:
    """Garman-Klass, Parkinson, and the mean of the first; the squared return where a range is unknown."""
    squared = daily_variance(candles, ranges=False)
    within, wide = (
        np.where(np.isnan(found), squared, found) for found in (garman_klass(candles), parkinson(candles))
    )
    return [within, wide, ewma(within, decay=recipe.scale_decay)]


def _volume(candles: pd.DataFrame, recipe: Recipe) -> Floats:
    """Log volume less its trailing mean; a day whose volume is unknown is shown as an ordinary one."""
    volume = candles["volume"].to_numpy(dtype=np.float64)
    logs = np.log(np.where(volume > 0, volume, np.nan))
    away = logs - _trailing_mean(logs, recipe.volume_days)
    return np.nan_to_num(np.clip(away, -recipe.volume_clip, recipe.volume_clip))


def _weekday_flags(days: NDArray[np.datetime64]) -> list[Floats]:
    """Whether the day after is a Saturday, a Sunday, a Monday: weekends are quiet."""
    weekday = (days.astype(np.int64) + 4) % 7  # of the day after; 1970-01-01 was a Thursday, Monday is 0
    return [(weekday == target).astype(np.float64) for target in (5, 6, 0)]


def _log_sigma(variance: Floats, sigma: Floats, least: float) -> Floats:
    root = np.sqrt(np.maximum(variance, 0.0))
    return np.asarray(np.log(np.maximum(root, least * sigma)), dtype=np.float64)


def _trailing_mean(values: Floats, days: int) -> Floats:
    found = pd.Series(values).rolling(days, min_periods=min(days, 30) // 2).mean()
    return found.to_numpy(dtype=np.float64)


def usable_rows(inputs: Inputs, *, lookback: int) -> NDArray[np.int64]:
    """Rows that can be an origin, (rows,): all of the lookback is known, with no gap in it or before it."""
    rows = np.arange(lookback - 1, len(inputs.days))
    if not len(rows):
        return rows
    known = np.isfinite(inputs.returns) & np.isfinite(inputs.spreads).all(axis=1)
    known &= np.isfinite(inputs.plain).all(axis=1)
    return rows[sliding_window_view(known, lookback).all(axis=1)]


def windows_at(
    inputs: Inputs,
    rows: NDArray[np.int64],
    *,
    lookback: int,
    return_clip: float,
    return_offset: float = 0.1,
) -> NDArray[np.float32]:
    """What the network sees at each origin row, (rows, lookback, features), over the origin's own scale."""
    shown = rows[:, None] + np.arange(1 - lookback, 1)[None, :]  # (rows, lookback)
    over = inputs.scale[rows][:, None]
    returns = inputs.returns[shown] / over
    features = [
        np.clip(returns, -return_clip, return_clip)[:, :, None],
        np.log(np.abs(returns) + return_offset)[:, :, None],
        inputs.spreads[shown] - np.log(over)[:, :, None],
        inputs.plain[shown],
    ]
    return np.concatenate(features, axis=2).astype(np.float32)
