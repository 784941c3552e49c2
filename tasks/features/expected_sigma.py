"""The sigma that HAR and EWMA expect of the next days, and the weekday's part in it.

A day's figure depends only on that day and those before it. Weekends are quiet, how quiet changes with the
years, and so does how long volatility lasts: what is estimated here forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.volatility import (
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
# Days without a close in a row that a mean over some days does without.
MAX_MISSING = 3
# A regression on a short past may explode far ahead. On real prices HAR is between .2 and 3.6 times EWMA.
MAX_RATIO = 8.0


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
    """`har_sigma`, within `MAX_RATIO` of `weekday_ewma_sigma`, and the latter, of each horizon."""
    har, ewma = har_sigma(candles, horizons), weekday_ewma_sigma(candles, horizons)
    har = np.clip(har, ewma / MAX_RATIO, ewma * MAX_RATIO)
    return ExpectedSigmas(np.array(horizons), har, ewma)


def refit_cuts(candles: pd.DataFrame, refit_days: int) -> Rows:
    """How many rows each day's parameters are fitted on, shape (days,): those up to the newest refit.

    Parameters are fitted on the days whose number since 1970-01-01 is a multiple of `refit_days`, so that
    every origin finds the same ones.
    """
    days = day_numbers(candles)
    return np.searchsorted(days, days // refit_days * refit_days, side="right")


def har_sigma(candles: pd.DataFrame, horizons: Sequence[int], settings: HarSettings | None = None) -> Floats:
    """The sigma that HAR with a memory expects of the log returns after each row, shape (days, horizons).

    HAR, Corsi (2009), "A simple approximate long-memory model of realized volatility": the log of the mean
    variance of the next days regressed on the log variance of a day and its means of a week and a month, here
    with a level for Saturdays, Sundays and Mondays among the next days; least squares with weights that halve
    every `half_life_days` times the root of the horizon. Every sigma is out of sample: the coefficients come
    from outcomes up to a refit on or before the row.

    NaN before the first fit, and on the days after a fit without enough days.
    """
    settings = settings or HarSettings()
    variance = winsorised_variance(candles)
    known = _har_means(log_variance(variance), settings)
    cuts = refit_cuts(candles, settings.refit_days)
    sigmas = []
    for horizon in horizons:
        inputs = np.column_stack([*known, *weekend_flags(candles, horizon=horizon)])
        after = rows_after(candles, horizon)
        outcomes = log_variance(_mean_variance(candles, variance, horizon))[after]
        outcomes[after < 0] = np.nan
        regression = _Regression(inputs, outcomes, after, day_numbers(candles))
        half_life = settings.half_life_days * np.sqrt(horizon)
        logs = regression.forecasts(cuts, half_life=half_life, min_days=settings.min_days)
        sigmas.append(np.sqrt(horizon * np.exp(logs)))
    return np.stack(sigmas, axis=1)


@dataclass(frozen=True)
class _Regression:
    """Inputs (days, n), each row's outcome (days,) or NaN, the row that it is known on, and day numbers."""

    inputs: Floats
    outcomes: Floats
    known_on: Rows
    days: Rows

    def forecasts(self, cuts: Rows, *, half_life: float, min_days: int) -> Floats:
        """Each row's expected outcome, (days,), by least squares on the outcomes before its cut (days,)."""
        table = np.column_stack([self.inputs, self.outcomes])
        usable = np.isfinite(table).all(axis=1)
        table, known_on, days = table[usable], self.known_on[usable], self.days
        expected, products = np.full(len(days), np.nan), np.zeros((table.shape[1],) * 2)
        counted, before = 0, days[0]
        for cut in np.unique(cuts[cuts > 0]).tolist():
            newest, last = int(np.searchsorted(known_on, cut)), days[cut - 1]
            block, ages = table[counted:newest], last - days[known_on[counted:newest]]
            # The sums of the normal equations, carried from refit to refit.
            products *= 0.5 ** ((last - before) / half_life)
            products += np.einsum("n,ni,nj->ij", 0.5 ** (ages / half_life), block, block)
            counted, before = newest, last
            if counted >= min_days:
                weights, *_ = np.linalg.lstsq(products[:-1, :-1], products[:-1, -1], rcond=SINGULAR)
                rows = cuts == cut
                expected[rows] = weighted_sum(self.inputs[rows], np.asarray(weights, dtype=np.float64))
        return expected


def weekday_ewma_sigma(
    candles: pd.DataFrame, horizons: Sequence[int], settings: WeekdayEwmaSettings | None = None
) -> Floats:
    """The sigma that RiskMetrics expects of the log returns after each row, shape (days, horizons).

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
    # Of the next 1, 2, ... days, the sum of their weekdays' factors.
    sizes, later = np.exp(levels), weekdays(candles)[:, None] + np.arange(1, max(horizons) + 1)
    factors = np.cumsum(np.take_along_axis(sizes, later % WEEK, axis=1), axis=1)
    return np.asarray(np.sqrt(mean[:, None] * factors[:, np.array(horizons) - 1]), dtype=np.float64)


def weekday_scale(returns: Floats, weekday: Rows, *, clip_level: float = 0.98) -> Floats:
    """The size of each weekday's log returns over the typical one, shape (7,); both arguments (days,).

    The mean size of a return, each weekday's clipped at its quantile of `clip_level`, over the geometric mean
    of the weekdays. 1 for a weekday without a move.
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


def _har_means(logs: Floats, settings: HarSettings) -> list[Floats]:
    """1, and the log variance of a day and its means, (days,) each; after a gap the value before it."""
    series = pd.Series(logs)
    means = [series, *(series.rolling(days, min_periods=1).mean() for days in settings.mean_days)]
    return [np.ones(len(logs)), *(mean.ffill().to_numpy(dtype=np.float64) for mean in means)]


def _mean_variance(candles: pd.DataFrame, variance: Floats, days: int) -> Floats:
    """The mean variance of each day and those before it, so many in all, (days,).

    NaN where one of them is unknown, or where more than a few of them are missing: a third, or `MAX_MISSING`
    in a row.
    """
    if days == 1:
        return variance
    calendar = pd.Series(variance, index=pd.DatetimeIndex(candles["day_utc"])).asfreq("D")
    missing = ~calendar.index.isin(candles["day_utc"])
    in_a_row = pd.Series(missing).groupby(np.cumsum(~missing)).transform("sum").to_numpy()
    unusable = np.where(missing, in_a_row > MAX_MISSING, calendar.isna())
    known = pd.Series(unusable, calendar.index).rolling(days).sum() == 0
    mean = calendar.rolling(days, min_periods=days - days // 3).mean().where(known)
    return mean.reindex(candles["day_utc"]).to_numpy(dtype=np.float64)


def _decayed_sums(columns: Sequence[Floats], decay: float) -> Sequence[Floats]:
    """Sums up to and including each day of columns (days, n), a day's weight is `decay` to its age."""
    frame = pd.DataFrame(np.column_stack(columns))
    weight = (1.0 - decay ** np.arange(1, len(frame) + 1)) / (1.0 - decay)  # of all days
    means = frame.ewm(alpha=1.0 - decay, adjust=True).mean().to_numpy(dtype=np.float64)
    return np.hsplit(means * weight[:, None], len(columns))
