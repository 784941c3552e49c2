"""The training loop against `keras.Model.fit` with dropout: the same distribution of losses."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

from closecast.tasks.core.tensorflow_runtime import tensorflow
from closecast.tasks.network.architectures import article_network, squared_error
from closecast.tasks.network.trainer import Trainer, TrainingSettings

tensorflow()  # quietly, before Keras imports it
import keras  # noqa: E402

SHORT = TrainingSettings(learning_rate=0.01, batch_size=5, epochs=5, shuffle=False)
SEEDS = range(16)
# Largest difference of two means over seeds, in standard errors.
MAX_STANDARD_ERRORS = 3.0
soak = pytest.mark.skipif("SOAK" not in os.environ, reason="trains many networks: SOAK=1, or `make soak`")


def network(dropout: float) -> keras.Sequential:
    return article_network(
        lookback=2, units=8, activation="sigmoid", leaky_slope=0.5, dropout=dropout, seed=1
    )


def windows(samples: int, lookback: int) -> tuple[np.ndarray, np.ndarray]:
    """A rise and a fall in [0, 1], with noise: inputs (samples, lookback, 1) and targets (samples, 1)."""
    days = np.arange(samples + lookback)
    series = 0.4 - 0.35 * np.cos(days / 40) + np.random.default_rng(3).normal(0, 0.02, len(days))
    spans = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), lookback + 1)
    return spans[:, :lookback, None].copy(), spans[:, lookback:].copy()


@functools.cache
def our_last_losses(dropout: float) -> np.ndarray:
    """The last losses of our loop, (seeds,); only the masks differ from seed to seed."""
    x, y = windows(60, 2)
    model = network(dropout)
    start, trainer = model.get_weights(), Trainer(model, loss=squared_error)
    fits = [trainer.fit(x, y, settings=SHORT, seed=seed, start=start)[1] for seed in SEEDS]
    return np.array([losses.training[-1] for losses in fits])


@functools.cache
def keras_last_losses(dropout: float) -> np.ndarray:
    """The last losses of `fit`, (seeds,), with the masks that Keras's own Dropout layer draws."""
    x, y = windows(60, 2)
    keras.utils.set_random_seed(2020)
    model = network(dropout)
    optimizer, start = keras.optimizers.Adam(SHORT.learning_rate), model.get_weights()
    model.compile(optimizer=optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    fresh = [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables]
    last = []
    for _ in SEEDS:  # one model, since each compilation takes longer than its training
        model.set_weights(start)
        for variable, value in zip(optimizer.variables, fresh, strict=True):
            variable.assign(value)
        history = model.fit(x, y, batch_size=5, epochs=5, shuffle=False, verbose=0).history
        last.append(history["loss"][-1])
    return np.array(last)


def standard_errors(some: np.ndarray, others: np.ndarray) -> float:
    """The difference of the means, in its standard errors."""
    variance = some.var(ddof=1) / len(some) + others.var(ddof=1) / len(others)
    return float(abs(some.mean() - others.mean()) / np.sqrt(variance))


@soak
def test_with_dropout_the_last_losses_are_distributed_as_in_keras() -> None:
    ours, theirs = our_last_losses(0.3), keras_last_losses(0.3)
    assert len(set(ours)) == len(set(theirs)) == len(SEEDS)
    assert standard_errors(ours, theirs) < MAX_STANDARD_ERRORS
    assert 1 / 3 < ours.std(ddof=1) / theirs.std(ddof=1) < 3


@soak
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_another_dropout_is_distinguished(dropout: float) -> None:
    assert standard_errors(our_last_losses(dropout), keras_last_losses(0.3)) > MAX_STANDARD_ERRORS
