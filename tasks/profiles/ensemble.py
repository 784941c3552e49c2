"""Networks trained side by side on the same windows, whose quantiles are averaged."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.core.errors import BadSetting, NotEnoughHistory
from tasks.core.quantiles import LEVELS, student_t
from tasks.core.tensorflow_runtime import tensorflow
from tasks.core.types import Floats
from tasks.features.inputs import Columns, Inputs, columns_of, make_inputs, usable_rows, windows_at
from tasks.network.epoch import Weights
from tasks.network.parallel import TrainerPool
from tasks.network.trainer import Losses, Trainer, TrainingSettings
from tasks.profiles.calibrated_settings import Recipe

log = logging.getLogger("closecast.ensemble")

MIN_TRAINING_WINDOWS, MIN_VALIDATION_WINDOWS = 100, 30


@dataclass(frozen=True)
class Ensemble:
    """Trained members and all that a forecast with them needs.

    `trained_through` is the newest day whose close training or early stopping looked at: what comes after it
    is unseen.
    """

    columns: Columns
    members: tuple[Weights, ...]
    trained_through: date


@dataclass(frozen=True)
class Trained:
    """An ensemble, how its training went, and what was in it.

    `fitted_through` is the newest day that gradients came from: its forecasts of later ones are out of
    sample.
    """

    ensemble: Ensemble
    fitted_through: date
    losses: tuple[Losses, ...]
    windows: Mapping[str, int]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """Windows (samples, lookback, features), targets (samples, 1), and each target's day (samples,)."""

    inputs: NDArray[np.float32]
    targets: Floats
    days: NDArray[np.datetime64]

    def within(self, after: date | None, through: date) -> tuple[NDArray[np.float32], Floats]:
        wanted = self.days <= np.datetime64(through)
        if after is not None:
            wanted &= self.days > np.datetime64(after)
        return self.inputs[wanted], self.targets[wanted]


def held_out_days(days: int, recipe: Recipe) -> int:
    """How many of the newest days no training looks at; none where the series is too short for that."""
    return recipe.gate_days if days >= recipe.min_days + recipe.gate_days else 0


def fit_ensemble(candles: pd.DataFrame, recipe: Recipe, pools: Mapping[str, pd.DataFrame]) -> Trained:
    """Train every member from its first weights on the candles up to the origin, their last day.

    Args:
        candles: of the product, a candle frame, oldest day first.
        recipe: how.
        pools: candles of further products, none later than the origin, whose windows join the training.

    Raises:
        NotEnoughHistory: too few days, or too few of them without a gap.
        BadSetting: with these settings the losses grow past all measure.
    """
    require_days(candles, recipe)
    columns = columns_of(candles, share=recipe.column_share)
    own = _part(candles, recipe, columns)
    seen, stop = _ends(candles, recipe)
    train = own.within(None, stop)
    validation = own.within(stop, seen)
    if len(train[0]) < MIN_TRAINING_WINDOWS or len(validation[0]) < MIN_VALIDATION_WINDOWS:
        raise NotEnoughHistory(
            f"training needs {MIN_TRAINING_WINDOWS} consecutive windows of {recipe.lookback} days and"
            f" {MIN_VALIDATION_WINDOWS} to validate, found {len(train[0])} and {len(validation[0])} up to {seen}:"
            " import more history, or fill the gaps"
        )
    pooled, left_out = _pooled(pools, recipe, columns, stop)
    inputs, targets = _joined(train, pooled)
    features = own.inputs.shape[2]

    def member(number: int, trainer: Trainer) -> tuple[Weights, Losses]:
        weights, found = trainer.fit(
            inputs,
            targets,
            validation,
            settings=TrainingSettings(
                learning_rate=recipe.learning_rate,
                batch_size=recipe.batch_size,
                epochs=recipe.epochs,
                patience=recipe.patience,
                min_delta=recipe.min_delta,
            ),
            seed=_member_seed(recipe, number),
            start=_first_weights(recipe, features, number),
            name=f"member {number + 1}",
        )
        _require_finite_losses(found, recipe.learning_rate, validated=True)
        text = "member %d of %d: best of %d epochs was %d, validation %.5f"
        best = found.validation[found.best_epoch - 1]
        log.info(text, number + 1, recipe.members, len(found.training), found.best_epoch, best)
        return weights, found

    members, losses = zip(*_seats_for(recipe, features).map(recipe.members, member), strict=True)
    windows = {"train": len(train[0]), "validation": len(validation[0])}
    windows |= {f"pooled {product}": len(part[0]) for product, part in pooled.items()}
    return Trained(Ensemble(columns, members, seen), stop, losses, windows, left_out)


