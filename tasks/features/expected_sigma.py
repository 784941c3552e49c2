"""The expected sigma of the next days by HAR and by EWMA, and the effect of weekdays on it.

An estimate depends only on its own day and earlier ones. Weekends are quiet; how quiet, and how long
volatility persists, changes over the years. So old days lose weight in every estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from closecast.tasks.core.kept import kept_by_figures
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
# Relative cutoff of singular values, for collinear inputs: the shares of weekdays are constant over whole
# weeks, and where a weekday is never traded.
SINGULAR = 1e-10
# The longest run of missing days that a mean over several days may contain.
MAX_MISSING = 3
# A regression on a short history may explode at long horizons. On real prices HAR's sigma is 0.2 to 3.6 times
# EWMA's.
MAX_RATIO = 8.0


@dataclass(frozen=True)
class HarSettings:
    """How fast the regression forgets, and when it is fitted."""

    half_life_days: float = 120.0  # age at which an outcome has half the weight
    mean_days: tuple[int, ...] = (5, 22)  # a week and a month of trading
    refit_days: int = 30
    min_days: int = 120  # outcomes that a fit needs


@dataclass(frozen=True)
class WeekdayEwmaSettings:
    """The decay of the variance, and how fast the weekdays' levels adapt."""

    decay: float = 0.94  # yesterday's weight: RiskMetrics (J.P. Morgan 1996)
    half_life_days: float = 365.0  # of the weekdays' levels
    prior_weight: float = 10.0  # days with no weekday effect that are added to the observed ones


@dataclass(frozen=True)
class ExpectedSigmas:
    """Expected sigmas of the log return over each horizon, (days, horizons) each."""

    horizons: Rows  # (horizons,), in days
    har: Floats  # NaN before the first fit
    ewma: Floats

    def of(self, horizon: int) -> tuple[Floats, Floats]:
        """HAR's and EWMA's sigma of one horizon, (days,) each.

        Raises:
            ValueError: the horizon is not among `horizons`.
        """
        column = self.horizons.tolist().index(horizon)
        return self.har[:, column], self.ewma[:, column]


def expected_sigmas(candles: pd.DataFrame, horizons: Sequence[int]) -> ExpectedSigmas:
    """`har_sigma` and `weekday_ewma_sigma`, the former clipped to within `MAX_RATIO` times the latter."""
    har, ewma = har_sigma(candles, horizons), weekday_ewma_sigma(candles, horizons)
    har = np.clip(har, ewma / MAX_RATIO, ewma * MAX_RATIO)
    return ExpectedSigmas(np.array(horizons), har, ewma)


