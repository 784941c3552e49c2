from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from types import SimpleNamespace
from typing import Any

import arch
import numpy as np
import pandas as pd
import pytest
from arch.univariate.base import ARCHModel

from storage.core.candle_schema import candle_frame
from storage.core.errors import BadInput, BadSetting, NotEnoughHistory
from tasks.core.quantiles import BANDS, LEVELS, MEDIAN, crps, inside, student_t
from tasks.core.types import Floats
from tasks.features.volatility import log_returns
from tasks.prices.csv_reader import read_candles
from tasks.profiles import baselines
from tasks.profiles.baselines import METHODS, REFIT_DAYS, RETURNS, baseline_quantiles
from tests.helpers import FIRST, PROJECT, SHARED, needs_prices, without

UNKNOWN = ["open", "high", "low", "volume"]
LOW, HIGH = BANDS[80]


def traded(days: int = 480, *, seed: int = 3, sd: float = 0.03, weekend: float = 1.0) -> pd.DataFrame:
    """Candles of a price that moves 24 times a day by a t of 5, on weekends less or more than else."""
    draw = np.random.default_rng(seed)
    when = pd.date_range(FIRST, periods=days, unit="s")
    size = np.where(when.day_of_week >= 5, weekend, 1.0) * sd * np.sqrt(0.6 / 24)
    turbulence = np.exp(0.3 * draw.standard_normal(days))
    steps = draw.standard_t(5, (days, 24)) * (size * turbulence)[:, None]
    path = 4000 * np.exp(np.cumsum(steps).reshape(days, 24))
    opened = np.concatenate([[4000.0], path[:-1, -1]])
    return candle_frame(
        {
            "day_utc": when,
            "open": opened,
            "high": np.maximum(opened, path.max(axis=1)),
            "low": np.minimum(opened, path.min(axis=1)),
            "close": path[:, -1],
            "volume": draw.uniform(1, 9, days),
        }
    )


def closes(returns: Floats) -> pd.DataFrame:
    """Candles that know nothing but closes, of these log returns."""
    close = 4000 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    when = pd.date_range(FIRST, periods=len(close), unit="s")
    return candle_frame({"day_utc": when, "close": close, **dict.fromkeys(UNKNOWN, np.nan)})


def closes_only(frame: pd.DataFrame, days: int | None = None) -> pd.DataFrame:
    """The frame with the other figures of its first days, or of all, unknown."""
    frame = frame.copy()
    frame.loc[frame.index[:days], UNKNOWN] = np.nan
    return frame


def with_a_hole(frame: pd.DataFrame) -> pd.DataFrame:
    return without(frame, date(2019, 12, 1), date(2019, 12, 12))


def with_an_absurd_day(frame: pd.DataFrame, row: int = 430) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[row:, ["open", "high", "low", "close"]] *= 3.0
    return frame


def width(found: Floats) -> Floats:
    return found[:, HIGH] - found[:, LOW]


def anchored(frame: pd.DataFrame) -> Any:
    """Rows of the days on which parameters are fitted, with enough before them."""
    days = frame["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.int64)
    rows = np.flatnonzero(days % REFIT_DAYS == 0)
    return rows[rows >= RETURNS]


@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, with_a_hole, with_an_absurd_day])
def test_an_origin_knows_nothing_of_other_origins_or_later_rows(change: Any) -> None:
    frame = change(traded())
    rows = [251, 299, 340, 440]
    together = baseline_quantiles(frame, rows)
    for n, row in enumerate(rows):
        garbage = frame.copy()
        later = garbage.loc[row + 1 :, "close"]
        noise = np.random.default_rng(row).uniform(0.01, 1e6, (len(later), 5))
        garbage.loc[row + 1 :, [*UNKNOWN[:3], "close", "volume"]] = noise
        garbage.loc[row + 5 :: 3, UNKNOWN] = np.nan
        for alone in (
            baseline_quantiles(garbage, [row]),
            baseline_quantiles(frame.iloc[: row + 1], [row]),
            {method: found[[n]] for method, found in baseline_quantiles(garbage, rows).items()},
        ):
            for method in METHODS:
                # The last of the three shows later origins garbage, and this one the same as before.
                assert alone[method].tobytes() == together[method][n].tobytes(), method


@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, with_a_hole, with_an_absurd_day])
def test_quantiles_are_finite_rise_and_stay_in_proportion(change: Any) -> None:
    frame = change(traded())
    found = baseline_quantiles(frame, range(255, len(frame)))
    assert tuple(found) == METHODS
    for method, quantiles in found.items():
        assert quantiles.shape == (len(frame) - 255, len(LEVELS))
        assert np.isfinite(quantiles).all(), method
        assert (np.diff(quantiles, axis=1) > 0).all(), method
        # The 80 % band of returns with a sigma of .03 is about .07 wide.
        assert 0.04 < np.median(width(quantiles)) < 0.11, method


