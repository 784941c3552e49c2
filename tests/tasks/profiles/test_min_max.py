from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import MinMaxScaler
from tasks.profiles.min_max import MinMax, fit_min_max

from tasks.core.types import Floats
from tasks.prices.csv_reader import read_candles
from tests.helpers import ARTICLE_FILE, PROJECT, needs_prices

prices = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-9, 1e12))
# What the article prints of its scaled prices.
GOLDEN = {370.0: 0.01280082, 426.1: 0.01567332, 8259.99: 0.41679416}


def both(fitted_on: Floats, asked: Floats) -> tuple[MinMax, Floats, Floats]:
    """The scaler, and scikit-learn's own answer there and back."""
    theirs = MinMaxScaler().fit(fitted_on.reshape(-1, 1))
    there = theirs.transform(asked.reshape(-1, 1))
    return fit_min_max(fitted_on), there.ravel(), theirs.inverse_transform(there).ravel()


@given(prices, prices)
def test_it_is_scikit_learns_to_the_last_bit_also_through_json(fitted_on: Floats, asked: Floats) -> None:
    scaler, there, back = both(fitted_on, asked)
    stored = MinMax(**json.loads(json.dumps(scaler.as_json())))
    assert stored == scaler
    for ours in (scaler, stored):
        assert ours.forward(asked).tobytes() == there.tobytes()
        assert ours.back(there).tobytes() == back.tobytes()
    assert (scaler.minimum, scaler.maximum) == (fitted_on.min(), fitted_on.max())


@given(prices)
def test_there_and_back_again(closes: Floats) -> None:
    scaler = fit_min_max(closes)
    np.testing.assert_allclose(
        scaler.back(scaler.forward(closes)), closes, rtol=1e-9, atol=closes.max() * 1e-12
    )


def test_any_shape_and_beyond_the_span() -> None:
    scaler = fit_min_max(np.array([100.0, 200.0, 300.0]))
    assert scaler.forward(np.array([[100.0, 300.0], [400.0, 0.0]])).tolist() == [[0.0, 1.0], [1.5, -0.5]]
    assert scaler.back(np.array([[[0.5]]])).tolist() == [[[200.0]]]
    assert scaler.forward(np.array([], dtype=np.float64)).shape == (0,)
    assert scaler.forward(np.float32([150])).dtype == np.float64


def test_a_series_that_never_moves() -> None:
    scaler, there, back = both(np.full(5, 7.0), np.full(5, 7.0))
    assert scaler.forward(np.full(5, 7.0)).tolist() == there.tolist() == [0.0] * 5
    assert scaler.back(there).tolist() == back.tolist() == [7.0] * 5


@pytest.mark.parametrize(("close", "scaled"), GOLDEN.items())
def test_the_articles_figures_from_its_span(close: float, scaled: float) -> None:
    scaler = fit_min_max(np.array([120.0, 19650.0]))
    assert round(float(scaler.forward(np.array(close))), 8) == scaled


@needs_prices
def test_the_articles_figures_from_its_file() -> None:
    closes = read_candles(ARTICLE_FILE.read_bytes(), "BTC-USD").candles["close"].to_numpy()
    for fitted_on in (closes, closes[: int(len(closes) * 0.8)]):
        scaler = fit_min_max(fitted_on)
        assert (scaler.minimum, scaler.maximum) == (120.0, 19650.0)
        assert {close: round(float(scaler.forward(np.array(close))), 8) for close in GOLDEN} == GOLDEN


def test_using_a_stored_scaler_does_not_load_scikit_learn() -> None:
    program = (
        "import sys; from tasks.profiles.min_max import MinMax;"
        " assert MinMax(0.0, 2.0, 0.5, 0.0).forward([1.0]).tolist() == [0.5];"
        " assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)
