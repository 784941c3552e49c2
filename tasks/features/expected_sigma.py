"""The sigma that HAR and EWMA expect of the next days, and the weekday's part in it.

A day's figure depends only on that day and those before it. Weekends are quiet, how quiet changes with the
years, and so does how long volatility lasts: what is estimated here forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.types import Floats, Rows
from tasks.features.volatility import (
    day_numbers,
    ewma,
    log_variance,
    rows_after,
    weekdays,
    weekend_flags,
    weighted_sum,
    winsorised_variance,
)

WEEK = 7
# Singular directions of the normal equations, such as the flag of a weekday that is never traded.
SINGULAR = 1e-10


@dataclass(frozen=True)
class HarSettings:
    """How much the regression remembers, and when it is fitted."""

    half_life_days: float = 120.0  # after which a day counts half
    mean_days: tuple[int, ...] = (5, 22)  # a week and a month of trading
    refit_days: int = 30
    min_days: int = 120  # before which nothing is fitted


@dataclass(frozen=True)
class WeekdayEwmaSettings:
    """The decay of the variance, and how fast the weekdays' levels follow."""

    decay: float = 0.94  # yesterday's weight: RiskMetrics (J.P. Morgan 1996)
    half_life_days: float = 365.0  # of the weekdays' levels
    prior_weight: float = 10.0  # days without an effect of the weekday that are counted beside those seen


@dataclass(frozen=True)
class ExpectedSigmas:
    """The sigmas that HAR and EWMA expect of the log returns over each horizon, (days, horizons) each."""

    horizons: Rows  # (horizons,), days
    har: Floats  # NaN before the first fit
    ewma: Floats

    def of(self, horizon: int) -> tuple[Floats, Floats]:
        """Those of one horizon, (days,) each."""
        column = self.horizons.tolist().index(horizon)
        return self.har[:, column], self.ewma[:, column]


def expected_sigmas(candles: pd.DataFrame, horizons: Sequence[int]) -> ExpectedSigmas:
    """`har_sigma` and `weekday_ewma_sigma` of each horizon."""
    har = [har_sigma(candles, horizon=horizon) for horizon in horizons]
    ewma = [weekday_ewma_sigma(candles, horizon=horizon) for horizon in horizons]
    return ExpectedSigmas(np.array(horizons), np.stack(har, axis=1), np.stack(ewma, axis=1))


