"""Forecasts of the return over the next days without a network, which the network must not lose to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from storage.core.errors import NotEnoughHistory
from tasks.core.quantiles import LEVELS, student_t
from tasks.core.tensorflow_runtime import one_blas_thread
from tasks.core.types import Floats, Rows
from tasks.features.expected_sigma import ExpectedSigmas, expected_sigmas, refit_cuts, weekday_scale
from tasks.features.volatility import Garch, fit_garch, log_returns, rows_before, weekdays

# Their mean is the part of the published forecast that no network makes.
MIXED = ("ewma_weekday_t", "garch_weekday_t", "har_120_t")
METHODS: tuple[str, ...] = ("last_close_250", *MIXED)
# The same, moved by the mean return of all days before.
DRIFT = "_drift"
BASELINES: tuple[str, ...] = (*METHODS, *(f"{name}{DRIFT}" for name in METHODS))
# One-day returns that an origin needs behind it, and returns that `last_close_250` takes its quantiles from.
MIN_RETURNS = 250
# Parameters are fitted anew after so many days. Those of GARCH, which takes longest, move the least.
REFIT_DAYS, GARCH_REFIT_DAYS = 30, 90
# A t is fitted on at least so many returns; before, a variance is a mean of too few to standardize the next.
WARM_UP = 30
DOF = (2.1, 200.0)
# Sigma and degrees of freedom of standardized returns where no price moved in the past.
UNFITTED = (1.0, 4.0)
# A t is fitted to the newest days: a market's first years have tails of their own. Chosen on LTC-USD
# 2018-2020 and BTC-USD 2016-2017 from all, 1500, 1000, 730, 500 and 365, by the CRPS of the mixed forecast.
T_DAYS = 500

# Sigma (rows,) and degrees of freedom of a t.
Fit = tuple[Floats, float]
Quantiles = dict[str, Floats]


def baselines_of(horizon: int) -> tuple[str, ...]:
    """The baselines of a horizon: over one day a drift is too small to tell."""
    return METHODS if horizon == 1 else BASELINES


@dataclass(frozen=True)
class _Past:
    """Candles and one-day log returns (days,) up to the last origin; origins (origins,)."""

    candles: pd.DataFrame
    returns: Floats
    counts: Rows  # (days,), returns up to and including the day
    origins: Rows
    sigmas: ExpectedSigmas
    garch_at: Callable[[int], _WeekdayGarch | None]  # fitted on the rows before a cut, once for all horizons

    def cuts(self, refit_days: int) -> Rows:
        """Each origin's parameters are fitted on the rows before this one, (origins,)."""
        cuts = refit_cuts(self.candles, refit_days)[self.origins]
        enough = np.concatenate([[0], self.counts])[cuts] >= MIN_RETURNS
        return np.where(enough, cuts, self.origins + 1)


@dataclass(frozen=True)
class _WeekdayGarch:
    """GARCH of returns over the size of their weekday, and sigma of the day after each return."""

    garch: Garch
    scale: Floats  # (7,)
    sigma: Floats  # (returns + 1,), of returns over their weekday's scale

    def over(self, horizon: int, count: Rows, weekday: Rows) -> Floats:
        """Sigma of the return over the days after so many returns, the last of that weekday, (rows,)."""
        # In percent, as the parameters are; each day's expected variance follows from that of the day before.
        variance, total = np.square(100.0 * self.sigma[count]), np.zeros(len(count))
        for day in range(1, horizon + 1):
            total += variance * np.square(self.scale[(weekday + day) % 7])
            variance = self.garch.omega + (self.garch.alpha + self.garch.beta) * variance
        return np.asarray(np.sqrt(total) / 100.0, dtype=np.float64)


