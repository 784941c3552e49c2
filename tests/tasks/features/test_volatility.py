from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.core.candle_schema import candle_frame
from tasks.core.types import Floats
from tasks.features.volatility import (
    MIN_SIGMA,
    daily_variance,
    ewma,
    garman_klass,
    log_returns,
    parkinson,
    scale,
)
from tests.helpers import FIRST, made_up, without

HOW: dict[str, Any] = {"decay": 0.8, "low": 0.02, "high": 16.0, "days": 60, "ranges": True}
PRICES = ["open", "high", "low", "close"]


def candles(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    """Consecutive days of open, high, low and close."""
    when = pd.date_range(FIRST, periods=len(rows), unit="s")
    return candle_frame(
        {"day_utc": when, **dict(zip(PRICES, zip(*rows, strict=True), strict=True)), "volume": 1.0}
    )


def traded(days: int = 200, *, moves: int = 24, seed: int = 5) -> pd.DataFrame:
    """A price that moves so often a day."""
    steps = np.random.default_rng(seed).normal(0, 0.03 / np.sqrt(moves), (days, moves))
    path = 4000 * np.exp(np.cumsum(steps).reshape(days, moves))
    opened = np.concatenate([[4000.0], path[:-1, -1]])
    high, low = np.maximum(opened, path.max(axis=1)), np.minimum(opened, path.min(axis=1))
    return candles(*zip(opened, high, low, path[:, -1], strict=True))


def closes_only(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[:, [*PRICES[:3], "volume"]] = np.nan
    return frame


def holed(frame: pd.DataFrame) -> pd.DataFrame:
    return without(frame, date(2019, 4, 10), date(2019, 4, 14))


def test_the_estimators_by_hand() -> None:
    # ln(110 / 95) = .1466035, ln(105 / 100) = .0487902
    frame = candles((100.0, 110.0, 95.0, 105.0), (105.0, 105.0, 105.0, 105.0))
    assert garman_klass(frame) == pytest.approx([0.009826723, 0.0], abs=5e-9)
    assert parkinson(frame) == pytest.approx([0.007751809, 0.0], abs=5e-9)


def test_the_estimators_find_the_variance_of_a_walk() -> None:
    frame = traded(1000, moves=1000)
    # A range seen now and then is a little narrower than the true one.
    assert 0.9 < garman_klass(frame).mean() / 0.03**2 < 1.02
    assert 0.9 < parkinson(frame).mean() / 0.03**2 < 1.02
    assert garman_klass(frame).std() < np.square(log_returns(frame)[1:]).std() / 2


def test_a_day_s_variance_is_within_it_and_the_gap_before_it() -> None:
    frame = candles((100.0, 110.0, 95.0, 105.0), (110.0, 121.0, 104.5, 115.5), (115.5, 115.5, 115.5, 115.5))
    gap = np.log(110.0 / 105.0) ** 2
    within = 0.009826723
    assert daily_variance(frame) == pytest.approx([within, within + gap, 0.0], abs=5e-9)


def test_a_day_without_a_range_has_its_squared_return() -> None:
    frame = made_up(6)
    frame.loc[2, "high"] = frame.loc[3, "low"] = frame.loc[4, "open"] = np.nan
    found, squared = daily_variance(frame), np.square(log_returns(frame))
    assert found[2:5].tolist() == squared[2:5].tolist()
    assert (found[[1, 5]] != squared[[1, 5]]).all()
    assert np.isnan(garman_klass(frame)).tolist() == [False, False, True, True, True, False]
    assert np.isnan(parkinson(frame)).tolist() == [False, False, True, True, False, False]
    frame.loc[0, "high"] = np.nan  # no close before it either
    assert np.isnan(daily_variance(frame)[0])
    assert np.isnan(daily_variance(frame, ranges=False)[0])
    assert daily_variance(frame, ranges=False)[1:].tolist() == squared[1:].tolist()


def test_no_return_and_no_gap_across_a_hole() -> None:
    frame = without(made_up(8), date(2019, 1, 4), date(2019, 1, 5))
    returns = log_returns(frame)
    assert np.isnan(returns).tolist() == [True, False, False, True, False, False]
    assert returns[1] == np.log(frame["close"][1]) - np.log(frame["close"][0])
    assert daily_variance(frame)[3] == garman_klass(frame)[3]
    assert daily_variance(frame)[4] > garman_klass(frame)[4]


def test_an_exponential_mean_by_hand() -> None:
    found = ewma(np.array([np.nan, 4.0, 1.0, np.nan, 2.0]), decay=0.5)
    assert found == pytest.approx([np.nan, 4.0, 2.0, 2.0, 2.0], nan_ok=True)
    assert ewma(np.array([1.0, 3.0]), decay=0.8)[1] == pytest.approx((0.8 * 1 + 3) / 1.8)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, holed])
