from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import arch
import numpy as np
import pandas as pd
import pytest
from arch.univariate.base import ARCHModel
from scipy import stats

from closecast.storage.core.candle_schema import candle_frame
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, MEDIAN, covered, crps, student_t
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.expected_sigma import (
    expected_sigmas,
    har_sigma,
    weekday_ewma_sigma,
    weekday_scale,
)
from closecast.tasks.features.volatility import fit_garch, log_returns
from closecast.tasks.prices.file_reader import read_candles
from closecast.tasks.profiles import baselines
from closecast.tasks.profiles.baselines import (
    BASELINES,
    GARCH_REFIT_DAYS,
    METHODS,
    MIN_RETURNS,
    MIXED,
    REFIT_DAYS,
    WARM_UP,
    _WeekdayGarch,
    baseline_quantiles,
    baselines_of,
    mean_of_baselines,
)
from closecast.tasks.profiles.student_t import fit_t
from tests.helpers import FIRST, PROJECT, SHARED, needs_prices, without
from tests.markets import closes_only
from tests.tasks.features.walks import random_walk, with_noise_after

UNKNOWN = ["open", "high", "low", "volume"]
Change = Callable[[pd.DataFrame], pd.DataFrame]
Sigma = Callable[..., Floats]
HORIZONS = (1, 3, 7, 30)


@pytest.fixture(autouse=True)
def _every_fit_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "fit_garch", inspect.unwrap(fit_garch))


def closes(returns: Floats) -> pd.DataFrame:
    """Candles of closes alone, with these log returns."""
    close = 4000 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    when = pd.date_range(FIRST, periods=len(close), unit="s")
    return candle_frame({"day_utc": when, "close": close, **dict.fromkeys(UNKNOWN, np.nan)})


def with_gap(frame: pd.DataFrame) -> pd.DataFrame:
    return without(frame, date(2019, 12, 1), date(2019, 12, 12))


