from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from tasks.core.tensorflow_runtime import tensorflow
from tasks.network.architectures import (
    arrays_sha256,
    article_network,
    calibrated_network,
    student_t_loss,
)
from tasks.network.forward import student_t_parameters

tensorflow()  # quietly, before Keras imports it
import keras  # noqa: E402

ARTICLE: dict[str, Any] = {
    "lookback": 5,
    "units": 4,
    "activation": "sigmoid",
    "leaky_slope": 0.5,
    "dropout": 0.1,
    "seed": 1,
}
SHAPE: dict[str, Any] = {"lookback": 3, "features": 4, "units": 8, "dropout": 0.1, "head_sd": 0.02, "seed": 1}
HEAD: dict[str, Any] = {"mean_scale": 0.1, "min_dof": 2.1}


def sha256(network: keras.Sequential) -> str:
    return arrays_sha256(network.get_weights())


def test_the_article_s_network_has_16961_parameters() -> None:
    network = article_network(**ARTICLE | {"units": 64})
    recurrent, leaky, dropout, dense = network.layers
    assert (recurrent.count_params(), dense.count_params(), network.count_params()) == (16_896, 65, 16_961)
    assert (recurrent.activation.__name__, recurrent.recurrent_activation.__name__) == ("sigmoid", "sigmoid")
    assert isinstance(leaky, keras.layers.LeakyReLU)
    assert (leaky.negative_slope, dropout.rate) == (0.5, 0.1)
    assert dense.activation.__name__ == "linear"
    assert (network.input_shape, network.output_shape) == ((None, 5, 1), (None, 1))


def test_the_loss_is_the_likelihood_of_student_t() -> None:
    tf = tensorflow()
    draw = np.random.default_rng(2)
    raw, targets = draw.normal(0, 1.5, (300, 3)), draw.normal(0, 3, (300, 1))
    mean, sigma, dof = student_t_parameters(raw, **HEAD)
    loss = student_t_loss(tf.constant(raw, tf.float32), tf.constant(targets, tf.float32), **HEAD)
    assert loss.shape == (300,)
    expected = -stats.t.logpdf(targets[:, 0], dof, mean, sigma * np.sqrt((dof - 2) / dof))
    np.testing.assert_allclose(np.asarray(loss), expected, rtol=1e-4, atol=1e-4)


def test_the_seed_alone_decides_the_first_weights() -> None:
    first = sha256(calibrated_network(**SHAPE))
    keras.utils.set_random_seed(3)  # the global state has no influence
    assert sha256(calibrated_network(**SHAPE)) == first
    assert sha256(calibrated_network(**SHAPE | {"seed": 2})) != first
    assert sha256(calibrated_network(**SHAPE | {"dropout": 0.5})) == first


def test_a_checksum_covers_type_shape_and_order() -> None:
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    lists: list[list[Any]] = [
        [zeros, ones],
        [ones, zeros],
        [zeros],
        [zeros.astype(np.float64), ones],
        [zeros[:, None], ones],
    ]
    assert len({arrays_sha256(arrays) for arrays in [*lists, []]}) == len(lists) + 1
    assert arrays_sha256([zeros, ones]) == arrays_sha256([zeros.copy(), ones.copy()])
    square = np.arange(4.0).reshape(2, 2)
    assert arrays_sha256([square]) == arrays_sha256([np.asfortranarray(square)])  # another order in memory
