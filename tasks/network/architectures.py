"""The networks: their layers, heads and losses, and the checksum of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from closecast.tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras


def article_network(
    *, lookback: int, units: int, activation: str, leaky_slope: float, dropout: float, seed: int
) -> keras.Sequential:
    """The article's network: (batch, lookback, 1) scaled closes → (batch, 1) scaled closes.

    The LSTM is not unrolled: XLA compiles its loop in half the time of five unrolled days.
    """
    tensorflow()
    import keras

    kernel, recurrent, dense = np.random.SeedSequence(seed).generate_state(3).tolist()
    return keras.Sequential(
        [
            keras.layers.Input((lookback, 1)),
            _lstm(units, kernel, recurrent, activation=activation),
            keras.layers.LeakyReLU(negative_slope=leaky_slope),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=dense)),
        ]
    )


def calibrated_network(
    *,
    lookback: int,
    features: int,
    horizons: int,
    units: int,
    dropout: float,
    head_sd: float,
    first_dof: float = 1.0,
    seed: int,
) -> keras.Sequential:
    """(batch, lookback, features) inputs → (batch, 3 * horizons) outputs for `student_t_loss`.

    Before training, every distribution has about mean 0, sigma 1 and 3 degrees of freedom: the head's weights
    have the standard deviation `head_sd`, and its biases for the degrees of freedom are `first_dof`.
    """
    tensorflow()
    import keras

    kernel, recurrent, head = np.random.SeedSequence(seed).generate_state(3).tolist()
    network = keras.Sequential(
        [
            keras.layers.Input((lookback, features)),
            _lstm(units, kernel, recurrent, unroll=True),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(
                3 * horizons, kernel_initializer=keras.initializers.RandomNormal(stddev=head_sd, seed=head)
            ),
        ]
    )
    network.layers[-1].bias.assign([0.0, 0.0, first_dof] * horizons)
    return network


def _lstm(units: int, kernel_seed: int, recurrent_seed: int, **options: Any) -> keras.layers.Layer:
    import keras

    return keras.layers.LSTM(
        units,
        kernel_initializer=keras.initializers.GlorotUniform(seed=kernel_seed),
        recurrent_initializer=keras.initializers.Orthogonal(seed=recurrent_seed),
        **options,
    )


def student_t_loss(outputs: Any, targets: Any, *, mean_scale: float, min_dof: float) -> Any:
    """Negative log likelihood (batch,) of targets (batch, horizons) under the Student t of each horizon.

    The outputs are (batch, 3 * horizons); `forward.student_t_parameters` gives the parameters they stand for.
    An unknown target, NaN, adds 0 to the sum, which is divided by the number of all horizons.
    """
    tf = tensorflow()
    mean, log_sigma, dof = tf.unstack(tf.reshape(outputs, (-1, targets.shape[1], 3)), axis=2)
    mean, sigma, dof = mean_scale * mean, tf.exp(log_sigma), min_dof + tf.nn.softplus(dof)
    known = tf.math.is_finite(targets)
    distance = tf.square((tf.where(known, targets, 0.0) - mean) / sigma)
    losses = (
        tf.math.lgamma(dof / 2)
        - tf.math.lgamma((dof + 1) / 2)
        + 0.5 * tf.math.log(np.pi * (dof - 2))
        + tf.math.log(sigma)
        + (dof + 1) / 2 * tf.math.log1p(distance / (dof - 2))
    )
    return tf.reduce_mean(tf.where(known, losses, 0.0), axis=1)


def squared_error(outputs: Any, targets: Any) -> Any:
    """Mean squared error (batch,) of outputs and targets (batch, horizon)."""
    tf = tensorflow()
    return tf.reduce_mean(tf.square(outputs - targets), axis=-1)


def arrays_sha256(arrays: Sequence[NDArray[Any]]) -> str:
    """SHA-256 over the types, shapes and values of arrays, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
