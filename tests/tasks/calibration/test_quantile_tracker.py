from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.calibration.quantile_tracker import apply_offsets, mix, to_prices, track, update_offsets
from tasks.core.quantiles import LEVELS, MEDIAN
from tasks.core.types import Floats

ZERO = np.zeros(23)
UNIT: Floats = np.asarray(stats.norm.ppf(LEVELS), dtype=np.float64)


def test_mix_is_a_weighted_mean() -> None:
    own, other = np.full((2, 23), 1.0), np.full((2, 23), 3.0)
    assert (mix(own, other, share=0.5) == 2.0).all()
    assert (mix(own, other, share=0.25) == 1.5).all()
    assert mix(UNIT, 5 * UNIT, share=0.0).tobytes() == UNIT.tobytes()
    assert mix(5 * UNIT, UNIT, share=1.0).tobytes() == UNIT.tobytes()


def test_one_outcome_by_hand() -> None:
    prices, levels = to_prices(0.02 * UNIT, 1000.0), np.array(LEVELS)
    assert prices[MEDIAN] == pytest.approx(1000.0)
    offsets = update_offsets(ZERO, float(prices[MEDIAN]) + 1e-6, prices, step=0.002)
    # The close is above the median: the offsets below it rise, those above it fall.
    assert offsets[: MEDIAN + 1] == pytest.approx(0.002 * levels[: MEDIAN + 1])
    assert offsets[MEDIAN + 1 :] == pytest.approx(0.002 * (levels[MEDIAN + 1 :] - 1.0))
    at_median = update_offsets(ZERO, float(prices[MEDIAN]), prices, step=0.002)
    assert at_median[MEDIAN] == pytest.approx(0.002 * (0.5 - 1.0))
    assert update_offsets(ZERO, 1.0, prices, step=0.002) == pytest.approx(0.002 * (levels - 1.0))
    assert update_offsets(ZERO, 1e9, prices, step=0.002) == pytest.approx(0.002 * levels)
    assert (ZERO == 0).all()  # the argument is unchanged


def walk(days: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Quantiles, sigmas about 0.03, last and actual closes; the returns have twice that sigma."""
    draw = np.random.default_rng(6)
    closes = 4000 * np.exp(np.cumsum(draw.normal(0, 0.06, days + 1)))
    return np.tile(0.03 * UNIT, (days, 1)), np.linspace(0.02, 0.04, days), closes[:-1], closes[1:]


def test_track_applies_and_updates_the_offsets_day_by_day() -> None:
    quantiles, sigmas, last, actual = walk(12)
    actual[[4, 5]] = np.nan
    prices, after = track(quantiles, sigmas, last, actual, 0.1 * UNIT, step=0.05)
    offsets = 0.1 * UNIT
    for day in range(12):
        expected = to_prices(apply_offsets(quantiles[day], offsets, sigmas[day]), last[day])
        assert prices[day].tobytes() == expected.tobytes()
        if day not in (4, 5):
            offsets = update_offsets(offsets, actual[day], expected, step=0.05)
    assert after.tobytes() == offsets.tobytes()
