"""Baselines: forecasts of the return over the next days without a network, to compare the networks with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from closecast.tasks.core.quantiles import LEVELS, student_t
from closecast.tasks.core.tensorflow_runtime import one_blas_thread
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.expected_sigma import (
    ExpectedSigmas,
    HarSettings,
    WeekdayEwmaSettings,
    expected_sigmas,
    refit_cuts,
    weekday_scale,
)
from closecast.tasks.features.volatility import (
    Garch,
    daily_moves,
    ewma,
    fit_garch,
    log_returns,
    rows_before,
    weekdays,
)
from closecast.tasks.profiles.student_t import DOF, UNFITTED, fit_t

# Their mean is the part of the published forecast that no network makes.
MIXED = ("ewma_weekday_t", "garch_weekday_t", "har_120_t")
METHODS: tuple[str, ...] = ("last_close_250", *MIXED)
# Beside networks of the pool, squared returns replace ranges: how a return relates to its range differs
# between markets, so what the pool knows of standardized returns holds for squared returns alone.
YOUNG = "ewma_t"
MIXED_WITH_POOL = (YOUNG, *MIXED[1:])
# The fallback of a young product, whose weekdays and GARCH have seen too little; a name given twice has twice
# the weight. Chosen on the days 60 to 399 of BTC-USD, ETH-USD and LTC-USD with 1 % and 5 % of the days
# deleted, by CRPS and coverage one day ahead; see docs/accuracy.md.
MIXED_WHILE_YOUNG = (YOUNG, YOUNG, "last_close_250", "har_120_t")
# Ends the name of a baseline that is moved by the mean return of all days before.
DRIFT = "_drift"
BASELINES: tuple[str, ...] = (*METHODS, *(f"{name}{DRIFT}" for name in METHODS))
# Returns that GARCH is fitted on, that `last_close_250` takes its quantiles from, and on which a t is not
# widened.
MIN_RETURNS = 250
# Parameters are fitted anew after so many days. Those of GARCH, which takes longest, move the least.
REFIT_DAYS, GARCH_REFIT_DAYS = 30, 90
# A distribution is fitted on at least so many returns; before, a variance is a mean of too few, too.
WARM_UP = 30
# Returns over some days overlap: so many of those that a t is fitted on do not. Chosen on the days 60 to 399
# of BTC-USD, ETH-USD and LTC-USD from 0, 5 and 10.
MIN_INDEPENDENT = 5
# Sigma of a t on n < 250 returns is widened by this over n. Chosen on the days 60 to 399 of BTC-USD, ETH-USD
# and LTC-USD from 0, 6, 12 and 20, by coverage at no CRPS one day ahead.
WIDENING = 12.0
# A t is fitted to the newest days: a market's first years have tails of their own. Chosen on LTC-USD
# 2018-2020 and BTC-USD 2016-2017 from all, 1500, 1000, 730, 500 and 365, by the CRPS of the mixed forecast.
T_DAYS = 500

# Sigma (rows,) and degrees of freedom of a t.
Fit = tuple[Floats, float]
Quantiles = dict[str, Floats]
# Of a t on standardized returns, by baseline and horizon: its sigma and degrees of freedom.
Tails = Mapping[str, Mapping[int, tuple[float, float]]]


def baselines_of(horizon: int) -> tuple[str, ...]:
    """The baselines of a horizon: over one day the drift is too small to matter."""
    return METHODS if horizon == 1 else BASELINES


@dataclass(frozen=True)
class _Past:
    """What the baselines are computed from: the days up to the last origin."""

    candles: pd.DataFrame
    returns: Floats  # (days,), one-day log returns
    counts: Rows  # (days,), returns up to and including the day
    origins: Rows  # (origins,)
    sigmas: ExpectedSigmas
    garch_at: Callable[[int], _WeekdayGarch | None]  # fitted to the rows before a cut, once for all horizons
    tails: Tails
    young: bool = False  # a baseline with too few returns forecasts as `ewma_t`, not as `ewma_weekday_t`

    def cuts(self, refit_days: int) -> Rows:
        """The number of first rows that each origin's parameters are fitted to, (origins,)."""
        cuts = refit_cuts(self.candles, refit_days)[self.origins]
        enough = np.concatenate([[0], self.counts])[cuts] >= MIN_RETURNS
        return np.where(enough, cuts, self.origins + 1)


