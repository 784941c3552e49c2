from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from closecast.tasks.core.tensorflow_runtime import tensorflow
from closecast.tasks.network.architectures import (
    arrays_sha256,
    article_network,
    calibrated_network,
    student_t_loss,
)
from closecast.tasks.network.forward import student_t_parameters

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
SHAPE: dict[str, Any] = {
    "lookback": 3,
    "features": 4,
    "horizons": 3,
    "units": 8,
    "dropout": 0.1,
    "head_sd": 0.02,
    "seed": 1,
}
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


def test_before_training_distributions_are_near_the_standard_one() -> None:
    network = calibrated_network(**SHAPE)
    assert network.output_shape == (None, 9)
    windows = np.random.default_rng(2).normal(size=(50, 3, 4)).astype(np.float32)
    mean, sigma, dof = student_t_parameters(np.asarray(network(windows), np.float64), **HEAD)
    assert mean.shape == (50, 3)
    np.testing.assert_allclose(mean, 0.0, atol=0.02)
    np.testing.assert_allclose(sigma, 1.0, atol=0.1)
    np.testing.assert_allclose(dof, 2.1 + np.log1p(np.exp(1.0)), atol=0.1)


def loss_of(raw: np.ndarray, targets: np.ndarray) -> Any:
    tf = tensorflow()
    return student_t_loss(tf.constant(raw, tf.float32), tf.constant(targets, tf.float32), **HEAD)


def negative_log_likelihood(raw: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss of each target, (samples, heads)."""
    mean, sigma, dof = student_t_parameters(raw, **HEAD)
    return np.asarray(-stats.t.logpdf(targets, dof, mean, sigma * np.sqrt((dof - 2) / dof)))


@pytest.mark.parametrize("heads", [1, 4])
def test_the_loss_is_the_mean_likelihood_of_each_head_s_student_t(heads: int) -> None:
    """Unknown targets add none."""
    draw = np.random.default_rng(3)
    raw, targets = draw.normal(0, 1.5, (200, 3 * heads)), draw.normal(0, 3, (200, heads))
    unknown = draw.uniform(size=targets.shape) < 0.4
    unknown[0], unknown[1] = True, False
    losses = np.where(unknown, 0.0, negative_log_likelihood(raw, targets))
    loss = np.asarray(loss_of(raw, np.where(unknown, np.nan, targets)))
    np.testing.assert_allclose(loss, losses.sum(axis=1) / heads, rtol=1e-4, atol=1e-4)
    assert loss[0] == 0.0


def gradient(raw: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The gradient of the summed loss with respect to each output, (samples, outputs)."""
    tf = tensorflow()
    outputs = tf.Variable(raw.astype(np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(student_t_loss(outputs, tf.constant(targets, tf.float32), **HEAD))
    return np.asarray(tape.gradient(loss, outputs))


def test_a_known_target_has_a_gradient_at_its_own_head_and_an_unknown_one_none() -> None:
    draw = np.random.default_rng(4)
    raw, targets = draw.normal(0, 1.5, (50, 12)), draw.normal(0, 3, (50, 4))
    targets[:, 1] = np.nan  # a horizon that is not known yet
    targets[7:9] = np.nan
    targets[20, [0, 3]] = np.nan
    targets[30, 0] = 1e6  # far out, and finite
    found = gradient(raw, targets)
    assert np.isfinite(found).all()
    for head in range(4):
        own, known = found[:, 3 * head : 3 * head + 3], np.isfinite(targets[:, head])
        assert (own[~known] == 0).all()
        assert (own[known] != 0).any(axis=1).all()
        alone = gradient(raw[known, 3 * head : 3 * head + 3], targets[known, head : head + 1])
        np.testing.assert_allclose(4 * own[known], alone, rtol=1e-5, atol=1e-6)


def test_the_seed_alone_decides_the_first_weights() -> None:
    first = sha256(calibrated_network(**SHAPE))
    keras.utils.set_random_seed(3)  # the global state has no influence
    assert sha256(calibrated_network(**SHAPE)) == first
    assert sha256(calibrated_network(**SHAPE | {"seed": 2})) != first
    assert sha256(calibrated_network(**SHAPE | {"dropout": 0.5})) == first
    assert sha256(calibrated_network(**SHAPE | {"horizons": 2})) != first


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
