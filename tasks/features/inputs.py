"""The network's inputs of each day, from candles; all are known at that day's close."""

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

# Longer horizons have too few outcomes that do not overlap.
MAX_HORIZON = 60
# The horizons whose expected sigma is an input; where one is not forecast, the nearest that is.
INPUT_HORIZONS = (1, 7, 30)
# The size of a missing day's move, in sigmas: the input that it gives is the mean of BTC-USD, 2018 to 2023.
USUAL_MOVE = 0.52
# Columns of `Inputs.spreads`: Garman-Klass and Parkinson; the exponential mean of Garman-Klass.
DAY_RANGES, MEAN_RANGE = slice(2, 4), slice(4, 5)
VOLUME = 1  # column of `Inputs.plain`


class InputSettings(Frozen):
    """How the inputs are computed; part of the settings of a profile that uses them."""

    lookback: int = Field(14, ge=5, le=365, description="Days in a window: two weeks")
    horizons: tuple[Annotated[int, Field(ge=1, le=MAX_HORIZON)], ...] = Field(
        (1, 2, 3, 4, 5, 6, 7, 14, 30), description="Days ahead that are forecast, rising from 1"
    )
    # The sigma of the newest days: a standard deviation of daily log returns.
    sigma_decay: Share = Field(0.80, description="Weight of yesterday's variance: a memory of five days")
    sigma_low: float = Field(
        0.02, gt=0, lt=1, description="Smallest daily variance, in trailing medians: bounds a frozen candle"
    )
    sigma_high: float = Field(
        16.0, gt=1, description="Largest daily variance, in trailing medians: bounds one wild candle"
    )
    sigma_days: int = Field(60, ge=6, le=365, description="Days of the trailing median")
    target_clip: float = Field(
        8.0, gt=0, description="Largest target, in sigmas: one crash must not dominate the loss"
    )
    # The other inputs.
    return_clip: float = Field(6.0, gt=0, description="Largest return, in sigmas")
    return_offset: float = Field(
        0.1, gt=0, description="Added to a return's size, in sigmas, because 0 has no logarithm"
    )
    min_spread: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Smallest range, in sigmas: a frozen candle must not be the most extreme input",
    )
    column_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the days that must have ranges, or volume, for these to be inputs",
    )
    slow_decay: Share = Field(0.94, description="Weight of yesterday's slow variance (RiskMetrics)")
    volume_days: int = Field(
        30, ge=2, le=365, description="Days of the trailing mean that log volume is taken relative to"
    )
    volume_clip: float = Field(3.0, gt=0, description="Largest log volume, relative to that mean")
    level_days: int = Field(
        250, ge=30, le=1000, description="Days of the trailing mean that log sigma is taken relative to"
    )

    @field_validator("horizons")
    @classmethod
    def _rising_from_one(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        if horizons[:1] != (1,) or list(horizons) != sorted(set(horizons)):
            raise ValueError("needs horizons that rise from 1, such as [1, 7, 30]")
        return horizons


@dataclass(frozen=True)
class Columns:
    """Which optional candle columns the inputs use."""

    ranges: bool  # open, high and low
    volume: bool

    def lacking(self, given: Columns) -> tuple[str, ...]:
        """Names of the candle columns that these inputs use and `given` does not have."""
        ranges = ("ranges (open, high, low)",) if self.ranges and not given.ranges else ()
        volume = ("volume",) if self.volume and not given.volume else ()
        return (*ranges, *volume)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the candle columns that no input uses."""
        return Columns(ranges=True, volume=True).lacking(self)


@dataclass(frozen=True)
class Inputs:
    """The inputs and targets of a product; NaN where one is unknown.

    Windows are cut from the arrays of shape (calendar, ...), which have a row for each calendar day from the
    first to the last. A missing day has its expected values there: no return, a move of the usual size, the
    sigmas and levels of the day before.
    """

    days: NDArray[np.datetime64]  # (days,) datetime64[D], those with a close
    sigma: Floats  # (days, horizons), expected standard deviation of the log return over each horizon
    targets: Floats  # (days, horizons), the log return over each horizon in sigmas, clipped
    position: Rows  # (days,), the calendar row of each day
    missing: NDArray[np.bool_]  # (calendar,), the days without a close
    moves: Floats  # (calendar,), `daily_moves`
    spreads: Floats  # (calendar, spreads), log sigmas; a window has them relative to its origin's sigma
    plain: Floats  # (calendar, others), as a window has them


def columns_of(candles: pd.DataFrame, *, share: float) -> Columns:
    """The columns that are known on at least this share of the days."""
    ranges = candles[["open", "high", "low"]].notna().all(axis=1).mean()
    volume = (candles["volume"] > 0).mean()
    return Columns(bool(ranges >= share), bool(volume >= share))


def make_inputs(
    candles: pd.DataFrame, settings: InputSettings, columns: Columns, sigmas: ExpectedSigmas | None = None
) -> Inputs:
    """The inputs of every day, each from that day and earlier ones alone.

    Where a day lacks a figure of `columns`, a figure from its close replaces it, or the usual volume.

    Args:
        sigmas: the `expected_sigmas` of these candles and horizons, if the caller has them.
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
    all_sigmas = np.column_stack([scale, *daily, *_daily_sigmas(sigmas, recent)])
    spreads = np.log(np.maximum(all_sigmas, settings.min_spread * scale))
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
    if columns.ranges:  # a better guess than the ranges of the one day before
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
    """Rows that can be an origin, (rows,): each day of the window is missing or has all its figures."""
    known = np.isfinite(inputs.moves) & np.isfinite(inputs.spreads).all(axis=1)
    known &= np.isfinite(inputs.plain).all(axis=1)
    return _rows_where(known, inputs, lookback)


def training_rows(inputs: Inputs, *, lookback: int) -> Rows:
    """Rows that a network is trained on, (rows,): no day of the window is missing, nor the day before it.

    If these are fewer than half of the usable rows, all usable rows.
    """
    usable = usable_rows(inputs, lookback=lookback)
    # The first move of a window is a return from the day before it.
    complete = np.intersect1d(usable, _rows_where(~inputs.missing, inputs, lookback + 1))
    return complete if 2 * len(complete) >= len(usable) else usable


def _rows_where(wanted: NDArray[np.bool_], inputs: Inputs, days: int) -> Rows:
    """Rows whose newest calendar days, `days` of them, are all wanted, (rows,)."""
    if len(wanted) < days:
        return np.empty(0, np.int64)
    complete = np.zeros(len(wanted), bool)
    complete[days - 1 :] = sliding_window_view(wanted, days).all(axis=1)
    return np.flatnonzero(complete[inputs.position])


def windows_at(inputs: Inputs, rows: Rows, settings: InputSettings) -> NDArray[np.float32]:
    """The window that ends on each origin row, (rows, lookback, features), relative to the origin's sigma."""
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

    It is the root of the exponentially weighted mean of the daily variance, from ranges or from closes alone.
    Each variance is first clipped to multiples of a trailing median, so that one wild candle does not inflate
    sigma for weeks.
    """
    bounds = VarianceBounds(settings.sigma_days, settings.sigma_low, settings.sigma_high)
    variance = winsorised_variance(candles, bounds, ranges=ranges)
    sigma: Floats = np.sqrt(ewma(variance, decay=settings.sigma_decay))
    return np.maximum(sigma, MIN_SIGMA)


def _scales(sigmas: ExpectedSigmas, recent: Floats) -> Floats:
    """The unit of the targets, (days, horizons): the geometric mean of HAR's and EWMA's sigmas.

    Before HAR's first fit it is the recent sigma (days,) times the root of the horizon.
    """
    both = np.sqrt(sigmas.har * sigmas.ewma)
    plain = recent[:, None] * np.sqrt(sigmas.horizons)
    return np.where(np.isfinite(both), np.maximum(both, MIN_SIGMA), plain)


def _daily_sigmas(sigmas: ExpectedSigmas, recent: Floats) -> list[Floats]:
    """Expected sigmas per day among the inputs, (days,) each: EWMA's of a day, HAR's of `INPUT_HORIZONS`."""
    daily = [sigmas.ewma[:, 0]]
    for horizon in INPUT_HORIZONS:
        column = int(np.argmin(np.abs(sigmas.horizons - horizon)))
        daily.append(sigmas.har[:, column] / np.sqrt(sigmas.horizons[column]))
    return [np.where(np.isfinite(sigma), sigma, recent) for sigma in daily]


def _targets(candles: pd.DataFrame, sigma: Floats, settings: InputSettings) -> Floats:
    """The log return over each horizon in sigmas (days, horizons), clipped; NaN where unknown."""
    targets = np.full(sigma.shape, np.nan)
    for column, horizon in enumerate(settings.horizons):
        after = rows_after(candles, horizon)
        known = after >= 0
        returns = log_returns(candles, days=horizon)[after[known]]
        targets[known, column] = returns / sigma[known, column]
    return np.asarray(np.clip(targets, -settings.target_clip, settings.target_clip))


def _intraday_variances(candles: pd.DataFrame, settings: InputSettings) -> list[Floats]:
    """Garman-Klass, Parkinson, the mean of the former; the squared return replaces an unknown range."""
    squared = daily_variance(candles, ranges=False)
    estimates = garman_klass(candles), parkinson(candles)
    first, second = (np.where(np.isnan(estimate), squared, estimate) for estimate in estimates)
    return [first, second, ewma(first, decay=settings.sigma_decay)]


def _volume(candles: pd.DataFrame, settings: InputSettings) -> Floats:
    """Log volume relative to its trailing mean, clipped, (days,); 0 where the volume is unknown."""
    volume = candles["volume"].to_numpy(dtype=np.float64)
    logs = np.log(np.where(volume > 0, volume, np.nan))
    distance = logs - _trailing_mean(logs, settings.volume_days)
    return np.nan_to_num(np.clip(distance, -settings.volume_clip, settings.volume_clip))


def _trailing_mean(values: Floats, days: int) -> Floats:
    mean = pd.Series(values).rolling(days, min_periods=min(days, 30) // 2).mean()
    return mean.to_numpy(dtype=np.float64)
