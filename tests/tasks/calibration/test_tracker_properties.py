"""The tracker by hand, and what it guarantees for any sequence of outcomes."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.storage.core.candle_schema import candle_frame
from closecast.tasks.calibration.quantile_tracker import (
    MAX_OFFSET,
    Tracker,
    apply_offsets,
    fitted_into,
    mix,
    nested,
    to_prices,
    update_offsets,
)
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, MEDIAN
from closecast.tasks.core.types import Floats
from closecast.tasks.profiles.calibrated import CalibratedProfile
from tests.calibrated import STANDARD as NORMAL
from tests.helpers import FIRST

SOAK = int(os.environ.get("SOAK", "1"))
STEADY = settings(max_examples=60 * SOAK, derandomize=SOAK == 1, database=None)
LEVEL, ZERO = np.array(LEVELS), np.zeros(23)
UNKNOWN = ("open", "high", "low", "volume")
STEP, BOUND = 0.02, 2.5  # in sigmas: the tracker's step, and the largest distance of an outcome from its base

offset_rows = st.lists(st.floats(-2, 2), min_size=23, max_size=23).map(np.array)


def test_mix_is_a_weighted_mean() -> None:
    own, other = np.full((2, 23), 1.0), np.full((2, 23), 3.0)
    assert (mix(own, other, share=0.25) == 1.5).all()
    assert mix(LEVEL, 5 * LEVEL, share=0.0).tobytes() == LEVEL.tobytes()
    assert mix(5 * LEVEL, LEVEL, share=1.0).tobytes() == LEVEL.tobytes()


def test_a_close_at_a_quantile_counts_as_below_it() -> None:
    prices = to_prices(np.linspace(-0.2, 0.2, 23), 1000.0)
    assert prices[MEDIAN] == 1000.0
    top = float(prices[19])
    closes = (top, np.nextafter(top, 9e9), np.nextafter(top, 0.0))
    at, above, below = (update_offsets(ZERO, float(close), prices, step=STEP) for close in closes)
    assert at.tobytes() == below.tobytes() != above.tobytes()
    assert (ZERO == 0).all()  # the argument is unchanged


@STEADY
@given(offset_rows, st.floats(1e-6, 0.5))
def test_quantiles_stay_sorted_with_any_offsets(offsets: Floats, sigma: float) -> None:
    base = np.linspace(-2, 2, 23) * sigma
    assert apply_offsets(base, offsets, sigma).tolist() == sorted(base + offsets * sigma)


@STEADY
@given(offset_rows, st.floats(0.001, 1000), st.floats(0.5, 2), st.floats(0, 0.1))
def test_an_outcome_moves_both_ends_of_an_interval_by_their_mean_step(
    offsets: Floats, last: float, ratio: float, step: float
) -> None:
    offsets = (offsets - offsets[::-1]) / 2.0
    prices = to_prices(np.linspace(-0.2, 0.2, 23), last)
    after = update_offsets(offsets, last * ratio, prices, step=step)
    for low in range(MEDIAN):
        high = 22 - low
        steps = [step * (LEVELS[n] - (last * ratio <= prices[n])) for n in (low, high)]
        assert after[high] - offsets[high] == pytest.approx((steps[1] - steps[0]) / 2, abs=1e-12)
        assert after[low] == -after[high]
    assert after[MEDIAN] == 0.0


# Each chooses an outcome against one level, in sigmas and within BOUND of the level's base, from the level's
# quantile now, the day's number, and a generator.
Adversary = Callable[[float, int, np.random.Generator], float]
ADVERSARIES: dict[str, Adversary] = {
    "always above": lambda now, n, draw: BOUND,
    "always below": lambda now, n, draw: -BOUND,
    "alternating": lambda now, n, draw: BOUND * (-1) ** n,
    "just below": lambda now, n, draw: max(now - 1e-9, -BOUND),
    "just above": lambda now, n, draw: min(now + 1e-9, BOUND),
    "changing regimes": lambda now, n, draw: BOUND if (n // 150) % 2 else draw.normal(0, 0.1),
    "heavy tails": lambda now, n, draw: float(np.clip(draw.standard_t(2), -BOUND, BOUND)),
}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("percent", INTERVAL_INDEXES)
def test_an_interval_keeps_its_coverage_against_any_adversary(name: str, percent: int) -> None:
    """Angelopoulos, Candès and Tibshirani (2023), proposition 1: off by (b + step) / (step T) at most.

    Of an interval about 0, whose ends step together, half as far; b is the largest distance of an outcome
    from an end, in sigmas. Their proof is of one level, so its neighbors never cross it here.
    """
    draw, days = np.random.default_rng(percent), 2400 * SOAK
    low, high = INTERVAL_INDEXES[percent]
    base: Floats = 10.0 * (np.arange(23.0) - low)
    base[high:] = 10.0 * (np.arange(high, 23.0) - high)
    base[low + 1 : high] = np.linspace(-1e-3, 1e-3, high - low - 1)  # one point, in which the ends could meet
    base[MEDIAN] = 0.0
    base[low], base[high] = -1.0, 1.0
    offsets, inside = ZERO, 0
    for number in range(days):
        quantiles = base + offsets
        end = float(quantiles[high])
        actual = ADVERSARIES[name](end, number, draw)
        inside += quantiles[low] < actual <= end
        close = float(to_prices(np.array(actual), 1.0))
        offsets = update_offsets(offsets, close, to_prices(quantiles, 1.0), step=STEP)
        assert abs(offsets[high]) <= BOUND + 1.0 + STEP
    assert abs(inside / days - percent / 100) <= 2 * (BOUND + 1.0 + STEP) / (STEP * days)


def history_of(closes: Floats, *, missing: tuple[int, ...] = ()) -> PriceHistory:
    """Consecutive days with these closes, less some rows."""
    days = pd.date_range(FIRST, periods=len(closes), unit="s")
    frame = candle_frame({"day_utc": days, "close": closes, **dict.fromkeys(UNKNOWN, np.nan)})
    return PriceHistory("BTC-USD", frame.drop(index=list(missing)).reset_index(drop=True), "v", "csv@0")


def tracked(
    history: PriceHistory,
    base: Floats,
    tracker: Tracker,
    horizons: tuple[int, ...] = (1,),
    sigma: float = 1.0,
) -> dict[int, Floats]:
    """Track the same quantiles of the log return (23,), times the root of the horizon, from every day."""
    days = len(history.candles)
    quantiles = {h: np.tile(base * np.sqrt(h), (days, 1)) for h in horizons}
    return tracker.track(
        history, np.arange(days), quantiles, {h: np.full(days, sigma * np.sqrt(h)) for h in horizons}
    )


@pytest.mark.parametrize("seed", range(2 * SOAK))
def test_all_intervals_keep_their_coverage_of_heavy_tails(seed: int) -> None:
    draw, days = np.random.default_rng(seed), 1200
    # From a close of 1 each day, whose next one is drawn: every other day is back at 1.
    closes = np.ones(2 * days)
    closes[1::2] = np.exp(np.clip(draw.standard_t(2, days), -BOUND, BOUND))
    history, rows = history_of(closes), np.arange(0, 2 * days, 2)
    base = np.tile(np.linspace(-0.5, 0.5, 23), (days, 1))
    prices = Tracker.new((1,), step=STEP).track(history, rows, {1: base}, {1: np.ones(days)})[1]
    for percent, (low, high) in INTERVAL_INDEXES.items():
        inside = ((prices[:, low] < closes[1::2]) & (closes[1::2] <= prices[:, high])).mean()
        assert abs(inside - percent / 100) <= 2 * (BOUND + 0.5 + STEP) / (STEP * days)


@pytest.mark.parametrize("outcome", [0.0, 9.0, -9.0], ids=["never moves", "above", "below"])
def test_offsets_stay_bounded(outcome: float) -> None:
    offsets, base = ZERO, np.linspace(-2, 2, 23)
    for _ in range(3000):
        prices = to_prices(apply_offsets(base, offsets, 1.0), 1.0)
        offsets = update_offsets(offsets, float(np.exp(outcome)), prices, step=STEP)
    assert 1.0 < np.abs(offsets).max() <= MAX_OFFSET


def test_coverage_recovers_after_300_days_without_a_move() -> None:
    """By then the innermost intervals have shrunk to a point, and crossed; the wider ones recover."""
    step, base = CalibratedProfile().tracker_step, NORMAL
    closes = np.exp(np.cumsum(np.append(np.zeros(300), np.random.default_rng(3).normal(0, 1, 5000))))
    tracker, history = Tracker.new((1,), step=step), history_of(closes)
    prices = tracked(history, base, tracker)[1]
    assert (np.diff(prices[300]) >= 0).all()
    assert prices[300, MEDIAN - 1] > prices[0, MEDIAN - 1]
    for percent, (low, high) in INTERVAL_INDEXES.items():
        inside = (prices[-2001:-1, low] < closes[-2000:]) & (closes[-2000:] <= prices[-2001:-1, high])
        assert inside.mean() == pytest.approx(percent / 100, abs=0.025)


# Outcomes over several days


@STEADY
@given(
    st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=14),
    st.floats(-0.2, 0.2),
    st.integers(1, 13),
    st.data(),
)
def test_a_later_outcome_never_changes_an_earlier_forecast(
    returns: list[float], other: float, horizon: int, data: st.DataObject
) -> None:
    """A day's close changes no forecast from an earlier day, of any horizon."""
    changed = data.draw(st.integers(1, len(returns)))
    one = 100 * np.exp(np.cumsum([0.0, *returns]))
    two = one.copy()
    two[changed] *= np.exp(other)
    first, second = (
        tracked(history_of(closes), np.linspace(-0.1, 0.1, 23), Tracker.new(H, step=STEP), H, 0.05)
        for closes in (one, two)
        for H in [(1, 1 + horizon)]
    )
    for name, prices in first.items():
        assert second[name][:changed].tobytes() == prices[:changed].tobytes()


