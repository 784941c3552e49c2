from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tasks.core.tensorflow_runtime import tensorflow
from tasks.network import trainer as lstm
from tasks.network.architectures import article_network, squared_error, weights_sha256
from tasks.network.flat_weights import Joined, can_join
from tasks.network.trainer import Trainer

tensorflow()  # quietly, and before Keras does it its own way
import keras  # noqa: E402

Optimizer = Callable[[], "keras.optimizers.Optimizer"]


def network(seed: int = 1) -> keras.Sequential:
    return article_network(
        lookback=2, horizon=1, units=4, activation="sigmoid", leaky_slope=0.5, dropout=0.1, seed=seed
    )


def test_the_weights_go_there_and_back() -> None:
    model, other = network(), network(2)
    joined, expected = Joined(model), weights_sha256(model)
    joined.take()
    assert joined.variable.shape == (model.count_params(),)
    model.set_weights(other.get_weights())
    assert weights_sha256(model) != expected
    joined.give()
    assert weights_sha256(model) == expected


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda: keras.optimizers.Adam(global_clipnorm=1.0), True),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipvalue=0.5), True),
        (lambda: keras.optimizers.Nadam(), True),
        (lambda: keras.optimizers.Adam(clipnorm=1.0), False),  # a norm of each variable
        (lambda: keras.optimizers.Adam(weight_decay=0.1), False),  # variables may be left out by name
        (lambda: keras.optimizers.AdamW(), False),
        (lambda: keras.optimizers.Lamb(), False),  # a ratio of norms of each variable
        (lambda: keras.optimizers.Adafactor(), False),  # looks at a variable's shape
        (lambda: keras.optimizers.Adam(use_ema=True), False),
    ],
)
def test_what_may_be_joined(optimizer: Optimizer, expected: bool) -> None:
    assert can_join(optimizer()) == expected


@pytest.mark.parametrize("compiled", [False, True])
def test_joined_or_not_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    draw, found = np.random.default_rng(3), []
    x, y = draw.normal(size=(33, 2, 1)), draw.normal(size=(33, 1))
    for joins in (True, False):
        monkeypatch.setattr(lstm, "can_join", lambda _, joins=joins: joins)
        trainer = Trainer(network(), loss=squared_error, compiled=compiled)
        assert len(trainer._trained()) == (1 if joins else 5)
        weights, losses = trainer.fit(
            x, y, (x[:7], y[:7]), learning_rate=0.01, batch_size=5, epochs=4, shuffle=True, seed=1, patience=2
        )
        found.append([*weights, losses.training, losses.validation])
    if compiled:  # XLA may fuse the two differently
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    else:
        assert [part.tobytes() for part in found[0]] == [part.tobytes() for part in found[1]]
