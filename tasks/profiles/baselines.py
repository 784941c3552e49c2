"""What the LSTM must not lose to: four ways to give tomorrow's return that need no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.core.errors import BadInput, BadSetting, NotEnoughHistory
from tasks.core.quantiles import LEVELS, student_t
from tasks.core.tensorflow_runtime import one_blas_thread
from tasks.core.types import Floats
from tasks.features.volatility import MIN_SIGMA, daily_variance, ewma, garman_klass, log_returns

Rows = NDArray[np.int64]

METHODS: tuple[str, ...] = ("last_close_250", "ewma_t", "garch_t", "har_t")
# One-day returns that an origin must have behind it, and that `last_close_250` shows.
RETURNS = 250
# Parameters are fitted on the days whose number since 1970-01-01 is a multiple of this.
REFIT_DAYS = 30
# RiskMetrics' weight of yesterday's variance.
DECAY = 0.94
# A mean of fewer variances is too uncertain to judge the next return by, a regression on fewer days to use.
WARM_UP = 30
DOF = (2.1, 200.0)
# The distribution of standardised returns where the past has none that could be fitted.
UNFITTED = (1.0, 4.0)
# HAR: the days that its means go back, and what holds the logarithm of a still day finite.
HAR_DAYS = (5, 22)
FLOOR, FLOOR_DAYS = 0.02, 250
# Its t is fitted to the newest days: a market's first years have tails of their own. Chosen on LTC-USD
# 2018-2020 and BTC-USD 2016-2017 from all, 1500, 1000, 730, 500 and 365, by the CRPS of the mixed forecast.
HAR_T_DAYS = 500
# Weekdays of the target with a level of their own; the other four share one.
SATURDAY, SUNDAY, MONDAY = 5, 6, 0


@dataclass(frozen=True)
class _Past:
    """What the origins may know, arrays (days,); the origins' rows and where their fits end, (origins,)."""

    candles: pd.DataFrame
    days: Rows  # since 1970-01-01
    returns: Floats
    known: Rows  # returns known up to and including the day
    origins: Rows
    cuts: Rows  # parameters of the origin are fitted on the rows before this one

    def by_cut(self, fit: Callable[[int], tuple[float, ...]]) -> Floats:
        """What `fit` finds in the rows before each origin's cut, shape (origins, parameters)."""
        fits = {cut: fit(cut) for cut in np.unique(self.cuts).tolist()}
        return np.array([fits[cut] for cut in self.cuts.tolist()], dtype=np.float64)


def baseline_quantiles(
    candles: pd.DataFrame, rows: Sequence[int] | Rows, *, methods: Sequence[str] = METHODS
) -> dict[str, Floats]:
    """Each baseline's quantiles of the next day's log return of the close, at `LEVELS`.

    `last_close_250`: what the newest 250 returns were. `ewma_t`: the variance of RiskMetrics (J.P. Morgan
    1996). `garch_t`: GARCH(1,1) with t innovations, Bollerslev (1987). `har_t`: HAR, Corsi (2009), on the log
    daily variance with the weekday of the target. The last three have mean 0 and a fitted Student t.
    A forecast depends on its origin's row and those before it, not on which others are asked for.

    Args:
        candles: a candle frame, oldest first; days may be missing, all figures but the close unknown.
        rows: row numbers of the origins, shape (origins,); the target is the day after each.
        methods: which of `METHODS`.

    Returns:
        For each method its quantiles, shape (origins, 23); all 0 where no price ever moved.

    Raises:
        BadSetting: a method that is none of `METHODS`.
        BadInput: a row number outside the candles.
        NotEnoughHistory: an origin with fewer than 250 one-day returns up to it.
    """
    one_blas_thread()
    makers = {"last_close_250": _last_close, "ewma_t": _ewma_t, "garch_t": _garch_t, "har_t": _har_t}
    for method in methods:
        if method not in makers:
            raise BadSetting(f"a baseline is one of {', '.join(METHODS)}, got {method!r}: name one of these")
    origins = np.asarray(rows, dtype=np.int64)
    found = {method: np.zeros((len(origins), len(LEVELS))) for method in methods}
    if len(origins):
        past = _past(candles, origins)
        moved = np.fmax.accumulate(np.abs(past.returns))[origins] > 0
        past = replace(past, origins=past.origins[moved], cuts=past.cuts[moved])
        for method in methods if moved.any() else ():
            found[method][moved] = makers[method](past)
    return found


