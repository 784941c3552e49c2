"""The binomial distribution, against SciPy's."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from closecast.tasks.evaluation.binomial import binomial_at_most, binomial_quantile

SHARES = (0.1, 0.5, 0.8, 0.95)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("level", [0.025, 0.975])
def test_quantiles_are_scipy_s(level: float, share: float) -> None:
    days = [*range(1, 200), 5000]
    assert [binomial_quantile(level, one, share) for one in days] == binom.ppf(level, days, share).tolist()


@pytest.mark.parametrize("share", SHARES)
def test_probabilities_are_scipy_s(share: float) -> None:
    for hits, days in ((0, 1), (3, 9), (90, 180), (180, 180), (4000, 5000)):
        expected = binom.cdf(hits, days, share)
        assert binomial_at_most(hits, days, share) == pytest.approx(expected, rel=1e-10, abs=1e-300)