def test_a_price_that_never_moved_is_forecast_to_stay() -> None:
    for frame in (closes(np.zeros(300)), traded(300, sd=0.0)):
        for quantiles in baseline_quantiles(frame, [260, 299]).values():
            assert (quantiles == 0).all()


def test_a_price_that_has_hardly_moved_gives_finite_quantiles() -> None:
    once = np.zeros(400)
    once[390] = 1.1
    early = np.zeros(400)
    early[3] = -0.5
    steady = np.full(400, 0.01)
    often_still = np.where(np.arange(400) % 5 == 0, 0.02 * np.sin(np.arange(400.0)), 0.0)
    for returns in (once, early, steady, often_still):
        for method, quantiles in baseline_quantiles(closes(returns), range(300, 401)).items():
            assert np.isfinite(quantiles).all(), method
            assert (np.diff(quantiles, axis=1) >= 0).all(), method


def test_still_days_at_the_listing_do_not_spoil_the_fits() -> None:
    frame = traded()
    still = frame.copy()
    still.loc[:40, ["open", "high", "low"]] = np.nan
    still.loc[:40, "close"] = still.loc[40, "close"]
    for name in ("open", "high", "low"):
        still[name] = still[name].fillna(still["close"])
    rows = anchored(frame)
    # GARCH's likelihood does take them for news of how quiet days are.
    for method in ("last_close_250", "ewma_t", "har_t"):
        found, usual = (baseline_quantiles(each, rows, methods=[method])[method] for each in (still, frame))
        np.testing.assert_allclose(width(found), width(usual), rtol=0.2, err_msg=method)


def test_a_coin_that_moves_a_thousandth_as_much_has_quantiles_a_thousandth_as_wide() -> None:
    returns = log_returns(traded())[1:]
    rows = anchored(closes(returns))
    large, small = (baseline_quantiles(closes(returns * by), rows) for by in (1.0, 1e-3))
    for method in METHODS:
        np.testing.assert_allclose(1e3 * width(small[method]), width(large[method]), rtol=0.02)


def test_the_last_close_shows_the_newest_250_returns_that_are_known() -> None:
    frame = with_a_hole(traded())
    returns = log_returns(frame)[:451]
    newest = returns[~np.isnan(returns)][-250:]
    assert np.isnan(returns[200:]).any()
    found = baseline_quantiles(frame, [450], methods=["last_close_250"])
    np.testing.assert_array_equal(found["last_close_250"][0], np.quantile(newest, LEVELS))


def test_the_ewma_is_riskmetrics_times_what_the_past_asks_for() -> None:
    returns = np.random.default_rng(5).standard_t(5, 2000) * 0.02
    frame = closes(returns)
    row = int(anchored(frame)[-1])
    variance = returns[0] ** 2
    for value in returns[1:row]:
        variance = 0.94 * variance + 0.06 * value**2
    unit = student_t(np.zeros(1), np.ones(1), np.array([5.5]))
    found = baseline_quantiles(frame, [row], methods=["ewma_t"])["ewma_t"]
    # The weights of 60 days vary by chance: the variance is a tenth wrong, and the band makes up for it.
    np.testing.assert_allclose(width(found), np.sqrt(variance) * width(unit), rtol=0.06)
    assert found[0, MEDIAN] == 0


def test_the_t_is_the_likeliest() -> None:
    from scipy import stats

    values = np.random.default_rng(8).standard_t(4, 3000) * 1.7
    dof, _, size = stats.t.fit(values, floc=0)
    sigma = size * np.sqrt(dof / (dof - 2))
    np.testing.assert_allclose(baselines._fit_t(values), (sigma, dof), rtol=1e-3)
    # One return that nothing announced is a tail, not a new size of all the others.
    surprised = baselines._fit_t(np.append(values, 1e5))
    np.testing.assert_allclose(surprised, (sigma, dof), rtol=0.2)


def test_degrees_of_freedom_are_held() -> None:
    draw = np.random.default_rng(8)
    assert baselines._fit_t(draw.standard_cauchy(3000))[1] == pytest.approx(2.1)
    assert baselines._fit_t(draw.uniform(-1, 1, 3000))[1] == pytest.approx(200.0)


def test_garch_is_what_arch_forecasts_itself() -> None:
    frame = traded(700)
    row = int(anchored(frame)[-1])
    model = arch.arch_model(100 * log_returns(frame)[1 : row + 1], mean="Zero", dist="t")
    result = model.fit(disp="off", show_warning=False)
    variance = result.forecast(horizon=1, reindex=False).variance.to_numpy().ravel()
    theirs = student_t(np.zeros(1), np.sqrt(variance) / 100, result.params[["nu"]].to_numpy())
    found = baseline_quantiles(frame, [row], methods=["garch_t"])["garch_t"]
    np.testing.assert_allclose(found, theirs, rtol=1e-9)


