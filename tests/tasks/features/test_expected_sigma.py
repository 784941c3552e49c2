from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from closecast.tasks.core.types import Floats
from closecast.tasks.features.expected_sigma import (
    MAX_RATIO,
    HarSettings,
    WeekdayEwmaSettings,
    _mean_variances,
    expected_sigmas,
    har_sigma,
    refit_cuts,
    weekday_ewma_sigma,
    weekday_scale,
)
from closecast.tasks.features.volatility import (
    VarianceBounds,
    daily_variance,
    log_variance,
    winsorised_variance,
)
from tests.helpers import without
from tests.markets import closes_only
from tests.tasks.features import walks

Change = Callable[[pd.DataFrame], pd.DataFrame]
Sigma = Callable[..., Floats]
RANGES = ["open", "high", "low"]
random_walk = functools.partial(walks.random_walk, days=400, weekend=0.5)


def har(frame: pd.DataFrame, settings: HarSettings | None = None, *, horizon: int = 1) -> Floats:
    return har_sigma(frame, (horizon,), settings)[:, 0]


def ewma(frame: pd.DataFrame, settings: WeekdayEwmaSettings | None = None, *, horizon: int = 1) -> Floats:
    return weekday_ewma_sigma(frame, (horizon,), settings)[:, 0]


def with_gap(frame: pd.DataFrame) -> pd.DataFrame:
    return without(frame, date(2019, 9, 1), date(2019, 9, 12))


def day_numbers(frame: pd.DataFrame) -> Floats:
    return frame["day_utc"].to_numpy(dtype="datetime64[D]").astype(np.float64)


@pytest.mark.parametrize("horizon", [1, 7, 30])
@pytest.mark.parametrize("of", [har, ewma])
@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, with_gap])
def test_later_rows_change_no_bit(of: Sigma, change: Change, horizon: int) -> None:
    sigma = functools.partial(of, horizon=horizon)
    frame = change(random_walk())
    whole = sigma(frame)
    for row in (130, 239, 240, 241, 300):
        for other in (sigma(walks.with_noise_after(frame, row)), sigma(frame.iloc[: row + 1])):
            assert other[: row + 1].tobytes() == whole[: row + 1].tobytes()
    assert np.isfinite(whole[250:]).all()


@pytest.mark.parametrize("horizon", [1, 2, 7, 30])
@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, with_gap])
def test_har_is_weighted_least_squares_up_to_the_newest_refit(change: Change, horizon: int) -> None:
    frame, settings = change(random_walk()), HarSettings(half_life_days=60.0, refit_days=20, min_days=60)
    variance, days = winsorised_variance(frame), frame["day_utc"].dt.date.tolist()
    row_of = {day: row for row, day in enumerate(days)}
    logs = pd.Series(log_variance(variance))
    means = [logs.ffill(), *(logs.rolling(count, min_periods=1).mean().ffill() for count in (5, 22))]
    inputs = np.array(
        [[1.0, *(mean[row] for mean in means), *weekend_shares(day, horizon)] for row, day in enumerate(days)]
    )
    sigma = har(frame, settings, horizon=horizon)
    for row in (230, 280, 330, 371):
        number = day_numbers(frame)[row] // 20 * 20
        known = int((day_numbers(frame) <= number).sum())  # rows up to the refit
        outcomes, origins, ages = [], [], []
        for target in range(known):
            ahead = [row_of.get(days[target] - timedelta(days=back)) for back in range(horizon + 1)]
            if None in ahead or not np.isfinite(inputs[ahead[-1]]).all():
                continue
            mean = np.mean([variance[day] for day in ahead[:-1]])
            if np.isfinite(mean):
                outcomes.append(np.log(mean))
                origins.append(ahead[-1])
                ages.append((days[known - 1] - days[target]).days)
        root = np.sqrt(0.5 ** (np.array(ages) / (60.0 * np.sqrt(horizon))))
        # Over whole weeks the weekdays' shares are constant: of many solutions lstsq takes the smallest.
        fitted, *_ = np.linalg.lstsq(inputs[origins] * root[:, None], np.array(outcomes) * root, rcond=1e-8)
        expected = np.sqrt(horizon) * np.exp(inputs[row] @ fitted / 2)
        assert sigma[row] == pytest.approx(expected, rel=1e-7)


