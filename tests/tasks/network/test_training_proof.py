"""The training loop against `keras.Model.fit` at the article's own sizes: the same mathematics."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import pytest

from flows.settings import Article
from tasks.core.tensorflow_runtime import tensorflow
from tasks.network.architectures import article_network, squared_error
from tasks.network.trainer import Trainer

tensorflow()  # quietly, and before Keras does it its own way
import keras  # noqa: E402

ARTICLE = Article()
# Many trainings: `make soak` has the time.
long = pytest.mark.skipif("SOAK" not in os.environ, reason="SOAK=1 or `make soak` trains so many networks")
# A mean over seeds is believed within so many of its standard errors.
ERRORS = 3.0


def network(
    *, dropout: float, units: int, seed: int = 1, lookback: int = ARTICLE.lookback
) -> keras.Sequential:
    return article_network(
        lookback=lookback,
        horizon=ARTICLE.horizon,
        units=units,
        activation=ARTICLE.activation,
        leaky_slope=ARTICLE.leaky_slope,
        dropout=dropout,
        seed=seed,
    )


def windows(samples: int, lookback: int = ARTICLE.lookback) -> tuple[np.ndarray, np.ndarray]:
    """A rise and a fall in [0, 1], with noise: inputs (samples, lookback, 1) and targets (samples, 1)."""
    days = np.arange(samples + lookback)
    series = 0.4 - 0.35 * np.cos(days / 40) + np.random.default_rng(3).normal(0, 0.02, len(days))
    cut = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), lookback + 1)
    return cut[:, :lookback, None].copy(), cut[:, lookback:].copy()


def fit(model: keras.Sequential, x: np.ndarray, y: np.ndarray, *, rate: float, epochs: int) -> list[float]:
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="mse")
    history = model.fit(x, y, batch_size=ARTICLE.batch_size, epochs=epochs, shuffle=False, verbose=0).history
    losses: list[float] = history["loss"]
    return losses


def test_the_article_s_epochs_are_those_of_keras() -> None:
    (x, y), epochs, rate = windows(153), 12, ARTICLE.learning_rate  # 31 batches, the last one of 3 windows
    ours, theirs = (network(dropout=0.0, units=ARTICLE.units) for _ in range(2))
    first = theirs.get_weights()
    weights, losses = Trainer(ours, loss=squared_error).fit(
        x, y, learning_rate=rate, batch_size=ARTICLE.batch_size, epochs=epochs, shuffle=False, seed=1
    )
    np.testing.assert_allclose(losses.training, fit(theirs, x, y, rate=rate, epochs=epochs), rtol=1e-4)
    for mine, other in zip(weights, theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)
    # Weights that had stayed where they were would not do.
    assert max(np.abs(one - other).max() for one, other in zip(first, weights, strict=True)) > 1e-2
    assert losses.training[-1] < 0.8 * losses.training[0]


SEEDS = range(16)
SHORT: dict[str, Any] = {"rate": 0.01, "epochs": 5}


@functools.cache
def with_dropout(dropout: float) -> np.ndarray:
    """Last losses (seeds,) of the loop, whose masks alone differ from seed to seed."""
    x, y = windows(60, lookback=2)
    model = network(dropout=dropout, units=8, lookback=2)
    first, trainer = model.get_weights(), Trainer(model, loss=squared_error, compiled=False)
    return np.array(
        [
            trainer.fit(
                *(x, y),
                learning_rate=SHORT["rate"],
                batch_size=ARTICLE.batch_size,
                epochs=SHORT["epochs"],
                shuffle=False,
                seed=seed,
                start=first,
            )[1].training[-1]
            for seed in SEEDS
        ]
    )


@functools.cache
def keras_with_dropout(dropout: float) -> np.ndarray:
    """The same of `fit`, with the masks that Keras's own Dropout layer draws."""
    x, y = windows(60, lookback=2)
    keras.utils.set_random_seed(2020)
    model = network(dropout=dropout, units=8, lookback=2)
    optimizer, first = keras.optimizers.Adam(SHORT["rate"]), model.get_weights()
    model.compile(optimizer=optimizer, loss="mse")
    fresh, found = None, []
    for _ in SEEDS:  # one model, since each compilation costs more than its training
        model.set_weights(first)
        if fresh is not None:
            for variable, value in zip(optimizer.variables, fresh, strict=True):
                variable.assign(value)
        else:
            optimizer.build(model.trainable_variables)
            fresh = [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables]
        done = model.fit(
            x, y, batch_size=ARTICLE.batch_size, epochs=SHORT["epochs"], shuffle=False, verbose=0
        )
        found.append(done.history["loss"][-1])
    return np.array(found)


def apart(some: np.ndarray, others: np.ndarray) -> float:
    """The difference of the means, in standard errors of it."""
    return float(
        abs(some.mean() - others.mean())
        / np.sqrt(some.var(ddof=1) / len(some) + others.var(ddof=1) / len(others))
    )


@long
def test_with_dropout_the_last_losses_are_distributed_as_those_of_keras() -> None:
    ours, theirs = with_dropout(0.3), keras_with_dropout(0.3)
    assert len(set(ours)) == len(set(theirs)) == len(SEEDS)
    assert apart(ours, theirs) < ERRORS
    assert 1 / 3 < ours.std(ddof=1) / theirs.std(ddof=1) < 3


@long
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_another_dropout_would_be_told_apart(dropout: float) -> None:
    assert apart(with_dropout(dropout), keras_with_dropout(0.3)) > ERRORS