def baseline_quantiles(
    candles: pd.DataFrame,
    rows: Sequence[int] | Rows,
    *,
    horizons: Sequence[int] = (1,),
    components: Collection[str] = BASELINES,
    sigmas: ExpectedSigmas | None = None,
) -> Mapping[int, Quantiles]:
    """Each baseline's quantiles of the log return of the close over each horizon, at `LEVELS`.

    `last_close_250`: quantiles of the newest 250 returns over the horizon, which overlap. The others: a
    Student t with mean 0 and the sigma of RiskMetrics (`ewma_weekday_t`) or GARCH(1,1) (`garch_weekday_t`),
    both adjusted for weekdays, or of HAR with a memory of 120 days (`har_120_t`). A name with `_drift` is
    the same, moved by the mean one-day return of all days before, once for each day of the horizon. A
    forecast depends only on its origin's row and those before it, not on the other origins. Of the candles,
    days may be missing, and all figures but the close unknown. `sigmas` are those of the candles, where they
    are known already.

    Returns the quantiles (origins, 23) by component, by horizon, those of `baselines_of` among `components`;
    all 0 where no price ever moved.

    Raises:
        NotEnoughHistory: an origin with fewer than 250 one-day returns up to it.
    """
    one_blas_thread()
    makers = dict(zip(METHODS, (_last_close, _ewma_weekday_t, _garch_weekday_t, _har_120_t), strict=True))
    origins = np.asarray(rows, dtype=np.int64)
    wanted = {h: [name for name in baselines_of(h) if name in components] for h in horizons}
    quantiles = {h: {name: np.zeros((len(origins), len(LEVELS))) for name in wanted[h]} for h in horizons}
    if not len(origins) or not any(wanted.values()):
        return quantiles
    past = _past(candles, origins, sigmas or expected_sigmas(candles, horizons))
    moved = np.fmax.accumulate(np.abs(past.returns))[origins] > 0
    if not moved.any():
        return quantiles
    past = replace(past, origins=past.origins[moved])
    drift = (np.nancumsum(past.returns) / np.maximum(past.counts, 1))[past.origins][:, None]
    for horizon, names in wanted.items():
        made = {name: makers[name](past, horizon) for name in METHODS if {name, name + DRIFT} & {*names}}
        for name in names:
            method = name.removesuffix(DRIFT)
            quantiles[horizon][name][moved] = made[method] + (horizon * drift if method != name else 0.0)
    return quantiles


def _past(candles: pd.DataFrame, origins: Rows, sigmas: ExpectedSigmas) -> _Past:
    candles = candles.iloc[: origins.max() + 1]
    returns = log_returns(candles)
    known = ~np.isnan(returns)
    counts = np.cumsum(known)
    if counts[origins.min()] < MIN_RETURNS:
        raise NotEnoughHistory(
            f"the baselines need {MIN_RETURNS} one-day returns up to an origin, found {counts[origins.min()]}"
            f" up to {candles['day_utc'].iloc[origins.min()].date()}: import more history or begin later"
        )

    @functools.cache
    def garch_at(cut: int) -> _WeekdayGarch | None:
        count, weekday = counts[cut - 1], weekdays(candles)[known]
        scale = weekday_scale(returns[known][:count], weekday[:count])
        scaled = returns[known] / scale[weekday]
        garch = fit_garch(scaled[:count])
        return None if garch is None else _WeekdayGarch(garch, scale, garch.sigma(scaled))

    return _Past(candles, returns, counts, origins, sigmas, garch_at)


def _last_close(past: _Past, horizon: int) -> Floats:
    over = log_returns(past.candles, days=horizon)
    known = ~np.isnan(over)
    ends, returns = np.cumsum(known)[past.origins].tolist(), over[known]
    return np.array([np.quantile(returns[max(end - MIN_RETURNS, 0) : end], LEVELS) for end in ends])


def _ewma_weekday_t(past: _Past, horizon: int) -> Floats:
    return _around_zero(past, horizon, past.sigmas.of(horizon)[1])


def _har_120_t(past: _Past, horizon: int) -> Floats:
    sigma = past.sigmas.of(horizon)[0]
    return _or_ewma(_around_zero(past, horizon, sigma, min_returns=WARM_UP), past, horizon)


def _around_zero(past: _Past, horizon: int, sigma: Floats, *, min_returns: int = 0) -> Floats:
    """Quantiles of a t on the newest returns in expected sigmas (days,); NaN where either is unknown."""
    standardized = _standardized(past, horizon, sigma)

    def fit(cut: int, rows: Rows) -> Fit | None:
        known = _known(standardized[:cut])
        if len(known) < min_returns:
            return None
        size, dof = fit_t(known[-T_DAYS:])
        return sigma[rows] * size, dof

    return _t_quantiles(past, REFIT_DAYS, fit)


