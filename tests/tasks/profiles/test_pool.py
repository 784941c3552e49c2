"""What a young product takes from older ones: the t of their standardized returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.errors import NotEnoughHistory
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS, student_t
from closecast.tasks.core.types import Rows
from closecast.tasks.features.volatility import ewma, log_returns
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.baselines import (
    BASELINES,
    Quantiles,
    baseline_quantiles,
    pool_tails,
)
from tests.calibrated import quick
from tests.helpers import BTC, made_up

HORIZONS = (1, 7)
SIZES = {1: 2.0, 7: 3.0}
NAMES = ("ewma_t", *BASELINES)
TAILS = {name: {h: (SIZES[h], 5.0) for h in HORIZONS} for name in ("ewma_t", "ewma_weekday_t", "har_120_t")}


def of_pool(candles: pd.DataFrame, rows: Sequence[int] | Rows) -> Mapping[int, Quantiles]:
    return baseline_quantiles(candles, rows, horizons=HORIZONS, components=NAMES, tails=TAILS)


def heavy(days: int, *, dof: float, seed: int) -> pd.DataFrame:
    """Closes whose returns are a t of constant size; no ranges."""
    draw = np.random.default_rng(seed).standard_t(dof, days) * 0.02
    closes = 100.0 * np.exp(np.cumsum(draw))
    return made_up(days).assign(close=closes, open=np.nan, high=np.nan, low=np.nan)


def test_tails_are_those_of_all_products_together() -> None:
    light, heavy_ones = heavy(900, dof=30.0, seed=1), heavy(900, dof=3.0, seed=2)
    dof = [pool_tails(pool, [1])["ewma_t"][1][1] for pool in ([light], [light, heavy_ones], [heavy_ones])]
    assert dof[0] > dof[1] > dof[2]
    # Of each product only the newest days count.
    longer = pd.concat([heavy(300, dof=3.0, seed=3), light]).reset_index(drop=True)
    longer["day_utc"] = made_up(1200)["day_utc"]
    assert abs(pool_tails([longer], [1])["ewma_t"][1][1] - dof[0]) < 0.4 * dof[0]
    assert pool_tails([light, heavy_ones], HORIZONS).keys() == TAILS.keys()


def test_the_young_baseline_is_riskmetrics_with_the_given_t() -> None:
    candles = made_up(130)
    rows = [70, 129]
    made = of_pool(candles, rows)
    daily = np.sqrt(ewma(np.square(log_returns(candles)), decay=0.94))[rows]
    for horizon, quantiles in made.items():
        sigma = daily * np.sqrt(horizon) * SIZES[horizon]
        expected = student_t(np.zeros(2), sigma, np.full(2, 5.0))
        np.testing.assert_allclose(quantiles["ewma_t"], expected, rtol=1e-12)
    assert "ewma_t" not in baseline_quantiles(candles, rows)[1]
    assert baseline_quantiles(candles, rows, components=(), tails=TAILS)[1] == {}


@pytest.mark.parametrize(("horizon", "first"), [(1, 120), (7, 318)])
def test_har_begins_with_as_many_outcomes_as_its_half_life(horizon: int, first: int) -> None:
    """Until then HAR, and until it has its returns GARCH, forecast as RiskMetrics with the pool's t."""
    candles = made_up(400)
    made = baseline_quantiles(candles, range(60, 400), horizons=HORIZONS, components=NAMES, tails=TAILS)[
        horizon
    ]
    apart = {
        name: 60 + np.flatnonzero((made[name] != made["ewma_t"]).any(axis=1))
        for name in ("har_120_t", "garch_weekday_t")
    }
    # Coefficients are fitted once in thirty days, so the first ones come with the next refit.
    outcomes = np.cumsum(~np.isnan(log_returns(candles, days=horizon)))
    assert outcomes[apart["har_120_t"][0]] >= 120 * np.sqrt(horizon)
    assert first <= apart["har_120_t"][0] <= first + 30
    assert len(apart["har_120_t"]) == 400 - apart["har_120_t"][0]
    assert apart["garch_weekday_t"][0] == 250


def test_a_row_depends_on_no_later_row() -> None:
    candles, rows = made_up(300), np.array([60, 125, 180, 255])
    together = of_pool(candles, rows)
    for number, row in enumerate(rows.tolist()):
        alone = baseline_quantiles(
            candles[: row + 1], [row], horizons=HORIZONS, components=NAMES, tails=TAILS
        )
        for horizon, quantiles in alone.items():
            for name, own in quantiles.items():
                np.testing.assert_array_equal(own[0], together[horizon][name][number])
                assert own.shape == (1, len(LEVELS))


def test_a_profile_of_one_product_learns_from_no_other() -> None:
    profile, history = ArticleProfile(), PriceHistory(BTC, made_up(70), "BTC-USD@1:ab", "csv@0")
    assert profile.min_pool_days == profile.min_days
    with pytest.raises(NotEnoughHistory, match="learns from BTC-USD alone"):
        profile.fit_pool(history, {"ETH-USD": history})
    assert quick().min_pool_days == 60
