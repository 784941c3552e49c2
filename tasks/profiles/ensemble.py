"""An ensemble: networks trained on the same windows from different seeds, whose quantiles are averaged."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closecast.storage.core.errors import NotEnoughHistory
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS, student_t
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.inputs import (
    Columns,
    Inputs,
    columns_of,
    make_inputs,
    training_rows,
    windows_at,
)
from closecast.tasks.features.windows import DAY
from closecast.tasks.network.architectures import calibrated_network, student_t_loss
from closecast.tasks.network.epoch import Weights
from closecast.tasks.network.forward import forward, student_t_parameters
from closecast.tasks.network.trainer import Losses, Trainer, TrainerPool, TrainingSettings
from closecast.tasks.profiles.base import Histories, Training
from closecast.tasks.profiles.baselines import Tails
from closecast.tasks.profiles.calibrated_settings import CalibratedSettings

log = logging.getLogger("closecast.ensemble")

MIN_TRAINING_WINDOWS, MIN_VALIDATION_WINDOWS = 100, 30
# Windows (samples, lookback, features), targets (samples, horizons).
Examples = tuple[NDArray[np.float32], Floats]


@dataclass(frozen=True)
class Ensemble:
    """The trained networks of an ensemble, and what their inputs are."""

    columns: Columns  # of the inputs
    members: tuple[Weights, ...]
    tails: Tails | None = None  # of the pool's returns, for the baselines of a young product


@dataclass(frozen=True)
class TrainedEnsemble:
    """An ensemble, and how its training went."""

    ensemble: Ensemble
    fitted_through: date  # the newest day of a target with a gradient: later forecasts are out of sample
    training: Training


def _examples(inputs: Inputs, settings: CalibratedSettings, after: date | None, through: date) -> Examples:
    """The windows with a target day after `after` (by default any) and up to `through`.

    Targets outside of this span are NaN.
    """
    rows = training_rows(inputs, lookback=settings.lookback)
    days = inputs.days[rows][:, None] + DAY * np.array(settings.horizons)
    wanted = np.isfinite(inputs.targets[rows]) & (days <= np.datetime64(through))
    if after is not None:
        wanted &= days > np.datetime64(after)
    some = wanted.any(axis=1)
    targets = np.where(wanted, inputs.targets[rows], np.nan)
    return windows_at(inputs, rows[some], settings), targets[some]


def fit_ensemble(
    history: PriceHistory,
    pool: Histories,
    settings: CalibratedSettings,
    trained_through: date,
    epochs: int | None = None,
    *,
    columns: Columns | None = None,
) -> TrainedEnsemble:
    """Train every member from its initial weights; the windows of the pool join the training.

    Args:
        trained_through: the newest day that the training may use; those before it decide on early stopping.
        epochs: the exact number of passes, over all days and without early stopping.
        columns: of the inputs; by default those that the history's candles have.

    Raises:
        NotEnoughHistory: too few windows.
        BadSetting: the losses are not finite with these settings.
    """
    columns = columns or columns_of(history.candles, share=settings.column_share)
    fitted_through = trained_through - timedelta(days=0 if epochs else settings.validation_days)
    spans = (None, fitted_through), (fitted_through, trained_through)
    inputs = make_inputs(history.candles, settings, columns)
    train, validation = (_examples(inputs, settings, *span) for span in spans)
    needed = 0 if epochs else MIN_VALIDATION_WINDOWS
    if len(train[0]) < MIN_TRAINING_WINDOWS or len(validation[0]) < needed:
        raise NotEnoughHistory(
            f"training needs {MIN_TRAINING_WINDOWS} windows of {settings.lookback} days and {needed} to"
            f" validate, found {len(train[0])} and {len(validation[0])} up to {trained_through}: import more"
            " history"
        )
    how = TrainingSettings(
        settings.learning_rate,
        settings.batch_size,
        epochs or settings.epochs,
        patience=None if epochs else settings.patience,
        min_delta=settings.min_delta,
    )
    starts = _initial_members(settings, features=train[0].shape[2])
    held_out = None if epochs else validation
    return _train(settings, columns, train, held_out, pool, fitted_through, how, starts)


def _initial_members(settings: CalibratedSettings, features: int) -> list[tuple[Weights, int]]:
    """The initial weights and the seed of each member."""
    shape = settings.model_dump(include={"lookback", "units", "dropout", "head_sd", "first_dof"})
    shape |= {"features": features, "horizons": len(settings.horizons)}
    seeds = [_member_seed(settings, member) for member in range(settings.members)]
    return [(calibrated_network(seed=seed, **shape).get_weights(), seed) for seed in seeds]


def fine_tune_ensemble(
    ensemble: Ensemble,
    history: PriceHistory,
    pool: Histories,
    settings: CalibratedSettings,
    trained_through: date,
) -> TrainedEnsemble:
    """Continue the members' training on all windows up to `trained_through`, at a low learning rate.

    The optimizer begins with fresh state: the old one belongs to other gradients.

    Raises:
        BadSetting: the losses are not finite with these settings.
    """
    columns = ensemble.columns
    train = _examples(make_inputs(history.candles, settings, columns), settings, None, trained_through)
    how = TrainingSettings(settings.fine_tune_learning_rate, settings.batch_size, settings.fine_tune_epochs)
    starts = [
        (weights, _member_seed(settings, member, trained_through.toordinal()))
        for member, weights in enumerate(ensemble.members)
    ]
    return _train(settings, columns, train, None, pool, trained_through, how, starts)


def ensemble_quantiles(
    ensemble: Ensemble, inputs: Inputs, rows: Rows, settings: CalibratedSettings
) -> Floats:
    """The members' averaged quantiles of the log return over each horizon, (rows, horizons, levels).

    A row has the same bits whichever other rows are computed with it.
    """
    if not len(rows):
        return np.empty((0, len(settings.horizons), len(LEVELS)))
    windows = windows_at(inputs, rows, settings)
    head = settings.model_dump(include={"mean_scale", "min_dof"})
    total = np.zeros((len(rows), len(settings.horizons), len(LEVELS)))
    for weights in ensemble.members:
        total += student_t(*student_t_parameters(forward(weights, windows), **head))
    return np.asarray(total / len(ensemble.members) * inputs.sigma[rows][:, :, None], dtype=np.float64)


def trainers_for(settings: CalibratedSettings, features: int) -> TrainerPool:
    """The process's trainers for networks with these settings; their graphs are traced once."""
    names = {"lookback", "units", "dropout", "clip_norm", "mean_scale", "min_dof"}
    shape = settings.model_dump(include=names)
    return _trainers(features=features, horizons=len(settings.horizons), **shape)