def refit_cuts(candles: pd.DataFrame, refit_days: int) -> Rows:
    """How many rows each day's parameters are fitted on, shape (days,): those up to the newest refit.

    Parameters are fitted on the days whose number since 1970-01-01 is a multiple of `refit_days`, so that
    every origin finds the same ones.
    """
    days = day_numbers(candles)
    return np.searchsorted(days, days // refit_days * refit_days, side="right")


def har_sigma(candles: pd.DataFrame, settings: HarSettings | None = None, *, horizon: int = 1) -> Floats:
    """The sigma that HAR with a memory expects of the log return over the days after each row, (days,).

    HAR, Corsi (2009), "A simple approximate long-memory model of realized volatility": the log of the mean
    variance of the next days regressed on the log variance of a day and its means of a week and a month, here
    with a level for Saturdays, Sundays and Mondays among the next days; least squares with weights that halve
    every `half_life_days` times the root of the horizon. Every sigma is out of sample: the coefficients come
    from outcomes up to a refit on or before the row.

    NaN before the first fit, and on the days after a fit without enough days.
    """
    settings = settings or HarSettings()
    variance, days = winsorised_variance(candles), day_numbers(candles)
    inputs = _har_inputs(candles, log_variance(variance), settings, horizon)
    outcomes, after = log_variance(_mean_variance(candles, variance, horizon)), rows_after(candles, horizon)
    # What is known at a close, and the figure of the days after it.
    table = np.column_stack([inputs, np.where(after >= 0, outcomes[after], np.nan)])
    usable = np.isfinite(table).all(axis=1)
    table, targets = table[usable], after[usable]
    half_life = settings.half_life_days * np.sqrt(horizon)
    sigma, products = np.full(len(days), np.nan), np.zeros((table.shape[1],) * 2)
    counted, before = 0, days[0]
    cuts = refit_cuts(candles, settings.refit_days)
    for cut in np.unique(cuts[cuts > 0]).tolist():
        newest, last = int(np.searchsorted(targets, cut)), days[cut - 1]
        block, ages = table[counted:newest], last - days[targets[counted:newest]]
        # The sums of the normal equations, carried from refit to refit.
        products *= _halved(last - before, half_life)
        products += np.einsum("n,ni,nj->ij", _halved(ages, half_life), block, block)
        counted, before = newest, last
        if counted >= settings.min_days:
            weights, *_ = np.linalg.lstsq(products[:-1, :-1], products[:-1, -1], rcond=SINGULAR)
            rows = cuts == cut
            sigma[rows] = np.exp(weighted_sum(inputs[rows], weights) / 2.0)
    return np.asarray(sigma * np.sqrt(horizon), dtype=np.float64)


def weekday_ewma_sigma(
    candles: pd.DataFrame, settings: WeekdayEwmaSettings | None = None, *, horizon: int = 1
) -> Floats:
    """The sigma that RiskMetrics expects of the log return over the days after each row, (days,).

    A weekday's level is the mean of its log variance over that of the week up to it, shrunk to 0 by
    `prior_weight` days without any and forgotten by half every `half_life_days`. The variance of each day is
    divided by the level of its weekday, their exponential mean multiplied by those of the next days'.
    NaN before the first known variance.
    """
    settings = settings or WeekdayEwmaSettings()
    variance = winsorised_variance(candles)
    logs = pd.Series(log_variance(variance))
    excess = (logs - logs.rolling(WEEK).mean()).to_numpy(dtype=np.float64)
    today = np.eye(WEEK)[weekdays(candles)]  # (days, 7), 1 in the weekday's column
    known = today * np.isfinite(excess)[:, None]
    total, count = _decayed_sums(
        [known * np.nan_to_num(excess)[:, None], known], 0.5 ** (1.0 / settings.half_life_days)
    )
    levels = total / (count + settings.prior_weight)
    levels -= levels.mean(axis=1, keepdims=True)
    own = (levels * today).sum(axis=1)
    mean = ewma(variance / np.exp(own), decay=settings.decay)
    following = (np.exp((levels * np.roll(today, day, axis=1)).sum(axis=1)) for day in range(1, horizon + 1))
    return np.asarray(np.sqrt(mean * sum(following)), dtype=np.float64)


def weekday_scale(returns: Floats, weekday: Rows, *, clip_level: float = 0.98) -> Floats:
    """The size of each weekday's log returns over the typical one, shape (7,); both arguments (days,).

    The mean of |return|, each weekday's clipped at its quantile of `clip_level`, over the geometric mean of
    the weekdays. 1 for a weekday without a move.
    """
    sizes = np.full(WEEK, np.nan)
    for day in range(WEEK):
        moves = np.abs(returns[weekday == day])
        if moves.any():
            sizes[day] = np.minimum(moves, np.quantile(moves, clip_level)).mean()
    sizes[~(sizes > 0)] = np.nan
    if np.isnan(sizes).all():
        return np.ones(WEEK)
    return np.asarray(np.nan_to_num(sizes / np.exp(np.nanmean(np.log(sizes))), nan=1.0))


def _har_inputs(candles: pd.DataFrame, logs: Floats, settings: HarSettings, horizon: int) -> Floats:
    """What is known at each close, (days, 7); an unknown figure after a gap takes the value before it."""
    series = pd.Series(logs)
    means = [series, *(series.rolling(days, min_periods=1).mean() for days in settings.mean_days)]
    known = [mean.ffill().to_numpy(dtype=np.float64) for mean in means]
    return np.column_stack([np.ones(len(logs)), *known, *weekend_flags(candles, horizon=horizon)])


def _mean_variance(candles: pd.DataFrame, variance: Floats, days: int) -> Floats:
    """The mean variance of each day and those before it, so many in all, (days,); NaN with a gap there."""
    if days == 1:
        return variance
    calendar = pd.Series(variance, index=pd.DatetimeIndex(candles["day_utc"])).asfreq("D")
    return calendar.rolling(days).mean().reindex(candles["day_utc"]).to_numpy(dtype=np.float64)


def _decayed_sums(columns: Sequence[Floats], decay: float) -> Sequence[Floats]:
    """Sums up to and including each day of columns (days, n), a day's weight is `decay` to its age."""
    frame = pd.DataFrame(np.column_stack(columns))
    weight = (1.0 - decay ** np.arange(1, len(frame) + 1)) / (1.0 - decay)  # of all days
    means = frame.ewm(alpha=1.0 - decay, adjust=True).mean().to_numpy(dtype=np.float64)
    return np.hsplit(means * weight[:, None], len(columns))


def _halved(days: Any, half_life: float) -> Any:
    """The weight that is left after so many days."""
    return 0.5 ** (days / half_life)
