from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scoringrules
from scipy import stats

from tasks.core.quantiles import BANDS, LEVELS, MEDIAN, crps, inside, pit, shares, student_t
from tasks.core.types import Floats

MIDDLE = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
MIDDLE += [0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def same(row: Any, days: int) -> Floats:
    """One forecast for every day, (days, 23)."""
    return np.tile(np.asarray(row, dtype=np.float64), (days, 1))


def test_the_levels() -> None:
    assert list(LEVELS) == [0.01, 0.025, *MIDDLE, 0.975, 0.99]
    assert len(LEVELS) == 23
    assert LEVELS[MEDIAN] == 0.5
    for percent, (low, high) in BANDS.items():
        assert LEVELS[high] - LEVELS[low] == pytest.approx(percent / 100)
        assert LEVELS[low] + LEVELS[high] == pytest.approx(1.0)
    assert sorted(BANDS) == [50, 80, 90, 95]


def test_the_shares_part_the_unit_interval() -> None:
    found = shares()
    assert found.shape == (23,)
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    assert found[[0, -1]] == pytest.approx([0.0175, 0.0175])
    assert found[[1, -2]] == pytest.approx([0.02, 0.02])
    assert found[[2, -3]] == pytest.approx([0.0375, 0.0375])
    assert found[3:-3] == pytest.approx(np.full(17, 0.05))


def test_crps_by_hand() -> None:
    steps = np.where(np.array(LEVELS) < 0.5, 0.0, 1.0)  # 0 below the median, 1 from it on
    below, above = shares()[:MEDIAN], shares()[MEDIAN:]
    low, high = np.array(LEVELS[:MEDIAN]), np.array(LEVELS[MEDIAN:])
    by_hand = 2 * (np.sum(below * low * 0.25) + np.sum(above * (1 - high) * 0.75))
    # A single point scores its distance, on either side.
    forecasts = np.stack([steps, np.ones(23), np.ones(23), np.ones(23)])
    found = crps(np.array([0.25, 0.0, 3.0, 1.0]), forecasts)
    assert found == pytest.approx([by_hand, 1.0, 2.0, 0.0])


def test_crps_is_in_the_unit_of_the_outcome() -> None:
    draw = np.random.default_rng(1)
    came, said = draw.normal(size=5), np.sort(draw.normal(size=(5, 23)), axis=1)
    np.testing.assert_allclose(crps(7.0 * came, 7.0 * said), 7.0 * crps(came, said))


def test_crps_is_near_the_closed_form() -> None:
    came = np.array([-2.5, -0.7, 0.0, 0.3, 1.9])
    normal = same(stats.norm.ppf(LEVELS), 5)
    np.testing.assert_allclose(crps(came, normal), scoringrules.crps_normal(came, 0.0, 1.0), rtol=0.02)
    heavy = same(stats.t.ppf(LEVELS, 5), 5)
    np.testing.assert_allclose(crps(came, heavy), scoringrules.crps_t(came, 5, 0.0, 1.0), rtol=0.02)
    # On the average day the tails that the levels leave out weigh little.
    many = np.random.default_rng(2).standard_t(5, 4000)
    exact = scoringrules.crps_t(many, 5, 0.0, 1.0).mean()
    assert crps(many, same(heavy[0], 4000)).mean() == pytest.approx(exact, rel=0.005)


def test_pit_reads_the_level_off() -> None:
    row = stats.norm.ppf(LEVELS)
    between = (row[3] + row[4]) / 2
    came = np.array([*row, between, row[0] - 1e-9, -50.0, row[-1] + 1e-9, 50.0])
    expected = [*LEVELS, 0.125, 0.005, 0.005, 0.995, 0.995]
    assert pit(came, same(row, len(came))) == pytest.approx(expected)


def test_pit_is_uniform_when_the_forecasts_are_calibrated() -> None:
    draw = np.random.default_rng(3)
    days = 3000
    mean, sigma = draw.normal(0, 0.5, days), draw.uniform(0.5, 2.0, days)
    dof = draw.uniform(3.0, 9.0, days)
    came = mean + sigma * np.sqrt((dof - 2) / dof) * draw.standard_t(dof)
    found = pit(came, student_t(mean, sigma, dof))
    assert stats.kstest(found, "uniform").pvalue > 0.05
    for wrong in (student_t(mean, 1.3 * sigma, dof), student_t(mean + 0.2, sigma, dof)):
        assert stats.kstest(pit(came, wrong), "uniform").pvalue < 1e-4


def test_inside_counts_the_bounds_in() -> None:
    row = np.arange(23.0)
    low, high = BANDS[80]
    came = np.array([low - 0.1, low, 11.0, high, high + 0.1])
    assert inside(came, same(row, 5), 80).tolist() == [False, True, True, True, False]
    draws = np.random.default_rng(4).normal(size=4000)
    for percent in BANDS:
        share = inside(draws, same(stats.norm.ppf(LEVELS), 4000), percent).mean()
        assert share == pytest.approx(percent / 100, abs=0.02)


def test_student_t_has_that_standard_deviation() -> None:
    mean, sigma, dof = np.array([0.0, 0.1, -2.0]), np.array([1.0, 0.03, 5.0]), np.array([2.1, 4.0, 80.0])
    found = student_t(mean, sigma, dof)
    assert found.shape == (3, 23)
    for row, m, s, nu in zip(found, mean, sigma, dof, strict=True):
        np.testing.assert_allclose(row, stats.t.ppf(LEVELS, nu, m, s * np.sqrt((nu - 2) / nu)), atol=1e-12)
        unit = s * np.sqrt((nu - 2) / nu)
        assert stats.t.std(nu, scale=unit) == pytest.approx(s)
    assert (np.diff(found, axis=1) > 0).all()
