"""The tracker by hand, and what it guarantees against any sequence of outcomes."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.calibration.quantile_tracker import (
    MAX_OFFSET,
    apply_offsets,
    mix,
    to_prices,
    track,
    update_offsets,
)
from tasks.core.quantiles import LEVELS, MEDIAN
from tasks.core.types import Floats

SOAK = int(os.environ.get("SOAK", "1"))
STEADY = settings(max_examples=60 * SOAK, deadline=None, derandomize=SOAK == 1, database=None)
LEVEL, ZERO = np.array(LEVELS), np.zeros(23)
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
    assert update_offsets(ZERO, 1000.0, prices, step=STEP)[MEDIAN] == STEP * (0.5 - 1.0)
    assert (ZERO == 0).all()  # the argument is unchanged


@STEADY
@given(offset_rows, st.floats(1e-6, 0.5))
def test_quantiles_stay_sorted_whatever_the_offsets(offsets: Floats, sigma: float) -> None:
    base = np.linspace(-2, 2, 23) * sigma
    assert apply_offsets(base, offsets, sigma).tolist() == sorted(base + offsets * sigma)


@STEADY
@given(offset_rows, st.floats(0.001, 1000), st.floats(0.5, 2), st.floats(0, 0.1))
def test_an_outcome_moves_each_level_by_its_own_step(
    offsets: Floats, last: float, ratio: float, step: float
) -> None:
    prices = to_prices(np.linspace(-0.2, 0.2, 23), last)
    after = update_offsets(offsets, last * ratio, prices, step=step)
    above = last * ratio > prices
    np.testing.assert_array_equal(after[above], (offsets + step * LEVEL)[above])
    np.testing.assert_array_equal(after[~above], (offsets + step * (LEVEL - 1))[~above])


# Each chooses the outcome, in sigmas from the base of the level that it plays against and within BOUND,
# from where that level is now, the day's number, and a generator.
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
@pytest.mark.parametrize("index", [0, 3, 11, 21, 22])
def test_a_level_keeps_its_coverage_against_any_adversary(name: str, index: int) -> None:
    """Angelopoulos, Candès and Tibshirani (2023), proposition 1: off by (b + step) / (step T) at most.

    b is the largest distance of an outcome from the base quantile, in sigmas. Their proof is of one level,
    so its neighbors are far away here: they never cross it.
    """
    draw, days = np.random.default_rng(index), 1200 * SOAK
    base: Floats = 10.0 * (np.arange(23.0) - index)
    offsets, below = ZERO, 0
    for number in range(days):
        quantiles = apply_offsets(base, offsets, 1.0)
        actual = ADVERSARIES[name](float(quantiles[index]), number, draw)
        below += actual <= quantiles[index]
        close = float(to_prices(np.array(actual), 1.0))
        offsets = update_offsets(offsets, close, to_prices(quantiles, 1.0), step=STEP)
        assert abs(offsets[index]) <= BOUND + STEP
    assert abs(below / days - LEVELS[index]) <= (BOUND + STEP) / (STEP * days)


@pytest.mark.parametrize("seed", range(2 * SOAK))
def test_all_levels_together_keep_their_coverage_of_heavy_tails(seed: int) -> None:
    draw, days = np.random.default_rng(seed), 1200
    closes, ones = np.exp(np.clip(draw.standard_t(2, days), -BOUND, BOUND)), np.ones(days)
    prices, _ = track(np.tile(np.linspace(-0.5, 0.5, 23), (days, 1)), ones, ones, closes, ZERO, step=STEP)
    below = (closes[:, None] <= prices).mean(axis=0)
    assert np.abs(below - LEVEL).max() <= (BOUND + 0.5 + STEP) / (STEP * days)


@pytest.mark.parametrize("side", [-1, 1])
def test_offsets_stay_bounded_while_quantiles_cross(side: int) -> None:
    """Closes always at one bound drive all levels to it, where they cross; later the coverage recovers."""
    days = 3000
    base, ones = np.tile(np.linspace(-2, 2, 23), (days, 1)), np.ones(days)
    _, offsets = track(base, ones, ones, np.full(days, np.exp(side * 2.5)), ZERO, step=STEP)
    assert np.abs(offsets).max() <= MAX_OFFSET
    closes = np.exp(np.random.default_rng(3).normal(0, 1, days))
    prices, _ = track(base, ones, ones, closes, offsets, step=STEP)
    below = (closes[-1000:, None] <= prices[-1000:]).mean(axis=0)
    assert np.abs(below - LEVEL).max() < 0.15  # 0.45 without the bound


def days_of(returns: list[float]) -> tuple[Floats, Floats, Floats, Floats]:
    """Quantiles, sigmas, last and actual closes of days with these log returns."""
    last = np.full(len(returns), 100.0)
    base = np.tile(np.linspace(-0.1, 0.1, 23), (len(returns), 1))
    return base, np.full(len(returns), 0.05), last, last * np.exp(np.array(returns))


@STEADY
@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=10), st.floats(-0.2, 0.2))
def test_a_later_outcome_never_changes_an_earlier_forecast(returns: list[float], other: float) -> None:
    prices, _ = track(*days_of(returns), ZERO, step=STEP)
    changed, _ = track(*days_of([*returns[:-1], other]), ZERO, step=STEP)
    assert changed.tobytes() == prices.tobytes()


def test_track_applies_and_updates_the_offsets_day_by_day() -> None:
    quantiles, sigmas, last, actual = days_of(np.random.default_rng(6).normal(0, 0.06, 12).tolist())
    actual[[4, 5]] = np.nan
    prices, after = track(quantiles, sigmas, last, actual, 0.1 * LEVEL, step=0.05)
    offsets = 0.1 * LEVEL
    for day in range(12):
        expected = to_prices(apply_offsets(quantiles[day], offsets, sigmas[day]), last[day])
        assert prices[day].tobytes() == expected.tobytes()
        if day not in (4, 5):
            offsets = update_offsets(offsets, actual[day], expected, step=0.05)
    assert after.tobytes() == offsets.tobytes()
