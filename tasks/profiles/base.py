"""The protocol of profiles: only a profile knows what kind of model it has.

Policy, gate, backtest, scoreboard, report, versions and `reproduce` work with any `Profile`.
docs/howto/own_model.md derives one from `BaseProfile`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from closecast.storage.core.errors import BadSetting, NotEnoughHistory, did_you_mean
from closecast.storage.models.bundles import Bundle, Draft
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.core.settings import Frozen, as_bad_setting, settings_digest
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.expected_sigma import expected_sigmas
from closecast.tasks.features.windows import consecutive_runs
from closecast.tasks.network.trainer import Losses
from closecast.tasks.profiles.baselines import (
    BASELINES,
    MIXED_WHILE_YOUNG,
    YOUNG,
    baseline_quantiles,
    mean_of_baselines,
)

# With fewer days since the first close, even the simplest baseline is a guess.
MIN_FALLBACK_DAYS = 60
Histories = Mapping[str, PriceHistory]


class Policy(Frozen):
    """When a model is replaced, and by what. The same training gives the same model under any policy."""

    refit_every_days: int = Field(
        90, ge=0, le=3650, description="Days from one refit to the next; 0: on every data version"
    )
    fine_tune_every_days: int = Field(
        30, ge=0, le=3650, description="Days from any training to the next fine-tuning; 0: never"
    )
    max_model_age_days: int = Field(
        180, ge=1, le=3650, description="Age in days at which a model without a successor raises a warning"
    )
    gate_ratio_180: float = Field(
        1.02,
        gt=0,
        description="Largest accepted CRPS ratio to the champion over 180 unseen days: four times the noise",
    )
    gate_ratio_365: float = Field(
        1.01,
        gt=0,
        description="Largest accepted CRPS ratio over 365 unseen days, where the noise is smaller",
    )


@dataclass(frozen=True)
class Training:
    """How a training went, for lineage, log and figures; fields of the same name as in `Lineage`."""

    losses: tuple[Losses, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)
    not_pooled: Mapping[str, str] = field(default_factory=dict)
    columns_left_out: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int | None:
        """The median of the networks' best epochs; None if there are no networks."""
        epochs = [losses.best_epoch for losses in self.losses]
        return round(float(np.median(epochs))) if epochs else None


@dataclass(frozen=True)
class FittedModel:
    """What a profile needs to forecast."""

    state: Any  # of the profile's own type
    trained_through: date  # the newest day that training or early stopping looked at: later ones are unseen
    # The first states of the tracker, in sigmas, (levels,) for each horizon; None for a point.
    quantile_offsets: Mapping[int, Floats] | None = None
    training: Training = Training()
    # Trained without the newest days: the gate judges it on them, in place of the model that forecasts.
    twin: FittedModel | None = None

    @property
    def judged(self) -> FittedModel:
        """The model that the gate judges: the twin if there is one."""
        return self.twin or self


@dataclass(frozen=True)
class Predicted:
    """The predictions for one horizon from some origins, before the tracker."""

    quantiles: Floats | None = None  # of the log return over the horizon, (origins, levels)
    sigma: Floats | None = None  # its expected standard deviation, (origins,): the unit of quantile offsets
    # The quantiles of each component forecast, (origins, levels), first those of the model alone.
    components: Mapping[str, Floats] = field(default_factory=dict)
    points: Floats | None = None  # closes, (origins,), of a profile without intervals

    def to_json(self) -> dict[str, Any]:
        """Lists for JSON, from which `from_json` restores the same bits."""
        arrays = {name: getattr(self, name) for name in ("quantiles", "sigma", "points")}
        plain = {name: None if array is None else array.tolist() for name, array in arrays.items()}
        components = [[name, quantiles.tolist()] for name, quantiles in self.components.items()]
        return {**plain, "components": components}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Predicted:
        """The inverse of `to_json`."""
        names = ("quantiles", "sigma", "points")
        arrays = {name: None if plain[name] is None else np.array(plain[name]) for name in names}
        components = {name: np.array(quantiles) for name, quantiles in plain["components"]}
        return cls(**arrays, components=components)