def fine_tune_ensemble(
    ensemble: Ensemble, candles: pd.DataFrame, recipe: Recipe, pools: Mapping[str, pd.DataFrame]
) -> Trained:
    """Train the members on for a few gentle epochs over all windows up to the days held out.

    The optimizer begins afresh: the old one's state belongs to other slopes.

    Raises:
        NotEnoughHistory: too few days.
        BadSetting: with these settings the losses grow past all measure.
    """
    require_days(candles, recipe)
    own = _part(candles, recipe, ensemble.columns)
    seen, _ = _ends(candles, recipe)
    train = own.within(None, seen)
    pooled, left_out = _pooled(pools, recipe, ensemble.columns, seen)
    inputs, targets = _joined(train, pooled)

    def member(number: int, trainer: Trainer) -> tuple[Weights, Losses]:
        weights, found = trainer.fit(
            inputs,
            targets,
            settings=TrainingSettings(
                learning_rate=recipe.fine_tune_learning_rate,
                batch_size=recipe.batch_size,
                epochs=recipe.fine_tune_epochs,
            ),
            seed=_member_seed(recipe, number, seen.toordinal()),
            start=ensemble.members[number],
            name=f"member {number + 1}",
        )
        _require_finite_losses(found, recipe.fine_tune_learning_rate)
        return weights, found

    seats = _seats_for(recipe, own.inputs.shape[2])
    members, losses = zip(*seats.map(len(ensemble.members), member), strict=True)
    windows = {"train": len(train[0])}
    windows |= {f"pooled {product}": len(part[0]) for product, part in pooled.items()}
    return Trained(Ensemble(ensemble.columns, members, seen), seen, losses, windows, left_out)


def ensemble_quantiles(ensemble: Ensemble, inputs: Inputs, rows: NDArray[np.int64], recipe: Recipe) -> Floats:
    """The members' averaged quantiles of the log return after each origin row, (rows, 23).

    The same row gives the same bits, however many others are asked for with it.
    """
    if not len(rows):
        return np.empty((0, len(LEVELS)))
    shown = _shown(inputs, rows, recipe)
    trainer = trainer_for(recipe, shown.shape[2])
    total = np.zeros((len(rows), len(LEVELS)))
    for weights in ensemble.members:
        mean, sigma, dof = trainer.predict(weights, shown).T
        total += student_t(mean, sigma, dof)
    return np.asarray(total / len(ensemble.members) * inputs.sigma[rows][:, None], dtype=np.float64)


def require_days(candles: pd.DataFrame, recipe: Recipe) -> None:
    """Refuse a series that is too short for honest intervals.

    Raises:
        NotEnoughHistory: fewer than `min_days` closes.
    """
    if len(candles) < recipe.min_days:
        raise NotEnoughHistory(
            f"honest intervals need {recipe.min_days} days of closes, found {len(candles)}:"
            " import more history, or use --profile article"
        )


def trainer_for(recipe: Recipe, features: int) -> Trainer:
    """The process's first network of that shape, which is traced once, on first use."""
    return _seats_for(recipe, features).first


def _seats_for(recipe: Recipe, features: int) -> TrainerPool:
    head = (recipe.mean_scale, recipe.min_dof)
    return _seats(recipe.lookback, features, recipe.units, recipe.dropout, recipe.clip_norm, head)