@dataclass(frozen=True)
class _WeekdayGarch:
    """GARCH of returns that are divided by the scale of their weekday."""

    garch: Garch
    scale: Floats  # (7,), `weekday_scale`
    sigma: Floats  # (returns + 1,), of the day after the first 0, 1, ... scaled returns

    def over(self, horizon: int, count: Rows, weekday: Rows) -> Floats:
        """Sigma of the return over the horizon after the first `count` returns, (rows,).

        `weekday` is that of the origin, the day of the last of these returns, (rows,).
        """
        # In percent, as the parameters are; a day's expected variance follows from that of the day before.
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
    tails: Tails | None = None,
) -> Mapping[int, Quantiles]:
    """Each baseline's quantiles of the log return of the close over each horizon, at `LEVELS`.

    `last_close_250`: quantiles of the newest 250 returns over the horizon, which overlap. The others: a
    Student t with mean 0 and the sigma of RiskMetrics (`ewma_weekday_t`) or GARCH(1,1) (`garch_weekday_t`),
    both adjusted for weekdays, or of HAR with a memory of 120 days (`har_120_t`). A name with `_drift` is
    the same, moved by the mean one-day return of all days before, once for each day of the horizon. A
    forecast depends only on its origin's row and those before it, not on the other origins. Of the candles,
    days may be missing, and all figures but the close unknown. Where a baseline has too few returns up to an
    origin, its forecast is that of `ewma_weekday_t`. `sigmas` are those of the candles, where they are known
    already.

    With `ewma_t` among the components, RiskMetrics on squared returns, a baseline with too few returns
    forecasts as that instead. `tails`, those of `pool_tails`, replace the t of the baselines that they name.

    Returns the quantiles (origins, 23) by component, by horizon, those of `baselines_of` among `components`;
    all 0 where no price ever moved.
    """
    one_blas_thread()
    makers = dict(zip(METHODS, (_last_close, _ewma_weekday_t, _garch_weekday_t, _har_120_t), strict=True))
    makers[YOUNG] = _ewma_t
    origins = np.asarray(rows, dtype=np.int64)
    wanted = {h: [name for name in (YOUNG, *baselines_of(h)) if name in components] for h in horizons}
    quantiles = {h: {name: np.zeros((len(origins), len(LEVELS))) for name in wanted[h]} for h in horizons}
    if not len(origins) or not any(wanted.values()):
        return quantiles
    past = _past(candles, origins, sigmas or expected_sigmas(candles, horizons), tails or {})
    moved = np.fmax.accumulate(np.abs(daily_moves(past.candles)))[origins] > 0
    if not moved.any():
        return quantiles
    past = replace(past, origins=past.origins[moved], young=YOUNG in components)
    drift = (np.nancumsum(past.returns) / np.maximum(past.counts, 1))[past.origins][:, None]
    for horizon, names in wanted.items():
        made = {name: makers[name](past, horizon) for name in makers if {name, name + DRIFT} & {*names}}
        for name in names:
            method = name.removesuffix(DRIFT)
            quantiles[horizon][name][moved] = made[method] + (horizon * drift if method != name else 0.0)
    return quantiles


def mean_of_baselines(components: Mapping[str, Floats], names: Sequence[str] = MIXED) -> Floats:
    """The mean of the quantiles of these components, of the shape of each."""
    return np.asarray(np.mean([components[name] for name in names], axis=0))


def pool_tails(
    pool: Sequence[pd.DataFrame], horizons: Sequence[int]
) -> dict[str, dict[int, tuple[float, float]]]:
    """Sigma and degrees of freedom of a t fitted to the standardized returns of several products together.

    By baseline and horizon, on the newest `T_DAYS` returns of each product.
    """
    one_blas_thread()
    pasts = [
        _past(candles, np.array([len(candles) - 1]), expected_sigmas(candles, horizons), {})
        for candles in pool
    ]

    def fit(horizon: int, sigma: Callable[[_Past, int], Floats]) -> tuple[float, float]:
        known = [_known(_standardized(past, horizon, sigma(past, horizon)))[-T_DAYS:] for past in pasts]
        return fit_t(np.concatenate(known))

    return {name: {horizon: fit(horizon, sigma) for horizon in horizons} for name, sigma in SIGMAS.items()}


def _past(candles: pd.DataFrame, origins: Rows, sigmas: ExpectedSigmas, tails: Tails) -> _Past:
    candles = candles.iloc[: origins.max() + 1]
    returns = log_returns(candles)
    known = ~np.isnan(returns)
    counts = np.cumsum(known)

    @functools.cache
    def garch_at(cut: int) -> _WeekdayGarch | None:
        count, weekday = counts[cut - 1], weekdays(candles)[known]
        if count < MIN_RETURNS:
            return None
        scale = weekday_scale(returns[known][:count], weekday[:count])
        scaled = returns[known] / scale[weekday]
        garch = fit_garch(scaled[:count])
        return None if garch is None else _WeekdayGarch(garch, scale, garch.sigma(scaled))

    return _Past(candles, returns, counts, origins, sigmas, garch_at, tails)


