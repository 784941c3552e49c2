from __future__ import annotations

import functools
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from closecast.storage.core.errors import BadSetting
from closecast.tasks.core.tensorflow_runtime import tensorflow
from closecast.tasks.network import trainer as trainer_module
from closecast.tasks.network.architectures import (
    arrays_sha256,
    article_network,
    calibrated_network,
    student_t_loss,
)
from closecast.tasks.network.epoch import (
    EarlyStopping,
    Weights,
    batches,
    dropout_masks,
    listening,
    report_epoch,
)
from closecast.tasks.network.forward import forward, student_t_parameters
from closecast.tasks.network.trainer import Losses, Trainer, TrainingSettings, train
from tests.tasks.network.test_architectures import ARTICLE as SMALL_ARTICLE

tensorflow()  # quietly, before Keras imports it
import keras  # noqa: E402

# Two days only, so that XLA compiles fast.
NETWORK: dict[str, Any] = SMALL_ARTICLE | {"lookback": 2}
ARTICLE = TrainingSettings(learning_rate=0.01, batch_size=5, epochs=2, shuffle=False)
SETTINGS = TrainingSettings(learning_rate=0.01, batch_size=16, epochs=3)
HEAD: dict[str, Any] = {"mean_scale": 0.1, "min_dof": 2.1}


def loss_of(raw: Any, targets: Any) -> Any:
    return student_t_loss(raw, targets, **HEAD)


