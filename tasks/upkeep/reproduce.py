"""Reproduces a stored forecast from its versions, and compares it to the last bit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from closecast.storage.core.errors import BadInput, Damaged
from closecast.storage.core.home import Home
from closecast.storage.core.provenance import code_version
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.delta import among
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import FLOAT, FLOATS, PREDICTIONS, calibrator, components
from closecast.tasks.calibration.calibrator_states import CalibratorState
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import Lineage, Model
from closecast.tasks.core.tensorflow_runtime import library_versions
from closecast.tasks.forecast.publish import RunKey, component_rows, make_forecast, make_further, run_of
from closecast.tasks.prices.ingest import history_of
from closecast.tasks.profiles.base import FittedModel, Profile
from closecast.tasks.profiles.named import own_files, profile_class
from closecast.tasks.training.registration import fit_with_twin, load_model

log = logging.getLogger("closecast.reproduce")

FIGURES = [field.name for field in PREDICTIONS.arrow if field.type in (FLOAT, FLOATS)]


@dataclass(frozen=True)
class Comparison:
    """Stored and reproduced figures, the same number of each."""

    name: str
    stored: tuple[float, ...]
    again: tuple[float, ...]

    @property
    def same(self) -> bool:
        """Whether all bits are the same."""
        return np.array(self.stored).tobytes() == np.array(self.again).tobytes()

    @property
    def distance(self) -> float:
        """The largest distance between two figures, as a share of the stored one."""
        if len(self.stored) != len(self.again):
            return float("inf")
        stored, again = np.array(self.stored), np.array(self.again)
        distance = np.abs(again - stored) / np.maximum(np.abs(stored), np.finfo("float64").tiny)
        return float(np.max(np.where(stored == again, 0.0, distance), initial=0.0))


@dataclass(frozen=True)
class Reproduction:
    """The comparisons of a forecast's figures, and of its model's weights when it was trained again.

    `changed_versions` names what has changed since the model was trained or the forecast made: then and now.
    """

    forecast: Forecast
    figures: tuple[Comparison, ...]
    weights: tuple[Comparison, ...]
    changed_versions: Mapping[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether everything is the same to the last bit."""
        return all(comparison.same for comparison in (*self.figures, *self.weights))


def reproduce_forecast(
    home: Home, prediction_id: str, *, profile_name: str | None = None, retrain: bool = False
) -> Reproduction:
    """Make a stored forecast again from the same candles, model and calibrator state.

    Nothing is written to the home. `profile_name` is needed if the forecast's profile is a class that no
    installed package names. With `retrain` its model is trained again from data version, settings and seed
    (a fine-tuned one from the stored weights of its parent), and forecasts.

    Raises:
        BadInput: there is no such forecast.
        Damaged: what it was made from is no longer what was recorded.
    """
    row = Predictions(home).find(prediction_id)
    if row is None:
        raise BadInput(
            f"no forecast {prediction_id!r:.60} is in {home.root}: `closecast predictions` lists their ids"
        )
    models, kind, model = Models(home), profile_class(profile_name or row["profile"]), None
    profile: Profile = kind({})
    if row["model_version"] is not None:
        bundle = models.open(models.version(row["product_id"], row["profile"], row["model_version"]))
        profile = kind(bundle.read_json("settings.json"))
        model = load_model(models, profile, row["product_id"], row["model_version"])
    weights = list[Comparison]()
    if retrain and model:
        fitted = _train_again(home, models, profile, model.lineage)
        weights = _compare_models(profile, model.fitted, fitted)
        model = replace(model, fitted=fitted)
    figures = _compare_forecasts(home, profile, model, row)
    own = {"closecast (of the forecast)": row["code_version"]}
    if model:
        own["closecast (of the model)"] = model.lineage.code_version
    then = {**(model.lineage.libraries if model else {}), **own}
    now = {**library_versions(), **dict.fromkeys(own, code_version(*own_files(profile)))}
    changed = {name: (was, now[name]) for name, was in then.items() if name in now and was != now[name]}
    return Reproduction(Forecast.from_rows([row]), tuple(figures), tuple(weights), changed)


def _history(home: Home, product_id: str, data_version: str) -> PriceHistory:
    with Prices(home) as prices:
        return history_of(product_id, prices.prices_at(data_version))


