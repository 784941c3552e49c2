"""What the tracker owes, whatever comes."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.calibration.quantile_tracker import MAX_OFFSET, advance, follow, to_price, track
from tasks.core.quantiles import LEVELS
from tasks.core.types import Floats

MORE = int(os.environ.get("SOAK", "1"))
STEADY = settings(max_examples=60 * MORE, deadline=None, derandomize=MORE == 1, database=None)
LEVEL = np.array(LEVELS)
STEP, BOUND = 0.02, 2.5  # in scales: of the tracker, and of how far an outcome lies from a level's base

quantile_offsets = st.lists(st.floats(-2, 2), min_size=23, max_size=23).map(np.array)
spreads = st.floats(1e-6, 0.5)


@STEADY
@given(quantile_offsets, spreads)
def test_the_quantiles_rise_whatever_the_corrections(moved: Floats, scale: float) -> None:
    base = np.linspace(-2, 2, 23) * scale
    said = track(base, moved, scale)
    assert (np.diff(said) >= 0).all()
    assert sorted(said) == sorted(base + moved * scale)


@STEADY
@given(quantile_offsets, st.floats(0.001, 1000), st.floats(0.5, 2), st.floats(0, 0.1))
def test_an_outcome_moves_each_level_by_its_own_step(
    moved: Floats, last: float, share: float, step: float
) -> None:
    said = to_price(np.linspace(-0.2, 0.2, 23), last)
    after = advance(moved, last * share, said, step=step)
    up = last * share > said
    np.testing.assert_array_equal(after[up], (moved + step * LEVEL)[up])
    np.testing.assert_array_equal(after[~up], (moved + step * (LEVEL - 1))[~up])


# Each says where the close goes, in scales from the base of the level it plays against, given where that
# level stands now; no further than BOUND.
Adversary = Callable[[float, int, np.random.Generator], float]
ADVERSARIES: dict[str, Adversary] = {
    "always above": lambda now, n, draw: BOUND,
    "always below": lambda now, n, draw: -BOUND,
    "to and fro": lambda now, n, draw: BOUND * (-1) ** n,
    "just below": lambda now, n, draw: max(now - 1e-9, -BOUND),
    "just above": lambda now, n, draw: min(now + 1e-9, BOUND),
    "a regime that turns": lambda now, n, draw: BOUND if (n // 150) % 2 else draw.normal(0, 0.1),
    "heavy tails": lambda now, n, draw: float(np.clip(draw.standard_t(2), -BOUND, BOUND)),
}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("place", [0, 3, 11, 21, 22])
def test_a_level_covers_what_it_says_against_any_adversary(name: str, place: int) -> None:
    """Angelopoulos, Candès and Tibshirani (2023), proposition 1: off by (b + step) / (step T) at most.

    b is how far an outcome can lie from the base quantile, in scales. Their proof is of one level, so its
    neighbours are far away here: they never cross it.
    """
    draw, days = np.random.default_rng(place), 1200 * MORE
    base = 10.0 * (np.arange(23) - place)
    moved, below = np.zeros(23), 0
    for number in range(days):
        said = track(base, moved, 1.0)
        came = ADVERSARIES[name](float(said[place]), number, draw)
        below += came <= said[place]
        moved = advance(moved, float(to_price(np.array(came), 1.0)), to_price(said, 1.0), step=STEP)
        assert abs(moved[place]) <= BOUND + STEP
    assert abs(below / days - LEVELS[place]) <= (BOUND + STEP) / (STEP * days)


@pytest.mark.parametrize("seed", range(2 * MORE))
def test_all_levels_together_cover_what_they_say_of_heavy_tails(seed: int) -> None:
    draw, days = np.random.default_rng(seed), 1200
    came = np.clip(draw.standard_t(2, days), -BOUND, BOUND)
    base = np.tile(np.linspace(-0.5, 0.5, 23), (days, 1))
    said, _ = follow(base, np.ones(days), np.ones(days), np.exp(came), np.zeros(23), step=STEP)
    below = (np.exp(came)[:, None] <= said).mean(axis=0)
    assert np.abs(below - LEVEL).max() <= (BOUND + 0.5 + STEP) / (STEP * days)


@pytest.mark.parametrize("side", [-1, 1])
def test_quantiles_that_cross_do_not_push_a_correction_on_without_end(side: int) -> None:
    """Closes that always stand at one bound drive all levels to it, where they cross; then they come back."""
    days = 3000
    base = np.tile(np.linspace(-2, 2, 23), (days, 1))
    stuck, ones = np.full(days, np.exp(side * 2.5)), np.ones(days)
    _, moved = follow(base, ones, ones, stuck, np.zeros(23), step=STEP)
    assert np.abs(moved).max() <= MAX_OFFSET
    came = np.exp(np.random.default_rng(3).normal(0, 1, days))
    said, _ = follow(base, ones, ones, came, moved, step=STEP)
    after = (came[-1000:, None] <= said[-1000:]).mean(axis=0)
    assert np.abs(after - LEVEL).max() < 0.15  # 0.45 where nothing holds them


@STEADY
@given(st.lists(st.floats(-0.2, 0.2) | st.just(np.nan), min_size=2, max_size=12), st.integers(1, 11))
def test_it_forgets_nothing_between_two_halves(returns: list[float], cut: int) -> None:
    """Following all days is following the first ones, then the others from where these ended."""
    days = len(returns)
    cut = min(cut, days - 1)
    base = np.tile(np.linspace(-0.1, 0.1, 23), (days, 1))
    scales, last = np.full(days, 0.05), np.full(days, 100.0)
    came = last * np.exp(np.array(returns))
    whole, end = follow(base, scales, last, came, np.zeros(23), step=STEP)
    first, middle = follow(base[:cut], scales[:cut], last[:cut], came[:cut], np.zeros(23), step=STEP)
    second, again = follow(base[cut:], scales[cut:], last[cut:], came[cut:], middle, step=STEP)
    assert np.concatenate([first, second]).tobytes() == whole.tobytes()
    assert again.tobytes() == end.tobytes()


@STEADY
@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=10), st.floats(-0.2, 0.2))
def test_a_later_outcome_never_changes_an_earlier_forecast(returns: list[float], other: float) -> None:
    days = len(returns)
    base = np.tile(np.linspace(-0.1, 0.1, 23), (days, 1))
    scales, last = np.full(days, 0.05), np.full(days, 100.0)
    came = last * np.exp(np.array(returns))
    said, _ = follow(base, scales, last, came, np.zeros(23), step=STEP)
    changed = came.copy()
    changed[-1] = last[-1] * np.exp(other)
    again, _ = follow(base, scales, last, changed, np.zeros(23), step=STEP)
    assert again.tobytes() == said.tobytes()
