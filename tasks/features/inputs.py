"""From candles to the network's inputs of each day, all of them known at that day's close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field, field_validator

from closecast.tasks.core.settings import Frozen, Share
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.expected_sigma import ExpectedSigmas, expected_sigmas
from closecast.tasks.features.volatility import (
    MIN_SIGMA,
    VarianceBounds,
    daily_moves,
    daily_variance,
    day_numbers,
    ewma,
    garman_klass,
    log_returns,
    parkinson,
    rows_after,
    weekend_flags,
    winsorised_variance,
)

# Further ahead, too few outcomes that do not overlap are known.
MAX_HORIZON = 60
# The horizons whose expected sigma a window shows, or those nearest to them.
INPUT_HORIZONS = (1, 7, 30)
# The size of a missing day's move, in sigmas: a window then shows of it the mean of BTC-USD, 2018 to 2023.
USUAL_MOVE = 0.52
# Where `make_inputs` puts them: among the spreads Garman-Klass, Parkinson, and the mean of the first; in
# `plain` the volume.
DAY_RANGES, MEAN_RANGE, VOLUME = slice(2, 4), slice(4, 5), 1


class InputSettings(Frozen):
    """How the inputs are made; part of the settings of a profile that uses them."""

    lookback: int = Field(14, ge=5, le=365, description="Days that a window shows: two weeks")
    horizons: tuple[Annotated[int, Field(ge=1, le=MAX_HORIZON)], ...] = Field(
        (1, 2, 3, 4, 5, 6, 7, 14, 30), description="Days ahead that are forecast, rising from 1"
    )
    # The sigma of the newest days: a standard deviation of daily log returns.
    sigma_decay: Share = Field(0.80, description="Weight of yesterday in the variance: about five days count")
    sigma_low: float = Field(
        0.02, gt=0, lt=1, description="Lowest daily variance, in medians: a frozen candle"
    )
    sigma_high: float = Field(16.0, gt=1, description="Highest daily variance, in medians: one wild candle")
    sigma_days: int = Field(60, ge=6, le=365, description="Days that the median goes back")
    target_clip: float = Field(
        8.0, gt=0, description="Largest target, in sigmas: a crash must not own the loss"
    )
    # The inputs, beside sigma.
    return_clip: float = Field(6.0, gt=0, description="Largest return shown, in sigmas")
    return_offset: float = Field(
        0.1, gt=0, description="Added to a return's size in sigmas before its logarithm: a still day has one"
    )
    min_spread: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Smallest range shown, in sigmas: a frozen candle must not be the loudest",
    )
    column_share: float = Field(
        0.9, gt=0, le=1, description="Share of the days that must have ranges, or volume, to show them"
    )
    slow_decay: Share = Field(0.94, description="Weight of yesterday in the slow variance (RiskMetrics)")
    volume_days: int = Field(
        30, ge=2, le=365, description="Days of the mean that log volume is shown against"
    )
    volume_clip: float = Field(3.0, gt=0, description="Largest log volume shown")
    level_days: int = Field(
        250, ge=30, le=1000, description="Days of the mean that log sigma is shown against"
    )

    @field_validator("horizons")
    @classmethod
    def _rising_from_one(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        if horizons[:1] != (1,) or list(horizons) != sorted(set(horizons)):
            raise ValueError("needs horizons that rise from 1, such as [1, 7, 30]")
        return horizons


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
    """The inputs of a product; NaN where one is unknown.

    What a window shows is on the calendar, from the first day to the last. A missing day shows what was
    expected of it: no return, a move of the usual size, the sigmas and levels of the day before.
    """

    days: NDArray[np.datetime64]  # (days,) datetime64[D], those with a close
    sigma: Floats  # (days, horizons), expected standard deviation of the log return over each horizon
    targets: Floats  # (days, horizons), the log return over each horizon in sigmas, clipped
    position: Rows  # (days,), where each of the days is on the calendar
    missing: NDArray[np.bool_]  # (calendar,), the days without a close
    moves: Floats  # (calendar,), `daily_moves`
    spreads: Floats  # (calendar, spreads), logs of sigmas, shown relative to the sigma of the window's origin
    plain: Floats  # (calendar, others), shown as they are


def columns_of(candles: pd.DataFrame, *, share: float) -> Columns:
    """The columns that are known on at least this share of the days."""
    ranges = candles[["open", "high", "low"]].notna().all(axis=1).mean()
    volume = (candles["volume"] > 0).mean()
    return Columns(bool(ranges >= share), bool(volume >= share))


def make_inputs(
    candles: pd.DataFrame, settings: InputSettings, columns: Columns, sigmas: ExpectedSigmas | None = None
) -> Inputs:
    """The inputs of every day; those of a day depend only on it and the days before.

    A figure of `columns` that a day lacks is replaced by one from its close. `sigmas` are those of the
    candles, where they are known already.
    """
    sigmas = sigmas or expected_sigmas(candles, settings.horizons)
    recent = recent_sigma(candles, settings, ranges=columns.ranges)
    sigma = _scales(sigmas, recent)
    scale = sigma[:, :1]
    variances = [ewma(np.square(log_returns(candles)), decay=settings.slow_decay)]
    if columns.ranges:
        variances += _intraday_variances(candles, settings)
    level = np.log(recent)
    plain = [level - _trailing_mean(level, settings.level_days)]
    if columns.volume:
        plain.append(_volume(candles, settings))
    daily = [np.sqrt(np.maximum(variance, 0.0))[:, None] for variance in variances]
    seen = np.column_stack([scale, *daily, *_daily_sigmas(sigmas, recent)])
    spreads = np.log(np.maximum(seen, settings.min_spread * scale))
    return Inputs(
        days=candles["day_utc"].to_numpy(dtype="datetime64[D]"),
        sigma=sigma,
        targets=_targets(candles, sigma, settings),
        **_on_calendar(candles, spreads, np.stack(plain, axis=1), columns),
    )


def _on_calendar(candles: pd.DataFrame, spreads: Floats, plain: Floats, columns: Columns) -> dict[str, Any]:
    """The fields of `Inputs` that are on the calendar, from figures of the days with a close."""
    position = day_numbers(candles) - day_numbers(candles)[:1]
    missing = np.ones(position[-1] + 1 if len(position) else 0, bool)
    missing[position] = False
    before = np.cumsum(~missing) - 1  # the row of each day, or of the newest one before it
    moves = np.where(missing, 0.0, daily_moves(candles)[before])
    spreads, plain = spreads[before], plain[before]
    if columns.ranges:  # one day's ranges tell less of the next day than their mean
        spreads[missing, DAY_RANGES] = spreads[missing, MEAN_RANGE]
    if columns.volume:
        plain[missing, VOLUME] = 0.0
    calendar = pd.DataFrame({"day_utc": pd.date_range(candles["day_utc"].iloc[0], periods=len(missing))})
    return {
        "position": position,
        "missing": missing,
        "moves": moves,
        "spreads": spreads,
        "plain": np.column_stack([plain, *weekend_flags(calendar)]),
    }


def usable_rows(inputs: Inputs, *, lookback: int) -> Rows:
    """Rows that can be an origin, (rows,): every figure of the window is known, or its day is missing."""
    known = np.isfinite(inputs.moves) & np.isfinite(inputs.spreads).all(axis=1)
    known &= np.isfinite(inputs.plain).all(axis=1)
    return _rows_where(known, inputs, lookback)


def training_rows(inputs: Inputs, *, lookback: int) -> Rows:
    """Rows that a network learns from, (rows,): those whose window has no missing day, nor one before it.

    Where less than half of the usable rows are such, all of these.
    """
    usable = usable_rows(inputs, lookback=lookback)
    # The first move of a window is a return from the day before it.
    whole = np.intersect1d(usable, _rows_where(~inputs.missing, inputs, lookback + 1))
    return whole if 2 * len(whole) >= len(usable) else usable


def _rows_where(wanted: NDArray[np.bool_], inputs: Inputs, days: int) -> Rows:
    """Rows of the days for which all of the newest days on the calendar are wanted, (rows,)."""
    if len(wanted) < days:
        return np.empty(0, np.int64)
    complete = np.zeros(len(wanted), bool)
    complete[days - 1 :] = sliding_window_view(wanted, days).all(axis=1)
    return np.flatnonzero(complete[inputs.position])


def windows_at(inputs: Inputs, rows: Rows, settings: InputSettings) -> NDArray[np.float32]:
    """The window up to each origin row, (rows, lookback, features), relative to the origin's sigma."""
    window = inputs.position[rows][:, None] + np.arange(1 - settings.lookback, 1)[None, :]  # (rows, lookback)
    sigma = inputs.sigma[rows, :1]
    returns = inputs.moves[window] / sigma
    sizes = np.where(inputs.missing[window], USUAL_MOVE, np.abs(returns))
    features = [
        np.clip(returns, -settings.return_clip, settings.return_clip)[:, :, None],
        np.log(sizes + settings.return_offset)[:, :, None],
        inputs.spreads[window] - np.log(sigma)[:, :, None],
        inputs.plain[window],
    ]
    return np.concatenate(features, axis=2).astype(np.float32)


