"""The test of Diebold and Mariano, the bootstrap of a ratio, and outcomes that overlap."""

from __future__ import annotations

import math
from typing import Any

import arch.bootstrap
import numpy as np
import pytest
from scipy import stats

from closecast.tasks.evaluation.significance import compare, diebold_mariano, ratio_interval


def overlapping(draw: np.random.Generator, days: int, horizon: int) -> np.ndarray:
    """The losses of two forecasts that are equally wrong about sums over the horizon, (2, days)."""
    sums = np.convolve(draw.normal(0, 1, days + horizon - 1), np.ones(horizon), "valid") / math.sqrt(horizon)
    return np.stack([np.square(sums - 0.3), np.square(sums + 0.3)])


# The test of Diebold and Mariano


def test_dm_has_the_variance_of_statsmodels_at_the_rule_of_1994() -> None:
    from statsmodels.api import OLS

    draw = np.random.default_rng(5)
    first, second = draw.gamma(2, 1, 250), draw.gamma(2, 1, 250)
    fit = OLS(first - second, np.ones(250)).fit(
        cov_type="HAC", cov_kwds={"maxlags": 4}
    )  # 4 * 2.5^(2/9) = 4.9
    statistic = abs(fit.tvalues[0]) * np.sqrt(249 / 250)
    assert diebold_mariano(first, second) == pytest.approx(2 * stats.t.sf(statistic, 249), rel=1e-9)
    assert diebold_mariano(second, first) == pytest.approx(2 * stats.t.sf(statistic, 249), rel=1e-9)


def statistic_of(difference: np.ndarray, lags: int, *, kernel: str) -> float:
    """That of statsmodels, before any correction; not a number where the variance is negative."""
    from statsmodels.api import OLS

    options = {"maxlags": lags, "kernel": kernel}
    with np.errstate(invalid="ignore"):
        fit = OLS(difference, np.ones(len(difference))).fit(cov_type="HAC", cov_kwds=options)
        return float(abs(fit.tvalues[0]))


@pytest.mark.parametrize(("horizon", "lags"), [(2, 4), (5, 4), (7, 6), (30, 29)])
def test_dm_of_a_horizon_has_its_lags_and_its_correction(horizon: int, lags: int) -> None:
    """The variance is the larger one of two, so the statistic is the smaller one."""
    correction = math.sqrt((250 + 1 - 2 * horizon + horizon * (horizon - 1) / 250) / 250)
    kernels = []
    for seed in range(8):
        first, second = overlapping(np.random.default_rng(seed), 250, horizon)
        difference = first - second
        statistics = {
            "bartlett": statistic_of(difference, lags, kernel="bartlett"),
            "uniform": statistic_of(difference, horizon - 1, kernel="uniform"),
        }
        kernel = min(statistics, key=lambda name: statistics[name])  # a NaN, the second one, is not smaller
        kernels.append(kernel)
        expected = 2 * stats.t.sf(statistics[kernel] * correction, 249)
        assert diebold_mariano(first, second, horizon=horizon) == pytest.approx(expected, rel=1e-9)
    assert "uniform" in kernels


def test_dm_that_knows_the_overlap_rejects_far_less_often() -> None:
    draw = np.random.default_rng(12)
    pairs = [overlapping(draw, 500, 14) for _ in range(300)]
    knows, ignores = (
        np.mean([diebold_mariano(*pair, horizon=horizon) < 0.05 for pair in pairs]) for horizon in (14, 1)
    )
    assert 0.02 < knows < 0.11  # 5 %, a sd of 1.3 from 300 draws, and what 35 horizons are too few for
    assert ignores > 0.25


def test_dm_of_days_that_all_overlap_is_unknown() -> None:
    first, second = np.random.default_rng(1).gamma(2, 1, (2, 14))
    assert diebold_mariano(first, second, horizon=14) is None
    assert diebold_mariano(first, second, horizon=13) is not None


@pytest.mark.parametrize("days", [0, 1, 2, 50])
def test_dm_is_unknown_of_a_difference_that_never_changes(days: int) -> None:
    first = np.random.default_rng(1).gamma(2, 1, days)
    assert diebold_mariano(first, first) is None
    assert diebold_mariano(first, first + 0.1) is None


# The ratio and its interval


def test_the_interval_is_that_of_the_delta_method_for_independent_days() -> None:
    draw = np.random.default_rng(2)
    second = draw.gamma(4, 1, 1500)
    first = 0.9 * second + draw.normal(0, 0.5, 1500)
    ratio = first.mean() / second.mean()
    spread = np.std(first - ratio * second) / second.mean() / np.sqrt(1500)
    lower, upper = ratio_interval(first, second, seed=1) or (0.0, 0.0)
    assert lower == pytest.approx(ratio - 1.96 * spread, abs=0.25 * spread)
    assert upper == pytest.approx(ratio + 1.96 * spread, abs=0.25 * spread)
    assert ratio_interval(first, second, seed=1) == (lower, upper)
    assert ratio_interval(first, second, seed=2) != (lower, upper)


@pytest.mark.parametrize(("horizon", "days"), [(1, 30), (3, 30), (4, 40), (30, 300)])
def test_a_comparison_needs_thirty_days_and_ten_horizons(horizon: int, days: int) -> None:
    first, second = np.random.default_rng(9).gamma(2, 1, (2, days))
    short = compare(first[:-1], second[:-1], horizon=horizon, seed=1)
    long = compare(first, second, horizon=horizon, seed=1)
    assert short.ratio == pytest.approx(first[:-1].sum() / second[:-1].sum())
    assert (short.lower, short.upper, short.p_value) == (None, None, None)
    assert (long.lower, long.upper) == ratio_interval(first, second, horizon=horizon, seed=1)
    assert long.p_value == diebold_mariano(first, second, horizon=horizon)


def test_runs_of_days_are_at_least_as_long_as_the_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    real = arch.bootstrap.StationaryBootstrap

    def recorded(run: int, *losses: Any, **more: Any) -> Any:
        runs.append(run)
        return real(run, *losses, **more)

    monkeypatch.setattr(arch.bootstrap, "StationaryBootstrap", recorded)
    draw = np.random.default_rng(3)
    alone, clustered = draw.gamma(2, 1, (2, 400)), overlapping(draw, 400, 30)
    for first, second in (alone, clustered):
        for horizon in (1, 7):
            ratio_interval(first, second, horizon=horizon, seed=1)
    assert runs[0] < 7 == runs[1]
    assert runs[2] == runs[3] > 7


def test_nothing_to_divide_by_is_unknown() -> None:
    one_day = np.zeros(40)
    one_day[0] = 1.0
    assert ratio_interval(one_day, np.zeros(40), seed=1) is None
    assert ratio_interval(2 * one_day, one_day, seed=1) is None  # some resamples miss the only day
    comparison = compare(one_day, np.ones(40), seed=1)
    assert (comparison.ratio, comparison.lower) == (1 / 40, 0.0)
