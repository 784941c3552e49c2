"""Errors of point forecasts."""

from __future__ import annotations

import numpy as np

from closecast.tasks.core.types import Floats


def root_mean_squared_error(predicted: Floats, actual: Floats) -> float:
    """RMSE in the unit of its arguments, both (days,)."""
    return float(np.sqrt(np.mean(np.square(predicted - actual))))


def mean_absolute_error(predicted: Floats, actual: Floats) -> float:
    """MAE in the unit of its arguments, both (days,)."""
    return float(np.mean(np.abs(predicted - actual)))


def errors_beside_naive(predicted: Floats, actual: Floats, last: Floats) -> dict[str, float]:
    """Errors of a point forecast and of the origins' last closes, all (days,)."""
    figures = {
        "test_rmse": root_mean_squared_error(predicted, actual),
        "test_mae": mean_absolute_error(predicted, actual),
        "naive_rmse": root_mean_squared_error(last, actual),
        "naive_mae": mean_absolute_error(last, actual),
    }
    # A series that never moves has a perfect naive forecast, and no ratio to it.
    if figures["naive_rmse"] > 0:
        figures["rmse_ratio_to_naive"] = figures["test_rmse"] / figures["naive_rmse"]
    return figures
