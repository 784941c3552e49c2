"""The champion's forecast as rows of the tables, added once per run key; and the days without a forecast."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from closecast.storage.core.home import Home
from closecast.storage.core.provenance import code_version
from closecast.storage.tables.delta import all_of, between
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import components
from closecast.tasks.calibration.calibrator_states import CalibratorState, Chain, states_at
from closecast.tasks.calibration.quantile_tracker import fitted_into, to_prices, tracked_fan
from closecast.tasks.core.forecast import Forecast, HorizonForecast
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import Model
from closecast.tasks.core.quantiles import MEDIAN
from closecast.tasks.core.steps import step
from closecast.tasks.core.types import Floats
from closecast.tasks.profiles.base import Predicted, Profile, quantiles_and_sigmas
from closecast.tasks.profiles.named import own_files

log = logging.getLogger("closecast.publish")


@dataclass(frozen=True)
class RunKey:
    """What decides a run's forecast: the same key gives the same forecast, so it is made once."""

    product_id: str
    origin_day: date
    profile: str
    data_version: str
    settings_version: str
    code_version: str

    @classmethod
    def of_run(cls, profile: Profile, history: PriceHistory) -> RunKey:
        """The key of a run of this code with that profile, from the last day of the history."""
        versions = (history.data_version, profile.version, code_version(*own_files(profile)))
        return cls(history.product_id, history.origin, profile.name, *versions)

    def prediction_id(self, horizon: int) -> str:
        """The id of the forecast for one horizon: a digest of the run key and the horizon."""
        run_key = hashlib.sha256(json.dumps(astuple(self), default=str).encode()).hexdigest()
        return hashlib.sha256(json.dumps([run_key, horizon]).encode()).hexdigest()[:32]


@step(timeout_seconds=60, run_name="{key.product_id}")
def find_forecast(home: Home, key: RunKey, horizons: tuple[int, ...]) -> Forecast | None:
    """The stored forecast of a run; None if one of its horizons is missing."""
    ids = [key.prediction_id(horizon) for horizon in horizons]
    days = [key.origin_day + timedelta(days=horizon) for horizon in horizons]
    rows = Predictions(home).find_all(ids, key.product_id, days)
    return Forecast.from_rows(rows) if len(rows) == len(ids) else None


@dataclass(frozen=True)
class StoredRun:
    """A row of the table `predictions`, and the run that it belongs to."""

    row: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]  # all of the run, the nearest target day first

    @property
    def forecast(self) -> Forecast:
        """The forecast with this row alone."""
        return Forecast.from_rows([self.row])

    @property
    def fan(self) -> Forecast:
        """The run's forecast, without the fallbacks that were added to a model's."""
        return Forecast.from_rows([row for row in self.rows if row["basis"] == self.rows[0]["basis"]])


def stored_run(home: Home, prediction_id: str) -> StoredRun | None:
    """The stored run that the forecast of that id belongs to; None if there is none."""
    row = Predictions(home).find(prediction_id)
    return None if row is None else run_of(home, row)


def run_of(home: Home, row: Mapping[str, Any]) -> StoredRun:
    """The stored run that a row of the table belongs to."""
    key = RunKey(**{field.name: row[field.name] for field in fields(RunKey)})
    return StoredRun(row, rows_of_run(home, key))


def rows_of_run(home: Home, key: RunKey) -> list[dict[str, Any]]:
    """The rows of the table that belong to a run, the nearest target day first."""
    same = [ds.field(name) == value for name, value in vars(key).items()]
    later = between("target_day", key.origin_day, None)
    rows: list[dict[str, Any]] = (
        Predictions(home).read(all_of(*same, *later), product_id=key.product_id).to_pylist()
    )
    return sorted(rows, key=lambda row: row["horizon"])


def can_forecast(profile: Profile, model: Model, history: PriceHistory) -> bool:
    """Whether the last day of a history has all inputs of the model."""
    rows = profile.origins(history.candles, model.fitted)[-1:]
    return bool(rows.tolist() == [len(history.candles) - 1])


