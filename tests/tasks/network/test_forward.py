"""The forward pass in NumPy against Keras's own networks: both profiles', in float64 and in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.tensorflow_runtime import tensorflow
from closecast.tasks.features.inputs import columns_of, make_inputs, usable_rows, windows_at
from closecast.tasks.network.architectures import article_network, calibrated_network
from closecast.tasks.network.epoch import Weights
from closecast.tasks.network.forward import forward, relu, sigmoid, student_t_parameters, weight_shapes
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.calibrated import CalibratedProfile
from tests.helpers import BTC, made_up
from tests.tasks.network.test_architectures import ARTICLE as SMALL_ARTICLE

tensorflow()  # quietly, before Keras imports it
import keras  # noqa: E402

WINDOWS = 10_000
ARTICLE: dict[str, Any] = SMALL_ARTICLE | {"units": 64}
CALIBRATED: dict[str, Any] = {
    "lookback": 14,
    "features": 16,
    "horizons": 9,
    "units": 32,
    "dropout": 0.1,
    "head_sd": 0.02,
    "seed": 1,
}


@contextmanager
def floats(kind: str) -> Iterator[None]:
    """New networks of Keras compute in that type."""
    keras.config.set_floatx(kind)
    keras.config.set_dtype_policy(kind)
    try:
        yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def network_of(shape: dict[str, Any]) -> keras.Sequential:
    return article_network(**shape) if "leaky_slope" in shape else calibrated_network(**shape)


def keras_outputs(shape: dict[str, Any], weights: Weights, windows: np.ndarray, kind: str) -> np.ndarray:
    """Outputs of all windows in one batch."""
    with floats(kind):
        network = network_of(shape)
    network.set_weights(weights)
    outputs = network(tensorflow().constant(windows, dtype=kind), training=False)
    assert outputs.dtype == kind
    return np.asarray(outputs, dtype=np.float64)


def ours(shape: dict[str, Any], weights: Weights, windows: np.ndarray) -> np.ndarray:
    layers = {name: shape[name] for name in ("activation", "leaky_slope") if name in shape}
    return forward(weights, windows, **layers)


def glorot(shape: dict[str, Any], seed: int) -> Weights:
    """Random weights, biases too, of the size of Glorot's."""
    draw = np.random.default_rng(seed)
    outputs = 3 * shape["horizons"] if "horizons" in shape else 1
    shapes = weight_shapes(shape.get("features", 1), shape["units"], outputs).values()
    return [(draw.normal(size=one) * np.sqrt(2 / sum(one))).astype(np.float32) for one in shapes]


def assert_as_keras(shape: dict[str, Any], weights: Weights, windows: np.ndarray) -> None:
    assert windows.shape == (WINDOWS, shape["lookback"], shape.get("features", 1))
    outputs = ours(shape, weights, windows)
    assert outputs.std(axis=0).min() > 0.001
    double, single = (keras_outputs(shape, weights, windows, kind) for kind in ("float64", "float32"))
    assert np.abs(outputs - double).max() < 1e-10
    assert (np.abs(outputs - single) / np.maximum(1.0, np.abs(single))).max() < 1e-6


@pytest.mark.parametrize(
    "shape",
    [
        CALIBRATED,
        CALIBRATED | {"lookback": 60, "features": 7, "horizons": 1, "units": 8},
        ARTICLE,
        ARTICLE | {"activation": "tanh", "leaky_slope": 0.0},
        ARTICLE | {"activation": "relu", "lookback": 3, "units": 24},
        ARTICLE | {"lookback": 30, "leaky_slope": 1.5, "units": 5},
    ],
)
def test_random_weights_give_the_outputs_of_keras(shape: dict[str, Any]) -> None:
    size = (WINDOWS, shape["lookback"], shape.get("features", 1))
    windows = np.random.default_rng(2).normal(size=size).astype(np.float32)
    assert_as_keras(shape, glorot(shape, 3), windows)


def test_a_trained_ensemble_gives_the_outputs_of_keras() -> None:
    """On the windows of a history: clipped returns, logarithms, flags."""
    candles, profile = made_up(WINDOWS + 40), CalibratedProfile({"members": 1, "pool_products": ()})
    settings = profile.settings
    fitted = profile.fit(PriceHistory(BTC, candles.head(700), "v", "csv@0"), {}, epochs=3)
    inputs = make_inputs(candles, settings, columns_of(candles, share=settings.column_share))
    windows = windows_at(inputs, usable_rows(inputs, lookback=settings.lookback)[-WINDOWS:], settings)
    assert_as_keras(CALIBRATED, fitted.state.members[0], windows)