def test_parameters_are_fitted_once_an_anchor_on_what_it_knew(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = arch.arch_model
    monkeypatch.setattr(
        arch, "arch_model", lambda sample, **more: sizes.append(len(sample)) or real(sample, **more)
    )
    frame = traded()
    anchors = anchored(frame)
    baseline_quantiles(frame, range(anchors[1], anchors[3]), methods=["garch_t"])
    # The first row has no return: as many as the anchor's row number.
    assert sizes == anchors[1:3].tolist()
    sizes.clear()
    early = [RETURNS, anchors[0] - 1]
    baseline_quantiles(frame, early, methods=["garch_t"])
    assert sizes == early  # the anchor before has not 250 returns yet


def test_garch_without_parameters_is_the_ewma(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = traded()
    real = ARCHModel.fit

    def lost(model: ARCHModel, **more: Any) -> Any:
        result = real(model, **more)
        return SimpleNamespace(params=result.params, scale=result.scale, convergence_flag=9)

    expected = baseline_quantiles(frame, [300, 400], methods=["ewma_t"])["ewma_t"]
    monkeypatch.setattr(ARCHModel, "fit", lost)
    found = baseline_quantiles(frame, [300, 400], methods=["garch_t"])
    assert list(found) == ["garch_t"]
    np.testing.assert_array_equal(found["garch_t"], expected)


@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only])
def test_har_knows_the_weekday_of_its_target(change: Any) -> None:
    frame = change(traded(900, weekend=0.4))
    rows = np.arange(600, 899)
    widths = width(baseline_quantiles(frame, rows, methods=["har_t"])["har_t"])
    target = frame["day_utc"].dt.day_of_week.to_numpy()[rows + 1]
    typical = [np.median(widths[target == day]) for day in range(7)]
    assert max(typical[5:]) < 0.65 * min(typical[:5])


def test_har_learns_from_ranges_alone_where_there_are_enough() -> None:
    frame = traded(1200)
    rows = np.arange(900, 1199)
    mixed = baseline_quantiles(closes_only(frame, 600), rows, methods=["har_t"])["har_t"]
    cut = frame.iloc[600:].reset_index(drop=True)
    np.testing.assert_allclose(
        np.median(width(mixed) / width(baseline_quantiles(cut, rows - 600, methods=["har_t"])["har_t"])),
        1.0,
        atol=0.02,
    )


def test_too_short_a_past_is_refused_in_one_line() -> None:
    frame = traded(260)
    assert set(baseline_quantiles(frame, [250])) == set(METHODS)
    with pytest.raises(
        NotEnoughHistory, match=r"need 250 one-day returns .* found 249 up to 2019-09-07: "
    ) as said:
        baseline_quantiles(frame, [255, 249])
    assert "\n" not in str(said.value)
    with pytest.raises(NotEnoughHistory, match="found 249"):
        baseline_quantiles(without(frame, date(2019, 3, 1), date(2019, 3, 1)), [250])


def test_what_cannot_be_asked_for_is_named() -> None:
    frame = traded(260)
    with pytest.raises(BadSetting, match="got 'naive'"):
        baseline_quantiles(frame, [255], methods=["naive"])
    for row in (-1, 260):
        with pytest.raises(BadInput, match="rows 0 to 259"):
            baseline_quantiles(frame, [255, row])


def test_no_origins_give_no_forecasts() -> None:
    for quantiles in baseline_quantiles(traded(260), []).values():
        assert quantiles.shape == (0, len(LEVELS))


def test_importing_loads_no_library_that_fits() -> None:
    heavy = "{'arch', 'scipy', 'statsmodels', 'scoringrules'}"
    code = f"import sys, tasks.profiles.baselines; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@needs_prices
def test_real_prices_give_the_ratios_and_coverage_that_are_known() -> None:
    file = SHARED / "coinbase_btc-usd_daily.csv"
    frame = read_candles(file.read_bytes(), "BTC-USD", name=file.name, on_duplicate="refuse").candles
    first = int(np.flatnonzero(frame["day_utc"] == pd.Timestamp("2018-06-01"))[0])
    rows = np.arange(first, len(frame) - 1)
    came = log_returns(frame)[rows + 1]
    found = baseline_quantiles(frame, rows)
    mean = {method: crps(came, quantiles).mean() for method, quantiles in found.items()}
    ratios = [mean[method] / mean["garch_t"] for method in METHODS]
    np.testing.assert_allclose(ratios, [1.017, 0.999, 1.0, 0.9935], atol=0.003)
    for quantiles in found.values():
        for percent, tolerance in ((50, 0.06), (80, 0.03), (90, 0.02), (95, 0.02)):
            assert inside(came, quantiles, percent).mean() == pytest.approx(percent / 100, abs=tolerance)


def test_the_bits_do_not_depend_on_how_many_cores_there_are() -> None:
    script = (
        "from tests.tasks.profiles.test_baselines import traded\nfrom tasks.profiles.baselines import baseline_quantiles\n"
        "found = baseline_quantiles(traded(700), range(690, 699))\n"
        "print({method: quantiles.tobytes().hex() for method, quantiles in found.items()})\n"
    )
    said = [
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
    assert said[0] == said[1]