def test_an_outcome_is_learned_from_its_target_day_on() -> None:
    """Day by day with plain loops, over a gap, for three horizons at once."""
    draw, horizons = np.random.default_rng(6), (1, 3, 7)
    history = history_of(100 * np.exp(np.cumsum(draw.normal(0, 0.06, 40))), missing=(4, 5, 20))
    base, sigma = np.linspace(-0.1, 0.1, 23), 0.05
    begun = {h: 0.1 * np.linspace(-1, 1, 23) * h for h in horizons}
    tracker = Tracker(dict(begun), step=0.05)
    prices = tracked(history, base, tracker, horizons, sigma)
    closes = dict(zip(history.days, history.closes, strict=True))
    origins = list(closes)
    offsets, made = dict(begun), dict[tuple[Any, int], Floats]()
    for number, day in enumerate(origins):
        for h in horizons:
            # The only target day since the last origin that has a close is today.
            before = day - timedelta(days=h)
            if (before, h) in made:
                offsets[h] = update_offsets(offsets[h], closes[day], made[before, h], step=0.05)
        returns = nested([apply_offsets(base * np.sqrt(h), offsets[h], sigma * np.sqrt(h)) for h in horizons])
        for h, row in zip(horizons, returns, strict=True):
            made[day, h] = to_prices(row, closes[day])
            assert prices[h][number].tobytes() == made[day, h].tobytes(), (number, h)
    for h in horizons:
        assert tracker.offsets[h].tobytes() == offsets[h].tobytes()
    # The forecasts that still wait have their target after the last day.
    assert sorted((day, h) for day, h, _ in tracker.waiting) == sorted(
        (day + timedelta(days=h), h)
        for day in origins
        for h in horizons
        if day + timedelta(days=h) > origins[-1]
    )