def quantiles_and_sigmas(predicted: Mapping[int, Predicted]) -> tuple[dict[int, Floats], dict[int, Floats]]:
    """The quantiles (origins, levels) and sigmas (origins,) of predictions, by horizon, for the tracker."""
    quantiles, sigmas = dict[int, Floats](), dict[int, Floats]()
    for horizon, part in predicted.items():
        assert part.quantiles is not None and part.sigma is not None  # noqa: PT018, S101 (no point is tracked)
        quantiles[horizon], sigmas[horizon] = part.quantiles, part.sigma
    return quantiles, sigmas


class Profile(Protocol):
    """A kind of model with its settings; what most kinds have in common is a default here.

    The defaults use these settings, where a profile has them: the fields of `Policy`, `lookback`, `min_days`,
    `min_pool_days`, `gate_days`, `tracker_step`, `pool_products`, `horizons`.
    """

    name: str  # `^[a-z][a-z0-9_]{0,31}$`: columns, models and assets carry it
    settings: Any  # of the class `Settings`
    recipe: int = 1  # incremented when the same settings come to mean another model
    levels: tuple[float, ...] = LEVELS  # of its quantiles; none for a point
    component: str = "network"  # the name of the model alone among the component forecasts

    @property
    def horizons(self) -> tuple[int, ...]:
        """Days ahead of the origin, rising from 1."""
        return tuple(getattr(self.settings, "horizons", (1,)))

    @property
    def policy(self) -> Policy:
        """When its models are replaced: `Policy`, with the fields that the settings have."""
        names = [name for name in Policy.model_fields if hasattr(self.settings, name)]
        return Policy(**{name: getattr(self.settings, name) for name in names})

    @property
    def version(self) -> str:
        """The name and a digest of all settings: part of the key of a forecast."""
        return f"{self.name}-{settings_digest(self.settings.model_dump(mode='json'))}"

    @property
    def recipe_version(self) -> str:
        """A digest of the settings that decide the model and its forecast: all but the policy."""
        own = self.settings.model_dump(mode="json", exclude=set(Policy.model_fields))
        return settings_digest({"recipe": self.recipe, **own})

    @property
    def min_days(self) -> int:
        """Closes up to an origin that a model needs."""
        return int(getattr(self.settings, "min_days", 400))

    @property
    def min_pool_days(self) -> int:
        """Closes that a younger product needs for networks of others; `min_days`: it never uses them."""
        return int(getattr(self.settings, "min_pool_days", self.min_days))

    @property
    def min_fallback_days(self) -> int:
        """The least days from the first close to an origin that is forecast, by the fallback if need be."""
        return min(MIN_FALLBACK_DAYS, self.min_days) if self.levels else self.min_days

    @property
    def consecutive_days(self) -> int:
        """The newest days that must have no gap: a window's, and the one before for its first return."""
        return int(self.settings.lookback) + 1

    @property
    def gate_days(self) -> int:
        """Newest days that a challenger's twin is not trained on; 0: no gate, challengers are accepted."""
        return int(getattr(self.settings, "gate_days", 180))

    @property
    def tracker_step(self) -> float:
        """Step of the online quantile tracker, in sigmas."""
        return float(getattr(self.settings, "tracker_step", 0.002))

    @property
    def pool_products(self) -> tuple[str, ...]:
        """Products whose windows may join the training."""
        return tuple(getattr(self.settings, "pool_products", ()))

    def origins(self, candles: pd.DataFrame, fitted: FittedModel | None = None) -> Rows:  # noqa: ARG002
        """Rows of a candle frame that can be an origin, for that model or for a new one, (rows,)."""
        rows = [
            np.arange(run.start + self.consecutive_days - 1, run.stop)
            for run in consecutive_runs(candles["day_utc"])
        ]
        return np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)

    def fit(
        self, history: PriceHistory, pool: Histories, *, holdout_days: int = 0, epochs: int | None = None
    ) -> FittedModel:
        """Train from initial weights on the history, less its newest `holdout_days`.

        `epochs` is the exact number of passes over all of these days, without early stopping: the number that
        was best for the twin.

        Raises:
            NotEnoughHistory: too few days, or too few without a gap.
            BadSetting: the losses are not finite with these settings.
        """

    def fit_pool(self, history: PriceHistory, pool: Histories) -> FittedModel:
        """Train for a product of fewer than `min_days` closes, on the windows of the pool alone.

        Of its own history only the columns matter. Not called if `min_pool_days` is `min_days`.

        Raises:
            NotEnoughHistory: the pool has too few windows.
        """
        raise NotEnoughHistory(
            f"profile {self.name} learns from {history.product_id} alone, not from {', '.join(pool)}:"
            f" import {self.min_days} days of it"
        )

    def fine_tune(
        self,
        fitted: FittedModel,  # noqa: ARG002
        history: PriceHistory,
        pool: Histories,
        *,
        holdout_days: int = 0,
    ) -> FittedModel:
        """Continue a model's training; its quantile offsets stay. By default a model is fitted anew."""
        return self.fit(history, pool, holdout_days=holdout_days)

    def predict(
        self, fitted: FittedModel, candles: pd.DataFrame, rows: Rows, *, components: bool = True
    ) -> Mapping[int, Predicted]:
        """The predictions from each origin row, by horizon, the shortest first.

        Not a bit of a row's prediction depends on later rows, or on the other origins. Without `components`
        the baselines may be left out: the gate compares the model alone.
        """

    def fallback(self, candles: pd.DataFrame, rows: Rows, horizons: Sequence[int]) -> Mapping[int, Predicted]:
        """The predictions without a model, by horizon: a mean of baselines, beside every baseline.

        The mean is that of `MIXED_WHILE_YOUNG` below `min_days` closes, and of `MIXED` from there on. A
        profile that gives a point repeats the last close.
        """
        if not self.levels:
            closes = candles["close"].to_numpy(dtype=np.float64)[rows]
            return {horizon: Predicted(points=closes) for horizon in horizons}
        sigmas, names = expected_sigmas(candles, horizons), (YOUNG, *BASELINES)
        made = baseline_quantiles(candles, rows, horizons=horizons, components=names, sigmas=sigmas)
        young = (np.asarray(rows) + 1 < self.min_days)[:, None]

        def mixed(components: Mapping[str, Floats]) -> Floats:
            while_young = mean_of_baselines(components, MIXED_WHILE_YOUNG)
            return np.where(young, while_young, mean_of_baselines(components))

        return {
            horizon: Predicted(mixed(components), sigmas.of(horizon)[1][rows], components)
            for horizon, components in made.items()
        }

    def weights(self, fitted: FittedModel) -> Sequence[Sequence[NDArray[Any]]]:
        """The arrays of each network."""

    def save(self, fitted: FittedModel, draft: Draft) -> None:
        """Write the state to a bundle: weights and JSON, nothing that could be executed."""

    def load(self, bundle: Bundle) -> Any:
        """The state that `save` wrote, to the last bit.

        Raises:
            Damaged: a file is missing or is not the one that was written.
        """

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:  # noqa: ARG002
        """PNG images of a training, by file name; none by default."""
        return {}


