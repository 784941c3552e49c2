"""Calibration: the histogram of the PIT and the running coverage, with the bounds of chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from closecast.storage.core.intervals import COVERED, INTERVALS
from closecast.tasks.core.types import Floats
from closecast.tasks.evaluation.binomial import binomial_quantile

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
    counts, _ = np.histogram(levels, bins=BINS, range=(0.0, 1.0))
    lower, upper = (binomial_quantile(level, len(levels), 1 / BINS) for level in CHANCE.values())
    expected = len(levels) / BINS
    statistic = float(((counts - expected) ** 2 / expected).sum())
    p_value = _chi_squared_p(statistic, BINS - 1) if expected >= MIN_EXPECTED else None
    return PitHistogram(tuple(counts.tolist()), len(levels), expected, lower, upper, p_value)


def _chi_squared_p(statistic: float, degrees: int) -> float:
    from scipy.special import chdtrc  # slow to load, and a young home does without

    return float(chdtrc(degrees, statistic))


def running_coverage(past: pd.DataFrame) -> pd.DataFrame:
    """The coverage of each interval over the last `COVERAGE_DAYS` scored forecasts, day by day.

    Returns:
        `target_day`, `days`, and for each percent `running_P`, `lower_P` and `upper_P`: the share, and the
        bounds that it stays within on 95 of 100 days if the interval is exactly right.
    """
    scored = past[["target_day", *COVERED]].dropna()
    hits = scored[list(COVERED)].astype("float64").rolling(COVERAGE_DAYS, min_periods=MIN_COVERAGE_DAYS)
    shares, days = hits.mean(), hits.count()[COVERED[0]]
    running = {f"running_{percent}": shares[f"covered_{percent}"] for percent in INTERVALS}
    frame = pd.DataFrame({"target_day": scored["target_day"], "days": days, **running}).dropna()
    trials = frame["days"].to_numpy(dtype=np.int64)
    numbers, places = np.unique(trials, return_inverse=True)
    for percent in INTERVALS:
        for bound, level in CHANCE.items():
            limits = [binomial_quantile(level, days, percent / 100) for days in numbers.tolist()]
            frame[f"{bound}_{percent}"] = np.array(limits, dtype=np.float64)[places] / trials
    return frame.reset_index(drop=True)
