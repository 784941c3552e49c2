"""Made-up candles with what markets have: heavy tails, turbulent days, quiet weekends; and with noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from closecast.storage.core.candle_schema import candle_frame
from tests.helpers import FIRST


def random_walk(days: int = 480, *, seed: int = 3, sigma: float = 0.03, weekend: float = 1.0) -> pd.DataFrame:
    """A price that moves 24 times a day by a t with 5 degrees of freedom; `weekend` scales the weekends."""
    draw = np.random.default_rng(seed)
    when = pd.date_range(FIRST, periods=days, unit="s")
    size = np.where(when.day_of_week >= 5, weekend, 1.0) * sigma * np.sqrt(0.6 / 24)
    turbulence = np.exp(0.3 * draw.standard_normal(days))
    steps = draw.standard_t(5, (days, 24)) * (size * turbulence)[:, None]
    path = 4000 * np.exp(np.cumsum(steps).reshape(days, 24))
    opening = np.concatenate([[4000.0], path[:-1, -1]])
    return candle_frame(
        {
            "day_utc": when,
            "open": opening,
            "high": np.maximum(opening, path.max(axis=1)),
            "low": np.minimum(opening, path.min(axis=1)),
            "close": path[:, -1],
            "volume": draw.uniform(1, 9, days),
        }
    )


def with_noise_after(frame: pd.DataFrame, row: int) -> pd.DataFrame:
    """The frame with random figures in all later rows, of which every third has a close alone."""
    noisy, figures = frame.copy(), ["open", "high", "low", "volume"]
    noise = np.random.default_rng(row).uniform(0.01, 1e6, (len(frame) - row - 1, 5))
    noisy.loc[row + 1 :, [*figures, "close"]] = noise
    noisy.loc[row + 3 :: 3, figures] = np.nan
    return noisy