@functools.lru_cache(maxsize=4)
def _seats(
    lookback: int, features: int, units: int, dropout: float, clip_norm: float, head: tuple[float, float]
) -> TrainerPool:
    tensorflow()
    import keras

    from tasks.network.architectures import calibrated_network, student_t_head, student_t_loss

    network = calibrated_network(
        lookback=lookback, features=features, units=units, dropout=dropout, head_sd=0.0, seed=0
    )
    how = {"mean_scale": head[0], "min_dof": head[1]}
    return TrainerPool(
        Trainer(
            network,
            loss=functools.partial(student_t_loss, **how),
            optimizer=keras.optimizers.Adam(global_clipnorm=clip_norm),
            head=functools.partial(student_t_head, **how),
        )
    )


def _first_weights(recipe: Recipe, features: int, number: int) -> Weights:
    from tasks.network.architectures import calibrated_network

    network = calibrated_network(
        lookback=recipe.lookback,
        features=features,
        units=recipe.units,
        dropout=recipe.dropout,
        head_sd=recipe.head_sd,
        first_dof=recipe.first_dof,
        seed=_member_seed(recipe, number),
    )
    weights: Weights = network.get_weights()
    return weights


def _member_seed(recipe: Recipe, *parts: int) -> int:
    return int(np.random.SeedSequence([recipe.seed, *parts]).generate_state(1)[0])


def _ends(candles: pd.DataFrame, recipe: Recipe) -> tuple[date, date]:
    """The last day that anything is learned from, and the last one of those that gradients come from."""
    origin: date = candles["day_utc"].iloc[-1].date()
    seen = origin - timedelta(days=held_out_days(len(candles), recipe))
    return seen, seen - timedelta(days=recipe.validation_days)


def _shown(inputs: Inputs, rows: NDArray[np.int64], recipe: Recipe) -> NDArray[np.float32]:
    return windows_at(inputs, rows, recipe.input_settings)


def _part(candles: pd.DataFrame, recipe: Recipe, columns: Columns) -> _Part:
    inputs = make_inputs(candles, recipe.input_settings, columns)
    rows = usable_rows(inputs, lookback=recipe.lookback)
    rows = rows[np.isfinite(inputs.targets[rows])]
    shown = _shown(inputs, rows, recipe)
    return _Part(shown, inputs.targets[rows][:, None], inputs.days[rows] + np.timedelta64(1, "D"))


def _pooled(
    pools: Mapping[str, pd.DataFrame], recipe: Recipe, columns: Columns, through: date
) -> tuple[dict[str, tuple[NDArray[np.float32], Floats]], dict[str, str]]:
    """The further products' windows, each over its own scale, and why the others have none."""
    found, left_out = {}, {}
    for product, candles in pools.items():
        lacking = columns.lacking(columns_of(candles, share=recipe.column_share))
        if lacking:
            left_out[product] = f"has no {' and no '.join(lacking)}"
            continue
        part = _part(candles, recipe, columns).within(None, through)
        if len(part[0]):
            found[product] = part
        else:
            left_out[product] = f"has no window up to {through}"
    return found, left_out


def _joined(
    own: tuple[NDArray[np.float32], Floats], pooled: Mapping[str, tuple[NDArray[np.float32], Floats]]
) -> tuple[NDArray[np.float32], Floats]:
    parts = [own, *pooled.values()]
    return np.concatenate([inputs for inputs, _ in parts]), np.concatenate([targets for _, targets in parts])


def _require_finite_losses(losses: Losses, learning_rate: float, *, validated: bool = False) -> None:
    unbounded = ~np.isfinite(losses.training)
    if validated:  # the last step of an epoch may be the one that went too far
        unbounded[losses.best_epoch - 1] |= not np.isfinite(losses.validation[losses.best_epoch - 1])
    if unbounded.any():
        raise BadSetting(
            f"training came to no finite loss in epoch {int(unbounded.argmax()) + 1} with a learning_rate of"
            f" {learning_rate:g}: choose a smaller one"
        )
