from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.calibration.quantile_tracker import advance, follow, mix, to_price, track
from tasks.core.quantiles import BANDS, LEVELS, MEDIAN, inside
from tasks.core.types import Floats

ZERO = np.zeros(23)
UNIT: Floats = np.asarray(stats.norm.ppf(LEVELS), dtype=np.float64)


def test_half_and_half() -> None:
    own, other = np.full((2, 23), 1.0), np.full((2, 23), 3.0)
    assert (mix(own, other, share=0.5) == 2.0).all()
    assert (mix(own, other, share=0.25) == 1.5).all()
    assert mix(UNIT, 5 * UNIT, share=0.0).tobytes() == UNIT.tobytes()
    assert mix(5 * UNIT, UNIT, share=1.0).tobytes() == UNIT.tobytes()
    short = UNIT.astype(np.float32)  # as a network says it
    assert mix(short, short, share=0.5).dtype == np.float64
    assert to_price(short, 100.0).dtype == np.float64


def test_a_correction_is_in_scales_and_the_quantiles_rise() -> None:
    quantile_offsets = ZERO.copy()
    quantile_offsets[MEDIAN] = 0.5
    found = track(0.1 * UNIT, quantile_offsets, 0.2)
    assert found[np.searchsorted(found, 0.1)] == pytest.approx(0.1)  # the median, moved by .5 * .2
    assert (np.diff(found) >= 0).all()
    assert sorted(0.1 * UNIT + quantile_offsets * 0.2) == found.tolist()
    assert (np.diff(0.1 * UNIT + quantile_offsets * 0.2) < 0).any()


def test_one_outcome_by_hand() -> None:
    said = to_price(0.02 * UNIT, 1000.0)
    assert said[MEDIAN] == pytest.approx(1000.0)
    found = advance(ZERO, float(said[MEDIAN]) + 1e-6, said, step=0.002)
    # The close is above the median: what lies below it rises, what lies above it falls.
    assert found[: MEDIAN + 1] == pytest.approx(0.002 * np.array(LEVELS[: MEDIAN + 1]))
    assert found[MEDIAN + 1 :] == pytest.approx(0.002 * (np.array(LEVELS[MEDIAN + 1 :]) - 1.0))
    on_it = advance(ZERO, float(said[MEDIAN]), said, step=0.002)
    assert on_it[MEDIAN] == pytest.approx(0.002 * (0.5 - 1.0))
    assert advance(ZERO, 1.0, said, step=0.002) == pytest.approx(0.002 * (np.array(LEVELS) - 1.0))
    assert advance(ZERO, 1e9, said, step=0.002) == pytest.approx(0.002 * np.array(LEVELS))
    assert (ZERO == 0).all()  # what was handed in stays


def walk(days: int, sigma: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Quantiles, scales, and both closes of days whose return has that sigma, in scales of .03."""
    draw = np.random.default_rng(6)
    scales = np.full(days, 0.03)
    closes = 4000 * np.exp(np.cumsum(draw.normal(0, 0.03 * sigma, days + 1)))
    return np.tile(0.03 * UNIT, (days, 1)), scales, closes[:-1], closes[1:]


def test_following_is_tracking_day_by_day() -> None:
    quantiles, scales, last, came = walk(12, 2.0)
    came[[4, 5]] = np.nan
    said, after = follow(quantiles, scales, last, came, 0.1 * UNIT, step=0.05)
    state = 0.1 * UNIT
    for day in range(12):
        expected = to_price(track(quantiles[day], state, scales[day]), last[day])
        assert said[day].tobytes() == expected.tobytes()
        if day not in (4, 5):
            state = advance(state, came[day], expected, step=0.05)
    assert after.tobytes() == state.tobytes()
    # In two goes it is the same.
    first, between = follow(quantiles[:7], scales[:7], last[:7], came[:7], 0.1 * UNIT, step=0.05)
    second, end = follow(quantiles[7:], scales[7:], last[7:], came[7:], between, step=0.05)
    assert np.concatenate([first, second]).tobytes() == said.tobytes()
    assert end.tobytes() == after.tobytes()


def test_nothing_is_learned_of_what_is_not_known() -> None:
    quantiles, scales, last, came = walk(5, 1.0)
    said, after = follow(quantiles, scales, last, np.full(5, np.nan), ZERO, step=0.05)
    assert after.tobytes() == ZERO.tobytes()
    assert said.shape == (5, 23)
    nothing, same = follow(quantiles[:0], scales[:0], last[:0], came[:0], 0.1 * UNIT, step=0.05)
    assert nothing.shape == (0, 23)
    assert same.tobytes() == (0.1 * UNIT).tobytes()


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_in_the_long_run_it_covers_what_it_says(sigma: float) -> None:
    quantiles, scales, last, came = walk(4000, sigma)
    untracked, _ = follow(quantiles, scales, last, came, ZERO, step=0.0)
    said, _ = follow(quantiles, scales, last, came, ZERO, step=0.05)
    settled = slice(1000, None)
    for percent in BANDS:
        before = inside(came[settled], untracked[settled], percent).mean()
        found = inside(came[settled], said[settled], percent).mean()
        assert found == pytest.approx(percent / 100, abs=0.01)
        assert abs(before - percent / 100) > 0.04