def windows(samples: int = 36, lookback: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A wandering series of small figures: inputs (samples, lookback, 1) and targets (samples, 1)."""
    series = 0.5 + 0.1 * np.cumsum(np.random.default_rng(3).normal(size=samples + lookback)) / 3
    spans = np.lib.stride_tricks.sliding_window_view(series, lookback + 1)
    return spans[:, :lookback, None].copy(), spans[:, lookback:].copy()


def sha256(network: keras.Sequential) -> str:
    return arrays_sha256(network.get_weights())


def trained(*, dropout: float = 0.1, seed: int = 1, compiled: bool = False, **changed: Any) -> list[Any]:
    """Train a new network as the article does: its losses, and the checksum of its weights."""
    network, settings = article_network(**NETWORK | {"dropout": dropout}), replace(ARTICLE, **changed)
    losses = train(network, *windows(), validation_split=0.1, settings=settings, seed=seed, compiled=compiled)
    return [losses.training.tolist(), losses.validation.tolist(), sha256(network)]


def assert_close_weights(weights: Weights, expected: Weights) -> None:
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "batch_size", "split", "lookback", "compiled"),
    [(36, 5, 0.25, 2, True), (13, 50, 0.1, 5, False)],  # short last batches: 2 and 11
)
def test_a_training_matches_keras(
    samples: int, batch_size: int, split: float, lookback: int, compiled: bool
) -> None:
    x, y = windows(samples, lookback)
    shape = NETWORK | {"dropout": 0.0, "lookback": lookback}
    ours, theirs = article_network(**shape), article_network(**shape)
    assert sha256(ours) == sha256(theirs)
    settings = replace(ARTICLE, batch_size=batch_size, epochs=4)
    losses = train(ours, x, y, validation_split=split, settings=settings, seed=1, compiled=compiled)
    theirs.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    history = theirs.fit(
        x, y, batch_size=batch_size, epochs=4, validation_split=split, shuffle=False, verbose=0
    ).history
    np.testing.assert_allclose(losses.training, history["loss"], rtol=1e-4)
    np.testing.assert_allclose(losses.validation, history["val_loss"], rtol=1e-4)
    assert_close_weights(ours.get_weights(), theirs.get_weights())
    # The last epoch's validation is of the final weights.
    kept = int(samples * (1 - split))
    ours.compile(loss="mse")
    assert losses.validation[-1] == pytest.approx(ours.evaluate(x[kept:], y[kept:], verbose=0), rel=1e-5)


def test_one_seed_gives_one_network_to_the_last_bit() -> None:
    compiled = functools.partial(trained, shuffle=True, compiled=True)
    first = compiled()
    keras.utils.set_random_seed(99)  # the global state has no influence
    with ThreadPoolExecutor(2) as pool:
        same, other = pool.map(lambda seed: compiled(seed=seed), (1, 2))
    assert same == first
    assert not {json.dumps(part) for part in other} & {json.dumps(part) for part in first}


@pytest.mark.parametrize(("samples", "size"), [(10, 5), (11, 5), (3, 5), (1, 1)])
def test_batches_hold_every_window_once(samples: int, size: int) -> None:
    for draw in (None, np.random.default_rng(1)):
        order, weights = batches(samples, size, draw)
        assert order.shape == weights.shape == (-(-samples // size), size)
        rows = order[weights == 1].tolist()
        assert (rows if draw is None else sorted(rows)) == list(range(samples))
        assert weights.sum() == samples
    drawn = batches(100, 5, np.random.default_rng(1))[0].ravel().tolist()
    assert drawn != sorted(drawn)


def test_dropout_masks_keep_the_mean() -> None:
    network = article_network(**NETWORK | {"dropout": 0.25})
    (mask,) = dropout_masks(network, (500, 5), np.random.default_rng(1))
    values = np.asarray(mask)
    assert values.shape == (500, 5, 4)
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (values == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert values.mean() == pytest.approx(1.0, abs=0.03)
    without = article_network(**NETWORK | {"dropout": 0.0})
    (mask,) = dropout_masks(without, (2, 5), np.random.default_rng(1))
    assert (np.asarray(mask) == 1).all()


def test_the_log_has_the_first_every_tenth_and_the_last_epoch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "closecast.train")
    trained(epochs=11)
    lines = [record.getMessage() for record in caplog.records if record.name == "closecast.train"]
    assert [line.partition(":")[0] for line in lines] == [f"epoch {n} of 11" for n in (1, 10, 11)]


def new_trainer(seed: int = 0) -> Trainer:
    network = calibrated_network(
        lookback=3, features=2, horizons=1, units=3, dropout=0.2, head_sd=0.02, seed=seed
    )
    return Trainer(network, loss=loss_of, clip_norm=0.5)


@functools.cache
def shared() -> Trainer:
    """A trainer that the tests share, as the members of an ensemble do."""
    return new_trainer()


def first_weights(seed: int = 1) -> Weights:
    shape: dict[str, Any] = {"lookback": 3, "features": 2, "horizons": 1, "units": 3, "dropout": 0.2}
    weights: Weights = calibrated_network(**shape, head_sd=0.3, seed=seed).get_weights()
    return weights


def samples(count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (count, 3, 2) and heavy-tailed targets (count, 1), whose size follows the newest input."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 3, 2)).astype(np.float32)
    return x, np.exp(0.5 * x[:, -1, :1]) * draw.standard_t(4, (count, 1))


def fit(
    trainer: Trainer, count: int = 90, *, held_out: bool = True, seed: int = 1, **changed: Any
) -> tuple[Weights, Losses]:
    start = changed.pop("start", first_weights())
    settings, validation = replace(SETTINGS, **changed), samples(40, 6) if held_out else None
    return trainer.fit(*samples(count), validation, settings=settings, seed=seed, start=start)


def bits(result: tuple[Weights, Losses]) -> tuple[str, bytes, bytes, int]:
    weights, losses = result
    return arrays_sha256(weights), losses.training.tobytes(), losses.validation.tobytes(), losses.best_epoch


def without_dropout() -> keras.Sequential:
    return calibrated_network(lookback=3, features=2, horizons=1, units=3, dropout=0.0, head_sd=0.3, seed=1)


@pytest.mark.parametrize(("patience", "min_delta"), [(1, 0.0), (2, 1e-3), (3, 1e-3), (4, 0.05), (20, 0.0)])
def test_early_stopping_matches_keras(patience: int, min_delta: float) -> None:
    network, theirs = without_dropout(), without_dropout()
    callback = keras.callbacks.EarlyStopping(
        "val_loss", min_delta, patience, mode="min", restore_best_weights=True
    )
    callback.set_model(theirs)
    callback.on_train_begin()
    theirs.stop_training = False
    stopping = EarlyStopping(patience, min_delta)
    losses = [1.0, 0.9, 0.89999, 0.8, 0.81, 0.79, 0.7899, 0.7898, 0.7897, 0.85, 0.5, 0.4]
    for epoch, loss in enumerate(losses, start=1):
        for each in (network, theirs):
            each.set_weights([np.full_like(part, epoch) for part in each.get_weights()])
        callback.on_epoch_end(epoch - 1, {"val_loss": loss})
        stopped = stopping.after(epoch, loss, network)
        assert stopped == theirs.stop_training
        if stopped:
            break
    callback.on_train_end()
    assert stopping.restore(network) == callback.best_epoch + 1
    assert sha256(network) == sha256(theirs)
    assert network.get_weights()[0].ravel()[0] == callback.best_epoch + 1


def test_early_stopping_restores_the_best_weights() -> None:
    trainer = shared()
    weights, losses = fit(trainer, epochs=60, learning_rate=0.1, patience=4)
    assert len(losses.training) == len(losses.validation) == losses.best_epoch + 4 < 60
    assert losses.validation[losses.best_epoch - 1] == losses.validation.min()
    until_best, _ = fit(trainer, epochs=losses.best_epoch, learning_rate=0.1)
    assert arrays_sha256(weights) == arrays_sha256(until_best) == sha256(trainer.network)
    # The best loss is that of these weights.
    x, y = samples(40, 6)
    mean, sigma, dof = student_t_parameters(forward(weights, x), **HEAD)
    loss = -stats.t.logpdf(y, dof, mean, sigma * np.sqrt((dof - 2) / dof)).mean()
    assert loss == pytest.approx(losses.validation.min(), rel=1e-4)


def test_without_validation_every_epoch_trains() -> None:
    result = fit(shared(), held_out=False)
    assert result[1].best_epoch == len(result[1].training) == 3
    assert np.isnan(result[1].validation).all()
    # Validation does not change the training.
    assert bits(result)[:2] == bits(fit(shared()))[:2]


def test_a_second_fit_starts_with_a_fresh_optimizer() -> None:
    expected = bits(fit(shared()))
    fit(shared(), learning_rate=0.3, start=first_weights(9), seed=7)
    assert bits(fit(shared())) == expected
    # A graph that was traced for other numbers of windows gives the same bits.
    other = new_trainer(seed=5)
    for count in (50, 33):
        fit(other, count)
    assert bits(fit(other)) == expected
    assert bits(fit(shared(), start=None)) != expected


def test_seed_start_and_order_change_the_weights() -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 2}, {"start": first_weights(2)}, {"shuffle": False}]
    assert len({bits(fit(shared(), **change))[0] for change in changes}) == 4


def test_threads_take_turns_with_a_trainer() -> None:
    trainer = shared()
    expected = [bits(fit(trainer, seed=seed)) for seed in (1, 2)]
    with ThreadPoolExecutor(3) as pool:
        fits = [pool.submit(fit, trainer, seed=seed) for seed in (1, 2, 1, 2)]
        assert [bits(future.result()) for future in fits] == expected * 2


def test_two_trainings_with_a_clipped_gradient_match_keras() -> None:
    ours, theirs = without_dropout(), without_dropout()
    start, (x, y) = ours.get_weights(), samples(90)
    settings = replace(SETTINGS, epochs=4, shuffle=False)
    trainer = Trainer(ours, loss=loss_of, clip_norm=0.1)
    first, second = (trainer.fit(x, y, settings=settings, seed=1, start=start) for _ in range(2))
    assert bits(first)[:2] == bits(second)[:2]
    optimizer = keras.optimizers.Adam(0.01, global_clipnorm=0.1)
    theirs.compile(optimizer=optimizer, loss=lambda targets, raw: loss_of(raw, targets))
    history = theirs.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0).history
    np.testing.assert_allclose(first[1].training, history["loss"], rtol=1e-4)
    assert_close_weights(first[0], theirs.get_weights())


def test_a_clone_has_variables_of_its_own_and_gives_the_same_bits() -> None:
    first = Trainer(without_dropout(), loss=loss_of)
    expected, untouched = bits(fit(first)), first_weights(7)
    second, third = first.clone(), first.clone()
    assert sha256(second.network) == sha256(third.network) == sha256(first.network)
    for trainer, others in ((second, (first, third)), (third, (first, second)), (first, (second, third))):
        for other in others:
            other.network.set_weights(untouched)
        assert bits(fit(trainer)) == expected
        assert sha256(trainer.network) == expected[0]
        assert {sha256(other.network) for other in others} == {arrays_sha256(untouched)}


@pytest.mark.parametrize("changed", [{}, {"held_out": False}, {"epochs": 1, "batch_size": 10_000}])
def test_a_learning_rate_that_is_too_large_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"not finite after epoch 1 with a learning_rate of 1e\+06: choose"):
        fit(shared(), learning_rate=1e6, **changed)


def test_xla_compiles_from_enough_steps_on(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[bool] = []

    class Recorded(Trainer):
        def __init__(self, network: keras.Sequential, *, compiled: bool = False, **options: Any) -> None:
            chosen.append(compiled)
            super().__init__(network, **options)

    monkeypatch.setattr(trainer_module, "Trainer", Recorded)
    # The article's 50 epochs compile, 5 do not.
    assert 5 * -(-1435 // 5) < trainer_module.MIN_XLA_STEPS < 50 * -(-1269 // 5)
    monkeypatch.setattr(trainer_module, "MIN_XLA_STEPS", 14)
    for epochs in (1, 2):  # 36 windows of which 32 train: 7 batches of 5 an epoch
        network, settings = article_network(**NETWORK), replace(ARTICLE, epochs=epochs)
        train(network, *windows(), validation_split=0.1, settings=settings, seed=1)
    assert chosen == [False, True]


def test_a_training_reports_each_epoch() -> None:
    epochs: list[tuple[str, int, int]] = []
    with listening(lambda *epoch: epochs.append(epoch)):
        trained(epochs=3)
    assert epochs == [("", 1, 3), ("", 2, 3), ("", 3, 3)]


def test_a_listener_gets_the_epochs_of_its_own_run_alone() -> None:
    heard: dict[str, list[str]] = {"one": [], "other": []}

    def train_in_threads(run: str) -> None:
        with listening(lambda member, *_: heard[run].append(member)):
            threads = [
                threading.Thread(target=copy_context().run, args=(report_epoch, f"{run} {number}", 1, 1))
                for number in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        report_epoch("after the run", 1, 1)

    runs = [threading.Thread(target=train_in_threads, args=(run,)) for run in heard]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    expected = {run: [f"{run} {number}" for number in range(3)] for run in heard}
    assert {run: sorted(members) for run, members in heard.items()} == expected