def make_forecast(
    profile: Profile,
    model: Model | None,
    history: PriceHistory,
    states: Mapping[int, CalibratorState],
    *,
    horizons: Sequence[int] | None = None,
    created_at: datetime,
    flow_run_id: str | None,
) -> Forecast:
    """Forecast from the last day of a history: by the model or, without one, by the baselines.

    Nothing is read or written.

    Args:
        model: one that `can_forecast`; None for a fallback.
        states: the calibrator's state for each horizon; none for a point or a fallback.
        horizons: of a fallback; by default those of the profile.
    """
    rows = np.array([len(history.candles) - 1])
    if model:
        predicted = profile.predict(model.fitted, history.candles, rows)
    else:
        predicted = profile.fallback(history.candles, rows, horizons or profile.horizons)
    key = RunKey.of_run(profile, history)
    last_close = float(history.closes[-1])
    fan = _fan(predicted, states)
    horizon_forecasts = [
        _horizon_forecast(key, horizon, part, fan.get(horizon), last_close, states.get(horizon))
        for horizon, part in predicted.items()
    ]
    return Forecast(
        **vars(key),
        model_version=model.version if model else None,
        last_close=last_close,
        created_at=created_at,
        flow_run_id=flow_run_id,
        horizons=tuple(horizon_forecasts),
        basis=model.lineage.basis if model else "fallback",
    )


def _fan(predicted: Mapping[int, Predicted], states: Mapping[int, CalibratorState]) -> dict[int, Floats]:
    """The tracked quantiles of the log return over each horizon, (levels,); none for a point."""
    if any(part.quantiles is None for part in predicted.values()):
        return {}
    own, scales = ({h: part[0] for h, part in parts.items()} for parts in quantiles_and_sigmas(predicted))
    return tracked_fan(own, scales, {horizon: state.quantile_offsets for horizon, state in states.items()})


def _horizon_forecast(
    key: RunKey,
    horizon: int,
    predicted: Predicted,
    quantiles: Floats | None,
    last_close: float,
    state: CalibratorState | None,
) -> HorizonForecast:
    shared: Any = {
        "prediction_id": key.prediction_id(horizon),
        "horizon": horizon,
        "target_day": key.origin_day + timedelta(days=horizon),
    }
    if quantiles is None or predicted.sigma is None:
        assert predicted.points is not None  # noqa: S101 (a profile gives quantiles or points)
        return HorizonForecast(**shared, point=float(predicted.points[0]))
    prices = to_prices(quantiles, last_close)
    return HorizonForecast(
        **shared,
        point=float(prices[MEDIAN]),
        quantiles=tuple(prices.tolist()),
        sigma=float(predicted.sigma[0]),
        components={
            name: tuple(to_prices(rows[0], last_close).tolist())
            for name, rows in predicted.components.items()
        },
        calibrator_version=state.calibrator_version if state else None,
    )


def chain_of(profile: Profile, product_id: str) -> Chain:
    """The chain of calibrator states for a product's forecasts by a profile."""
    return Chain(product_id, profile.name, profile.recipe_version, profile.tracker_step)


@step(timeout_seconds=600, run_name="{history.product_id}")
def publish_forecast(
    home: Home,
    profile: Profile,
    model: Model | None,
    history: PriceHistory,
    *,
    created_at: datetime,
    flow_run_id: str | None,
) -> Forecast:
    """Forecast with the champion and the calibrator's states, and add the rows unless they are there.

    If no champion can forecast from the last day, the forecast is a fallback. Returns the stored forecast.

    Raises:
        HomeUnusable: a table cannot be written.
    """
    states: Mapping[int, CalibratorState] = {}
    if model and not can_forecast(profile, model, history):
        text = "%s: version %s lacks inputs on %s, so the baselines forecast"
        log.warning(text, history.product_id, model.version, history.origin)
        model = None
    if model:
        first = model.fitted.quantile_offsets or {}
        states = states_at(home, chain_of(profile, history.product_id), history.origin, first, created_at)
    forecast = make_forecast(profile, model, history, states, created_at=created_at, flow_run_id=flow_run_id)
    return _publish(home, profile, forecast)