def test_later_days_change_no_bit_of_earlier_ones(
    change: Callable[[pd.DataFrame], pd.DataFrame], ranges: bool
) -> None:
    frame = change(traded())
    how = HOW | {"ranges": ranges}
    expected = scale(frame, **how)
    assert np.isfinite(expected[1:]).all()
    for row in (5, 12, 61, 62, 63, 64, 100, 150, len(frame) - 2):
        draw = np.random.default_rng(row)
        for garbage in (0.01, 1e6, draw.uniform(0.01, 1e6, len(frame) - row - 1), np.nan):
            later = frame.copy()
            for name in [*PRICES, "volume"]:
                later.loc[row + 1 :, name] = garbage
            assert scale(later, **how)[: row + 1].tobytes() == expected[: row + 1].tobytes()
        assert scale(frame.iloc[: row + 1], **how).tobytes() == expected[: row + 1].tobytes()


def test_one_wild_candle_moves_the_scale_by_no_more_than_it_may() -> None:
    frame = traded()
    row = 120
    wild = frame.copy()
    # Ten times the sigma, a hundred times the variance.
    wild.loc[row, "high"] = frame["open"][row] * np.exp(0.3)
    wild.loc[row, "low"] = frame["open"][row] * np.exp(-0.2)
    variance = daily_variance(wild)
    median = float(np.median(variance[row - 60 : row]))
    assert variance[row] > 100 * median
    calm, found = scale(frame, **HOW), scale(wild, **HOW)
    assert found[:row].tobytes() == calm[:row].tobytes()
    allowed = 0.8 * calm[row - 1] ** 2 + 0.2 * 16 * median
    assert found[row] ** 2 == pytest.approx(allowed, rel=1e-6)
    free = scale(wild, **HOW | {"high": 1e9})
    assert free[row] > 2 * found[row]


def test_one_frozen_candle_counts_as_the_least_there_may_be() -> None:
    frame = traded()
    row = 120
    frozen = frame.copy()
    frozen.loc[row, PRICES] = frame["close"][row - 1]
    median = float(np.median(daily_variance(frozen)[row - 60 : row]))
    before = scale(frozen, **HOW)[row - 1]
    assert scale(frozen, **HOW)[row] ** 2 == pytest.approx(0.8 * before**2 + 0.2 * 0.02 * median, rel=1e-6)


def test_what_the_median_goes_back_over() -> None:
    """Ten days must be known before anything is held."""
    frame = traded(40)
    for row, held in ((9, False), (10, True)):
        wild = frame.copy()
        wild.loc[row, "high"] = 1e6
        bound, free = scale(wild, **HOW), scale(wild, **HOW | {"high": 1e9})
        assert bool(bound[row] < free[row]) is held


@pytest.mark.parametrize("ranges", [True, False])
def test_a_price_that_never_moved_has_the_smallest_deviation(ranges: bool) -> None:
    frame = candles(*[(5.0, 5.0, 5.0, 5.0)] * 100)
    found = scale(frame, **HOW | {"ranges": ranges})
    assert (found[1:] == MIN_SIGMA).all()


def test_a_price_that_seldom_moves_keeps_a_scale_of_its_moves() -> None:
    """The median of its variances is 0, which is no bound for those days that have one."""
    close = np.where(np.arange(200) % 8 == 7, 1.001, 1.0)
    frame = closes_only(candles(*[(price,) * 4 for price in close]))
    found = scale(frame, **HOW | {"ranges": False})
    # Two days of eight move by .001: a sigma of .0005.
    assert found[100:].min() > 0.0001
    assert found[100:].max() < 0.001


def test_closes_only_is_the_mean_of_squared_returns() -> None:
    frame = traded(30)
    unheld: dict[str, Any] = HOW | {"days": 365, "ranges": False}
    expected: Floats = np.sqrt(ewma(np.square(log_returns(frame)), decay=0.8))
    np.testing.assert_array_equal(scale(closes_only(frame), **unheld), expected)
    np.testing.assert_array_equal(scale(frame, **unheld), expected)
    assert (scale(frame, **unheld | {"ranges": True})[1:] != expected[1:]).all()