def test_a_tracker_continues_from_its_state_with_the_same_bits() -> None:
    draw, horizons, base = np.random.default_rng(7), (1, 3, 7), np.linspace(-0.1, 0.1, 23)
    history = history_of(100 * np.exp(np.cumsum(draw.normal(0, 0.06, 30))))
    whole = tracked(history, base, Tracker.new(horizons, step=0.05), horizons)
    tracker, parts = Tracker.new(horizons, step=0.05), []
    for rows in (np.arange(12), np.arange(12, 13), np.arange(13, 30)):
        quantiles = {h: np.tile(base * np.sqrt(h), (len(rows), 1)) for h in horizons}
        sigmas = {h: np.full(len(rows), np.sqrt(h)) for h in horizons}
        parts.append(tracker.track(history, rows, quantiles, sigmas))
        tracker = Tracker(tracker.offsets, tracker.step, tracker.waiting)
    for h in horizons:
        assert np.concatenate([part[h] for part in parts]).tobytes() == whole[h].tobytes()


# The fan


@STEADY
@given(st.lists(st.lists(st.floats(-1, 1), min_size=23, max_size=23).map(sorted), min_size=1, max_size=9))
def test_intervals_grow_with_the_horizon_and_quantiles_stay_sorted(rows: list[list[float]]) -> None:
    quantiles = [np.array(row) for row in rows]
    fan = nested(quantiles)
    assert (np.diff(fan, axis=1) >= 0).all()
    assert fan[:, MEDIAN].tolist() == [row[MEDIAN] for row in rows]
    for low in range(MEDIAN):
        assert (np.diff(fan[:, low]) <= 0).all()
        assert (np.diff(fan[:, 22 - low]) >= 0).all()
    # An interval is widened no further than to contain the shorter horizons'.
    for number, row in enumerate(fan):
        shorter = np.array(quantiles[: number + 1])
        assert row[:MEDIAN].tolist() == shorter[:, :MEDIAN].min(axis=0).tolist()
        assert row[MEDIAN + 1 :].tolist() == shorter[:, MEDIAN + 1 :].max(axis=0).tolist()
    assert (np.array(quantiles) == np.array(rows)).all()  # the argument is unchanged


