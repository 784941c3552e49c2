from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tasks.core.tensorflow_runtime import tensorflow
from tasks.network.architectures import (
    arrays_sha256,
    calibrated_network,
    student_t_head,
    student_t_loss,
    weights_sha256,
)

tensorflow()  # quietly, and before Keras does it its own way
import keras  # noqa: E402

SHAPE: dict[str, Any] = {"lookback": 3, "features": 4, "units": 8, "dropout": 0.1, "head_sd": 0.02, "seed": 1}


def head(raw: Any) -> np.ndarray:
    return np.asarray(student_t_head(tensorflow().constant(raw, dtype="float32")), dtype=np.float64)


def test_its_layers() -> None:
    network = calibrated_network(**SHAPE | {"lookback": 20, "features": 11, "units": 32})
    lstm, dropout, dense = network.layers
    assert [type(layer) for layer in network.layers] == [
        keras.layers.LSTM,
        keras.layers.Dropout,
        keras.layers.Dense,
    ]
    assert (network.input_shape, network.output_shape) == ((None, 20, 11), (None, 3))
    assert lstm.count_params() == 4 * 32 * (11 + 32 + 1)
    assert (lstm.activation.__name__, dropout.rate, dense.activation.__name__) == ("tanh", 0.1, "linear")
    kernel, bias = dense.get_weights()
    assert bias.tolist() == [0, 0, 1]
    assert kernel.std() == pytest.approx(0.02, rel=0.25)


def test_at_the_start_it_says_little() -> None:
    x = np.random.default_rng(1).normal(size=(200, 3, 4)).astype(np.float32)
    mean, sigma, dof = head(calibrated_network(**SHAPE)(x)).T
    assert np.abs(mean).max() < 0.02
    assert sigma == pytest.approx(np.ones(200), abs=0.15)
    assert dof == pytest.approx(np.full(200, 2.1 + np.log(1 + np.e)), abs=0.15)
    assert head(np.zeros((1, 3)))[0] == pytest.approx([0.0, 1.0, 2.1 + np.log(2.0)], rel=1e-6)


def test_the_head_by_hand() -> None:
    found = head([[2.0, -1.0, 3.0], [-5.0, 0.5, -60.0]])
    assert found[0] == pytest.approx([0.2, np.exp(-1.0), 2.1 + np.log1p(np.exp(3.0))], rel=1e-6)
    assert found[1] == pytest.approx([-0.5, np.exp(0.5), 2.1], rel=1e-6)


def test_the_loss_is_student_t_s() -> None:
    tf = tensorflow()
    draw = np.random.default_rng(2)
    raw, came = draw.normal(0, 1.5, (300, 3)), draw.normal(0, 3, (300, 1))
    mean, sigma, dof = head(raw).T
    loss = student_t_loss(tf.constant(raw, tf.float32), tf.constant(came, tf.float32))
    assert loss.shape == (300,)
    scale = sigma * np.sqrt((dof - 2) / dof)
    expected = -stats.t.logpdf(came[:, 0], dof, mean, scale)
    np.testing.assert_allclose(np.asarray(loss), expected, rtol=1e-4, atol=1e-4)


def test_one_seed_one_network() -> None:
    first = weights_sha256(calibrated_network(**SHAPE))
    keras.utils.set_random_seed(3)  # nobody's global state matters
    assert weights_sha256(calibrated_network(**SHAPE)) == first
    assert weights_sha256(calibrated_network(**SHAPE | {"seed": 2})) != first
    assert weights_sha256(calibrated_network(**SHAPE | {"dropout": 0.5})) == first


def test_arrays_are_told_apart_by_type_shape_and_order() -> None:
    one, two = np.zeros(2, np.float32), np.ones(2, np.float32)
    kinds = [[one, two], [two, one], [one], [one.astype(np.float64), two], [one[:, None], two], []]
    assert len({arrays_sha256(kind) for kind in kinds}) == len(kinds)
    assert arrays_sha256([one, two]) == arrays_sha256([one.copy(), two.copy()])
