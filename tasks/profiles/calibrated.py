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

from storage.models.bundles import Bundle, Draft
from tasks.calibration.quantile_tracker import Tracker, mix
from tasks.core.history import PriceHistory
from tasks.core.types import Floats, Rows
from tasks.features.expected_sigma import expected_sigmas
from tasks.features.inputs import Columns, columns_of, make_inputs, usable_rows
from tasks.features.volatility import log_returns, with_outcome
from tasks.network.forward import weight_shapes
from tasks.profiles.base import BaseProfile, FittedModel, Histories, Predicted, quantiles_and_sigmas
from tasks.profiles.baselines import BASELINES, MIN_RETURNS, MIXED, baseline_quantiles
from tasks.profiles.calibrated_settings import CalibratedSettings
from tasks.profiles.ensemble import (
    Ensemble,
    ensemble_quantiles,
    fine_tune_ensemble,
    fit_ensemble,
    trainers_for,
)


class CalibratedProfile(BaseProfile):
    """The default: a distribution whose intervals cover what they promise."""

    name = "calibrated"
    Settings = CalibratedSettings
    component = "lstm"

    def origins(self, candles: pd.DataFrame, fitted: FittedModel | None = None) -> Rows:
        """Rows whose whole window is known, with no gap in it or before it."""
        return self._origins(
            candles, fitted.state.columns if fitted else columns_of(candles, share=self.settings.column_share)
        )

    def _origins(self, candles: pd.DataFrame, columns: Columns) -> Rows:
        # They are the same for every horizon.
        settings = self.settings.model_copy(update={"horizons": (1,)})
        return usable_rows(make_inputs(candles, settings, columns), lookback=settings.lookback)

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
        """Half the networks, half the mean of three baselines, beside every baseline.

        Raises:
            NotEnoughHistory: too few returns for a baseline.
        """
        return self._predict(fitted.state, candles, rows, BASELINES if components else ())

    def _predict(
        self, ensemble: Ensemble, candles: pd.DataFrame, rows: Rows, baselines: Sequence[str]
    ) -> dict[int, Predicted]:
        settings, horizons = self.settings, self.horizons
        sigmas = expected_sigmas(candles, horizons)
        inputs = make_inputs(candles, settings, ensemble.columns, sigmas)
        own = ensemble_quantiles(ensemble, inputs, rows, settings)
        beside = baseline_quantiles(candles, rows, horizons=horizons, components=baselines, sigmas=sigmas)
        predicted = {}
        for column, horizon in enumerate(horizons):
            mixed, components = own[:, column], beside[horizon]
            if settings.baseline_share and components:
                mean = np.mean([components[name] for name in MIXED], axis=0)
                mixed = mix(mixed, mean, share=settings.baseline_share)
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
        rows = with_outcome(candles, self._origins(candles, ensemble.columns))
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
        draft.write_json("ensemble.json", {"columns": asdict(ensemble.columns), **shape})

    def load(self, bundle: Bundle) -> Ensemble:
        """The ensemble of a bundle."""
        ensemble = bundle.read_json("ensemble.json")
        outputs = 3 * len(self.horizons)
        shapes = weight_shapes(ensemble["features"], self.settings.units, outputs)
        files = map(_weights_file, range(1, ensemble["members"] + 1))
        members = tuple(bundle.read_weights(shapes, file) for file in files)
        return Ensemble(Columns(**ensemble["columns"]), members)

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:  # noqa: ARG002
        """The losses of the members, those with early stopping."""
        from tasks.profiles.figures import loss_figure

        unit = "negative log likelihood, scaled returns"
        return {"losses.png": loss_figure(fitted.judged.training.losses, unit)}


def _weights_file(number: int) -> str:
    return f"member-{number}.weights.h5"
