"""Forecasts of tomorrow's return without a network, which the network must not lose to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from storage.core.errors import NotEnoughHistory
from tasks.core.quantiles import LEVELS, student_t
from tasks.core.tensorflow_runtime import one_blas_thread
from tasks.core.types import Floats, Rows
from tasks.features.expected_sigma import har_sigma, refit_cuts, weekday_ewma_sigma, weekday_scale
from tasks.features.volatility import fit_garch, har, log_returns, weekdays

BASELINES: tuple[str, ...] = (
    *("last_close_250", "ewma_weekday_t", "garch_weekday_t", "har_120_t"),
    "har_t",  # in the mix of the published forecast
)
# One-day returns that an origin needs behind it, and that `last_close_250` takes its quantiles from.
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


@dataclass(frozen=True)
class _Past:
    """Candles and log returns (days,) up to the last origin; origins (origins,)."""

    candles: pd.DataFrame
    returns: Floats
    counts: Rows  # (days,), returns up to and including the day
    origins: Rows

    def cuts(self, refit_days: int) -> Rows:
        """Each origin's parameters are fitted on the rows before this one, (origins,)."""
        cuts = refit_cuts(self.candles, refit_days)[self.origins]
        enough = np.concatenate([[0], self.counts])[cuts] >= MIN_RETURNS
        return np.where(enough, cuts, self.origins + 1)


def baseline_quantiles(
    candles: pd.DataFrame, rows: Sequence[int] | Rows, *, components: Sequence[str] = BASELINES
) -> dict[str, Floats]:
    """Each baseline's quantiles of the next day's log return of the close, at `LEVELS`.

    `last_close_250`: quantiles of the newest 250 returns. The others: a Student t with mean 0 and the sigma
    of RiskMetrics (`ewma_weekday_t`) or GARCH(1,1) (`garch_weekday_t`), both adjusted for weekdays, of HAR
    with a memory of 120 days (`har_120_t`) or of all days (`har_t`). A forecast depends only on its origin's
    row and those before it, not on the other origins. Of the candles, days may be missing, and all figures
    but the close unknown.

    Returns the quantiles (origins, 23) by component; all 0 where no price ever moved.

    Raises:
        NotEnoughHistory: an origin with fewer than 250 one-day returns up to it.
    """
    one_blas_thread()
    makers = {
        "last_close_250": _last_close,
        "ewma_weekday_t": _ewma_weekday_t,
        "garch_weekday_t": _garch_weekday_t,
        "har_120_t": _har_120_t,
        "har_t": _har_t,
    }
    origins = np.asarray(rows, dtype=np.int64)
    quantiles = {name: np.zeros((len(origins), len(LEVELS))) for name in components}
    if len(origins):
        past = _past(candles, origins)
        moved = np.fmax.accumulate(np.abs(past.returns))[origins] > 0
        past = replace(past, origins=past.origins[moved])
        for name in components if moved.any() else ():
            quantiles[name][moved] = makers[name](past)
    return quantiles


def _past(candles: pd.DataFrame, origins: Rows) -> _Past:
    candles = candles.iloc[: origins.max() + 1]
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.int64)
    returns = log_returns(candles)
    counts = np.cumsum(~np.isnan(returns))
    if counts[origins.min()] < MIN_RETURNS:
        raise NotEnoughHistory(
            f"the baselines need {MIN_RETURNS} one-day returns up to an origin, found {counts[origins.min()]}"
            f" up to {np.datetime64(int(days[origins.min()]), 'D')}: import more history or begin later"
        )
    return _Past(candles, returns, counts, origins)


def _last_close(past: _Past) -> Floats:
    returns = past.returns[~np.isnan(past.returns)]
    ends = past.counts[past.origins].tolist()
    return np.array([np.quantile(returns[end - MIN_RETURNS : end], LEVELS) for end in ends])


def _ewma_weekday_t(past: _Past) -> Floats:
    return _around_zero(past, weekday_ewma_sigma(past.candles))


def _har_120_t(past: _Past) -> Floats:
    return _or_ewma(_around_zero(past, har_sigma(past.candles), min_returns=WARM_UP), past)


def _around_zero(past: _Past, sigma: Floats, *, min_returns: int = 0) -> Floats:
    """Quantiles of a t on the newest returns in expected sigmas (days,); NaN where either is unknown."""

    def fit(cut: int, rows: Rows) -> Fit | None:
        before, actual = sigma[: cut - 1], past.returns[1:cut]
        usable = ~np.isnan(actual) & (before > 0) & (past.counts[: cut - 1] >= WARM_UP)
        if np.count_nonzero(usable) < min_returns:
            return None
        size, dof = _fit_t(actual[usable][-T_DAYS:] / before[usable][-T_DAYS:])
        return sigma[rows] * size, dof

    return _t_quantiles(past, REFIT_DAYS, fit)


def _garch_weekday_t(past: _Past) -> Floats:
    known = ~np.isnan(past.returns)
    returns, weekday = past.returns[known], weekdays(past.candles)

    def fit(cut: int, rows: Rows) -> Fit | None:
        count, ends = past.counts[cut - 1], past.counts[rows]
        scale = weekday_scale(returns[:count], weekday[known][:count])
        scaled = returns[: ends.max()] / scale[weekday[known][: ends.max()]]
        garch = fit_garch(scaled[:count])
        if garch is None:
            return None
        return garch.sigma(scaled)[ends] * scale[(weekday[rows] + 1) % 7], float(np.clip(garch.dof, *DOF))

    return _or_ewma(_t_quantiles(past, GARCH_REFIT_DAYS, fit), past)


def _har_t(past: _Past) -> Floats:
    regression = har(past.candles)

    def fit(cut: int, rows: Rows) -> Fit | None:
        fitted = regression.fit(cut)
        if fitted is None:
            return None
        weights, standardized = fitted
        size, dof = _fit_t(standardized[-T_DAYS:])
        return regression.sigma(rows, weights) * size, dof

    return _or_ewma(_t_quantiles(past, REFIT_DAYS, fit), past)


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


def _or_ewma(quantiles: Floats, past: _Past) -> Floats:
    """The quantiles (origins, 23), with those of `ewma_weekday_t` where a model could not be fitted."""
    missing = ~np.isfinite(quantiles).all(axis=1)
    if missing.any():
        quantiles[missing] = _ewma_weekday_t(replace(past, origins=past.origins[missing]))
    return quantiles


def _fit_t(values: Floats) -> tuple[float, float]:
    """Sigma and degrees of freedom of the maximum-likelihood t about 0; `UNFITTED` when all values are 0."""
    from arch.univariate import StudentsT
    from scipy.optimize import minimize

    moves = np.abs(values[values != 0])
    if not len(moves):
        return UNFITTED
    size = float(np.median(moves))
    unit = values / size
    likelihood = StudentsT().loglikelihood

    # In log sigma and 1 / dof the likelihood is smooth enough for a quasi-Newton method.
    def loss(at: Floats) -> float:
        variance = np.full(len(unit), np.exp(2.0 * at[0]))
        return -float(likelihood(np.array([1.0 / at[1]]), unit, variance)) / len(unit)

    # Many days without a move would pull sigma to 0: the bounds keep it near the typical move.
    bounds = [(-np.log(20.0), np.log(20.0)), (1.0 / DOF[1], 1.0 / DOF[0])]
    best = minimize(loss, np.array([0.5, 0.2]), method="L-BFGS-B", bounds=bounds)
    return size * float(np.exp(best.x[0])), float(np.clip(1.0 / best.x[1], *DOF))
