from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.training.gate import against_naive, mean_absolute_error, root_mean_squared_error


def test_the_errors_by_hand() -> None:
    said, came = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 1.0, 8.0])
    assert root_mean_squared_error(said, came) == pytest.approx(math.sqrt((1 + 0 + 4 + 16) / 4))
    assert mean_absolute_error(said, came) == (1 + 0 + 2 + 4) / 4
    assert root_mean_squared_error(came, came) == mean_absolute_error(came, came) == 0.0
    # Which of the two is the forecast makes no difference to an error.
    assert root_mean_squared_error(came, said) == root_mean_squared_error(said, came)


def test_beside_naive() -> None:
    came, last = np.array([110.0, 90.0]), np.array([100.0, 100.0])
    figures = against_naive(np.array([105.0, 95.0]), came, last)
    assert figures == {
        "test_rmse": 5.0,
        "test_mae": 5.0,
        "naive_rmse": 10.0,
        "naive_mae": 10.0,
        "rmse_ratio_to_naive": 0.5,
    }
    assert all(type(value) is float for value in figures.values())
    assert against_naive(last, came, last)["rmse_ratio_to_naive"] == 1.0
    cents = against_naive(np.array([0.05, 0.07]), np.array([0.06, 0.06]), np.array([0.05, 0.05]))
    assert cents["rmse_ratio_to_naive"] == pytest.approx(1.0)


def test_a_series_that_never_moves_has_no_ratio() -> None:
    still = np.full(3, 7.0)
    figures = against_naive(still + 1, still, still)
    assert (figures["naive_rmse"], figures["test_rmse"]) == (0.0, 1.0)
    assert "rmse_ratio_to_naive" not in figures