def _standardized(past: _Past, horizon: int, sigma: Floats) -> Floats:
    """Each day's return over the horizon, over the sigma (days,) expected at its origin, (days,) or NaN."""
    before = rows_before(past.candles, horizon)
    actual, expected = log_returns(past.candles, days=horizon), sigma[before]
    usable = (before >= 0) & ~np.isnan(actual) & (expected > 0) & (past.counts[before] >= WARM_UP)
    return np.where(usable, actual / np.where(usable, expected, 1.0), np.nan)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _garch_weekday_t(past: _Past, horizon: int) -> Floats:
    weekday = weekdays(past.candles)

    def fit(cut: int, rows: Rows) -> Fit | None:
        fitted = past.garch_at(cut)
        if fitted is None:
            return None
        sigma = fitted.over(horizon, past.counts, weekday)
        if horizon == 1:
            return sigma[rows], float(np.clip(fitted.garch.dof, *DOF))
        # Over some days the tails are those of a sum.
        size, dof = fit_t(_known(_standardized(past, horizon, sigma)[:cut])[-T_DAYS:])
        return sigma[rows] * size, dof

    return _or_ewma(_t_quantiles(past, GARCH_REFIT_DAYS, fit), past, horizon)


def _t_quantiles(past: _Past, refit_days: int, fit: Callable[[int, Rows], Fit | None]) -> Floats:
    """Quantiles of a t about 0, (origins, 23); `fit` takes a cut and its origins (rows,)."""
    sigma, dof = np.full((2, len(past.origins)), np.nan)
    cuts = past.cuts(refit_days)
    for cut in np.unique(cuts).tolist():
        members = cuts == cut
        fitted = fit(cut, past.origins[members])
        if fitted is not None:
            sigma[members], dof[members] = fitted
    return student_t(np.zeros(len(sigma)), sigma, dof)


def _or_ewma(quantiles: Floats, past: _Past, horizon: int) -> Floats:
    """The quantiles (origins, 23), with those of `ewma_weekday_t` where a model could not be fitted."""
    missing = ~np.isfinite(quantiles).all(axis=1)
    if missing.any():
        quantiles[missing] = _ewma_weekday_t(replace(past, origins=past.origins[missing]), horizon)
    return quantiles


def fit_t(values: Floats) -> tuple[float, float]:
    """Sigma and degrees of freedom of the maximum-likelihood t about 0; `UNFITTED` when all values are 0."""
    from scipy.optimize import minimize

    moves = np.abs(values[values != 0])
    if not len(moves):
        return UNFITTED
    size = float(np.median(moves))
    squares = np.square(values / size)
    # Many days without a move would pull sigma to 0: the bounds keep it near the typical move.
    bounds = [(-np.log(20.0), np.log(20.0)), (1.0 / DOF[1], 1.0 / DOF[0])]
    start = np.array([0.5, 0.2])
    best = minimize(_t_loss, start, args=(squares,), jac=True, method="L-BFGS-B", bounds=bounds)
    return size * float(np.exp(best.x[0])), float(np.clip(1.0 / best.x[1], *DOF))


def _t_loss(at: Floats, squares: Floats) -> tuple[float, Floats]:
    """Mean negative log likelihood of a t about 0 and its gradient, at log sigma and 1 / dof.

    In these it is smooth enough for a quasi-Newton method. `squares` are those of the values, (values,).
    """
    from scipy.special import gammaln, psi

    dof, wide = 1.0 / at[1], 1.0 / at[1] - 2.0
    ratio = squares / (np.exp(2.0 * at[0]) * wide)
    logs, shares = np.log1p(ratio).mean(), (ratio / (1.0 + ratio)).mean()
    loss = gammaln(dof / 2) - gammaln((dof + 1) / 2) + 0.5 * np.log(np.pi * wide) + at[0]
    by_dof = 0.5 * (psi(dof / 2) - psi((dof + 1) / 2) + 1.0 / wide + logs - (dof + 1) * shares / wide)
    return loss + (dof + 1) / 2 * logs, np.array([1.0 - (dof + 1) * shares, -np.square(dof) * by_dof])