def _last_close(past: _Past, horizon: int) -> Floats:
    over = log_returns(past.candles, days=horizon)
    known = ~np.isnan(over)
    ends, returns = np.cumsum(known)[past.origins].tolist(), over[known]
    quantiles = np.full((len(ends), len(LEVELS)), np.nan)
    for row, end in enumerate(ends):
        if end >= WARM_UP:
            quantiles[row] = np.quantile(returns[max(end - MIN_RETURNS, 0) : end], LEVELS)
    return _or_ewma(quantiles, past, horizon)


def _ewma_sigma(past: _Past, horizon: int) -> Floats:
    return past.sigmas.of(horizon)[1]


def _har_sigma(past: _Past, horizon: int) -> Floats:
    return past.sigmas.of(horizon)[0]


def _plain_sigma(past: _Past, horizon: int) -> Floats:
    mean = ewma(np.square(daily_moves(past.candles)), decay=WeekdayEwmaSettings().decay)
    return np.asarray(np.sqrt(horizon * mean), dtype=np.float64)


# Of the baselines that are a t about 0 on a sigma that is expected of every day.
SIGMAS: Mapping[str, Callable[[_Past, int], Floats]] = {
    YOUNG: _plain_sigma,
    MIXED[0]: _ewma_sigma,
    MIXED[2]: _har_sigma,
}


def _ewma_t(past: _Past, horizon: int) -> Floats:
    return _around_zero(past, horizon, YOUNG, too_few=UNFITTED)


def _ewma_weekday_t(past: _Past, horizon: int) -> Floats:
    return _around_zero(past, horizon, "ewma_weekday_t", too_few=UNFITTED)


def _har_120_t(past: _Past, horizon: int) -> Floats:
    quantiles = _around_zero(past, horizon, "har_120_t")
    if past.tails:
        # The regression of a young product has few outcomes, the fewer the longer the horizon.
        outcomes = np.cumsum(~np.isnan(log_returns(past.candles, days=horizon)))[past.origins]
        quantiles[outcomes < HarSettings().half_life_days * np.sqrt(horizon)] = np.nan
    return _or_ewma(quantiles, past, horizon)


def _around_zero(
    past: _Past, horizon: int, name: str, *, too_few: tuple[float, float] | None = None
) -> Floats:
    """Quantiles of a t in the baseline's sigmas, fitted to the newest returns; NaN where either is unknown.

    `too_few` are the size and degrees of freedom where less than `WARM_UP` are known, or too few that do not
    overlap.
    """
    sigma = SIGMAS[name](past, horizon)
    if past.tails:
        (size, dof), count = past.tails[name][horizon], len(past.origins)
        return student_t(np.zeros(count), sigma[past.origins] * size, np.full(count, dof))
    standardized = _standardized(past, horizon, sigma)

    def fit(cut: int, rows: Rows) -> Fit | None:
        known = _known(standardized[:cut])
        if len(known) < max(WARM_UP, MIN_INDEPENDENT * horizon):
            return too_few and (sigma[rows] * too_few[0], too_few[1])
        size, dof = fit_t(known[-T_DAYS:])
        # A size from few returns is itself uncertain, which makes the next one wider.
        widened = 1.0 + WIDENING / len(known) if len(known) < MIN_RETURNS else 1.0
        return sigma[rows] * size * widened, dof

    return _t_quantiles(past, REFIT_DAYS, fit)


def _standardized(past: _Past, horizon: int, sigma: Floats) -> Floats:
    """Each day's return over the horizon in the sigma (days,) expected at its origin, (days,); or NaN."""
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
        # The tails of a sum of several days' returns are not those of one.
        size, dof = fit_t(_known(_standardized(past, horizon, sigma)[:cut])[-T_DAYS:])
        return sigma[rows] * size, dof

    return _or_ewma(_t_quantiles(past, GARCH_REFIT_DAYS, fit), past, horizon)


def _t_quantiles(past: _Past, refit_days: int, fit: Callable[[int, Rows], Fit | None]) -> Floats:
    """Quantiles of a t about 0, (origins, 23); `fit` takes a cut, and the origins (rows,) that have it."""
    sigma, dof = np.full((2, len(past.origins)), np.nan)
    cuts = past.cuts(refit_days)
    for cut in np.unique(cuts).tolist():
        members = cuts == cut
        fitted = fit(cut, past.origins[members])
        if fitted is not None:
            sigma[members], dof[members] = fitted
    return student_t(np.zeros(len(sigma)), sigma, dof)


def _or_ewma(quantiles: Floats, past: _Past, horizon: int) -> Floats:
    """The quantiles (origins, 23); where a model could not be fitted, those of an EWMA."""
    missing = ~np.isfinite(quantiles).all(axis=1)
    if missing.any():
        simplest = _ewma_t if past.young else _ewma_weekday_t
        quantiles[missing] = simplest(replace(past, origins=past.origins[missing]), horizon)
    return quantiles
