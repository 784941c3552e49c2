from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tasks.core.tensorflow_runtime import tensorflow
from tasks.network import trainer as lstm
from tasks.network.architectures import (
    arrays_sha256,
    article_network,
    calibrated_network,
    predict,
    student_t_head,
    student_t_loss,
    weights_sha256,
)
from tasks.network.epoch import Stop, Weights, batches, masks_of
from tasks.network.trainer import Losses, Trainer, train

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
    recurrent, leaky, dropout, dense = network.layers
    assert (recurrent.count_params(), dense.count_params(), network.count_params()) == (16_896, 65, 16_961)
    assert (recurrent.activation.__name__, recurrent.recurrent_activation.__name__) == ("sigmoid", "sigmoid")
    assert isinstance(leaky, keras.layers.LeakyReLU)
    assert (leaky.negative_slope, dropout.rate) == (0.5, 0.1)
    assert dense.activation.__name__ == "linear"
    assert (network.input_shape, network.output_shape) == ((None, 5, 1), (None, 1))


def test_unrolled_it_is_the_same_network() -> None:
    network, (x, _) = article_network(**NETWORK | {"lookback": 5}), windows(lookback=5)
    unrolled = keras.Sequential(
        [
            keras.layers.Input((5, 1)),
            keras.layers.LSTM(4, activation="sigmoid", unroll=True),
            keras.layers.LeakyReLU(negative_slope=0.5),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1),
        ]
    )
    unrolled.set_weights(network.get_weights())
    np.testing.assert_allclose(unrolled.predict(x, verbose=0), predict(network, x), rtol=1e-5, atol=1e-6)


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


def test_what_each_setting_changes() -> None:
    found = [trained(**changed)[1] for changed in ({}, {"shuffle": True}, {"dropout": 0.0})]
    assert len(set(found)) == 3