def weekend_shares(day: date, horizon: int) -> list[float]:
    """Shares of Saturdays, Sundays and Mondays among the next days."""
    ahead = [(day + timedelta(days=n)).weekday() for n in range(1, horizon + 1)]
    return [ahead.count(weekday) / horizon for weekday in (5, 6, 0)]


def test_har_has_no_sigma_before_120_days_and_one_on_every_day_after_a_refit() -> None:
    frame = random_walk()
    first = int(np.flatnonzero(np.isfinite(har(frame)))[0])
    days = day_numbers(frame)
    assert days[first] % 30 == 0
    assert 120 <= first < 150
    assert np.isfinite(har(frame)[first:]).all()


@pytest.mark.parametrize("sigma", [har, ewma])
def test_a_product_without_weekends_has_a_sigma(sigma: Sigma) -> None:
    frame = random_walk(days=600)
    frame = frame[frame["day_utc"].dt.day_of_week < 5].reset_index(drop=True)
    found = sigma(frame)[250:]
    assert np.isfinite(found).all()
    assert 0.01 < np.median(found) < 0.1


@pytest.mark.parametrize("horizon", [1, 2, 7, 30])
def test_weekday_ewma_by_hand(horizon: int) -> None:
    frame, settings = with_gap(random_walk()), WeekdayEwmaSettings(half_life_days=90.0, prior_weight=4.0)
    variance, weekday = winsorised_variance(frame), frame["day_utc"].dt.day_of_week.to_numpy()
    logs, decay = np.log(variance), 0.5 ** (1 / 90.0)
    total, count = np.zeros(7), np.zeros(7)
    above, below, expected = 0.0, 0.0, []
    for row, day in enumerate(weekday):
        total, count = decay * total, decay * count
        if row >= 6:
            total[day] += logs[row] - logs[row - 6 : row + 1].mean()
            count[day] += 1
        level = total / (count + 4.0)
        level -= level.mean()
        above = 0.94 * above + variance[row] / np.exp(level[day])
        below = 0.94 * below + 1.0
        ahead = sum(np.exp(level[(day + step) % 7]) for step in range(1, horizon + 1))
        expected.append(np.sqrt(above / below * ahead))
    np.testing.assert_allclose(ewma(frame, settings, horizon=horizon), expected, rtol=1e-10)


def test_each_horizon_has_a_column_of_sigmas() -> None:
    frame = with_gap(random_walk(days=300))
    sigmas = expected_sigmas(frame, (1, 7))
    assert sigmas.har.shape == sigmas.ewma.shape == (len(frame), 2)
    for horizon in (7, 1):
        sigma_har, sigma_ewma = sigmas.of(horizon)
        assert sigma_har.tobytes() == har(frame, horizon=horizon).tobytes()
        assert sigma_ewma.tobytes() == ewma(frame, horizon=horizon).tobytes()
    with pytest.raises(ValueError, match="3 is not in list"):
        sigmas.of(3)


def test_the_scale_of_a_weekday_by_hand() -> None:
    weekday = np.arange(700) % 7
    returns = np.where(weekday == 6, 0.01, 0.02) * (-1.0) ** np.arange(700)
    returns[13] = 5.0  # one wild Sunday is clipped at the 98 % quantile of the Sundays, .01
    typical = 0.01 ** (1 / 7) * 0.02 ** (6 / 7)
    expected = [0.02 / typical] * 6 + [0.01 / typical]
    np.testing.assert_allclose(weekday_scale(returns, weekday), expected, rtol=1e-12)


def test_a_weekday_without_a_move_has_the_typical_scale() -> None:
    weekday = np.arange(350) % 7
    returns = np.where(weekday >= 5, 0.0, 0.02)
    np.testing.assert_allclose(weekday_scale(returns, weekday), np.ones(7))
    np.testing.assert_array_equal(weekday_scale(np.zeros(350), weekday), np.ones(7))
    assert weekday_scale(returns[weekday < 5], weekday[weekday < 5]).tolist() == pytest.approx([1.0] * 7)