def _past(candles: pd.DataFrame, origins: Rows) -> _Past:
    """Lay out what the origins may know, and where their fits end; refuse those that know too little."""
    if origins.min() < 0 or origins.max() >= len(candles):
        raise BadInput(
            f"origins are rows 0 to {len(candles) - 1} of the candles,"
            f" got {origins.min()} to {origins.max()}: choose days that are there"
        )
    candles = candles.iloc[: origins.max() + 1]
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.int64)
    returns = log_returns(candles)
    known = np.cumsum(~np.isnan(returns))
    if known[origins.min()] < RETURNS:
        raise NotEnoughHistory(
            f"the baselines need {RETURNS} one-day returns up to an origin, found {known[origins.min()]}"
            f" up to {np.datetime64(int(days[origins.min()]), 'D')}: import more history or begin later"
        )
    anchors = days[origins] // REFIT_DAYS * REFIT_DAYS
    cuts = np.searchsorted(days, anchors, side="right")
    enough = np.concatenate([[0], known])[cuts] >= RETURNS
    return _Past(candles, days, returns, known, origins, np.where(enough, cuts, origins + 1))


def _last_close(past: _Past) -> Floats:
    """The quantiles of the newest returns, as they were."""
    known = past.returns[~np.isnan(past.returns)]
    ends = past.known[past.origins].tolist()
    return np.array([np.quantile(known[end - RETURNS : end], LEVELS) for end in ends])


def _ewma_t(past: _Past) -> Floats:
    """A t about 0 whose variance is an exponentially weighted mean of squared returns."""
    sigma = np.sqrt(ewma(np.square(past.returns), decay=DECAY))

    def fit(cut: int) -> tuple[float, float]:
        before, came = sigma[: cut - 1], past.returns[1:cut]
        usable = ~np.isnan(came) & (before > 0) & (past.known[: cut - 1] >= WARM_UP)
        return _fit_t(came[usable] / before[usable])

    return _around_zero(sigma[past.origins], past.by_cut(fit))


def _garch_t(past: _Past) -> Floats:
    """A t about 0 whose variance is GARCH(1,1)'s; EWMA's where the optimiser found no parameters."""
    returns = 100.0 * past.returns[~np.isnan(past.returns)]
    fits = past.by_cut(lambda cut: _fit_garch(returns[: past.known[cut - 1]]))
    variance = np.full(len(fits), np.nan)
    for cut in np.unique(past.cuts):
        members = past.cuts == cut
        ends = past.known[past.origins[members]]
        variance[members] = _garch_variance(returns[: ends.max()], fits[members][0])[ends]
    # A variance that ran away is as good as none.
    sigma = np.sqrt(np.where(variance < np.inf, variance, np.nan)) / 100.0
    return _or_ewma(student_t(np.zeros(len(fits)), sigma, fits[:, 3]), past)


def _har_t(past: _Past) -> Floats:
    """A t about 0, its log variance regressed on those of a day, a week and a month, and on the weekday.

    EWMA's where the price has moved too seldom for a regression.
    """
    inputs, logs = _har_inputs(past)
    follows = np.diff(past.days) == 1
    ranged = ~np.isnan(garman_klass(past.candles))

    def fit(cut: int) -> tuple[float, ...]:
        before, came, returns = inputs[: cut - 1], logs[1:cut], past.returns[1:cut]
        usable = follows[: cut - 1] & ~np.isnan(came) & ~np.isnan(before).any(axis=1)
        if np.sum(usable) < WARM_UP:
            return (np.nan,) * (len(before.T) + 2)
        # A squared return is far below a range's variance as often as not: where there are days enough
        # with ranges, those without teach nothing.
        if np.sum(usable & ranged[1:cut]) >= RETURNS:
            usable &= ranged[1:cut]
        weights, *_ = np.linalg.lstsq(before[usable], came[usable], rcond=None)
        sigma = _har_sigma(before, np.broadcast_to(weights, before.shape))
        usable &= ~np.isnan(returns)
        return *weights.tolist(), *_fit_t((returns[usable] / sigma[usable])[-HAR_T_DAYS:])

    fits = past.by_cut(fit)
    sigma = _har_sigma(inputs[past.origins], fits[:, :-2])
    return _or_ewma(_around_zero(sigma, fits[:, -2:]), past)