def with_jump(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[430:, ["open", "high", "low", "close"]] *= 3.0
    return frame


def quantiles_of(component: str, frame: pd.DataFrame, rows: Any, horizon: int = 1) -> Floats:
    found = baseline_quantiles(frame, rows, horizons=(horizon,), components=[component])
    assert [list(one) for one in found.values()] == [[component]]
    return found[horizon][component]


def width(quantiles: Floats) -> Floats:
    low, high = INTERVAL_INDEXES[80]
    return quantiles[:, high] - quantiles[:, low]


def refit_rows(frame: pd.DataFrame, refit_days: int = REFIT_DAYS) -> Rows:
    """Rows of the days on which parameters are fitted, with enough returns before them."""
    days = frame["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.int64)
    rows = np.flatnonzero(days % refit_days == 0)
    return rows[rows >= MIN_RETURNS]


@pytest.mark.parametrize("change", [closes_only, with_gap, with_jump])
def test_a_forecast_depends_on_no_other_origin_and_no_later_row(change: Change) -> None:
    frame = change(random_walk())
    rows = [251, 299, 340, 440]

    def quantiles(frame: pd.DataFrame, rows: list[int]) -> dict[tuple[int, str], Floats]:
        found = baseline_quantiles(frame, rows, horizons=HORIZONS)
        return {(horizon, name): one for horizon, own in found.items() for name, one in own.items()}

    together = quantiles(frame, rows)
    assert set(together) == {(horizon, name) for horizon in HORIZONS for name in baselines_of(horizon)}
    for n, row in enumerate(rows):
        garbage = with_noise_after(frame, row)
        for alone in (
            quantiles(garbage, [row]),
            quantiles(frame.iloc[: row + 1], [row]),
            {name: found[[n]] for name, found in quantiles(garbage, rows).items()},
        ):
            for name in together:
                assert alone[name].tobytes() == together[name][n].tobytes(), name


@pytest.mark.parametrize("change", [closes_only, with_gap, with_jump])
def test_quantiles_are_finite_sorted_and_of_the_right_width(change: Change) -> None:
    frame = change(random_walk())
    found = baseline_quantiles(frame, range(255, len(frame)), horizons=HORIZONS)
    assert tuple(found) == HORIZONS
    assert (tuple(found[1]), tuple(found[7])) == (METHODS, BASELINES)
    for horizon, own in found.items():
        for name, quantiles in own.items():
            assert quantiles.shape == (len(frame) - 255, len(LEVELS))
            assert np.isfinite(quantiles).all(), name
            assert (np.diff(quantiles, axis=1) > 0).all(), name
            # The 80 % interval of returns with a sigma of 0.03 is about 0.07 wide.
            typical = np.median(width(quantiles)) / np.sqrt(horizon)
            assert 0.04 < typical < 0.11, (horizon, name)


@pytest.mark.parametrize("frame", [closes(np.zeros(300)), random_walk(300, sigma=0.0)])
def test_a_price_that_never_moved_is_forecast_to_stay(frame: pd.DataFrame) -> None:
    for own in baseline_quantiles(frame, [260, 299], horizons=HORIZONS).values():
        for quantiles in own.values():
            assert (quantiles == 0).all()


DAY = np.arange(400)


@pytest.mark.parametrize(
    "returns",
    [
        np.where(DAY == 390, 1.1, 0.0),
        np.where(DAY == 3, -0.5, 0.0),
        np.full(400, 0.01),
        np.where(DAY % 5 == 0, 0.02 * np.sin(DAY), 0.0),
    ],
    ids=["one late move", "one early move", "equal moves", "mostly still"],
)
def test_a_price_that_hardly_moves_has_finite_quantiles(returns: Floats) -> None:
    for own in baseline_quantiles(closes(returns), range(300, 401), horizons=HORIZONS).values():
        for name, quantiles in own.items():
            assert np.isfinite(quantiles).all(), name
            assert (np.diff(quantiles, axis=1) >= 0).all(), name


# Not GARCH: its likelihood learns from still days how quiet a day can be.
@pytest.mark.parametrize("component", ["last_close_250", "ewma_weekday_t", "har_120_t"])
def test_still_days_after_the_listing_do_not_spoil_the_fits(component: str) -> None:
    frame = random_walk()
    still = frame.copy()
    still.loc[:40, ["open", "high", "low"]] = np.nan
    still.loc[:40, "close"] = still["close"][40]
    for name in ("open", "high", "low"):
        still[name] = still[name].fillna(still["close"])
    first, second = (width(quantiles_of(component, each, refit_rows(frame))) for each in (still, frame))
    np.testing.assert_allclose(first, second, rtol=0.2)


@pytest.mark.parametrize("horizon", [1, 3, 30])
def test_last_close_250_takes_the_quantiles_of_the_newest_250_returns(horizon: int) -> None:
    """The returns span the horizon and overlap; none begins or ends in the gap."""
    frame = with_gap(random_walk())
    close = dict(zip(frame["day_utc"].dt.date, frame["close"], strict=True))
    returns = [
        np.log(close[day]) - np.log(close[day - timedelta(days=horizon)])
        for day in list(close)[:451]
        if day - timedelta(days=horizon) in close
    ]
    assert len(returns) < 451 - horizon
    expected = np.quantile(returns[-250:], LEVELS)
    np.testing.assert_allclose(
        quantiles_of("last_close_250", frame, [450], horizon)[0], expected, rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("horizon", [1, 7, 30])
@pytest.mark.parametrize(
    ("component", "sigma"), [("ewma_weekday_t", weekday_ewma_sigma), ("har_120_t", har_sigma)]
)
def test_a_t_is_fitted_to_the_newest_500_returns_in_expected_sigmas(
    component: str, sigma: Sigma, horizon: int
) -> None:
    frame = random_walk(900)
    row = int(refit_rows(frame)[-1])
    expected = sigma(frame, (horizon,))[:, 0]
    returns = log_returns(frame, days=horizon)[row - 499 : row + 1]
    size, dof = fit_t(returns / expected[row - 499 - horizon : row + 1 - horizon])
    origins = [row, row + 2]
    wanted = student_t(np.zeros(2), expected[origins] * size, np.full(2, dof))
    np.testing.assert_allclose(quantiles_of(component, frame, origins, horizon), wanted, rtol=1e-9)
    assert (quantiles_of(component, frame, origins, horizon)[:, MEDIAN] == 0).all()


@pytest.mark.parametrize("change", [pd.DataFrame.copy, with_gap])
def test_a_drift_is_the_mean_return_of_all_days_before(change: Change) -> None:
    frame, rows = change(random_walk()), [300, 440]
    found = baseline_quantiles(frame, rows, horizons=(1, 7))
    assert not [name for name in found[1] if name.endswith("_drift")]
    for method in METHODS:
        for n, row in enumerate(rows):
            moved = found[7][f"{method}_drift"][n] - found[7][method][n]
            drift = 7 * np.nanmean(log_returns(frame)[: row + 1])
            np.testing.assert_allclose(moved, drift, rtol=1e-9)


def test_only_the_components_that_are_wanted_are_made() -> None:
    frame = random_walk(300)
    wanted = ("har_120_t_drift", "last_close_250")
    found = baseline_quantiles(frame, [280], horizons=(1, 7), components=wanted)
    assert [list(own) for own in found.values()] == [
        ["last_close_250"],
        ["last_close_250", "har_120_t_drift"],
    ]
    whole = baseline_quantiles(frame, [280], horizons=(1, 7), sigmas=expected_sigmas(frame, (1, 7)))
    for horizon, own in found.items():
        for name, quantiles in own.items():
            assert quantiles.tobytes() == whole[horizon][name].tobytes()
    assert baseline_quantiles(frame, [20], components=()) == {1: {}}  # for which no return is needed


def test_the_fitted_t_is_the_maximum_likelihood_one() -> None:
    values = np.random.default_rng(8).standard_t(4, 3000) * 1.7
    dof, _, size = stats.t.fit(values, floc=0)
    sigma = size * np.sqrt(dof / (dof - 2))
    np.testing.assert_allclose(fit_t(values), (sigma, dof), rtol=1e-3)
    # One extreme return makes the tail heavier; it does not rescale all the others.
    np.testing.assert_allclose(fit_t(np.append(values, 1e5)), (sigma, dof), rtol=0.2)


def garch_at(frame: pd.DataFrame, row: int) -> tuple[_WeekdayGarch, Floats]:
    """GARCH fitted to the returns up to a row, and these returns, divided by the scale of their weekday."""
    returns, weekday = log_returns(frame)[: row + 1], frame["day_utc"].dt.day_of_week.to_numpy()[: row + 1]
    known = ~np.isnan(returns)
    scale = weekday_scale(returns[known], weekday[known])
    scaled = returns[known] / scale[weekday[known]]
    fitted = fit_garch(scaled)
    assert fitted is not None
    return _WeekdayGarch(fitted, scale, fitted.sigma(scaled)), scaled


def test_garch_weekday_t_is_the_forecast_of_arch_for_scaled_returns() -> None:
    """The variances of several days are summed, each in the scale of its weekday."""
    frame = random_walk(700, weekend=0.5)
    row = int(refit_rows(frame, GARCH_REFIT_DAYS)[-1])
    garch, scaled = garch_at(frame, row)
    assert garch.scale.max() > 1.5 * garch.scale.min()
    result = arch.arch_model(100 * scaled, mean="Zero", dist="t").fit(disp="off", show_warning=False)
    weekday, count = frame["day_utc"].dt.day_of_week.to_numpy()[[row]], np.array([len(scaled)])
    for horizon in HORIZONS:
        daily = result.forecast(horizon=horizon, reindex=False).variance.to_numpy().ravel() / 100**2
        total = sum(
            variance * garch.scale[(weekday + day) % 7] ** 2 for day, variance in enumerate(daily, start=1)
        )
        sigma = garch.over(horizon, count, weekday)
        assert sigma == pytest.approx(np.sqrt(total), rel=1e-9)
    expected = student_t(np.zeros(1), garch.over(1, count, weekday), result.params[["nu"]].to_numpy())
    np.testing.assert_allclose(quantiles_of("garch_weekday_t", frame, [row]), expected, rtol=1e-9)


def test_garch_fits_a_separate_t_over_several_days() -> None:
    frame, horizon = with_gap(random_walk(900)), 7
    row = int(refit_rows(frame, GARCH_REFIT_DAYS)[-1])
    garch, _ = garch_at(frame, row)
    weekday, counts = frame["day_utc"].dt.day_of_week.to_numpy(), np.cumsum(~np.isnan(log_returns(frame)))
    close = dict(zip(frame["day_utc"].dt.date, frame["close"], strict=True))
    standardized = []
    for day in list(close)[: row + 1]:
        origin = day - timedelta(days=horizon)
        if origin in close:
            before = list(close).index(origin)
            if counts[before] >= WARM_UP:
                sigma = garch.over(horizon, counts[[before]], weekday[[before]])[0]
                standardized.append((np.log(close[day]) - np.log(close[origin])) / sigma)
    assert len(standardized) < row - WARM_UP - horizon
    size, dof = fit_t(np.array(standardized[-500:]))
    sigma = garch.over(horizon, counts[[row]], weekday[[row]]) * size
    expected = student_t(np.zeros(1), sigma, np.array([dof]))
    np.testing.assert_allclose(quantiles_of("garch_weekday_t", frame, [row], horizon), expected, rtol=1e-9)


def test_garch_is_fitted_once_per_90_days_on_earlier_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = arch.arch_model

    def recorded(sample: Floats, **options: Any) -> Any:
        sizes.append(len(sample))
        return real(sample, **options)

    monkeypatch.setattr(arch, "arch_model", recorded)
    frame = random_walk(600)
    refits = refit_rows(frame, GARCH_REFIT_DAYS)
    baseline_quantiles(frame, range(refits[0], refits[2]), horizons=(1, 3, 7))
    # Once for all horizons. The first row has no return: there are as many as the refit's row number.
    assert sizes == refits[:2].tolist()
    sizes.clear()
    early = [MIN_RETURNS, refits[0] - 1]
    quantiles_of("garch_weekday_t", frame, early)
    assert sizes == early  # the refit day before them does not have 250 returns yet


def test_the_ewma_replaces_a_garch_that_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, rows = random_walk(), [300, 400]
    real = ARCHModel.fit

    def without_convergence(model: ARCHModel, **options: Any) -> Any:
        result = real(model, **options)
        return SimpleNamespace(params=result.params, scale=result.scale, convergence_flag=9)

    monkeypatch.setattr(ARCHModel, "fit", without_convergence)
    for own in baseline_quantiles(frame, rows, horizons=HORIZONS).values():
        np.testing.assert_array_equal(own["garch_weekday_t"], own["ewma_weekday_t"])


def test_the_ewma_replaces_a_har_whose_first_sigmas_have_no_outcome_yet() -> None:
    """The price begins to move 125 days before a refit: HAR has coefficients, but no returns for its t."""
    frame = random_walk(700)
    row = int(refit_rows(frame)[-2])
    frame.loc[: row - 125, ["open", "high", "low", "close"]] = frame["close"].to_numpy()[row - 125]
    assert np.isfinite(har_sigma(frame, (1,))[row, 0])
    assert np.isnan(har_sigma(frame, (1,))[row - 1, 0])
    found, expected = (
        quantiles_of(name, frame, [row, row + REFIT_DAYS]) for name in ("har_120_t", "ewma_weekday_t")
    )
    assert (found == expected).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("horizon", [1, 30])
def test_a_baseline_with_too_few_returns_forecasts_as_the_ewma(horizon: int) -> None:
    frame = random_walk(420)
    found = baseline_quantiles(frame, [55, 100, 249, 400], horizons=(horizon,))[horizon]
    assert set(found) == set(baselines_of(horizon))
    ewma, garch, har = (found[name] for name in MIXED)
    assert garch[:3].tolist() == ewma[:3].tolist()  # 249 one-day returns and fewer
    assert garch[3].tolist() != ewma[3].tolist()
    assert har[:2].tolist() == ewma[:2].tolist()  # HAR needs 120 days, and 30 returns after them
    assert har[3].tolist() != ewma[3].tolist()
    assert (found["last_close_250"][0].tolist() == ewma[0].tolist()) == (
        horizon == 30
    )  # 26 returns over 30 days
    for quantiles in found.values():
        assert (np.diff(quantiles, axis=1) > 0).all()
    mean = mean_of_baselines(found)
    assert mean == pytest.approx((ewma + garch + har) / 3, rel=1e-12)


@pytest.mark.parametrize("every", [2, 7])
def test_a_series_without_consecutive_days_has_every_baseline(every: int) -> None:
    """Their intervals are as wide as the returns over gaps, scaled to a day, suggest."""
    frame = closes_only(random_walk(600)).iloc[::every].reset_index(drop=True)
    row = len(frame) - 1
    found = baseline_quantiles(frame, [row], horizons=(1, 7))
    sigma = weekday_ewma_sigma(frame, (1, 7))[row]
    for horizon, expected in zip((1, 7), sigma, strict=True):
        for name in MIXED:
            low, high = found[horizon][name][0][[LEVELS.index(0.1), LEVELS.index(0.9)]]
            assert 0.7 < (high - low) / 2 / expected < 1.5, name


@needs_prices
def test_real_prices_give_the_recorded_ratios_and_coverage() -> None:
    file = SHARED / "coinbase_btc-usd_daily.csv"
    frame = read_candles(file.read_bytes(), "BTC-USD", name=file.name).candles
    first = int(np.flatnonzero(frame["day_utc"] == pd.Timestamp("2018-06-01"))[0])
    rows = np.arange(first, len(frame) - 1)
    actual = log_returns(frame)[rows + 1]
    found = baseline_quantiles(frame, rows)[1]
    mean = {name: crps(actual, quantiles).mean() for name, quantiles in found.items()}
    ratios = [mean[name] / mean["har_120_t"] for name in METHODS]
    # 1.0234, 1.0007, 1.0021 and .9980 of the HAR without a memory.
    np.testing.assert_allclose(ratios, [1.0255, 1.0027, 1.0041, 1.0], atol=0.001)
    for quantiles in found.values():
        for percent, tolerance in ((50, 0.06), (80, 0.03), (90, 0.02), (95, 0.02)):
            coverage = covered(actual, quantiles, percent).mean()
            assert coverage == pytest.approx(percent / 100, abs=tolerance)


def test_the_bits_do_not_depend_on_the_number_of_cores() -> None:
    script = (
        "from tests.tasks.profiles.test_baselines import random_walk, baseline_quantiles\n"
        "found = baseline_quantiles(random_walk(700), range(690, 699), horizons=(1, 7, 30))\n"
        "print({(h, name): one.tobytes().hex() for h, own in found.items() for name, one in own.items()})\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "4")
    ]
    assert outputs[0] == outputs[1]
