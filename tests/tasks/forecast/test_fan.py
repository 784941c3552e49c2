"""The fan: quantiles of a horizon rise, and an interval contains those of the shorter horizons."""

from __future__ import annotations

import functools
import os
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.storage.core.candle_schema import candle_frame
from closecast.tasks.calibration.calibrator_states import CalibratorState
from closecast.tasks.calibration.quantile_tracker import MAX_OFFSET
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import Model
from closecast.tasks.core.quantiles import LEVELS, MEDIAN
from closecast.tasks.core.types import Floats
from closecast.tasks.features.inputs import columns_of
from closecast.tasks.forecast.publish import make_forecast
from closecast.tasks.network.forward import weight_shapes
from closecast.tasks.prices.file_reader import read_candles
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.profiles.ensemble import Ensemble
from tests.helpers import BTC, FIRST, NOW, PROJECT

SOAK = int(os.environ.get("SOAK", "1"))
STEADY = settings(max_examples=12 * SOAK, derandomize=SOAK == 1, database=None)
PROFILE = CalibratedProfile({"units": 4, "members": 2})  # all the horizons
DAYS = 360
GAP_FREE = 20  # of the newest days


@functools.cache
def sample() -> pd.DataFrame:
    (file,) = (PROJECT / "data" / "sample").glob("*.csv")
    return read_candles(file.read_bytes(), BTC, name=file.name).candles


def model(candles: pd.DataFrame, seed: int, size: float) -> Model:
    """Untrained networks with random weights of that size, so that their quantiles are far apart."""
    draw = np.random.default_rng(seed)
    columns = columns_of(candles, share=PROFILE.settings.column_share)
    features = 6 + 2 + 4 + 3 * columns.ranges + columns.volume
    shapes = weight_shapes(features, PROFILE.settings.units, 3 * len(PROFILE.horizons)).values()
    members = tuple([draw.normal(0, size, shape).astype(np.float32) for shape in shapes] for _ in range(2))
    lineage = cast("Any", SimpleNamespace(basis="model"))
    return Model("1", FittedModel(Ensemble(columns, members), FIRST), lineage)


def fan(candles: pd.DataFrame, offsets: Floats, *, seed: int = 1, size: float = 0.5) -> Forecast:
    """A forecast with these quantile offsets, (horizons, levels)."""
    states = {
        horizon: CalibratorState(f"r:{horizon}", FIRST, own)
        for horizon, own in zip(PROFILE.horizons, offsets, strict=True)
    }
    history = PriceHistory(BTC, candles, "BTC-USD@1:ab", "csv@0")
    return make_forecast(
        PROFILE, model(candles, seed, size), history, states, created_at=NOW, flow_run_id=None
    )


def random_offsets(seed: int, size: float) -> Floats:
    """Offsets as a tracker may leave them: both ends of an interval equally far from where they began."""
    offsets = np.random.default_rng(seed).normal(0, size, (len(PROFILE.horizons), len(LEVELS)))
    return np.clip((offsets - offsets[:, ::-1]) / 2, -MAX_OFFSET, MAX_OFFSET)


def assert_coherent(forecast: Forecast) -> None:
    assert tuple(one.horizon for one in forecast.horizons) == (1, 2, 3, 4, 5, 6, 7, 14, 30)
    quantiles = np.array([one.quantiles for one in forecast.horizons])
    assert np.isfinite(quantiles).all()
    assert (quantiles > 0).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    for low in range(MEDIAN):
        width = quantiles[:, -1 - low] - quantiles[:, low]
        assert (np.diff(width) >= 0).all(), LEVELS[low]
        assert (np.diff(quantiles[:, low]) <= 0).all()
        assert (np.diff(quantiles[:, -1 - low]) >= 0).all()
    for one in forecast.horizons:
        assert one.quantiles
        assert one.point == one.quantiles[MEDIAN]


@st.composite
def pasts(draw: st.DrawFn) -> pd.DataFrame:
    """A random walk with jumps, days on which nothing moves, and gaps; with ranges and volume, or without."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    returns = draw(st.sampled_from([0.001, 0.03, 0.2])) * random.standard_t(draw(st.integers(2, 9)), DAYS)
    for _ in range(draw(st.integers(0, 3))):
        returns[draw(st.integers(0, DAYS - 1))] += draw(st.floats(-2.0, 2.0))
    still = draw(st.integers(0, DAYS))
    returns[still : still + draw(st.integers(0, 150))] = 0.0
    close = draw(st.sampled_from([1e-6, 1.0, 4e4])) * np.exp(np.cumsum(np.clip(returns, -3, 3)))
    opening = np.concatenate([close[:1], close[:-1]])
    reach = np.exp(np.abs(returns) * random.uniform(0, 1, DAYS))
    figures = {
        "open": opening,
        "high": np.maximum(opening, close) * reach,
        "low": np.minimum(opening, close) / reach,
        "close": close,
        "volume": random.uniform(0, 9, DAYS),
    }
    if draw(st.booleans()):
        figures |= dict.fromkeys(("open", "high", "low", "volume"), np.nan)
    frame = candle_frame({"day_utc": pd.date_range(FIRST, periods=DAYS, unit="s"), **figures})
    first = draw(st.integers(1, DAYS - GAP_FREE - 30))
    gap = range(first, first + draw(st.integers(0, 25)))
    return frame.drop(index=list(gap)).reset_index(drop=True)


@STEADY
@given(pasts(), st.integers(0, 999), st.sampled_from([0.0, 0.05, 1.0]), st.sampled_from([0.05, 0.5, 1.0]))
def test_a_fan_from_any_past_is_coherent(frame: pd.DataFrame, seed: int, offset: float, size: float) -> None:
    assert_coherent(fan(frame, random_offsets(seed, offset), seed=seed, size=size))


def test_an_interval_that_would_be_narrower_is_widened_to_that_of_the_shorter_horizon() -> None:
    """With offsets that narrow the intervals of the longer horizons, all are as wide as the first."""
    frame, zero = sample().head(900), np.zeros((len(PROFILE.horizons), len(LEVELS)))
    plain = fan(frame, zero, size=0.1)
    narrow = zero.copy()
    narrow[1:] = 0.1 * np.sign(MEDIAN - np.arange(len(LEVELS)))
    narrowed = fan(frame, narrow, size=0.1)
    first, second, *_ = (one.quantiles for one in narrowed.horizons)
    assert first == plain.first.quantiles
    assert first
    assert second
    low, high = LEVELS.index(0.45), LEVELS.index(0.55)
    assert plain.horizons[1].quantiles
    assert second[high] - second[low] < plain.horizons[1].quantiles[high] - plain.horizons[1].quantiles[low]
    assert (second[low], second[high]) == (first[low], first[high])
    assert_coherent(narrowed)
