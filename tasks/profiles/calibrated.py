"""Profile `calibrated`: quantiles of the log returns over the next days, from LSTMs and from baselines.

The networks' quantiles are averaged, mixed with the mean of three baselines, and corrected by the online
quantile tracker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from closecast.storage.models.bundles import Bundle, Draft
from closecast.tasks.calibration.quantile_tracker import Tracker, mix
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.expected_sigma import expected_sigmas
from closecast.tasks.features.inputs import (
    Columns,
    Inputs,
    columns_of,
    make_inputs,
    training_rows,
    usable_rows,
)
from closecast.tasks.features.volatility import log_returns, with_outcome
from closecast.tasks.network.forward import weight_shapes
from closecast.tasks.profiles.base import BaseProfile, FittedModel, Histories, Predicted, quantiles_and_sigmas
from closecast.tasks.profiles.baselines import (
    BASELINES,
    MIN_RETURNS,
    MIXED,
    MIXED_WITH_POOL,
    YOUNG,
    baseline_quantiles,
    mean_of_baselines,
)
from closecast.tasks.profiles.calibrated_settings import CalibratedSettings
from closecast.tasks.profiles.ensemble import (
    Ensemble,
    ensemble_quantiles,
    fine_tune_ensemble,
    fit_ensemble,
    trainers_for,
)
from closecast.tasks.profiles.pool import fit_pool_ensemble, shown_candles


class CalibratedProfile(BaseProfile):
    """The default: a distribution whose intervals cover what they promise."""

    name = "calibrated"
    Settings = CalibratedSettings
    component = "lstm"

    def origins(self, candles: pd.DataFrame, fitted: FittedModel | None = None) -> Rows:
        """Rows with every figure of a window; its days may be missing, except the origin."""
        if fitted:
            columns, candles = fitted.state.columns, shown_candles(fitted.state, candles)
        else:
            columns = columns_of(candles, share=self.settings.column_share)
        return usable_rows(self._next_day_inputs(candles, columns), lookback=self.settings.lookback)

    def _next_day_inputs(self, candles: pd.DataFrame, columns: Columns) -> Inputs:
        """Inputs of one horizon, where only the rows are wanted: they are the same for every horizon."""
        return make_inputs(candles, self.settings.model_copy(update={"horizons": (1,)}), columns)

    def fit(
        self, history: PriceHistory, pool: Histories, *, holdout_days: int = 0, epochs: int | None = None
    ) -> FittedModel:
        """Train the ensemble, and track the days after its gradients for the first quantile offsets."""
        self.require_days(history)
        trained_through = history.origin - timedelta(days=holdout_days)
        trained = fit_ensemble(history, pool, self.settings, trained_through, epochs)
        offsets = self._first_offsets(trained.ensemble, history, trained.fitted_through)
        return FittedModel(trained.ensemble, trained_through, offsets, trained.training)

    def fit_pool(self, history: PriceHistory, pool: Histories) -> FittedModel:
        """Train the ensemble on the pool; the tracker begins with what it learns of this product."""
        trained = fit_pool_ensemble(history, pool, self.settings)
        offsets = Tracker.new(self.horizons, step=self.tracker_step).offsets
        return FittedModel(trained.ensemble, trained.fitted_through, offsets, trained.training)

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
        """Half the networks, half the mean of three baselines, beside every baseline."""
        return self._predict(fitted.state, candles, rows, BASELINES if components else ())

    def _predict(
        self, ensemble: Ensemble, candles: pd.DataFrame, rows: Rows, baselines: Sequence[str]
    ) -> dict[int, Predicted]:
        settings, horizons = self.settings, self.horizons
        candles = shown_candles(ensemble, candles)
        sigmas = expected_sigmas(candles, horizons)
        inputs = make_inputs(candles, settings, ensemble.columns, sigmas)
        own = ensemble_quantiles(ensemble, inputs, rows, settings)
        if ensemble.tails and baselines:
            baselines = (YOUNG, *baselines)
        beside = baseline_quantiles(
            *(candles, rows), horizons=horizons, components=baselines, sigmas=sigmas, tails=ensemble.tails
        )
        names = MIXED_WITH_POOL if ensemble.tails else MIXED
        predicted = {}
        for column, horizon in enumerate(horizons):
            mixed, components = own[:, column], beside[horizon]
            if settings.baseline_share and components:
                mixed = mix(mixed, mean_of_baselines(components, names), share=settings.baseline_share)
            components = {self.component: own[:, column], **components}
            predicted[horizon] = Predicted(mixed, inputs.sigma[rows, column], components)
        return predicted

    def _first_offsets(
        self, ensemble: Ensemble, history: PriceHistory, fitted_through: date
    ) -> dict[int, Floats]:
        """The tracker's states after the days that no gradient came from, (levels,) for each horizon."""
        settings, candles = self.settings, history.candles
        tracker = Tracker.new(self.horizons, step=settings.tracker_step)
        if fitted_through >= history.origin:  # its twin's days give them
            return tracker.offsets
        inputs = self._next_day_inputs(candles, ensemble.columns)
        rows = with_outcome(candles, training_rows(inputs, lookback=settings.lookback))
        returns = np.cumsum(np.isfinite(log_returns(candles)))
        needed = MIN_RETURNS if settings.baseline_share else 0
        rows = rows[(history.days[rows] >= fitted_through) & (returns[rows] >= needed)]
        if len(rows):
            predicted = self._predict(ensemble, candles, rows, MIXED if settings.baseline_share else ())
            tracker.track(history, rows, *quantiles_and_sigmas(predicted))
            tracker.learn(history, history.origin)
        return tracker.offsets

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
        tails = {"tails": ensemble.tails} if ensemble.tails else {}
        draft.write_json("ensemble.json", {"columns": asdict(ensemble.columns), **shape, **tails})

    def load(self, bundle: Bundle) -> Ensemble:
        """The ensemble of a bundle."""
        ensemble = bundle.read_json("ensemble.json")
        outputs = 3 * len(self.horizons)
        shapes = weight_shapes(ensemble["features"], self.settings.units, outputs)
        files = map(_weights_file, range(1, ensemble["members"] + 1))
        members = tuple(bundle.read_weights(shapes, file) for file in files)
        stored = ensemble.get("tails", {})
        tails = {
            name: {int(horizon): (size, dof) for horizon, (size, dof) in of_horizon.items()}
            for name, of_horizon in stored.items()
        }
        return Ensemble(Columns(**ensemble["columns"]), members, tails or None)

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:  # noqa: ARG002
        """The losses of the members, those with early stopping."""
        from closecast.tasks.profiles.figures import loss_figure

        unit = "negative log likelihood, scaled returns"
        return {"losses.png": loss_figure(fitted.judged.training.losses, unit)}


def _weights_file(number: int) -> str:
    return f"member-{number}.weights.h5"
