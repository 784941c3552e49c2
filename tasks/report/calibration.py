"""Calibration: the histogram of the PIT and the running coverage, with the bounds of chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from closecast.storage.core.intervals import COVERED, INTERVALS
from closecast.tasks.core.types import Floats

# Days of the running coverage, and how many it needs.
COVERAGE_DAYS, MIN_COVERAGE_DAYS = 90, 20
# Bins of the histogram of the PIT, and closes that each needs for the χ² test (Cochran 1954).
BINS, MIN_EXPECTED = 10, 5
# What chance leads to on 95 of 100 days lies between these levels.
CHANCE = {"lower": 0.025, "upper": 0.975}


@dataclass(frozen=True)
class PitHistogram:
    """Counts of the PIT in equal bins, (bins,), of `days`, and the bounds that chance leads to in each.

    `p_value` is that of Pearson's χ² test of equally likely bins, None with fewer than five expected
    in each, where that test does not hold.
    """

    counts: tuple[int, ...]
    days: int
    expected: float
    lower: int
    upper: int
    p_value: float | None


def pit_histogram(levels: Floats) -> PitHistogram | None:
    """The histogram of the PIT of some outcomes, (days,); None without any."""
    if not len(levels):
        return None
    from scipy.special import chdtrc  # `scipy.stats` is slow to load

    counts, _ = np.histogram(levels, bins=BINS, range=(0.0, 1.0))
    lower, upper = binomial_quantiles(np.array(list(CHANCE.values())), len(levels), 1 / BINS)
    expected = len(levels) / BINS
    statistic = float(((counts - expected) ** 2 / expected).sum())
    p_value = float(chdtrc(BINS - 1, statistic)) if expected >= MIN_EXPECTED else None
    return PitHistogram(tuple(counts.tolist()), len(levels), expected, int(lower), int(upper), p_value)


def binomial_quantiles(level: Any, days: Any, share: Any) -> Floats:
    """The least number of hits in `days` that is not exceeded with the probability `level`."""
    from scipy.special import bdtr, bdtrik

    hits = np.ceil(bdtrik(level, days, share))
    fewer = np.maximum(hits - 1, 0)
    return np.asarray(np.where(bdtr(fewer, days, share) >= level, fewer, hits), dtype=np.float64)


def running_coverage(past: pd.DataFrame) -> pd.DataFrame:
    """The coverage of each interval over the last `COVERAGE_DAYS` scored forecasts, day by day.

    Returns:
        `target_day`, `days`, and for each percent `running_P`, `lower_P` and `upper_P`: the share, and the
        bounds that it stays within on 95 of 100 days if the interval is exactly right.
    """
    scored = past.dropna(subset=list(COVERED))
    hits = scored[list(COVERED)].astype("float64").rolling(COVERAGE_DAYS, min_periods=MIN_COVERAGE_DAYS)
    shares, days = hits.mean(), hits.count()[COVERED[0]]
    running = {f"running_{percent}": shares[f"covered_{percent}"] for percent in INTERVALS}
    frame = pd.DataFrame({"target_day": scored["target_day"], "days": days, **running}).dropna()
    trials = frame["days"].to_numpy(dtype=np.int64)
    for percent in INTERVALS:
        for bound, level in CHANCE.items():
            frame[f"{bound}_{percent}"] = binomial_quantiles(level, trials, percent / 100) / trials
    return frame.reset_index(drop=True)
