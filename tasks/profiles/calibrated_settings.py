"""The recipe of the calibrated forecast: every figure that it depends on, with its unit and its reason."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tasks.features.inputs import InputSettings

Share = Annotated[float, Field(gt=0, lt=1)]
ProductId = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$")]
# Counts up when the same figures come to mean other inputs or another network.
RECIPE = 1


class Frozen(BaseModel):
    """A settings model: no field changes, no unknown field is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Policy(Frozen):
    """When a model is replaced, and by what; changing it does not make another model of the same data."""

    refit_every_days: int = Field(
        90, ge=1, le=3650, description="Days from one refit to the next; refitting monthly gained nothing"
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


class Recipe(Policy):
    """What makes the model and its forecast from the candles."""

    lookback: int = Field(20, ge=5, le=365, description="Days that a window shows: four trading weeks")
    horizon: int = Field(1, ge=1, le=1, description="Days ahead of the origin")
    # The scale s of a day: a standard deviation of its log return.
    scale_decay: Share = Field(0.80, description="Weight of yesterday in the variance: about five days count")
    scale_low: float = Field(
        0.02, gt=0, lt=1, description="Least daily variance, in medians: a frozen candle"
    )
    scale_high: float = Field(16.0, gt=1, description="Greatest daily variance, in medians: one wild candle")
    scale_days: int = Field(60, ge=6, le=365, description="Days that the median goes back")
    target_clip: float = Field(
        8.0, gt=0, description="Largest target, in scales: a crash must not own the loss"
    )
    # The inputs, beside the scale.
    return_clip: float = Field(6.0, gt=0, description="Largest return shown, in scales")
    return_offset: float = Field(
        0.1, gt=0, description="Added to a return's size in scales before its logarithm: a still day has one"
    )
    min_spread: float = Field(
        0.05, gt=0, lt=1, description="Least range shown, in scales: a frozen candle must not be the loudest"
    )
    column_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the days that must have ranges, or volume, to show them",
    )
    slow_decay: Share = Field(0.94, description="Weight of yesterday in the slow variance (RiskMetrics)")
    volume_days: int = Field(
        30, ge=2, le=365, description="Days of the mean that log volume is shown against"
    )
    volume_clip: float = Field(3.0, gt=0, description="Largest log volume shown")
    level_days: int = Field(
        250, ge=30, le=1000, description="Days of the mean that log scale is shown against"
    )
    # The network.
    units: int = Field(32, ge=1, le=4096, description="LSTM units; more of them gained nothing")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training")
    head_sd: float = Field(
        0.02, gt=0, description="Deviation of the head's first weights: it begins near N(0, 1)"
    )
    mean_scale: float = Field(0.1, gt=0, description="Of the head's mean, in scales: it can hardly be known")
    min_dof: float = Field(2.1, gt=2, description="Least degrees of freedom: the variance stays finite")
    first_dof: float = Field(1.0, description="The head's first bias for them: some 3.4 to begin with")
    # Its training.
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step")
    clip_norm: float = Field(
        1.0, gt=0, description="The gradient's norm is held to it: tails make steep slopes"
    )
    batch_size: int = Field(128, ge=1, le=100_000, description="Windows a step")
    epochs: int = Field(60, ge=1, le=10_000, description="Passes over the windows, at most")
    validation_days: int = Field(
        180, ge=30, le=3650, description="Newest days of training, for early stopping"
    )
    patience: int = Field(
        8, ge=1, le=10_000, description="Epochs without a better validation loss before it stops"
    )
    min_delta: float = Field(1e-5, ge=0, description="What counts as better, in the loss")
    members: int = Field(3, ge=1, le=25, description="Networks averaged: one alone is 9 % off in its widths")
    seed: int = Field(2020, ge=0, lt=2**32, description="Of the members' weights, masks and orders")
    gate_days: int = Field(
        180,
        ge=180,
        le=3650,
        description="Newest days that no model is trained on: the gate judges on them",
    )
    fine_tune_epochs: int = Field(
        2, ge=1, le=1000, description="Passes of a fine-tuning; five ruin the model"
    )
    fine_tune_learning_rate: float = Field(5e-4, gt=0, description="Adam's step in fine-tuning")
    # The forecast.
    tracker_step: float = Field(0.002, ge=0, lt=1, description="Step of the online tracker, in scales")
    har_share: float = Field(0.5, ge=0, le=1, description="Weight of the HAR baseline in the forecast")
    pool_products: tuple[ProductId, ...] = Field(
        ("BTC-USD", "ETH-USD", "LTC-USD"),
        description="Products whose windows join the training where the database holds them",
    )
    min_days: int = Field(
        400, ge=100, description="Days of closes below which no honest interval can be made"
    )

    name: ClassVar[Literal["calibrated"]] = "calibrated"

    @property
    def input_settings(self) -> InputSettings:
        """What the features are made by."""
        return InputSettings(
            lookback=self.lookback,
            sigma_decay=self.scale_decay,
            sigma_low=self.scale_low,
            sigma_high=self.scale_high,
            sigma_days=self.scale_days,
            target_clip=self.target_clip,
            return_clip=self.return_clip,
            return_offset=self.return_offset,
            min_spread=self.min_spread,
            slow_decay=self.slow_decay,
            volume_days=self.volume_days,
            volume_clip=self.volume_clip,
            level_days=self.level_days,
        )

    @property
    def recipe_version(self) -> str:
        """The digest of what makes the model and its forecast; the policy is left out of it."""
        own = self.model_dump(mode="json", exclude=set(Policy.model_fields))
        return settings_digest({"recipe": RECIPE, **own})

    @property
    def version(self) -> str:
        """The digest of every field: part of what a forecast is keyed by."""
        return f"{self.name}-{settings_digest(self.model_dump(mode='json'))}"


def settings_digest(fields: dict[str, Any]) -> str:
    """What identifies settings by all their fields, as JSON has them."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