def test_batches_hold_every_window_once() -> None:
    for samples, size in ((10, 5), (11, 5), (3, 5), (1, 1)):
        for draw in (None, np.random.default_rng(1)):
            order, weights = batches(samples, size, draw)
            assert order.shape == weights.shape == (-(-samples // size), size)
            seen = order[weights == 1].tolist()
            assert sorted(seen) == list(range(samples))
            assert weights.sum() == samples
            if draw is None:
                assert seen == sorted(seen)
    many, _ = batches(100, 5, np.random.default_rng(1))
    assert many.ravel().tolist() != sorted(many.ravel().tolist())


def test_dropout_masks_keep_the_mean() -> None:
    network = article_network(**NETWORK | {"dropout": 0.25})
    (mask,) = masks_of(network, (500, 5), np.random.default_rng(1))
    values = np.asarray(mask)
    assert values.shape == (500, 5, 4)
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (values == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert values.mean() == pytest.approx(1.0, abs=0.03)
    (nothing,) = masks_of(article_network(**NETWORK | {"dropout": 0.0}), (2, 5), np.random.default_rng(1))
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


@functools.cache
def made() -> Trainer:
    """One small network with a Student-t head, lent to the tests as to the members of an ensemble."""
    network = calibrated_network(lookback=3, features=2, units=3, dropout=0.2, head_sd=0.02, seed=0)
    return Trainer(
        network,
        loss=student_t_loss,
        optimizer=keras.optimizers.Adam(global_clipnorm=0.5),
        compiled=False,
        head=student_t_head,
    )


def first_weights(seed: int = 1) -> Weights:
    shape: dict[str, Any] = {"lookback": 3, "features": 2, "units": 3, "dropout": 0.2, "head_sd": 0.3}
    weights: Weights = calibrated_network(**shape, seed=seed).get_weights()
    return weights


def moves(samples: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (samples, 3, 2) and heavy-tailed targets (samples, 1) as wide as the newest input says."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(samples, 3, 2)).astype(np.float32)
    return x, np.exp(0.5 * x[:, -1, :1]) * draw.standard_t(4, (samples, 1))


def fitted(trainer: Trainer, samples: int = 90, **changed: Any) -> tuple[Weights, Losses]:
    fields: dict[str, Any] = {"learning_rate": 0.01, "batch_size": 16, "epochs": 3, "shuffle": True}
    fields |= {"seed": 1, "start": first_weights(), "validation": moves(40, 6)} | changed
    return trainer.fit(*moves(samples), fields.pop("validation"), **fields)


def digest(result: tuple[Weights, Losses]) -> tuple[str, list[float], list[float], int]:
    weights, losses = result
    return arrays_sha256(weights), losses.training.tolist(), losses.validation.tolist(), losses.best


def without_dropout(**changed: Any) -> tuple[keras.Sequential, keras.Sequential]:
    shape = {"lookback": 3, "features": 2, "units": 3, "dropout": 0.0, "head_sd": 0.3, "seed": 1} | changed
    return calibrated_network(**shape), calibrated_network(**shape)


def test_with_a_student_t_head_it_trains_as_keras_does() -> None:
    ours, theirs = without_dropout()
    (x, y), held = moves(90), moves(40, 6)
    trainer = Trainer(
        ours, loss=student_t_loss, optimizer=keras.optimizers.Adam(global_clipnorm=0.1), compiled=False
    )
    how: dict[str, Any] = {"batch_size": 16, "epochs": 6, "shuffle": False}
    weights, losses = trainer.fit(x, y, held, learning_rate=0.01, seed=1, **how)
    theirs.compile(
        optimizer=keras.optimizers.Adam(0.01, global_clipnorm=0.1),
        loss=lambda said_of, raw: student_t_loss(raw, said_of),
    )
    history = theirs.fit(x, y, validation_data=held, verbose=0, **how).history
    np.testing.assert_allclose(losses.training, history["loss"], rtol=1e-4)
    np.testing.assert_allclose(losses.validation, history["val_loss"], rtol=1e-4)
    for mine, other in zip(weights, theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)
    assert losses.best == 6
    free = Trainer(without_dropout()[0], loss=student_t_loss, compiled=False)
    unclipped = free.fit(x, y, held, learning_rate=0.01, seed=1, **how)[1]
    assert np.abs(unclipped.training / losses.training - 1).max() > 1e-3  # the norm was held


def test_it_stops_as_keras_does() -> None:
    sequence = [1.0, 0.9, 0.89999, 0.8, 0.81, 0.79, 0.7899, 0.7898, 0.7897, 0.85, 0.5, 0.4]
    for patience, min_delta in ((1, 0.0), (2, 1e-3), (3, 1e-3), (4, 0.05), (20, 0.0)):
        network, theirs = without_dropout()
        callback = keras.callbacks.EarlyStopping(
            "val_loss", min_delta, patience, mode="min", restore_best_weights=True
        )
        callback.set_model(theirs)
        callback.on_train_begin()
        theirs.stop_training = False
        stop = Stop(patience, min_delta)
        for epoch, loss in enumerate(sequence, start=1):
            for each in (network, theirs):
                each.set_weights([np.full_like(part, epoch) for part in each.get_weights()])
            callback.on_epoch_end(epoch - 1, {"val_loss": loss})
            stopped = stop.after(epoch, loss, network)
            assert stopped == theirs.stop_training
            if stopped:
                break
        callback.on_train_end()
        assert stop.restore(network) == callback.best_epoch + 1
        assert weights_sha256(network) == weights_sha256(theirs)
        assert network.get_weights()[0].ravel()[0] == callback.best_epoch + 1


def test_the_best_weights_come_back() -> None:
    trainer = made()
    weights, losses = fitted(trainer, epochs=60, learning_rate=0.1, patience=4)
    assert len(losses.training) == len(losses.validation) == losses.best + 4 < 60
    assert losses.validation[losses.best - 1] == losses.validation.min()
    until = fitted(trainer, epochs=losses.best, learning_rate=0.1)
    assert arrays_sha256(weights) == arrays_sha256(until[0])
    assert arrays_sha256(weights) == weights_sha256(trainer.network)
    # The figure belongs to these weights, in the head's words.
    x, y = moves(40, 6)
    mean, sigma, dof = trainer.apart(weights, x).T
    said = -stats.t.logpdf(y[:, 0], dof, mean, sigma * np.sqrt((dof - 2) / dof)).mean()
    assert said == pytest.approx(losses.validation.min(), rel=1e-4)


def test_without_validation_every_epoch_is_trained() -> None:
    _, losses = fitted(made(), validation=None)
    assert losses.best == len(losses.training) == 3
    assert np.isnan(losses.validation).all()
    # Looking does not change what is looked at.
    assert digest(fitted(made(), validation=None))[:2] == digest(fitted(made()))[:2]


def test_a_second_fit_is_as_fresh_as_the_first() -> None:
    trainer = made()
    expected = digest(fitted(trainer))
    fitted(trainer, learning_rate=0.3, start=first_weights(9), seed=7)
    assert digest(fitted(trainer)) == expected
    other = Trainer(
        calibrated_network(lookback=3, features=2, units=3, dropout=0.2, head_sd=0.0, seed=5),
        loss=student_t_loss,
        optimizer=keras.optimizers.Adam(global_clipnorm=0.5),
        compiled=False,
    )
    # One that has seen other numbers of windows runs the loop for any of them, to the same bits.
    for samples in (50, 33):
        fitted(other, samples, validation=moves(samples))
    assert digest(fitted(other)) == expected
    # Going on is something else than beginning again.
    assert digest(fitted(trainer, start=None)) != expected


def test_seeds_differ() -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 2}, {"start": first_weights(2)}, {"shuffle": False}]
    assert len({digest(fitted(made(), **change))[0] for change in changes}) == 4


def test_two_threads_do_not_meet() -> None:
    trainer = made()
    expected = [digest(fitted(trainer, seed=seed)) for seed in (1, 2)]
    shown = moves(20)[0]
    said = trainer.apart(first_weights(4), shown).tobytes()
    with ThreadPoolExecutor(3) as pool:
        fits = [pool.submit(fitted, trainer, seed=seed) for seed in (1, 2, 1, 2)]
        looks = [pool.submit(trainer.apart, first_weights(4), shown) for _ in range(4)]
        assert [digest(one.result()) for one in fits] == expected * 2
        assert {look.result().tobytes() for look in looks} == {said}


def test_a_window_alone_and_among_others_is_the_same_to_the_bit() -> None:
    trainer, weights = made(), first_weights(3)
    x = moves(37)[0]
    together = trainer.apart(weights, x)
    assert together.shape == (37, 3)
    assert together.dtype == np.float64
    for n in (0, 1, 17, 36):
        assert trainer.apart(weights, x[n : n + 1])[0].tobytes() == together[n].tobytes()
    assert trainer.apart(weights, x[::-1])[::-1].tobytes() == together.tobytes()
    assert trainer.apart(weights, x[:0]).shape == (0, 3)
    np.testing.assert_allclose(
        together, np.asarray(student_t_head(trainer.network(x, training=False))), rtol=1e-5, atol=1e-6
    )


def test_lending_sets_the_weights() -> None:
    trainer = made()
    with trainer.lend(first_weights(8)) as network:
        assert weights_sha256(network) == arrays_sha256(first_weights(8))
    with trainer.lend() as network:
        assert weights_sha256(network) == arrays_sha256(first_weights(8))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Nadam(0.01),  # a state that does not begin at zero
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.2),
    ],
    ids=["SGD", "Nadam", "AdamW"],
)
def test_any_optimizer_of_keras_s_trains_as_it_does_there(
    optimizer: Callable[[], keras.optimizers.Optimizer],
) -> None:
    ours, theirs = without_dropout()
    first, (x, y), chosen = ours.get_weights(), moves(90), optimizer()
    how: dict[str, Any] = {"batch_size": 16, "epochs": 4, "shuffle": False}
    rate = float(chosen.learning_rate)
    trainer = Trainer(ours, loss=student_t_loss, optimizer=chosen)
    found = [trainer.fit(x, y, learning_rate=rate, seed=1, start=first, **how) for _ in range(2)]
    assert digest(found[0])[:2] == digest(found[1])[:2]
    theirs.compile(optimizer=optimizer(), loss=lambda said_of, raw: student_t_loss(raw, said_of))
    history = theirs.fit(x, y, verbose=0, **how).history
    np.testing.assert_allclose(found[0][1].training, history["loss"], rtol=1e-4)
    for mine, other in zip(found[0][0], theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_trainer_beside_another_has_variables_of_its_own_and_the_same_bits(compiled: bool) -> None:
    first = Trainer(without_dropout()[0], loss=student_t_loss, compiled=compiled)
    how: dict[str, Any] = {"validation": None} if compiled else {}
    expected, untouched = digest(fitted(first, **how)), first_weights(7)
    second = first.beside()
    third = second.beside()
    for trainer in (second, third):
        assert weights_sha256(trainer.network) == weights_sha256(first.network)
    for trainer, others in ((second, (first, third)), (third, (first, second)), (first, (second, third))):
        for other in others:
            other.network.set_weights(untouched)
        assert np.array_equal(digest(fitted(trainer, **how))[2], expected[2], equal_nan=True)
        assert arrays_sha256(trainer.network.get_weights()) == expected[0]
        assert {weights_sha256(other.network) for other in others} == {arrays_sha256(untouched)}
        assert (
            trainer.apart(first_weights(3), moves(5)[0]).tobytes()
            == first.apart(first_weights(3), moves(5)[0]).tobytes()
        )


def test_xla_is_chosen_where_it_has_time_to_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[bool] = []

    class Noted(Trainer):
        def __init__(self, network: keras.Sequential, *, compiled: bool = False, **how: Any) -> None:
            chosen.append(compiled)
            super().__init__(network, **how)

    monkeypatch.setattr(lstm, "Trainer", Noted)
    assert 5 * -(-1435 // 5) < lstm.XLA_PAYS_FROM < 50 * -(-1269 // 5)  # the article with it
    monkeypatch.setattr(lstm, "XLA_PAYS_FROM", 14)  # 36 windows of which 32 train: 7 batches of 5 an epoch
    for epochs in (1, 2):
        train(article_network(**NETWORK), *windows(), **TRAINING | {"epochs": epochs})
    assert chosen == [False, True]
