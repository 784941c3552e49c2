"""Four forecasts of tomorrow's return without a network, which the network must not lose to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from storage.core.errors import NotEnoughHistory
from tasks.core.quantiles import LEVELS, student_t
from tasks.core.tensorflow_runtime import one_blas_thread
from tasks.core.types import Floats, Rows
from tasks.features.volatility import ewma_sigma, fit_garch, har, log_returns

BASELINES: tuple[str, ...] = ("last_close_250", "ewma_t", "garch_t", "har_t")
# One-day returns that an origin needs behind it, and that `last_close_250` takes its quantiles from.
MIN_RETURNS = 250
# Parameters are fitted on the days whose number since 1970-01-01 is a multiple of this.
REFIT_DAYS = 30
# A mean of fewer variances is too uncertain to standardize the next return.
WARM_UP = 30
DOF = (2.1, 200.0)
# Sigma and degrees of freedom of standardized returns where no price moved in the past.
UNFITTED = (1.0, 4.0)
# HAR's t is fitted to the newest days: a market's first years have tails of their own. Chosen on LTC-USD
# 2018-2020 and BTC-USD 2016-2017 from all, 1500, 1000, 730, 500 and 365, by the CRPS of the mixed forecast.
HAR_T_DAYS = 500


@dataclass(frozen=True)
class _Past:
    """Candles and log returns (days,) up to the last origin; origins and their cuts (origins,)."""

    candles: pd.DataFrame
    returns: Floats
    counts: Rows  # (days,), returns up to and including the day
    origins: Rows
    cuts: Rows  # an origin's parameters are fitted on the rows before this one


def baseline_quantiles(
    candles: pd.DataFrame, rows: Sequence[int] | Rows, *, components: Sequence[str] = BASELINES
) -> dict[str, Floats]:
    """Each baseline's quantiles of the next day's log return of the close, at `LEVELS`.

    `last_close_250`: quantiles of the newest 250 returns. `ewma_t`, `garch_t`, `har_t`: a Student t with
    mean 0 and the sigma of RiskMetrics, GARCH(1,1) or HAR. A forecast depends only on its origin's row and
    those before it, not on the other origins. Of the candles, days may be missing, and all figures but the
    close unknown.

    Returns the quantiles (origins, 23) by component; all 0 where no price ever moved.

    Raises:
        NotEnoughHistory: an origin with fewer than 250 one-day returns up to it.
    """
    one_blas_thread()
    makers = {"last_close_250": _last_close, "ewma_t": _ewma_t, "garch_t": _garch_t, "har_t": _har_t}
    origins = np.asarray(rows, dtype=np.int64)
    quantiles = {name: np.zeros((len(origins), len(LEVELS))) for name in components}
    if len(origins):
        past = _past(candles, origins)
        moved = np.fmax.accumulate(np.abs(past.returns))[origins] > 0
        past = replace(past, origins=past.origins[moved], cuts=past.cuts[moved])
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
    cuts = np.searchsorted(days, days[origins] // REFIT_DAYS * REFIT_DAYS, side="right")
    enough = np.concatenate([[0], counts])[cuts] >= MIN_RETURNS
    return _Past(candles, returns, counts, origins, np.where(enough, cuts, origins + 1))


def _last_close(past: _Past) -> Floats:
    returns = past.returns[~np.isnan(past.returns)]
    ends = past.counts[past.origins].tolist()
    return np.array([np.quantile(returns[end - MIN_RETURNS : end], LEVELS) for end in ends])


def _ewma_t(past: _Past) -> Floats:
    sigma = ewma_sigma(past.returns)

    def fit(cut: int, rows: Rows) -> tuple[Floats, float]:
        before, actual = sigma[: cut - 1], past.returns[1:cut]
        usable = ~np.isnan(actual) & (before > 0) & (past.counts[: cut - 1] >= WARM_UP)
        size, dof = _fit_t(actual[usable] / before[usable])
        return sigma[rows] * size, dof

    return _around_zero(past, fit)


def _garch_t(past: _Past) -> Floats:
    returns = past.returns[~np.isnan(past.returns)]

    def fit(cut: int, rows: Rows) -> tuple[Floats, float] | None:
        garch, ends = fit_garch(returns[: past.counts[cut - 1]]), past.counts[rows]
        if garch is None:
            return None
        return garch.sigma(returns[: ends.max()])[ends], float(np.clip(garch.dof, *DOF))

    return _or_ewma(_around_zero(past, fit), past)


def _har_t(past: _Past) -> Floats:
    regression = har(past.candles)

    def fit(cut: int, rows: Rows) -> tuple[Floats, float] | None:
        fitted = regression.fit(cut)
        if fitted is None:
            return None
        weights, standardized = fitted
        size, dof = _fit_t(standardized[-HAR_T_DAYS:])
        return regression.sigma(rows, weights) * size, dof

    return _or_ewma(_around_zero(past, fit), past)


def _around_zero(past: _Past, fit: Callable[[int, Rows], tuple[Floats, float] | None]) -> Floats:
    """Quantiles of a t about 0; `fit` takes a cut and its origins (rows,): it gives sigma (rows,) and dof."""
    sigma, dof = np.full((2, len(past.origins)), np.nan)
    for cut in np.unique(past.cuts).tolist():
        members = past.cuts == cut
        fitted = fit(cut, past.origins[members])
        if fitted is not None:
            sigma[members], dof[members] = fitted
    return student_t(np.zeros(len(sigma)), sigma, dof)


def _or_ewma(quantiles: Floats, past: _Past) -> Floats:
    """The quantiles (origins, 23), with those of `ewma_t` where a model could not be fitted."""
    missing = ~np.isfinite(quantiles).all(axis=1)
    if missing.any():
        quantiles[missing] = _ewma_t(replace(past, origins=past.origins[missing], cuts=past.cuts[missing]))
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
