"""Profile `calibrated`: quantiles of the next log return, from an ensemble of LSTMs and the HAR baseline.

The networks' quantiles are averaged, mixed with HAR's, and corrected by the online quantile tracker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from storage.models.bundles import Bundle, Draft
from tasks.calibration.quantile_tracker import mix, track
from tasks.core.history import PriceHistory
from tasks.core.quantiles import LEVELS
from tasks.core.settings import ProductId, Share
from tasks.core.types import Floats, Rows
from tasks.features.inputs import Columns, InputSettings, columns_of, make_inputs, usable_rows
from tasks.profiles.base import BaseProfile, FittedModel, Histories, Policy, Predicted
from tasks.profiles.baselines import BASELINES, MIN_RETURNS, baseline_quantiles
from tasks.profiles.ensemble import (
    Ensemble,
    ensemble_quantiles,
    fine_tune_ensemble,
    fit_ensemble,
    trainers_for,
)

MIXED_WITH = "har_t"


class CalibratedSettings(Policy):
    """Every figure that the model and its forecast depend on, with its unit and its reason."""

    lookback: int = Field(20, ge=5, le=365, description="Days that a window shows: four trading weeks")
    # The sigma of a day: the standard deviation of its log return.
    sigma_decay: Share = Field(0.80, description="Weight of yesterday in the variance: about five days count")
    sigma_low: float = Field(
        0.02, gt=0, lt=1, description="Lowest daily variance, in medians: a frozen candle"
    )
    sigma_high: float = Field(16.0, gt=1, description="Highest daily variance, in medians: one wild candle")
    sigma_days: int = Field(60, ge=6, le=365, description="Days that the median goes back")
    target_clip: float = Field(
        8.0, gt=0, description="Largest target, in sigmas: a crash must not own the loss"
    )
    # The inputs, beside sigma.
    return_clip: float = Field(6.0, gt=0, description="Largest return shown, in sigmas")
    return_offset: float = Field(
        0.1, gt=0, description="Added to a return's size in sigmas before its logarithm: a still day has one"
    )
    min_spread: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Smallest range shown, in sigmas: a frozen candle must not be the loudest",
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
        250, ge=30, le=1000, description="Days of the mean that log sigma is shown against"
    )
    # The network.
    units: int = Field(32, ge=1, le=4096, description="LSTM units; more of them gained nothing")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training")
    head_sd: float = Field(
        0.02, gt=0, description="Standard deviation of the head's first weights: it begins near N(0, 1)"
    )
    mean_scale: float = Field(0.1, gt=0, description="Of the head's mean, in sigmas: it can hardly be known")
    min_dof: float = Field(2.1, gt=2, description="Fewest degrees of freedom: the variance stays finite")
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
    tracker_step: float = Field(0.002, ge=0, lt=1, description="Step of the online tracker, in sigmas")
    har_share: float = Field(0.5, ge=0, le=1, description="Weight of the HAR baseline in the forecast")
    pool_products: tuple[ProductId, ...] = Field(
        ("BTC-USD", "ETH-USD", "LTC-USD"),
        description="Products whose windows join the training where the database holds them",
    )
    min_days: int = Field(
        400, ge=100, description="Days of closes below which no honest interval can be made"
    )

    @property
    def inputs(self) -> InputSettings:
        """The fields that the inputs depend on."""
        return InputSettings(**{name: getattr(self, name) for name in InputSettings.__dataclass_fields__})


class CalibratedProfile(BaseProfile):
    """The default: a distribution whose intervals cover what they promise."""

    name = "calibrated"
    Settings = CalibratedSettings
    component = "lstm"

    def origins(self, candles: pd.DataFrame, fitted: FittedModel | None = None) -> Rows:
        """Rows whose whole window is known, with no gap in it or before it."""
        settings = self.settings
        columns = fitted.state.columns if fitted else columns_of(candles, share=settings.column_share)
        return usable_rows(make_inputs(candles, settings.inputs, columns), lookback=settings.lookback)

    def fit(
        self, history: PriceHistory, pool: Histories, *, holdout_days: int = 0, epochs: int | None = None
    ) -> FittedModel:
        """Train the ensemble, and track the days after its gradients for the first quantile offsets."""
        self.require_days(history)
        trained_through = history.origin - timedelta(days=holdout_days)
        trained = fit_ensemble(history, pool, self.settings, trained_through, epochs)
        offsets = self._first_offsets(trained.ensemble, history, trained.fitted_through)
        return FittedModel(trained.ensemble, trained_through, offsets, trained.training)

    def fine_tune(
        self, fitted: FittedModel, history: PriceHistory, pool: Histories, *, holdout_days: int = 0
    ) -> FittedModel:
        """Train the ensemble on for a few gentle epochs."""
        self.require_days(history)
        trained_through = history.origin - timedelta(days=holdout_days)
        trained = fine_tune_ensemble(fitted.state, history, pool, self.settings, trained_through)
        return FittedModel(trained.ensemble, trained_through, fitted.quantile_offsets, trained.training)

    def predict(
        self, fitted: FittedModel, candles: pd.DataFrame, rows: Rows, *, components: bool = True
    ) -> Mapping[int, Predicted]:
        """Half the networks, half HAR, beside every baseline.

        Raises:
            NotEnoughHistory: too few returns for a baseline.
        """
        return {1: self._predict(fitted.state, candles, rows, BASELINES if components else ())}

    def _predict(
        self, ensemble: Ensemble, candles: pd.DataFrame, rows: Rows, baselines: Sequence[str]
    ) -> Predicted:
        settings = self.settings
        inputs = make_inputs(candles, settings.inputs, ensemble.columns)
        own = ensemble_quantiles(ensemble, inputs, rows, settings)
        beside = baseline_quantiles(candles, rows, components=baselines) if len(rows) and baselines else {}
        mixed = own
        if settings.har_share and MIXED_WITH in beside:
            mixed = mix(own, beside[MIXED_WITH], share=settings.har_share)
        return Predicted(mixed, inputs.sigma[rows], {self.component: own, **beside})

    def _first_offsets(self, ensemble: Ensemble, history: PriceHistory, fitted_through: date) -> Floats:
        """The tracker's state after the days that no gradient came from, (levels,)."""
        settings, candles = self.settings, history.candles
        inputs = make_inputs(candles, settings.inputs, ensemble.columns)
        rows = usable_rows(inputs, lookback=settings.lookback)
        rows = rows[(inputs.days[rows] >= np.datetime64(fitted_through)) & (rows < len(candles) - 1)]
        returns = np.cumsum(np.isfinite(inputs.returns))
        needed = MIN_RETURNS if settings.har_share else 0
        rows = rows[np.isfinite(inputs.targets[rows]) & (returns[rows] >= needed)]
        zero = np.zeros(len(LEVELS))
        if not len(rows):
            return zero
        baselines = (MIXED_WITH,) if settings.har_share else ()
        quantiles = self._predict(ensemble, candles, rows, baselines).quantiles
        assert quantiles is not None  # noqa: S101 (this profile gives distributions)
        closes, sigma = history.closes, inputs.sigma[rows]
        step = settings.tracker_step
        return track(quantiles, sigma, closes[rows], closes[rows + 1], zero, step=step)[1]

    def weights(self, fitted: FittedModel) -> Sequence[Sequence[NDArray[Any]]]:
        """Those of each member."""
        members: Sequence[Sequence[NDArray[Any]]] = fitted.state.members
        return members

    def save(self, fitted: FittedModel, draft: Draft) -> None:
        """One weights file a member, and `ensemble.json`."""
        ensemble: Ensemble = fitted.state
        features = int(ensemble.members[0][0].shape[0])
        for number, weights in enumerate(ensemble.members, start=1):
            with trainers_for(self.settings, features).first.borrow(weights) as network:
                draft.write_weights(network, _weights_file(number))
        shape = {"features": features, "members": len(ensemble.members)}
        draft.write_json("ensemble.json", {"columns": asdict(ensemble.columns), **shape})

    def load(self, bundle: Bundle) -> Ensemble:
        """The ensemble of a bundle."""
        shape = bundle.read_json("ensemble.json")
        members = []
        for number in range(1, shape["members"] + 1):
            with trainers_for(self.settings, shape["features"]).first.borrow() as network:
                bundle.load_weights(network, _weights_file(number))
                members.append(network.get_weights())
        return Ensemble(Columns(**shape["columns"]), tuple(members))

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:
        """The members' losses."""
        del history
        from tasks.profiles.figures import loss_figure

        return {"losses.png": loss_figure(fitted.training.losses)}


def _weights_file(number: int) -> str:
    return f"member-{number}.weights.h5"