@STEADY
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=23, max_size=23).map(sorted), min_size=2, max_size=9),
    st.data(),
)
def test_one_more_horizon_fits_into_the_fan(rows: list[list[float]], data: st.DataObject) -> None:
    own, fan = np.array(rows[0]), nested([np.array(row) for row in rows[1:]])
    place = data.draw(st.integers(1, len(fan)))
    fitted = fitted_into(own, list(fan[:place]), list(fan[place:]))
    assert own.tolist() == rows[0]  # the argument is unchanged
    whole = np.array([*fan[:place], fitted, *fan[place:]])
    assert nested(list(whole)).tolist() == whole.tolist()
    assert (np.diff(fitted) >= 0).all()
    # An interval that lies between those of its neighbours stays.
    inner = fan[place - 1]
    outer = fan[place] if place < len(fan) else np.where(np.arange(23) < MEDIAN, -9.0, 9.0)
    lower, upper = np.minimum(inner, outer), np.maximum(inner, outer)
    ends = np.arange(23) != MEDIAN
    assert fitted[ends].tolist() == np.clip(own, lower, upper)[ends].tolist()
    if fitted[MEDIAN] != own[MEDIAN]:
        assert fitted[MEDIAN] in (fitted[MEDIAN - 1], fitted[MEDIAN + 1])
    # A row of the fan fits as it is.
    for number, row in enumerate(fan):
        assert fitted_into(row, list(fan[:number]), list(fan[number + 1 :])).tolist() == row.tolist()