@step(timeout_seconds=600, run_name="{history.product_id}")
def publish_further(
    home: Home,
    profile: Profile,
    history: PriceHistory,
    horizon: int,
    *,
    created_at: datetime,
    flow_run_id: str | None,
) -> Forecast:
    """Add a fallback for one more horizon: on a day without a close, the newest origin is further back.

    Returns the stored forecast.

    Raises:
        HomeUnusable: a table cannot be written.
    """
    rows = rows_of_run(home, RunKey.of_run(profile, history))
    run: Any = {"created_at": created_at, "flow_run_id": flow_run_id}
    return _publish(home, profile, make_further(profile, history, horizon, rows, **run))


def make_further(
    profile: Profile, history: PriceHistory, horizon: int, rows: Sequence[Mapping[str, Any]], **run: Any
) -> Forecast:
    """The fallback of one horizon, fitted into the fan of the other rows of its run.

    `run` are `created_at` and `flow_run_id`. If the run itself is a fallback, its rows come out as they are.
    """
    forecast = make_forecast(profile, None, history, {}, horizons=[horizon], **run)
    one = forecast.first
    if one.quantiles is None:
        return forecast
    others = [(row["horizon"], np.array(row["quantiles"])) for row in rows]
    shorter, longer = ([q for h, q in others if h < horizon], [q for h, q in others if h > horizon])
    quantiles = fitted_into(np.array(one.quantiles), shorter, longer)
    fitted = replace(one, point=float(quantiles[MEDIAN]), quantiles=tuple(quantiles.tolist()))
    return replace(forecast, horizons=(fitted,))


def _publish(home: Home, profile: Profile, forecast: Forecast) -> Forecast:
    """Add the rows unless they are there; components first, so that no prediction is without its own."""
    components(home).add(component_rows(profile, forecast))
    stored = Predictions(home).publish(forecast.rows())
    revisions = {row["prediction_id"]: row["revision"] for row in stored}
    published = tuple(replace(row, revision=revisions[row.prediction_id]) for row in forecast.horizons)
    first, last = published[0], published[-1]
    kind = f"revision {first.revision}" if first.revision else "published"
    days = str(first.target_day) if first is last else f"{first.target_day} to {last.target_day}"
    text = "%s: forecast for %s written to the table (%s)"
    log.info(text, forecast.product_id, days, kind + (", a fallback" if forecast.basis == "fallback" else ""))
    return replace(forecast, horizons=published)


def component_rows(profile: Profile, forecast: Forecast) -> list[dict[str, Any]]:
    """The rows of the component forecasts for the table `components`: the model alone, each baseline."""
    return [
        {
            "prediction_id": horizon.prediction_id,
            "product_id": forecast.product_id,
            "target_day": horizon.target_day,
            "horizon": horizon.horizon,
            "component": component,
            "sigma": horizon.sigma,
            "calibrator_version": horizon.calibrator_version if component == profile.component else None,
            "quantiles": list(quantiles),
        }
        for horizon in forecast.horizons
        for component, quantiles in horizon.components.items()
    ]


def earlier_origins(home: Home, history: PriceHistory, profile: str) -> list[date]:
    """The days before the history's origin that forecasts were made from."""
    rows = Predictions(home).between(history.product_id, profile=profile, columns=["origin_day"], horizon=1)
    return [day for day in rows["origin_day"].unique().to_pylist() if day < history.origin]


def days_to_backfill(home: Home, history: PriceHistory, profile: str, *, limit: int) -> list[date]:
    """The days between the newest forecast's origin and this one that a run has missed, oldest first.

    A machine was off, or a schedule paused. They have a close that was known on the day itself, and lie at
    most `limit` days back. There are none before the first forecast: a first run has missed nothing.
    """
    earlier = earlier_origins(home, history, profile) if limit > 0 else []
    if not earlier:
        return []
    after = max(max(earlier), history.origin - timedelta(days=limit + 1))
    missed = [day for day in history.days.tolist() if after < day < history.origin]
    return [day for day in missed if history.was_known(day)]
