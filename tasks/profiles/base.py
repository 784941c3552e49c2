"""What a profile is: the only place that knows what kind of model it has.

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

# Days from the first close on which even the simplest baseline is a guess.
MIN_FALLBACK_DAYS = 60
Histories = Mapping[str, PriceHistory]


class Policy(Frozen):
    """When a model is replaced, and by what; changing it does not make another model of the same data."""

    refit_every_days: int = Field(
        90, ge=0, le=3650, description="Days from one refit to the next; 0: on every data version"
    )
    fine_tune_every_days: int = Field(
        30, ge=0, le=3650, description="Days from one training of any kind to the next fine-tuning; 0: never"
    )
    max_model_age_days: int = Field(
        180, ge=1, le=3650, description="Age in days at which a model without a successor raises a warning"
    )
    gate_ratio_180: float = Field(
        1.02,
        gt=0,
        description="Largest CRPS ratio to the champion over 180 unseen days: four times its noise",
    )
    gate_ratio_365: float = Field(
        1.01, gt=0, description="The same over 365 unseen days, where the noise is less"
    )


@dataclass(frozen=True)
class Training:
    """How a training went, for lineage, log and figures; the fields are those of `Lineage`."""

    losses: tuple[Losses, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)
    not_pooled: Mapping[str, str] = field(default_factory=dict)
    columns_left_out: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int | None:
        """The best epoch of the typical network, None where there is no network."""
        return round(float(np.median([one.best_epoch for one in self.losses]))) if self.losses else None


@dataclass(frozen=True)
class FittedModel:
    """What a profile needs to forecast, in a form of its own.

    `trained_through` is the newest day whose close training or early stopping looked at: later days are
    unseen. `quantile_offsets` are the tracker's states before its first outcome, in sigmas, (levels,) for
    each horizon; None for a point. The `twin` was trained without the newest days: the gate judges it on
    them, in place of the model that forecasts.
    """

    state: Any
    trained_through: date
    quantile_offsets: Mapping[int, Floats] | None = None
    training: Training = Training()
    twin: FittedModel | None = None

    @property
    def judged(self) -> FittedModel:
        """The model that the gate judges."""
        return self.twin or self


@dataclass(frozen=True)
class Predicted:
    """The predictions for one horizon from some origins, before the tracker.

    `components` are the quantiles of each component forecast, first those of the model alone.
    """

    quantiles: Floats | None = None  # of the log return over the horizon, (origins, levels)
    sigma: Floats | None = None  # its expected standard deviation, (origins,): the unit of quantile offsets
    components: Mapping[str, Floats] = field(default_factory=dict)
    points: Floats | None = None  # closes, (origins,), of a profile without intervals

    def to_json(self) -> dict[str, Any]:
        """Plain lists, from which `from_json` makes the same bits."""
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
    """The quantiles and sigmas of predictions that have them, by horizon, as the tracker takes them."""
    quantiles, sigmas = dict[int, Floats](), dict[int, Floats]()
    for horizon, one in predicted.items():
        assert one.quantiles is not None and one.sigma is not None  # noqa: PT018, S101 (no point is tracked)
        quantiles[horizon], sigmas[horizon] = one.quantiles, one.sigma
    return quantiles, sigmas


class Profile(Protocol):
    """A kind of model with its settings; what most kinds share is a default here.

    Settings that the defaults use, where the model has them: the fields of `Policy`, `lookback`, `min_days`,
    `min_pool_days`, `gate_days`, `tracker_step`, `pool_products`, `horizons`.
    """

    name: str  # `^[a-z][a-z0-9_]{0,31}$`: columns, models and assets carry it
    settings: Any  # of the class `Settings`
    recipe: int = 1  # counts up when the same settings come to mean another model
    levels: tuple[float, ...] = LEVELS  # of its quantiles; none for a point
    component: str = "network"  # under which the model alone is stored among the component forecasts

    @property
    def horizons(self) -> tuple[int, ...]:
        """Days ahead of the origin, rising from 1."""
        return tuple(getattr(self.settings, "horizons", (1,)))

    @property
    def policy(self) -> Policy:
        """When its models are replaced: the fields of `Policy` among the settings."""
        names = [name for name in Policy.model_fields if hasattr(self.settings, name)]
        return Policy(**{name: getattr(self.settings, name) for name in names})

    @property
    def version(self) -> str:
        """The digest of every setting: part of the key of a forecast."""
        return f"{self.name}-{settings_digest(self.settings.model_dump(mode='json'))}"

    @property
    def recipe_version(self) -> str:
        """The digest of the settings that make the model and its forecast, without the policy."""
        own = self.settings.model_dump(mode="json", exclude=set(Policy.model_fields))
        return settings_digest({"recipe": self.recipe, **own})

    @property
    def min_days(self) -> int:
        """Closes that a model needs up to an origin."""
        return int(getattr(self.settings, "min_days", 400))

    @property
    def min_pool_days(self) -> int:
        """Closes from which a younger product is forecast by the networks of others; `min_days` for never."""
        return int(getattr(self.settings, "min_pool_days", self.min_days))

    @property
    def min_fallback_days(self) -> int:
        """Days from the first close to an origin that a forecast without a model needs."""
        return min(MIN_FALLBACK_DAYS, self.min_days) if self.levels else self.min_days

    @property
    def consecutive_days(self) -> int:
        """The newest days that a window needs without a gap: its own, and a day more for its first return."""
        return int(self.settings.lookback) + 1

    @property
    def gate_days(self) -> int:
        """Newest days that a challenger's twin is not trained on; 0: no gate, each challenger is accepted."""
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
        """Rows of a candle frame that a forecast can be made from, by that model or by a new one."""
        rows = [
            np.arange(run.start + self.consecutive_days - 1, run.stop)
            for run in consecutive_runs(candles["day_utc"])
        ]
        return np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)

    def fit(
        self, history: PriceHistory, pool: Histories, *, holdout_days: int = 0, epochs: int | None = None
    ) -> FittedModel:
        """Train from first weights on the history, less its newest `holdout_days`.

        With `epochs` exactly so many passes over all of these days, without early stopping: so many as the
        twin found to be best.

        Raises:
            NotEnoughHistory: too few days, or too few without a gap.
            BadSetting: the losses grow beyond all bounds with these settings.
        """

    def fit_pool(self, history: PriceHistory, pool: Histories) -> FittedModel:
        """Train for a product of fewer than `min_days` closes, on the windows of the pool alone.

        Of its own history only the columns matter. A profile without `min_pool_days` is not asked.

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
        """Train a model on; its quantile offsets stay. By default it is fitted again."""
        return self.fit(history, pool, holdout_days=holdout_days)

    def predict(
        self, fitted: FittedModel, candles: pd.DataFrame, rows: Rows, *, components: bool = True
    ) -> Mapping[int, Predicted]:
        """The predictions from each origin row, by horizon; a row's bits depend on it and those before alone.

        Without `components` only the model alone is wanted, as the gate compares it.
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
        """Write the state to a bundle: weights and JSON, nothing that could run."""

    def load(self, bundle: Bundle) -> Any:
        """The state that `save` wrote, to the last bit.

        Raises:
            Damaged: a file is not the stored one.
        """

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:  # noqa: ARG002
        """PNG files about a training, by name; none by default."""
        return {}


class BaseProfile(Profile):
    """What a profile is derived from: it names itself and its settings model.

    It implements `fit`, `predict`, `weights`, `save` and `load`.
    """

    Settings: ClassVar[type[Frozen]]

    def __init__(self, settings: Frozen | Mapping[str, object] | None = None) -> None:
        """Take the settings, or the defaults with some fields set otherwise.

        Raises:
            BadSetting: no such field, or a value out of its range.
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
        """Require the `min_days` closes that a model needs.

        Raises:
            NotEnoughHistory: fewer.
        """
        days = len(history.candles)
        if days < self.min_days:
            raise NotEnoughHistory(
                f"profile {self.name} needs {self.min_days} days of closes, found {days}: import more history"
            )