def refit_cuts(candles: pd.DataFrame, refit_days: int) -> Rows:
    """The number of first rows that each day's parameters are fitted on, shape (days,).

    These are the rows up to the newest refit day. Refit days are those whose number since 1970-01-01 is a
    multiple of `refit_days`, so that a day has the same parameters whichever origin asks.
    """
    days = day_numbers(candles)
    return np.searchsorted(days, days // refit_days * refit_days, side="right")


def har_sigma(candles: pd.DataFrame, horizons: Sequence[int], settings: HarSettings | None = None) -> Floats:
    """HAR's expected sigma of the log return over each horizon after each row, shape (days, horizons).

    HAR is the model of Corsi (2009), "A simple approximate long-memory model of realized volatility". The log
    of the mean variance of the next days is regressed on the log variance of a day and on its means over a
    week and a month, here also on the shares of Saturdays, Sundays and Mondays among the next days. The
    weights of the least squares halve every `half_life_days` times the root of the horizon. Every sigma is
    out of sample: its coefficients come from outcomes up to a refit day on or before the row.

    NaN before the first fit, which needs `min_days` outcomes.
    """
    settings = settings or HarSettings()
    variance = winsorised_variance(candles)
    known = _har_means(log_variance(variance), settings)
    cuts = refit_cuts(candles, settings.refit_days)
    means, sigmas = _mean_variances(candles, variance, horizons), []
    for horizon, mean in zip(horizons, means, strict=True):
        inputs = np.column_stack([*known, *weekend_flags(candles, horizon=horizon)])
        after = rows_after(candles, horizon)
        outcomes = log_variance(mean)[after]
        outcomes[after < 0] = np.nan
        regression = _Regression(inputs, outcomes, after, day_numbers(candles))
        half_life = settings.half_life_days * np.sqrt(horizon)
        logs = regression.forecasts(cuts, half_life=half_life, min_days=settings.min_days)
        sigmas.append(np.sqrt(horizon * np.exp(logs)))
    return np.stack(sigmas, axis=1)


@dataclass(frozen=True)
class _Regression:
    """A regression of each row's outcome on its inputs, refitted as outcomes become known."""

    inputs: Floats  # (days, n)
    outcomes: Floats  # (days,), NaN where unknown
    known_on: Rows  # (days,), the row on which the outcome is known
    days: Rows  # (days,), day numbers

    def forecasts(self, cuts: Rows, *, half_life: float, min_days: int) -> Floats:
        """Each row's expected outcome, (days,), by a fit to the outcomes known before its cut (days,)."""
        table = np.column_stack([self.inputs, self.outcomes])
        refits, fit = np.unique(cuts, return_inverse=True)
        usable = np.isfinite(table).all(axis=1) & (self.known_on < refits[-1])
        ends = np.where(refits > 0, self.days[refits - 1], self.days[0] - 1)
        weights = _fits(table[usable], self.days[self.known_on[usable]], ends, half_life, min_days)
        return weighted_sum(self.inputs, weights[fit].T)


@kept_by_figures
def _fits(table: Floats, known_on: Rows, ends: Rows, half_life: float, min_days: int) -> Floats:
    """The weights of the inputs by each fit, (fits, n); NaN where there are too few outcomes.

    Args:
        table: the inputs and the outcome of each row, (rows, n + 1).
        known_on: the number of the day on which each outcome is known, (rows,), rising.
        ends: that of the last day that each fit knows, (fits,), rising.
    """
    weights, products = np.full((len(ends), table.shape[1] - 1), np.nan), np.zeros((table.shape[1],) * 2)
    counted, before = 0, ends[0]
    for fit, end in enumerate(ends.tolist()):
        newest = int(np.searchsorted(known_on, end, side="right"))
        block, ages = table[counted:newest], end - known_on[counted:newest]
        # The sums of the normal equations carry over from refit to refit: decayed, plus the new rows.
        products *= 0.5 ** ((end - before) / half_life)
        products += np.einsum("n,ni,nj->ij", 0.5 ** (ages / half_life), block, block)
        counted, before = newest, end
        if counted >= min_days:
            weights[fit], *_ = np.linalg.lstsq(products[:-1, :-1], products[:-1, -1], rcond=SINGULAR)
    return weights


def weekday_ewma_sigma(
    candles: pd.DataFrame, horizons: Sequence[int], settings: WeekdayEwmaSettings | None = None
) -> Floats:
    """EWMA's expected sigma of the log return over each horizon after each row, shape (days, horizons).

    It is the exponentially weighted variance of RiskMetrics (J.P. Morgan 1996), adjusted for weekdays. A
    weekday's level is its log variance less the mean of the week that it ends, averaged with weights that
    halve every `half_life_days` and shrunk to 0 by `prior_weight` days. The exponential of a level is the
    weekday's factor. Each variance is divided by its factor before the mean is taken, and the mean is
    multiplied by the sum of the next days' factors. NaN before the first known variance.
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
    # The sums of the weekdays' factors over the next 1, 2, ... days.
    sizes, later = np.exp(levels), weekdays(candles)[:, None] + np.arange(1, max(horizons) + 1)
    factors = np.cumsum(np.take_along_axis(sizes, later % WEEK, axis=1), axis=1)
    return np.asarray(np.sqrt(mean[:, None] * factors[:, np.array(horizons) - 1]), dtype=np.float64)


def weekday_scale(returns: Floats, weekday: Rows, *, clip_level: float = 0.98) -> Floats:
    """The size of each weekday's log returns relative to the typical weekday, shape (7,).

    A size is the mean of the absolute returns, each clipped at its weekday's quantile `clip_level`; the
    typical one is the geometric mean over the weekdays. 1 for a weekday on which the price never moved.

    Args:
        returns: log returns, (days,), all of them known.
        weekday: the weekday of each, (days,): Monday is 0.
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
    """1, the log variance and its trailing means, (days,) each, the newest known value where unknown."""
    series = pd.Series(logs)
    means = [series, *(series.rolling(days, min_periods=1).mean() for days in settings.mean_days)]
    return [np.ones(len(logs)), *(mean.ffill().to_numpy(dtype=np.float64) for mean in means)]


def _mean_variances(candles: pd.DataFrame, variance: Floats, horizons: Sequence[int]) -> Iterator[Floats]:
    """The mean variance over the calendar days up to each day, as many as each horizon has, (days,) each.

    NaN where the variance of one of them is unknown, or where too many are missing: more than a third, or one
    in a run of more than `MAX_MISSING`.
    """
    calendar = pd.Series(variance, index=pd.DatetimeIndex(candles["day_utc"])).asfreq("D")
    missing = ~calendar.index.isin(candles["day_utc"])
    in_a_row = pd.Series(missing).groupby(np.cumsum(~missing)).transform("sum").to_numpy()
    unusable = pd.Series(np.where(missing, in_a_row > MAX_MISSING, calendar.isna()), calendar.index)
    for days in horizons:
        if days == 1:
            yield variance
            continue
        mean = calendar.rolling(days, min_periods=days - days // 3).mean()
        yield mean.where(unusable.rolling(days).sum() == 0)[~missing].to_numpy(dtype=np.float64)


def _decayed_sums(columns: Sequence[Floats], decay: float) -> Sequence[Floats]:
    """Sums of columns (days, n) up to and including each day, a day weighted by `decay` ** its age."""
    frame = pd.DataFrame(np.column_stack(columns))
    weight = (1.0 - decay ** np.arange(1, len(frame) + 1)) / (1.0 - decay)  # of all days
    means = frame.ewm(alpha=1.0 - decay, adjust=True).mean().to_numpy(dtype=np.float64)
    return np.hsplit(means * weight[:, None], len(columns))
