"""The settings of profile `calibrated`, each with its unit and the reason for its value."""

from __future__ import annotations

from pydantic import Field

from closecast.tasks.core.settings import ProductId
from closecast.tasks.features.inputs import InputSettings
from closecast.tasks.profiles.base import Policy


class CalibratedSettings(InputSettings, Policy):
    """The settings of the network, its training and its forecast, and those of the inputs and the policy."""

    # The network.
    units: int = Field(32, ge=1, le=4096, description="LSTM units; more did not improve the forecast")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of activations dropped in training")
    head_sd: float = Field(
        0.02,
        gt=0,
        description="Standard deviation of the head's initial weights: training begins near N(0, 1)",
    )
    mean_scale: float = Field(
        0.1,
        gt=0,
        description="Scale of the head's mean, in sigmas: small, as a mean return is hardly predictable",
    )
    min_dof: float = Field(2.1, gt=2, description="Least degrees of freedom: the variance stays finite")
    first_dof: float = Field(
        1.0, description="The head's initial bias for the degrees of freedom: they begin at about 3.4"
    )
    # Its training.
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step")
    clip_norm: float = Field(
        1.0, gt=0, description="Largest norm of the gradient: returns with heavy tails give large ones"
    )
    batch_size: int = Field(256, ge=1, le=100_000, description="Windows per step")
    epochs: int = Field(
        12, ge=1, le=10_000, description="Most passes over the windows: with more, the networks overfit"
    )
    validation_days: int = Field(
        180, ge=30, le=3650, description="Newest days of a training, which decide when it stops early"
    )
    patience: int = Field(
        8, ge=1, le=10_000, description="Epochs without a better validation loss after which training stops"
    )
    min_delta: float = Field(1e-5, ge=0, description="Least decrease of the loss that counts as better")
    members: int = Field(3, ge=1, le=25, description="Networks averaged: interval widths of one are 9 % off")
    seed: int = Field(2020, ge=0, lt=2**32, description="Seed of the members' weights, masks and orders")
    gate_days: int = Field(
        180,
        ge=180,
        le=3650,
        description="Newest days that the twin is not trained on: the gate compares on them",
    )
    fine_tune_epochs: int = Field(
        2, ge=1, le=1000, description="Passes of a fine-tuning over the windows; five ruin the model"
    )
    fine_tune_learning_rate: float = Field(2e-4, gt=0, description="Adam's step in fine-tuning")
    # The forecast.
    tracker_step: float = Field(0.002, ge=0, lt=1, description="Step of the online tracker, in sigmas")
    baseline_share: float = Field(
        0.5, ge=0, le=1, description="Weight of the mean of three baselines in the forecast"
    )
    pool_products: tuple[ProductId, ...] = Field(
        ("BTC-USD", "ETH-USD", "LTC-USD"),
        description="Products whose windows join the training if the database has them",
    )
    min_days: int = Field(
        400, ge=100, description="Closes that a product needs for networks trained on its own windows"
    )
    min_pool_days: int = Field(
        60, ge=60, description="Closes that a younger product needs for networks trained on older products"
    )