def test_a_trained_article_gives_the_outputs_of_keras() -> None:
    fitted = ArticleProfile().fit(PriceHistory(BTC, made_up(600), "v", "csv@0"), {}, epochs=3)
    windows = np.random.default_rng(2).uniform(-0.2, 1.5, (WINDOWS, 5, 1)).astype(np.float32)
    assert_as_keras(ARTICLE, fitted.state.weights, windows)


@pytest.mark.parametrize("shape", [CALIBRATED, ARTICLE, ARTICLE | {"lookback": 1, "units": 1}])
def test_a_window_has_the_same_bits_alone_and_among_others(shape: dict[str, Any]) -> None:
    size, weights = (37, shape["lookback"], shape.get("features", 1)), glorot(shape, 3)
    windows = np.random.default_rng(2).normal(size=size)
    together = ours(shape, weights, windows)
    assert together.shape == (37, len(weights[-1]))
    for number in range(37):
        assert ours(shape, weights, windows[number : number + 1]).tobytes() == together[number].tobytes()
    assert ours(shape, weights, windows[::-1])[::-1].tobytes() == together.tobytes()
    # Whatever the order in memory, and wherever a window begins.
    assert ours(shape, weights, np.asfortranarray(windows)).tobytes() == together.tobytes()
    shifted = np.empty(windows.size + 1)[1:].reshape(size)
    shifted[:] = windows
    assert ours(shape, weights, shifted).tobytes() == together.tobytes()
    assert ours(shape, weights, windows[:0]).shape == (0, len(weights[-1]))


def test_windows_of_a_series_may_overlap_in_memory() -> None:
    series = np.random.default_rng(2).normal(size=40)
    spans = np.lib.stride_tricks.sliding_window_view(series, 5)[:, :, None]
    weights = glorot(ARTICLE, 3)
    assert ours(ARTICLE, weights, spans).tobytes() == ours(ARTICLE, weights, spans.copy()).tobytes()


def test_weights_have_the_layout_of_keras_and_of_its_files(tmp_path: Path) -> None:
    for shape, outputs in ((ARTICLE, 1), (CALIBRATED, 27)):
        network, file = network_of(shape), tmp_path / f"{outputs}.weights.h5"
        shapes = weight_shapes(shape.get("features", 1), shape["units"], outputs)
        weights = network.get_weights()
        assert [one.shape for one in weights] == list(shapes.values())
        network.save_weights(file)
        with h5py.File(file) as stored:
            for name, array in zip(shapes, weights, strict=True):
                assert stored[name][...].tobytes() == array.tobytes()


def test_the_activations_are_bounded_for_large_arguments() -> None:
    large = np.array([-1e300, -800.0, 0.0, 800.0, 1e300])
    assert sigmoid(large).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert relu(large).tolist() == [0.0, 0.0, 0.0, 800.0, 1e300]


# The head


def test_the_parameters_by_hand() -> None:
    outputs = np.array([[2.0, -1.0, 3.0, -5.0, 0.5, -60.0], [0.0, 0.0, 0.0, 0.0, 0.0, 900.0]])
    mean, sigma, dof = student_t_parameters(outputs, mean_scale=0.1, min_dof=2.1)
    assert mean == pytest.approx(np.array([[0.2, -0.5], [0.0, 0.0]]), rel=1e-14)
    assert sigma == pytest.approx(np.exp([[-1.0, 0.5], [0.0, 0.0]]), rel=1e-14)
    expected = [[2.1 + np.log1p(np.exp(3.0)), 2.1], [2.1 + np.log(2.0), 902.1]]
    assert dof == pytest.approx(np.array(expected), rel=1e-14)


def test_the_parameters_of_a_window_have_the_same_bits_alone_and_among_others() -> None:
    outputs = np.random.default_rng(2).normal(0, 2, (37, 27))
    together = np.array(student_t_parameters(outputs, mean_scale=0.1, min_dof=2.1))
    assert together.shape == (3, 37, 9)
    for number in range(37):
        alone = np.array(student_t_parameters(outputs[number : number + 1], mean_scale=0.1, min_dof=2.1))
        assert alone[:, 0].tobytes() == together[:, number].tobytes()
    # A head's parameters are those of its own three outputs.
    for head in range(9):
        own = np.array(student_t_parameters(outputs[:, 3 * head : 3 * head + 3], mean_scale=0.1, min_dof=2.1))
        assert own[:, :, 0].tobytes() == together[:, :, head].tobytes()
