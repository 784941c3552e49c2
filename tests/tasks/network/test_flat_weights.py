from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.core.tensorflow_runtime import tensorflow
from tasks.network import trainer as trainer_module
from tasks.network.architectures import article_network, squared_error
from tasks.network.flat_weights import can_flatten
from tasks.network.trainer import Trainer, TrainingSettings

tensorflow()  # quietly, before Keras imports it
import keras  # noqa: E402


def network(seed: int = 1) -> keras.Sequential:
    return article_network(lookback=2, units=4, activation="sigmoid", leaky_slope=0.5, dropout=0.1, seed=seed)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Adam", {"global_clipnorm": 1.0}, True),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "clipvalue": 0.5}, True),
        ("Nadam", {}, True),
        ("Adam", {"clipnorm": 1.0}, False),  # a norm of each variable
        ("Adam", {"weight_decay": 0.1}, False),  # may exclude variables by name
        ("AdamW", {}, False),
        ("Lamb", {}, False),  # a ratio of norms of each variable
        ("Adafactor", {}, False),  # depends on a variable's shape
        ("Adam", {"use_ema": True}, False),
    ],
)
def test_elementwise_optimizers_can_flatten(name: str, options: dict[str, Any], expected: bool) -> None:
    assert can_flatten(getattr(keras.optimizers, name)(**options)) == expected


@pytest.mark.parametrize("compiled", [False, True])
def test_flat_weights_train_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    draw, found = np.random.default_rng(3), []
    x, y = draw.normal(size=(33, 2, 1)), draw.normal(size=(33, 1))
    settings = TrainingSettings(learning_rate=0.01, batch_size=5, epochs=4, patience=2)
    for flat in (True, False):
        monkeypatch.setattr(trainer_module, "can_flatten", lambda _, flat=flat: flat)
        trainer = Trainer(network(), loss=squared_error, compiled=compiled)
        assert len(trainer._trained()) == (1 if flat else 5)
        weights, losses = trainer.fit(x, y, (x[:7], y[:7]), settings=settings, seed=1)
        found.append([*weights, losses.training, losses.validation])
    for one, other in zip(*found, strict=True):
        if compiled:  # XLA may fuse the two differently
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        else:
            assert one.tobytes() == other.tobytes()
