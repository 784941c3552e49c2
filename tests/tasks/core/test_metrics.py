from __future__ import annotations

import math

import numpy as np
import pytest

from closecast.tasks.core.metrics import errors_beside_naive, mean_absolute_error, root_mean_squared_error


def test_errors_by_hand() -> None:
    predicted, actual = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 1.0, 8.0])
    assert root_mean_squared_error(predicted, actual) == pytest.approx(math.sqrt((1 + 0 + 4 + 16) / 4))
    assert mean_absolute_error(predicted, actual) == (1 + 0 + 2 + 4) / 4
    assert root_mean_squared_error(actual, actual) == mean_absolute_error(actual, actual) == 0.0


def test_errors_beside_the_last_close() -> None:
    actual, last = np.array([110.0, 90.0]), np.array([100.0, 100.0])
    figures = errors_beside_naive(np.array([105.0, 95.0]), actual, last)
    assert figures == {
        "test_rmse": 5.0,
        "test_mae": 5.0,
        "naive_rmse": 10.0,
        "naive_mae": 10.0,
        "rmse_ratio_to_naive": 0.5,
    }
    assert all(type(value) is float for value in figures.values())
    still = np.full(3, 7.0)
    figures = errors_beside_naive(still + 1, still, still)
    assert (figures["naive_rmse"], figures["test_rmse"]) == (0.0, 1.0)
    assert "rmse_ratio_to_naive" not in figures