def test_a_refit_uses_the_rows_up_to_its_day() -> None:
    frame = random_walk(days=100)
    cuts, days = refit_cuts(frame, 30), day_numbers(frame)
    refit = np.flatnonzero(days % 30 == 0)
    assert cuts[refit].tolist() == (refit + 1).tolist()
    assert cuts[refit[1] - 1] == refit[0] + 1
    missing = frame.drop(index=refit[1]).reset_index(drop=True)
    assert refit_cuts(missing, 30)[refit[1]] == refit[1]


def test_a_variance_is_clipped_to_medians_of_the_days_before() -> None:
    frame = random_walk(days=200)
    row = 150
    wild, frozen, still = (frame.copy() for _ in range(3))
    wild.loc[row, "high"] = 10.0 * frame["high"].max()
    frozen.loc[row, [*RANGES, "close"]] = frame["close"].to_numpy()[row - 1]
    still.loc[60:row, [*RANGES, "close"]] = frame["close"].to_numpy()[59]
    median = np.median(daily_variance(frame)[row - 60 : row])
    assert winsorised_variance(wild)[row] == pytest.approx(16 * median)
    assert winsorised_variance(frozen)[row] == pytest.approx(0.02 * median)
    bounds = VarianceBounds(days=30, low=0.5, high=2.0)
    assert winsorised_variance(wild, bounds)[row] == pytest.approx(
        2 * np.median(daily_variance(frame)[row - 30 : row])
    )
    assert winsorised_variance(still)[row] == 0  # the days before it were still, too


def test_a_variance_of_0_has_no_logarithm() -> None:
    frame = random_walk(days=50)
    frame.loc[:, [*RANGES, "close"]] = 5.0
    variance = winsorised_variance(frame)
    assert (variance[1:] == 0).all()
    assert np.isnan(log_variance(variance)).all()
    assert log_variance(np.array([np.exp(1.0), np.nan, 0.0]))[0] == pytest.approx(1.0)


def test_har_is_bounded_by_ewma_after_nearly_still_days() -> None:
    frame, returns = closes_only(random_walk(days=300)), np.random.default_rng(28).normal(0, 0.02, 300)
    returns[100:250] *= 1e-4
    frame["close"] = np.exp(np.cumsum(returns))
    sigmas = expected_sigmas(frame, (1, 30))
    assert np.nanmax(har(frame, horizon=30) / sigmas.ewma[:, 1]) > MAX_RATIO  # the regression alone does
    known = np.isfinite(sigmas.har)
    assert (sigmas.har[known] <= MAX_RATIO * sigmas.ewma[known] * (1 + 1e-12)).all()
    assert (sigmas.har[known] >= sigmas.ewma[known] / MAX_RATIO * (1 - 1e-12)).all()


def test_a_mean_variance_may_lack_a_few_days() -> None:
    frame, days = random_walk(), 14
    variance = np.arange(1.0, len(frame) + 1)
    few, many = [100, 101, 102, 110], [200, 201, 202, 203]
    kept = np.setdiff1d(np.arange(len(frame)), [*few, *many])
    gapped = frame.iloc[kept].reset_index(drop=True)
    (means,) = _mean_variances(gapped, variance[kept], [days])
    mean = dict(zip(kept.tolist(), means.tolist(), strict=True))
    assert mean[105] == pytest.approx(np.mean([row for row in range(92, 106) if row not in few]) + 1)
    assert mean[90] == pytest.approx(np.mean(range(77, 91)) + 1)
    unknown = [row for row, value in mean.items() if np.isnan(value)]
    # The first days, and those whose mean would reach into four missing days in a row.
    assert unknown == [*range(13), *range(204, 217)]
    variance[50] = np.nan
    (again,) = _mean_variances(gapped, variance[kept], [days])
    assert np.isnan(again[50:64]).all()
