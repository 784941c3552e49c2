"""The settings of profile `calibrated`: every figure that it depends on, with its unit and its reason."""

from __future__ import annotations

from pydantic import Field

from closecast.tasks.core.settings import ProductId
from closecast.tasks.features.inputs import InputSettings
from closecast.tasks.profiles.base import Policy


class CalibratedSettings(InputSettings, Policy):
    """What the model and its forecast depend on, beside the inputs and the policy."""

    # The network.
    units: int = Field(32, ge=1, le=4096, description="LSTM units; more of them gained nothing")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of activations dropped in training")
    head_sd: float = Field(
        0.02, gt=0, description="Standard deviation of the head's first weights: it begins near N(0, 1)"
    )
    mean_scale: float = Field(0.1, gt=0, description="Of the head's mean, in sigmas: it can hardly be known")
    min_dof: float = Field(2.1, gt=2, description="Fewest degrees of freedom: the variance stays finite")
    first_dof: float = Field(1.0, description="The head's first bias for them: some 3.4 to begin with")
    # Its training.
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step")
    clip_norm: float = Field(
        1.0, gt=0, description="The gradient's norm is held to it: tails make steep slopes"
    )
    batch_size: int = Field(256, ge=1, le=100_000, description="Windows a step")
    epochs: int = Field(
        12, ge=1, le=10_000, description="Passes over the windows, at most: more learn the past by heart"
    )
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
    fine_tune_learning_rate: float = Field(2e-4, gt=0, description="Adam's step in fine-tuning")
    # The forecast.
    tracker_step: float = Field(0.002, ge=0, lt=1, description="Step of the online tracker, in sigmas")
    baseline_share: float = Field(
        0.5, ge=0, le=1, description="Weight of the mean of three baselines in the forecast"
    )
    pool_products: tuple[ProductId, ...] = Field(
        ("BTC-USD", "ETH-USD", "LTC-USD"),
        description="Products whose windows join the training where the database holds them",
    )
    min_days: int = Field(
        400, ge=100, description="Closes that a product needs for networks on its own windows"
    )
    min_pool_days: int = Field(
        60, ge=60, description="Closes from which a younger product is forecast by networks on older ones"
    )