def _compare(name: str, stored: Any, again: Any) -> Comparison:
    first, second = (np.ravel(np.array([] if part is None else part, "float64")) for part in (stored, again))
    return Comparison(name, tuple(first.tolist()), tuple(second.tolist()))


def _compare_forecasts(
    home: Home, profile: Profile, model: Model | None, row: Mapping[str, Any]
) -> list[Comparison]:
    """The figures of the row, then those of its components."""
    product_id, horizon = row["product_id"], row["horizon"]
    mine = components(home, product_id).read(ds.field("prediction_id") == row["prediction_id"])
    stored = {component["component"]: component for component in mine.to_pylist()}
    states = _states_of(home, profile, row) if model and row["quantiles"] else {}
    history = _history(home, product_id, row["data_version"])
    run = {name: row[name] for name in ("created_at", "flow_run_id")}
    if model:
        again = make_forecast(profile, model, history, states, **run)
    else:
        again = make_further(profile, history, horizon, run_of(home, row).rows, **run)
    same_horizon = next(other for other in again.rows() if other["horizon"] == horizon)
    comparisons = [_compare(name, row[name], same_horizon[name]) for name in FIGURES if row[name] is not None]
    for component in component_rows(profile, again):
        if component["horizon"] == horizon:
            name = component["component"]
            comparisons += [
                _compare(f"{name}: {figure}", stored.get(name, {}).get(figure), component[figure])
                for figure in ("sigma", "quantiles")
            ]
    return comparisons


def _states_of(home: Home, profile: Profile, row: Mapping[str, Any]) -> dict[int, CalibratorState]:
    """The calibrator states that a run's forecasts were made with: together they are one fan."""
    key = RunKey(**{field.name: row[field.name] for field in fields(RunKey)})
    ids = {key.prediction_id(horizon): horizon for horizon in profile.horizons}
    tracked = (ds.field("component") == profile.component) & among("prediction_id", list(ids))
    named = {
        ids[one["prediction_id"]]: one["calibrator_version"]
        for one in components(home, row["product_id"]).read(tracked).to_pylist()
    }
    if len(named) < len(ids):
        raise Damaged(
            f"the run of forecast {row['prediction_id']} lacks components: restore them from a backup"
        )
    versions = among("calibrator_version", list(named.values()))
    stored = calibrator(home, row["product_id"]).read(versions).to_pylist()
    states = {
        one["calibrator_version"]: CalibratorState(
            one["calibrator_version"], one["target_day"], np.array(one["quantile_offsets"])
        )
        for one in stored
    }
    if missing := set(named.values()) - states.keys():
        raise Damaged(f"the calibrator state {min(missing)} is missing: restore it from a backup")
    return {horizon: states[version] for horizon, version in named.items()}


def _train_again(home: Home, models: Models, profile: Profile, lineage: Lineage) -> FittedModel:
    """The model's training, and its twin's, from its data, settings and seeds."""
    history = _history(home, lineage.product_id, lineage.data_version)
    pooled = lineage.pooled_data_versions.items()  # in their order
    pool = {product: _history(home, product, version) for product, version in pooled}
    log.info("%s: training again on %d closes", lineage.product_id, len(history.candles))
    parent = None
    if lineage.parent is not None:
        parent = load_model(models, profile, lineage.product_id, lineage.parent).fitted
    days = lineage.twin.holdout_days if lineage.twin else 0
    return fit_with_twin(profile, history, pool, parent, days, lineage.basis)


def _compare_models(profile: Profile, fitted: FittedModel, again: FittedModel) -> list[Comparison]:
    """The weights of each network, of the twin as well, then the quantile offsets."""
    comparisons = []
    for prefix, stored, made in (("", fitted, again), ("twin's ", fitted.twin, again.twin)):
        if stored is None or made is None:
            continue
        networks = zip(profile.weights(stored), profile.weights(made), strict=True)
        comparisons += [
            _compare(
                f"weights of {prefix}network {number}",
                *(np.concatenate([*map(np.ravel, layers)]) for layers in both),
            )
            for number, both in enumerate(networks, start=1)
        ]
    first, second = (one.quantile_offsets or {} for one in (fitted, again))
    if second:
        comparisons.append(
            _compare("quantile offsets", *(np.stack([*offsets.values()]) for offsets in (first, second)))
        )
    return comparisons
