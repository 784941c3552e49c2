"""Profile `calibrated`: quantiles of the log returns over the next days, from LSTMs and baselines.

The networks' quantiles are averaged and mixed with the mean of three baselines; the online quantile tracker
corrects them.
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
from closecast.tasks.profiles.pool import fit_pool_ensemble, input_candles


class CalibratedProfile(BaseProfile):
    """The default profile: a distribution whose intervals cover as many outcomes as they should."""

    name = "calibrated"
    Settings = CalibratedSettings
    component = "lstm"

    def origins(self, candles: pd.DataFrame, fitted: FittedModel | None = None) -> Rows:
        """Rows whose window has all its figures, (rows,); days before the origin may be missing."""
        if fitted:
            columns, candles = fitted.state.columns, input_candles(fitted.state, candles)
        else:
            columns = columns_of(candles, share=self.settings.column_share)
        return usable_rows(self._next_day_inputs(candles, columns), lookback=self.settings.lookback)

    def _next_day_inputs(self, candles: pd.DataFrame, columns: Columns) -> Inputs:
        """Inputs of the next day alone, to find usable rows: they are the same for every horizon."""
        return make_inputs(candles, self.settings.model_copy(update={"horizons": (1,)}), columns)

    def fit(
        self, history: PriceHistory, pool: Histories, *, holdout_days: int = 0, epochs: int | None = None
    ) -> FittedModel:
        """Train the ensemble; the days that it was not fitted to give the first quantile offsets."""
        self.require_days(history)
        trained_through = history.origin - timedelta(days=holdout_days)
        trained = fit_ensemble(history, pool, self.settings, trained_through, epochs)
        offsets = self._first_offsets(trained.ensemble, history, trained.fitted_through)
        return FittedModel(trained.ensemble, trained_through, offsets, trained.training)

    def fit_pool(self, history: PriceHistory, pool: Histories) -> FittedModel:
        """Train the ensemble on the pool; the tracker begins without offsets."""
        trained = fit_pool_ensemble(history, pool, self.settings)
        offsets = Tracker.new(self.horizons, step=self.tracker_step).offsets
        return FittedModel(trained.ensemble, trained.fitted_through, offsets, trained.training)

    def fine_tune(
        self, fitted: FittedModel, history: PriceHistory, pool: Histories, *, holdout_days: int = 0
    ) -> FittedModel:
        """Continue the training for a few epochs at a low learning rate; the quantile offsets stay."""
        self.require_days(history)
        trained_through = history.origin - timedelta(days=holdout_days)
        trained = fine_tune_ensemble(fitted.state, history, pool, self.settings, trained_through)
        return FittedModel(trained.ensemble, trained_through, fitted.quantile_offsets, trained.training)

    def predict(
        self, fitted: FittedModel, candles: pd.DataFrame, rows: Rows, *, components: bool = True
    ) -> Mapping[int, Predicted]:
        """The networks' quantiles mixed with the mean of three baselines; all baselines are components."""
        return self._predict(fitted.state, candles, rows, BASELINES if components else ())

    def _predict(
        self, ensemble: Ensemble, candles: pd.DataFrame, rows: Rows, baselines: Sequence[str]
    ) -> dict[int, Predicted]:
        settings, horizons = self.settings, self.horizons
        candles = input_candles(ensemble, candles)
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
        """The offsets learned on the days after `fitted_through`, (levels,) for each horizon."""
        settings, candles = self.settings, history.candles
        tracker = Tracker.new(self.horizons, step=settings.tracker_step)
        if fitted_through >= history.origin:  # no day is left: training takes the twin's offsets
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
        """The arrays of each member."""
        members: Sequence[Sequence[NDArray[Any]]] = fitted.state.members
        return members

    def save(self, fitted: FittedModel, draft: Draft) -> None:
        """Write a weights file per member, and `ensemble.json`."""
        ensemble: Ensemble = fitted.state
        features = int(ensemble.members[0][0].shape[0])
        for number, weights in enumerate(ensemble.members, start=1):
            with trainers_for(self.settings, features).first.borrow(weights) as network:
                draft.write_weights(network, _weights_file(number))
        shape = {"features": features, "members": len(ensemble.members)}
        tails = {"tails": ensemble.tails} if ensemble.tails else {}
        draft.write_json("ensemble.json", {"columns": asdict(ensemble.columns), **shape, **tails})

    def load(self, bundle: Bundle) -> Ensemble:
        """Read the ensemble of a bundle."""
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
        """The losses of the members, with early stopping, as PNG by file name."""
        from closecast.tasks.profiles.figures import loss_figure

        unit = "negative log likelihood, scaled returns"
        return {"losses.png": loss_figure(fitted.judged.training.losses, unit)}


def _weights_file(number: int) -> str:
    return f"member-{number}.weights.h5"
