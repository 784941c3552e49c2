from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tasks.engine import tensorflow
from tasks.lstm import Losses, _batches, _masks, article_network, predict, train, weights_sha256
from tests.helpers import PROJECT

tensorflow()  # quietly, and before Keras does it its own way
import keras  # noqa: E402

# Two days only: what is unrolled over them takes its time to compile.
NETWORK: dict[str, Any] = {
    "lookback": 2,
    "horizon": 1,
    "units": 4,
    "activation": "sigmoid",
    "leaky_slope": 0.5,
    "dropout": 0.1,
    "seed": 1,
}
TRAINING: dict[str, Any] = {
    "validation_split": 0.1,
    "learning_rate": 0.01,
    "batch_size": 5,
    "epochs": 2,
    "shuffle": False,
    "seed": 1,
}


def windows(samples: int = 36, lookback: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A wandering series of small figures: inputs (samples, lookback, 1) and targets (samples, 1)."""
    series = 0.5 + 0.1 * np.cumsum(np.random.default_rng(3).normal(size=samples + lookback)) / 3
    cut = np.lib.stride_tricks.sliding_window_view(series, lookback + 1)
    return cut[:, :lookback, None].copy(), cut[:, lookback:].copy()


def trained(**changed: Any) -> tuple[Losses, str]:
    """Train a new network: its losses, and the digest of its weights."""
    network = article_network(**{name: changed.get(name, value) for name, value in NETWORK.items()})
    more = {name: changed.get(name, value) for name, value in TRAINING.items()}
    losses = train(network, *windows(), **more, compiled=changed.get("compiled", False))
    return losses, weights_sha256(network)


def bits(result: tuple[Losses, str]) -> list[Any]:
    losses, sha256 = result
    return [losses.training.tolist(), losses.validation.tolist(), sha256]


def test_the_article_s_network_has_16961_parameters() -> None:
    network = article_network(**NETWORK | {"units": 64, "lookback": 5})
    lstm, leaky, dropout, dense = network.layers
    assert (lstm.count_params(), dense.count_params(), network.count_params()) == (16_896, 65, 16_961)
    assert (lstm.activation.__name__, lstm.recurrent_activation.__name__) == ("sigmoid", "sigmoid")
    assert isinstance(leaky, keras.layers.LeakyReLU)
    assert (leaky.negative_slope, dropout.rate) == (0.5, 0.1)
    assert dense.activation.__name__ == "linear"
    assert (network.input_shape, network.output_shape) == ((None, 5, 1), (None, 1))


def test_unrolled_it_is_the_same_network() -> None:
    network, (x, _) = article_network(**NETWORK | {"lookback": 5}), windows(lookback=5)
    rolled = keras.Sequential(
        [
            keras.layers.Input((5, 1)),
            keras.layers.LSTM(4, activation="sigmoid"),
            keras.layers.LeakyReLU(negative_slope=0.5),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1),
        ]
    )
    rolled.set_weights(network.get_weights())
    np.testing.assert_allclose(rolled.predict(x, verbose=0), predict(network, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "batch_size", "split", "lookback", "compiled"),
    [(36, 5, 0.25, 2, True), (13, 50, 0.1, 5, False)],  # short last batches: 2 and 11
)
def test_it_trains_as_keras_does(
    samples: int, batch_size: int, split: float, lookback: int, compiled: bool
) -> None:
    x, y = windows(samples, lookback)
    shape = NETWORK | {"dropout": 0.0, "lookback": lookback}
    ours, theirs = article_network(**shape), article_network(**shape)
    assert weights_sha256(ours) == weights_sha256(theirs)
    more = TRAINING | {"batch_size": batch_size, "validation_split": split, "epochs": 4}
    losses = train(ours, x, y, **more, compiled=compiled)
    theirs.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    history = theirs.fit(
        x, y, batch_size=batch_size, epochs=4, validation_split=split, shuffle=False, verbose=0
    ).history
    np.testing.assert_allclose(losses.training, history["loss"], rtol=1e-4)
    np.testing.assert_allclose(losses.validation, history["val_loss"], rtol=1e-4)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)
    # The last epoch's validation is of the weights as they are now.
    kept = int(samples * (1 - split))
    ours.compile(loss="mse")
    assert losses.validation[-1] == pytest.approx(ours.evaluate(x[kept:], y[kept:], verbose=0), rel=1e-5)


def test_the_validation_windows_teach_nothing() -> None:
    x, y = windows()
    other = y.copy()
    other[32:] += 1.0  # 36 windows, of which 0.1 validate: the last 4
    networks = [article_network(**NETWORK) for _ in range(2)]
    first, second = (
        train(network, x, target, **TRAINING, compiled=False)
        for network, target in zip(networks, (y, other), strict=True)
    )
    assert weights_sha256(networks[0]) == weights_sha256(networks[1])
    assert first.training.tolist() == second.training.tolist()
    assert (first.validation < second.validation).all()


FULL = {"shuffle": True, "compiled": True}


@pytest.fixture(scope="module")
def first() -> list[Any]:
    """What one seed gives, with masks and orders drawn from it, compiled as in a run."""
    return bits(trained(**FULL))


def test_one_seed_one_network_to_the_last_bit(first: list[Any]) -> None:
    keras.utils.set_random_seed(99)  # nobody's global state matters
    with ThreadPoolExecutor(2) as pool:
        same, other = pool.map(lambda seed: bits(trained(**FULL, seed=seed)), (1, 2))
    assert same == first
    assert not {json.dumps(part) for part in other} & {json.dumps(part) for part in first}
    assert bits(trained(**FULL)) == first


def test_the_same_in_a_fresh_process(first: list[Any]) -> None:
    program = (
        "import json, sys; sys.path[:0] = ['.', 'tests/tasks']\n"
        "from test_lstm import FULL, bits, trained\n"
        "print(json.dumps(bits(trained(**FULL))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=PROJECT, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == first
    assert done.stderr == ""  # TensorFlow's greetings go to the log


def test_what_each_setting_changes() -> None:
    found = [trained(**changed)[1] for changed in ({}, {"shuffle": True}, {"dropout": 0.0})]
    assert len(set(found)) == 3


def test_batches_hold_every_window_once() -> None:
    for samples, size in ((10, 5), (11, 5), (3, 5), (1, 1)):
        for draw in (None, np.random.default_rng(1)):
            order, weights = _batches(samples, size, draw)
            assert order.shape == weights.shape == (-(-samples // size), size)
            seen = order[weights == 1].tolist()
            assert sorted(seen) == list(range(samples))
            assert weights.sum() == samples
            if draw is None:
                assert seen == sorted(seen)
    many, _ = _batches(100, 5, np.random.default_rng(1))
    assert many.ravel().tolist() != sorted(many.ravel().tolist())


def test_dropout_masks_keep_the_mean() -> None:
    network = article_network(**NETWORK | {"dropout": 0.25})
    (mask,) = _masks(network, (500, 5), np.random.default_rng(1))
    values = np.asarray(mask)
    assert values.shape == (500, 5, 4)
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (values == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert values.mean() == pytest.approx(1.0, abs=0.03)
    (nothing,) = _masks(article_network(**NETWORK | {"dropout": 0.0}), (2, 5), np.random.default_rng(1))
    assert (np.asarray(nothing) == 1).all()


def test_predictions_are_without_dropout_and_one_by_one() -> None:
    network, (x, _) = article_network(**NETWORK | {"dropout": 0.9}), windows()
    said = predict(network, x)
    assert said.shape == (36, 1)
    assert said.dtype == np.float64
    assert predict(network, x).tobytes() == said.tobytes()
    np.testing.assert_allclose(
        [predict(network, x[n : n + 1])[0, 0] for n in range(3)], said[:3, 0], rtol=1e-5
    )


def test_the_digest_is_of_values_and_shapes() -> None:
    class Arrays:
        def __init__(self, *arrays: Any) -> None:
            self.arrays = [np.asarray(array, dtype=np.float32) for array in arrays]

        def get_weights(self) -> Sequence[np.ndarray]:
            return self.arrays

    def digest(*arrays: Any) -> str:
        return weights_sha256(Arrays(*arrays))  # type: ignore[arg-type]

    assert digest([[1, 2]]) == digest([[1, 2]])
    found = {digest([[1, 2]]), digest([[1], [2]]), digest([1, 2]), digest([1], [2]), digest([2, 1]), digest()}
    assert len(found) == 6
    wide = Arrays([[1, 2], [3, 4]])
    turned = Arrays([[1, 3], [2, 4]])
    turned.arrays = [turned.arrays[0].T]  # the same values, otherwise in memory
    assert weights_sha256(wide) == weights_sha256(turned)  # type: ignore[arg-type]


def test_it_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "closecast.train")
    trained(epochs=11)
    lines = [record.getMessage() for record in caplog.records if record.name == "closecast.train"]
    assert [line.partition(":")[0] for line in lines] == [f"epoch {n} of 11" for n in (1, 10, 11)]
