from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.candle_schema import candle_frame
from closecast.tasks.core.types import Floats
from closecast.tasks.features.inputs import InputSettings, recent_sigma
from closecast.tasks.features.volatility import (
    MIN_SIGMA,
    daily_moves,
    daily_variance,
    ewma,
    garman_klass,
    log_returns,
    parkinson,
    rows_after,
    rows_before,
    weekend_flags,
    with_outcome,
)
from tests.helpers import FIRST, made_up, without
from tests.markets import closes_only
from tests.tasks.features.walks import random_walk

UNCLIPPED = InputSettings(sigma_high=1e9)
PRICES = ["open", "high", "low", "close"]


def candles(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    """Consecutive days of open, high, low and close."""
    when = pd.date_range(FIRST, periods=len(rows), unit="s")
    return candle_frame(
        {"day_utc": when, **dict(zip(PRICES, zip(*rows, strict=True), strict=True)), "volume": 1.0}
    )


def sigma_of(frame: pd.DataFrame, settings: InputSettings | None = None, *, ranges: bool = True) -> Floats:
    return recent_sigma(frame, settings or InputSettings(), ranges=ranges)


def test_garman_klass_and_parkinson_by_hand() -> None:
    # ln(110 / 95) = 0.1466035, ln(105 / 100) = 0.0487902
    frame = candles((100.0, 110.0, 95.0, 105.0), (105.0, 105.0, 105.0, 105.0))
    assert garman_klass(frame) == pytest.approx([0.009826723, 0.0], abs=5e-9)
    assert parkinson(frame) == pytest.approx([0.007751809, 0.0], abs=5e-9)


def test_daily_variance_adds_the_jump_to_the_open() -> None:
    frame = candles((100.0, 110.0, 95.0, 105.0), (110.0, 121.0, 104.5, 115.5), (115.5, 115.5, 115.5, 115.5))
    jump, intraday = np.log(110.0 / 105.0) ** 2, 0.009826723
    assert daily_variance(frame) == pytest.approx([intraday, intraday + jump, 0.0], abs=5e-9)


def test_the_squared_return_replaces_an_unknown_range() -> None:
    frame = made_up(6)
    frame.loc[2, "high"] = frame.loc[3, "low"] = frame.loc[4, "open"] = np.nan
    variance, squared = daily_variance(frame), np.square(log_returns(frame))
    assert variance[2:5].tolist() == squared[2:5].tolist()
    assert (variance[[1, 5]] != squared[[1, 5]]).all()
    assert np.isnan(garman_klass(frame)).tolist() == [False, False, True, True, True, False]
    assert np.isnan(parkinson(frame)).tolist() == [False, False, True, True, False, False]
    frame.loc[0, "high"] = np.nan  # no close before it either
    assert np.isnan(daily_variance(frame)[0])
    assert np.isnan(daily_variance(frame, ranges=False)[0])
    assert daily_variance(frame, ranges=False)[1:].tolist() == squared[1:].tolist()


def test_no_return_spans_a_gap() -> None:
    frame = without(made_up(8), date(2019, 1, 4), date(2019, 1, 5))
    returns = log_returns(frame)
    assert np.isnan(returns).tolist() == [True, False, False, True, False, False]
    assert returns[1] == np.log(frame["close"][1]) - np.log(frame["close"][0])
    assert daily_variance(frame)[3] == garman_klass(frame)[3]
    assert daily_variance(frame)[4] > garman_klass(frame)[4]


def test_a_day_with_one_trade_after_a_gap_has_its_share_of_the_return() -> None:
    frame = made_up(60)[::2].reset_index(drop=True)
    frame = frame.assign(**dict.fromkeys(("open", "high", "low"), frame["close"]))
    assert daily_variance(frame)[1:].tolist() == np.square(daily_moves(frame))[1:].tolist()
    assert (daily_variance(frame)[1:] > 0).all()


def gapped(days: int = 90) -> pd.DataFrame:
    """Days of which every eleventh is missing, and a week in the middle."""
    frame = without(made_up(days), date(2019, 2, 10), date(2019, 2, 16))
    return frame[np.arange(len(frame)) % 11 != 5].reset_index(drop=True)


@pytest.mark.parametrize("days", [1, 2, 7, 30, 60, 89, 200])
@pytest.mark.parametrize("frame", [made_up(90), gapped(), made_up(1)], ids=["whole", "gapped", "one day"])
def test_rows_and_returns_over_several_days_count_calendar_days(frame: pd.DataFrame, days: int) -> None:
    row_of = {day: row for row, day in enumerate(frame["day_utc"].dt.date)}
    before, after, returns = [], [], []
    for row, day in enumerate(row_of):
        before.append(row_of.get(day - timedelta(days=days), -1))
        after.append(row_of.get(day + timedelta(days=days), -1))
        closes = frame["close"][row], frame["close"].get(before[-1], np.nan)
        returns.append(np.log(closes[0]) - np.log(closes[1]))
    assert rows_before(frame, days).tolist() == before
    assert rows_after(frame, days).tolist() == after
    np.testing.assert_array_equal(log_returns(frame, days=days), returns)
    some = np.arange(0, len(frame), 3)
    assert with_outcome(frame, some, days=days).tolist() == [row for row in some if after[row] >= 0]


@pytest.mark.parametrize("horizon", [1, 2, 5, 7, 30])
def test_weekend_flags_are_shares_of_the_days_ahead(horizon: int) -> None:
    frame = gapped()
    flags = np.stack(weekend_flags(frame, horizon=horizon), axis=1)
    for row, day in enumerate(frame["day_utc"].dt.date):
        ahead = [(day + timedelta(days=n)).weekday() for n in range(1, horizon + 1)]
        assert flags[row] == pytest.approx([ahead.count(weekday) / horizon for weekday in (5, 6, 0)])


def test_an_exponential_mean_by_hand() -> None:
    mean = ewma(np.array([np.nan, 4.0, 1.0, np.nan, 2.0]), decay=0.5)
    assert mean == pytest.approx([np.nan, 4.0, 2.0, 2.0, 2.0], nan_ok=True)
    assert ewma(np.array([1.0, 3.0]), decay=0.8)[1] == pytest.approx((0.8 * 1 + 3) / 1.8)


def test_one_wild_and_one_frozen_candle_are_clipped_to_multiples_of_the_median() -> None:
    calm, row = random_walk(200), 120
    wild, frozen = calm.copy(), calm.copy()
    wild.loc[row, "high"] = calm["open"][row] * np.exp(0.5)  # a hundred times the variance
    frozen.loc[row, PRICES] = calm["close"][row - 1]
    median = float(np.median(daily_variance(calm)[row - 60 : row]))
    assert daily_variance(wild)[row] > 100 * median
    before = sigma_of(calm)[:row]
    for frame, clipped in ((wild, 16 * median), (frozen, 0.02 * median)):
        sigma = sigma_of(frame)
        assert sigma[:row].tobytes() == before.tobytes()
        assert sigma[row] ** 2 == pytest.approx(0.8 * before[-1] ** 2 + 0.2 * clipped, rel=1e-6)


@pytest.mark.parametrize(("row", "clipped"), [(9, False), (10, True)])
def test_nothing_is_clipped_before_ten_days_are_known(row: int, clipped: bool) -> None:
    wild = random_walk(40)
    wild.loc[row, "high"] = 1e6
    bounded, free = sigma_of(wild), sigma_of(wild, UNCLIPPED)
    assert bool(bounded[row] < free[row]) is clipped


@pytest.mark.parametrize("ranges", [True, False])
def test_a_price_that_never_moved_has_the_least_sigma(ranges: bool) -> None:
    frame = candles(*[(5.0, 5.0, 5.0, 5.0)] * 100)
    assert (sigma_of(frame, ranges=ranges)[1:] == MIN_SIGMA).all()


def test_a_price_that_seldom_moves_keeps_the_sigma_of_its_moves() -> None:
    """The median of its variances is 0, which clips nothing."""
    close = np.where(np.arange(200) % 8 == 7, 1.001, 1.0)
    frame = closes_only(candles(*[(price,) * 4 for price in close]))
    sigma = sigma_of(frame, ranges=False)
    # Two days of eight move by 0.001: a sigma of 0.0005.
    assert sigma[100:].min() > 0.0001
    assert sigma[100:].max() < 0.001


def test_the_sigma_of_closes_alone_is_a_mean_of_squared_returns() -> None:
    frame, settings = random_walk(30), InputSettings(sigma_days=365)
    expected: Floats = np.sqrt(ewma(np.square(log_returns(frame)), decay=0.8))
    np.testing.assert_array_equal(sigma_of(closes_only(frame), settings, ranges=False), expected)
    np.testing.assert_array_equal(sigma_of(frame, settings, ranges=False), expected)
    assert (sigma_of(frame, settings)[1:] != expected[1:]).all()
