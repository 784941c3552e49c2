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

from storage.models.bundles import Bundle, Draft
from tasks.calibration.quantile_tracker import mix, track
from tasks.core.history import PriceHistory
from tasks.core.quantiles import LEVELS
from tasks.core.types import Floats, Rows
from tasks.features.inputs import Columns, columns_of, make_inputs, usable_rows
from tasks.network.forward import weight_shapes
from tasks.profiles.base import BaseProfile, FittedModel, Histories, Predicted
from tasks.profiles.baselines import BASELINES, MIN_RETURNS, baseline_quantiles
from tasks.profiles.calibrated_settings import CalibratedSettings
from tasks.profiles.ensemble import (
    Ensemble,
    ensemble_quantiles,
    fine_tune_ensemble,
    fit_ensemble,
    trainers_for,
)

MIXED_WITH = "har_t"


class CalibratedProfile(BaseProfile):
    """The default: a distribution whose intervals cover what they promise."""

    name = "calibrated"
    Settings = CalibratedSettings
    component = "lstm"

    def origins(self, candles: pd.DataFrame, fitted: FittedModel | None = None) -> Rows:
        """Rows whose whole window is known, with no gap in it or before it."""
        settings = self.settings
        columns = fitted.state.columns if fitted else columns_of(candles, share=settings.column_share)
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
        """Half the networks, half HAR, beside every baseline.

        Raises:
            NotEnoughHistory: too few returns for a baseline.
        """
        return {1: self._predict(fitted.state, candles, rows, BASELINES if components else ())}

    def _predict(
        self, ensemble: Ensemble, candles: pd.DataFrame, rows: Rows, baselines: Sequence[str]
    ) -> Predicted:
        settings = self.settings
        inputs = make_inputs(candles, settings, ensemble.columns)
        own = ensemble_quantiles(ensemble, inputs, rows, settings)
        beside = baseline_quantiles(candles, rows, components=baselines) if len(rows) and baselines else {}
        mixed = own
        if settings.har_share and MIXED_WITH in beside:
            mixed = mix(own, beside[MIXED_WITH], share=settings.har_share)
        return Predicted(mixed, inputs.sigma[rows], {self.component: own, **beside})

    def _first_offsets(self, ensemble: Ensemble, history: PriceHistory, fitted_through: date) -> Floats:
        """The tracker's state after the days that no gradient came from, (levels,)."""
        settings, candles = self.settings, history.candles
        inputs = make_inputs(candles, settings, ensemble.columns)
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
        ensemble = bundle.read_json("ensemble.json")
        shapes = weight_shapes(ensemble["features"], self.settings.units, outputs=3)
        files = map(_weights_file, range(1, ensemble["members"] + 1))
        members = tuple(bundle.read_weights(shapes, file) for file in files)
        return Ensemble(Columns(**ensemble["columns"]), members)

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:  # noqa: ARG002
        """The members' losses."""
        from tasks.profiles.figures import loss_figure

        unit = "negative log likelihood, scaled returns"
        return {"losses.png": loss_figure(fitted.training.losses, unit)}


def _weights_file(number: int) -> str:
    return f"member-{number}.weights.h5"