def recent_sigma(candles: pd.DataFrame, settings: InputSettings, *, ranges: bool) -> Floats:
    """Sigma of each day's log return, shape (days,), known at its close and at least `MIN_SIGMA`.

    The root of an exponentially weighted mean of the daily variance, from highs and lows where `ranges`. Each
    variance is first clipped to multiples of a trailing median, so that one wild candle does not inflate
    sigma for weeks.
    """
    bounds = VarianceBounds(settings.sigma_days, settings.sigma_low, settings.sigma_high)
    variance = winsorised_variance(candles, bounds, ranges=ranges)
    sigma: Floats = np.sqrt(ewma(variance, decay=settings.sigma_decay))
    return np.maximum(sigma, MIN_SIGMA)


def _scales(sigmas: ExpectedSigmas, recent: Floats) -> Floats:
    """What targets are divided by, (days, horizons): the geometric mean of the sigmas of HAR and EWMA.

    Before HAR's first fit, the recent sigma (days,) times the root of the horizon.
    """
    both = np.sqrt(sigmas.har * sigmas.ewma)
    plain = recent[:, None] * np.sqrt(sigmas.horizons)
    return np.where(np.isfinite(both), np.maximum(both, MIN_SIGMA), plain)


def _daily_sigmas(sigmas: ExpectedSigmas, recent: Floats) -> list[Floats]:
    """Sigmas per day that a window shows, (days,) each: EWMA's of the next day, HAR's of day, week, month."""
    daily = [sigmas.ewma[:, 0]]
    for horizon in INPUT_HORIZONS:
        column = int(np.argmin(np.abs(sigmas.horizons - horizon)))
        daily.append(sigmas.har[:, column] / np.sqrt(sigmas.horizons[column]))
    return [np.where(np.isfinite(sigma), sigma, recent) for sigma in daily]


def _targets(candles: pd.DataFrame, sigma: Floats, settings: InputSettings) -> Floats:
    targets = np.full(sigma.shape, np.nan)
    for column, horizon in enumerate(settings.horizons):
        after = rows_after(candles, horizon)
        known = after >= 0
        returns = log_returns(candles, days=horizon)[after[known]]
        targets[known, column] = returns / sigma[known, column]
    return np.asarray(np.clip(targets, -settings.target_clip, settings.target_clip))


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


def _trailing_mean(values: Floats, days: int) -> Floats:
    mean = pd.Series(values).rolling(days, min_periods=min(days, 30) // 2).mean()
    return mean.to_numpy(dtype=np.float64)
