"""What benchmarks/training.py times in processes of their own: closecast's loop and Keras's `fit`.

    python benchmarks/training_peers.py FOLDER prepare
    python benchmarks/training_peers.py FOLDER JOB [--epochs N]
    python benchmarks/training_peers.py FOLDER proof

Prints one line of JSON. The clock runs from the first layer made to the weights at hand, with all tracing and
compilation; the import of TensorFlow is timed apart.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from closecast.flows import clock
from closecast.tasks.core.tensorflow_runtime import tensorflow
from closecast.tasks.network.epoch import listening
from closecast.tasks.network.trainer import Losses, Trainer, TrainingSettings, train
from closecast.tasks.prices.sources import SAMPLE, SAMPLE_PRODUCT
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.calibrated_settings import CalibratedSettings

Arrays = dict[str, Any]
Marks = list[tuple[int, float]]


def main() -> None:
    """Do one job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("job", choices=["prepare", "proof", *JOBS])
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    start = time.perf_counter()
    tensorflow()
    import keras  # noqa: F401

    loaded = time.perf_counter() - start
    if arguments.job == "prepare":
        result = prepare(arguments.folder)
    elif arguments.job == "proof":
        result = proof(arguments.folder, arguments.epochs)
    else:
        kind = arguments.job.partition("-")[0]
        with np.load(arguments.folder / f"{kind}.npz") as file:
            data = dict(file)
        result = timed(lambda: JOBS[arguments.job](data, arguments.epochs)) | {"import": loaded}
    print(json.dumps(result))


def timed(run: Callable[[], tuple[Marks, list[float]]]) -> dict[str, Any]:
    """Seconds of it all, seconds of a later epoch, the share of its core that the process had, the losses."""
    start, core = time.perf_counter(), time.process_time()
    marks, losses = run()
    total, core = time.perf_counter() - start, time.process_time() - core
    (first, early), (last, late) = marks[0], marks[-1]
    return {
        "total": total,
        "epoch": (late - early) / (last - first),
        "core": core / total,
        "epochs": last,
        "losses": losses,
    }


def prepare(folder: Path) -> dict[str, Any]:
    """Write the windows of both networks, and the article's with first weights as float32 for the others."""
    from closecast.tasks.features.inputs import columns_of, make_inputs, usable_rows, windows_at
    from closecast.tasks.prices.file_reader import read_candles
    from closecast.tasks.prices.validation import check_candles

    candles = read_candles(SAMPLE.read_bytes(), SAMPLE_PRODUCT, name=SAMPLE.name).candles
    candles = check_candles(candles, last_finished_day=clock.last_complete_day()).accepted
    split = ArticleProfile().split(candles)
    x, y = split.train.inputs.astype(np.float32), split.train.targets.astype(np.float32)
    article: Arrays = {"x": x[: split.fitted], "y": y[: split.fitted]}
    article |= {"held_x": x[split.fitted :], "held_y": y[split.fitted :]}
    np.savez(folder / "article.npz", **article)
    parts = [*article.values(), *_article_network().get_weights()]
    np.concatenate([part.ravel() for part in parts]).astype(np.float32).tofile(folder / "article.bin")

    recipe = CalibratedSettings()
    inputs = make_inputs(candles, recipe, columns_of(candles, share=recipe.column_share))
    rows = usable_rows(inputs, lookback=recipe.lookback)
    rows = rows[np.isfinite(inputs.targets[rows]).all(axis=1)]
    shown = windows_at(inputs, rows, recipe)
    targets = inputs.targets[rows].astype(np.float32)
    split_at = len(rows) - recipe.validation_days
    calibrated: Arrays = {"x": shown[:split_at], "y": targets[:split_at]}
    calibrated |= {"held_x": shown[split_at:], "held_y": targets[split_at:]}
    np.savez(folder / "calibrated.npz", **calibrated)
    return {
        "article": [len(article["x"]), len(article["held_x"])],
        "calibrated": [len(calibrated["x"]), len(calibrated["held_x"]), shown.shape[2]],
        "parameters": int(sum(part.size for part in parts[4:])),
    }


def article_closecast(data: Arrays, epochs: int) -> tuple[Marks, list[float]]:
    """`trainer.train` as a run calls it; the marks are of the epochs from the tenth on."""
    with _marks() as marks:
        losses = _trained_article(_article_network(), data, epochs)
    return marks, losses.training.tolist()


def article_fit(data: Arrays, epochs: int) -> tuple[Marks, list[float]]:
    """`keras.Model.fit` on the same network, as the article's notebook has it."""
    return _fitted_article(_article_network(), data, epochs)


def article_unrolled(data: Arrays, epochs: int) -> tuple[Marks, list[float]]:
    """`keras.Model.fit` on the same layers with the days of a window side by side."""
    import keras

    network = _article_network()
    recurrent = network.layers[0].get_config() | {"unroll": True}
    layers = [keras.layers.LSTM.from_config(recurrent), *network.layers[1:]]
    unrolled = keras.Sequential([keras.layers.Input(network.input_shape[1:]), *layers])
    return _fitted_article(unrolled, data, epochs)


