"""The binomial distribution, from its terms: loading SciPy takes longer."""

from __future__ import annotations

import functools

import numpy as np

from closecast.tasks.core.types import Floats


def binomial_at_most(hits: int, days: int, share: float) -> float:
    """The probability of so many hits or fewer in `days`."""
    return float(_probabilities(hits, days, share).sum())


@functools.lru_cache(maxsize=1024)
def binomial_quantile(level: float, days: int, share: float) -> int:
    """The least number of hits in `days` that is not exceeded with the probability `level`."""
    return int(np.searchsorted(np.cumsum(_probabilities(days, days, share)), level))


def _probabilities(most: int, days: int, share: float) -> Floats:
    """The probability of each number of hits up to `most`, (most + 1,)."""
    hits = np.arange(most + 1)
    terms = _log_combinations(days)[: most + 1] + hits * np.log(share) + (days - hits) * np.log1p(-share)
    return np.asarray(np.exp(terms), dtype=np.float64)


@functools.lru_cache(maxsize=128)
def _log_combinations(days: int) -> Floats:
    """The logarithm of the number of ways to get each number of hits, (days + 1,)."""
    factorials = np.cumsum(np.log(np.maximum(np.arange(days + 1), 1)))
    return np.asarray(factorials[-1] - factorials - factorials[::-1], dtype=np.float64)
