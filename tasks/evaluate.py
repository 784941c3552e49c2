"""How far a forecast was from what came, and from what the last close would have said."""

from __future__ import annotations

import numpy as np

from tasks.scale import Floats


def root_mean_squared_error(said: Floats, came: Floats) -> float:
    """In the unit of its arguments, both of shape (days,)."""
    return float(np.sqrt(np.mean(np.square(said - came))))


def mean_absolute_error(said: Floats, came: Floats) -> float:
    """In the unit of its arguments, both of shape (days,)."""
    return float(np.mean(np.abs(said - came)))


def against_naive(said_usd: Floats, came_usd: Floats, last_usd: Floats) -> dict[str, float]:
    """Errors of a point forecast beside those of "tomorrow closes where today closed".

    Args:
        said_usd: shape (days,), the forecasts.
        came_usd: shape (days,), the closes of their target days.
        last_usd: shape (days,), the closes of their origins.
    """
    figures = {
        "test_rmse_usd": root_mean_squared_error(said_usd, came_usd),
        "test_mae_usd": mean_absolute_error(said_usd, came_usd),
        "naive_rmse_usd": root_mean_squared_error(last_usd, came_usd),
        "naive_mae_usd": mean_absolute_error(last_usd, came_usd),
    }
    # A series that never moves has a perfect naive forecast, and no ratio to it.
    if figures["naive_rmse_usd"] > 0:
        figures["rmse_ratio_to_naive"] = figures["test_rmse_usd"] / figures["naive_rmse_usd"]
    return figures