def calibrated_closecast(data: Arrays, epochs: int) -> tuple[Marks, list[float]]:
    """One member as `closecast.tasks.profiles.ensemble` trains it, with a Trainer of its own."""
    from closecast.tasks.network.architectures import student_t_loss

    recipe = CalibratedSettings()
    shape = {"mean_scale": recipe.mean_scale, "min_dof": recipe.min_dof}
    trainer = Trainer(
        _calibrated_network(data),
        loss=functools.partial(student_t_loss, **shape),
        clip_norm=recipe.clip_norm,
    )
    how = TrainingSettings(recipe.learning_rate, recipe.batch_size, epochs)
    held_out = (data["held_x"], data["held_y"])
    with _marks() as marks:
        _, losses = trainer.fit(data["x"], data["y"], held_out, settings=how, seed=recipe.seed)
    return marks, losses.training.tolist()


def calibrated_fit(data: Arrays, epochs: int) -> tuple[Marks, list[float]]:
    """`keras.Model.fit` with the same loss; without XLA, as Keras chooses on a CPU."""
    import keras

    from closecast.tasks.network.architectures import student_t_loss

    recipe, network = CalibratedSettings(), _calibrated_network(data)
    network.compile(
        optimizer=keras.optimizers.Adam(recipe.learning_rate, global_clipnorm=recipe.clip_norm),
        loss=lambda targets, raw: student_t_loss(
            raw, targets, mean_scale=recipe.mean_scale, min_dof=recipe.min_dof
        ),
    )
    return _fit(network, data, epochs, batch_size=recipe.batch_size, shuffle=True)


JOBS = {
    "article-closecast": article_closecast,
    "article-fit": article_fit,
    "article-unrolled": article_unrolled,
    "calibrated-closecast": calibrated_closecast,
    "calibrated-fit": calibrated_fit,
}


def proof(folder: Path, epochs: int) -> dict[str, Any]:
    """Train with closecast and with `fit` without dropout: how far apart they are, and closecast's losses."""
    with np.load(folder / "article.npz") as file:
        data = dict(file)
    ours, theirs = _article_network(dropout=0.0), _article_network(dropout=0.0)
    losses = _trained_article(ours, data, epochs)
    _, fitted = _fitted_article(theirs, data, epochs)
    pairs = zip(ours.get_weights(), theirs.get_weights(), strict=True)
    return {
        "losses": losses.training.tolist(),
        "validation": losses.validation.tolist(),
        "loss_difference": float(np.abs(losses.training / np.array(fitted) - 1).max()),
        "weight_difference": float(max(np.abs(mine - other).max() for mine, other in pairs)),
    }


def _article_network(**changed: Any) -> Any:
    from closecast.tasks.network.architectures import article_network

    fields = ArticleProfile().settings.model_dump() | changed
    names = ("lookback", "units", "activation", "leaky_slope", "dropout", "seed")
    return article_network(**{name: fields[name] for name in names})


def _calibrated_network(data: Arrays) -> Any:
    from closecast.tasks.network.architectures import calibrated_network

    names = ("lookback", "units", "dropout", "head_sd", "first_dof", "seed")
    fields = {name: getattr(CalibratedSettings(), name) for name in names}
    return calibrated_network(features=data["x"].shape[2], horizons=data["y"].shape[1], **fields)


def _trained_article(network: Any, data: Arrays, epochs: int) -> Losses:
    article = ArticleProfile().settings
    settings = TrainingSettings(article.learning_rate, article.batch_size, epochs, article.shuffle)
    x = np.concatenate([data["x"], data["held_x"]])
    y = np.concatenate([data["y"], data["held_y"]])
    split = article.validation_split
    return train(network, x, y, validation_split=split, settings=settings, seed=article.seed)


def _fitted_article(network: Any, data: Arrays, epochs: int) -> tuple[Marks, list[float]]:
    import keras

    settings = ArticleProfile().settings
    network.compile(optimizer=keras.optimizers.Adam(settings.learning_rate), loss="mse")
    return _fit(network, data, epochs, batch_size=settings.batch_size, shuffle=False)


def _fit(
    network: Any, data: Arrays, epochs: int, *, batch_size: int, shuffle: bool
) -> tuple[Marks, list[float]]:
    """Keras's loop; it validates in one batch, which is kinder than its default."""
    import keras

    marks: Marks = []
    clock_it = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: marks.append((epoch + 1, time.perf_counter()))
    )
    history = network.fit(
        data["x"],
        data["y"],
        batch_size=batch_size,
        epochs=epochs,
        shuffle=shuffle,
        validation_data=(data["held_x"], data["held_y"]),
        validation_batch_size=len(data["held_x"]),
        callbacks=[clock_it],
        verbose=0,
    ).history
    return marks, history["loss"]


@contextmanager
def _marks() -> Iterator[Marks]:
    """When each epoch from the tenth on ends."""
    marks: Marks = []

    def note(_member: str, epoch: int, _epochs: int) -> None:
        if epoch >= 10:
            marks.append((epoch, time.perf_counter()))

    with listening(note):
        yield marks


if __name__ == "__main__":
    main()
