from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scoringrules
from scipy import stats

from closecast.tasks.core.quantiles import (
    INTERVAL_INDEXES,
    LEVELS,
    MEDIAN,
    covered,
    crps,
    level_weights,
    pit,
    student_t,
)
from closecast.tasks.core.types import Floats


def every_day(row: Any, days: int) -> Floats:
    """The same forecast for every day, (days, 23)."""
    return np.tile(np.asarray(row, dtype=np.float64), (days, 1))


def test_the_weights_of_the_levels_add_up_to_1() -> None:
    weights = level_weights()
    assert weights.shape == (23,)
    assert weights.sum() == pytest.approx(1.0, abs=1e-15)
    assert weights[:4] == pytest.approx([0.0175, 0.02, 0.0375, 0.05])
    assert weights[-4:] == pytest.approx([0.05, 0.0375, 0.02, 0.0175])
    assert weights[3:-3] == pytest.approx(np.full(17, 0.05))


def test_crps_by_hand() -> None:
    steps = np.where(np.array(LEVELS) < 0.5, 0.0, 1.0)  # 0 below the median, 1 from it on
    below, above = level_weights()[:MEDIAN], level_weights()[MEDIAN:]
    low, high = np.array(LEVELS[:MEDIAN]), np.array(LEVELS[MEDIAN:])
    by_hand = 2 * (np.sum(below * low * 0.25) + np.sum(above * (1 - high) * 0.75))
    # A single point scores its distance, on either side.
    forecasts = np.stack([steps, np.ones(23), np.ones(23), np.ones(23)])
    scores = crps(np.array([0.25, 0.0, 3.0, 1.0]), forecasts)
    assert scores == pytest.approx([by_hand, 1.0, 2.0, 0.0])


def test_crps_is_close_to_the_closed_form() -> None:
    actual = np.array([-2.5, -0.7, 0.0, 0.3, 1.9])
    normal, heavy = (every_day(row, 5) for row in (stats.norm.ppf(LEVELS), stats.t.ppf(LEVELS, 5)))
    np.testing.assert_allclose(crps(actual, normal), scoringrules.crps_normal(actual, 0.0, 1.0), rtol=0.02)
    np.testing.assert_allclose(crps(actual, heavy), scoringrules.crps_t(actual, 5, 0.0, 1.0), rtol=0.02)
    # On the average day the tails beyond the levels have little weight.
    many = np.random.default_rng(2).standard_t(5, 4000)
    exact = scoringrules.crps_t(many, 5, 0.0, 1.0).mean()
    assert crps(many, every_day(heavy[0], 4000)).mean() == pytest.approx(exact, rel=0.005)


def test_pit_interpolates_between_the_levels() -> None:
    row = stats.norm.ppf(LEVELS)
    between = (row[3] + row[4]) / 2
    actual = np.array([*row, between, row[0] - 1e-9, -50.0, row[-1] + 1e-9, 50.0])
    expected = [*LEVELS, 0.125, 0.005, 0.005, 0.995, 0.995]
    assert pit(actual, every_day(row, len(actual))) == pytest.approx(expected)


def test_the_bounds_of_an_interval_are_covered() -> None:
    row = np.arange(23.0)
    low, high = INTERVAL_INDEXES[80]
    actual = np.array([low - 0.1, low, 11.0, high, high + 0.1])
    assert covered(actual, every_day(row, 5), 80).tolist() == [False, True, True, True, False]
    draws = np.random.default_rng(4).normal(size=4000)
    for percent in INTERVAL_INDEXES:
        coverage = covered(draws, every_day(stats.norm.ppf(LEVELS), 4000), percent).mean()
        assert coverage == pytest.approx(percent / 100, abs=0.02)


def test_student_t_has_the_standard_deviation_sigma() -> None:
    mean, sigma, dof = np.array([0.0, 0.1, -2.0]), np.array([1.0, 0.03, 5.0]), np.array([2.1, 4.0, 80.0])
    quantiles = student_t(mean, sigma, dof)
    assert quantiles.shape == (3, 23)
    for row, m, s, nu in zip(quantiles, mean, sigma, dof, strict=True):
        unit = s * np.sqrt((nu - 2) / nu)
        np.testing.assert_allclose(row, stats.t.ppf(LEVELS, nu, m, unit), atol=1e-12)
        assert stats.t.std(nu, scale=unit) == pytest.approx(s)
    assert (np.diff(quantiles, axis=1) > 0).all()