def _har_inputs(past: _Past) -> tuple[Floats, Floats]:
    """What the regression sees at each close, shape (days, inputs), and the day's log variance, (days,).

    A figure unknown after a gap is the one before; a mean is of what is known within its days. Nothing is
    known before the first move.
    """
    variance = daily_variance(past.candles)
    # A day without a move says nothing of what is usual.
    usual = pd.Series(np.where(variance > 0, variance, np.nan)).rolling(FLOOR_DAYS, min_periods=1).median()
    floor = np.maximum(FLOOR * usual.ffill().to_numpy(dtype=np.float64), MIN_SIGMA**2)
    logs = pd.Series(np.log(np.maximum(variance, floor)))
    means = [logs, *(logs.rolling(days, min_periods=1).mean() for days in HAR_DAYS)]
    target = (past.days + 1 + 3) % 7  # 1970-01-01 was a Thursday, and Monday is 0
    columns = [
        np.ones(len(logs)),
        *(mean.ffill().to_numpy(dtype=np.float64) for mean in means),
        *((target == day).astype(np.float64) for day in (SATURDAY, SUNDAY, MONDAY)),
    ]
    return np.column_stack(columns), np.asarray(logs, dtype=np.float64)


def _har_sigma(inputs: Floats, weights: Floats) -> Floats:
    """The sigma that the regression expects, shape (rows,), of inputs and weights (rows, inputs).

    Added up column by column: a matrix product may round a row otherwise when there are more of them.
    """
    logs = np.zeros(len(inputs))
    for column, weight in zip(inputs.T, weights.T, strict=True):
        logs += column * weight
    return np.asarray(np.exp(logs / 2.0), dtype=np.float64)


def _around_zero(sigma: Floats, fits: Floats) -> Floats:
    """Quantiles of a t about 0: the sigma (rows,) times a fitted one, and its dof, together (rows, 2)."""
    return student_t(np.zeros(len(fits)), sigma * fits[:, 0], fits[:, 1])


def _or_ewma(found: Floats, past: _Past) -> Floats:
    """The quantiles (origins, 23), with those of `_ewma_t` where a model could not be fitted."""
    lost = ~np.isfinite(found).all(axis=1)
    if lost.any():
        found[lost] = _ewma_t(replace(past, origins=past.origins[lost], cuts=past.cuts[lost]))
    return found


def _fit_t(values: Floats) -> tuple[float, float]:
    """Standard deviation and degrees of freedom of the likeliest t about 0; `UNFITTED` when nothing moved."""
    from arch.univariate import StudentsT
    from scipy.optimize import minimize

    moves = np.abs(values[values != 0])
    if not len(moves):
        return UNFITTED
    size = float(np.median(moves))
    unit = values / size
    likelihood = StudentsT().loglikelihood

    # In log sigma and 1 / dof the likelihood bends evenly enough for a quasi-Newton method.
    def loss(at: Floats) -> float:
        variance = np.full(len(unit), np.exp(2.0 * at[0]))
        return -float(likelihood(np.array([1.0 / at[1]]), unit, variance)) / len(unit)

    # Many days without a move would pull the sigma to nothing: it is held near the usual move.
    bounds = [(-np.log(20.0), np.log(20.0)), (1.0 / DOF[1], 1.0 / DOF[0])]
    best = minimize(loss, np.array([0.5, 0.2]), method="L-BFGS-B", bounds=bounds)
    return size * float(np.exp(best.x[0])), float(np.clip(1.0 / best.x[1], *DOF))


def _fit_garch(sample: Floats) -> tuple[float, ...]:
    """Omega, alpha, beta, dof and the variance before the first return, in percent; NaN when not found."""
    from arch import arch_model

    missing = (np.nan,) * 5
    if not np.ptp(sample) > 0:
        return missing
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The optimiser tries impossible values on its way; whether it arrived is asked of its flag.
        warnings.simplefilter("ignore")
        model = arch_model(sample, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=True)
        result = model.fit(disp="off", show_warning=False)
    omega, alpha, beta, dof = result.params.to_numpy(dtype=np.float64).tolist()
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, dof]).all():
        return missing
    # Returns too small for the optimiser were made larger by `scale`.
    first = float(model.volatility.backcast(sample))
    return omega / result.scale**2, alpha, beta, float(np.clip(dof, *DOF)), first


def _garch_variance(returns: Floats, fit: Floats) -> Floats:
    """GARCH's variance after 0, 1, ... all of the returns, shape (returns + 1,), in percent squared."""
    from arch.univariate import GARCH

    # The recursion of arch bounds its variances by what the whole sample was: here by nothing, for the
    # bits of a day may not depend on those after it. The last entry's own return is not used.
    bounds = np.tile([0.0, np.inf], (len(returns) + 1, 1))
    start = np.full(len(returns) + 1, np.nan)
    shown = np.append(returns, 0.0)
    return np.asarray(GARCH(p=1, q=1).compute_variance(fit[:3], shown, start, float(fit[4]), bounds))