class BaseProfile(Profile):
    """The base class of profiles.

    A profile sets `name` and `Settings`, and implements `fit`, `predict`, `weights`, `save` and `load`.
    """

    Settings: ClassVar[type[Frozen]]

    def __init__(self, settings: Frozen | Mapping[str, object] | None = None) -> None:
        """Take the settings, or the defaults with these fields changed.

        Raises:
            BadSetting: there is no such field, or a value is out of range.
        """
        if isinstance(settings, Frozen):
            self.settings: Any = settings
            return
        fields = self.Settings.model_fields
        for given in settings or {}:
            if given not in fields:
                hint = did_you_mean(given, fields) or f"; it has {', '.join(fields)}"
                raise BadSetting(f"profile {self.name} has no setting {given!r:.60}{hint}")
        try:
            self.settings = self.Settings.model_validate(dict(settings or {}))
        except ValidationError as error:
            raise as_bad_setting(error, self.Settings) from error

    def require_days(self, history: PriceHistory) -> None:
        """Require the closes that a model needs.

        Raises:
            NotEnoughHistory: there are fewer than `min_days`.
        """
        days = len(history.candles)
        if days < self.min_days:
            raise NotEnoughHistory(
                f"profile {self.name} needs {self.min_days} days of closes, found {days}: import more history"
            )