@functools.lru_cache(maxsize=4)
def _trainers(*, clip_norm: float, mean_scale: float, min_dof: float, **shape: Any) -> TrainerPool:
    trainer = Trainer(
        calibrated_network(head_sd=0.0, seed=0, **shape),
        loss=functools.partial(student_t_loss, mean_scale=mean_scale, min_dof=min_dof),
        clip_norm=clip_norm,
    )
    return TrainerPool(trainer)


def _train(
    settings: CalibratedSettings,
    columns: Columns,
    train: Examples,
    validation: Examples | None,
    pool: Histories,
    fitted_through: date,
    how: TrainingSettings,
    starts: Sequence[tuple[Weights, int]],
) -> TrainedEnsemble:
    """Train a member from each start, its initial weights and its seed."""
    parts, not_pooled = _pooled(pool, settings, columns, fitted_through)
    inputs, targets = (np.concatenate(arrays) for arrays in zip(train, *parts.values(), strict=True))

    def train_member(member: int, trainer: Trainer) -> tuple[Weights, Losses]:
        first, seed = starts[member]
        name = f"member {member + 1}"
        weights, losses = trainer.fit(
            inputs, targets, validation, settings=how, seed=seed, start=first, name=name
        )
        if validation is not None:
            text = "%s of %d: best epoch %d of %d, validation %.5f"
            best = losses.best_epoch
            log.info(text, name, len(starts), best, len(losses.training), losses.validation[best - 1])
        return weights, losses

    trained = trainers_for(settings, inputs.shape[2]).map(len(starts), train_member)
    members, losses = zip(*trained, strict=True)
    windows = {"train": len(train[0])}
    if validation is not None:
        windows["validation"] = len(validation[0])
    windows |= {f"pooled {product}": len(examples[0]) for product, examples in parts.items()}
    training = Training(losses, windows, not_pooled, columns.left_out)
    return TrainedEnsemble(Ensemble(columns, members), fitted_through, training)


def _member_seed(settings: CalibratedSettings, *parts: int) -> int:
    return int(np.random.SeedSequence([settings.seed, *parts]).generate_state(1)[0])


def _pooled(
    pool: Histories, settings: CalibratedSettings, columns: Columns, through: date
) -> tuple[dict[str, Examples], dict[str, str]]:
    """The windows of the pool's products, each in its own sigma, and why the other products have none."""
    parts, not_pooled = dict[str, Examples](), dict[str, str]()
    for product, history in pool.items():
        if lacking := lacking_columns(columns, history, settings):
            not_pooled[product] = lacking
            continue
        examples = _examples(make_inputs(history.candles, settings, columns), settings, None, through)
        if len(examples[0]):
            parts[product] = examples
        else:
            not_pooled[product] = f"has no window up to {through}"
    return parts, not_pooled


def lacking_columns(columns: Columns, history: PriceHistory, settings: CalibratedSettings) -> str | None:
    """What the inputs of these columns lack in a history, as `has no volume`; None if it has all."""
    lacking = columns.lacking(columns_of(history.candles, share=settings.column_share))
    return f"has no {' and no '.join(lacking)}" if lacking else None
