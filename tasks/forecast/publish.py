"""The champion's forecast to rows of the table, once for each key; and the days that have none."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow.dataset as ds

from storage.core.errors import NotEnoughHistory
from storage.core.home import Home
from storage.core.provenance import code_version
from storage.tables.delta import all_of, between
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from tasks.calibration.calibrator_states import CalibratorState, Chain, states_at
from tasks.calibration.quantile_tracker import to_prices, tracked_fan
from tasks.core.forecast import Forecast, HorizonForecast
from tasks.core.history import PriceHistory
from tasks.core.model import Model
from tasks.core.quantiles import MEDIAN
from tasks.core.steps import step
from tasks.core.types import Floats
from tasks.features.windows import newest_window
from tasks.profiles.base import Predicted, Profile, quantiles_and_sigmas
from tasks.profiles.named import own_files

log = logging.getLogger("closecast.publish")


@dataclass(frozen=True)
class RunKey:
    """What goes into a run: the same key gives the same forecast, so it is made once."""

    product_id: str
    origin_day: date
    profile: str
    data_version: str
    settings_version: str
    code_version: str

    @classmethod
    def of_run(cls, profile: Profile, history: PriceHistory) -> RunKey:
        """The key of a run of that profile on these prices, by this code."""
        versions = (history.data_version, profile.version, code_version(*own_files(profile)))
        return cls(history.product_id, history.origin, profile.name, *versions)

    def prediction_id(self, horizon: int) -> str:
        """The id of the forecast of one horizon: a digest of the run key and the horizon."""
        run_key = hashlib.sha256(json.dumps(astuple(self), default=str).encode()).hexdigest()
        return hashlib.sha256(json.dumps([run_key, horizon]).encode()).hexdigest()[:32]


@step(timeout_seconds=60, run_name="{key.product_id}")
def find_forecast(home: Home, key: RunKey, horizons: tuple[int, ...]) -> Forecast | None:
    """The stored forecast of a run, or None where one of its horizons is missing."""
    ids = [key.prediction_id(horizon) for horizon in horizons]
    days = [key.origin_day + timedelta(days=horizon) for horizon in horizons]
    rows = Predictions(home).find_all(ids, key.product_id, days)
    return Forecast.from_rows(rows) if len(rows) == len(ids) else None


def stored_run(home: Home, prediction_id: str) -> Forecast | None:
    """The whole stored run that the forecast of that id belongs to, or None where there is none."""
    row = Predictions(home).find(prediction_id)
    return None if row is None else run_of(home, row)


def run_of(home: Home, row: Mapping[str, Any]) -> Forecast:
    """The whole stored run that a row of the table belongs to."""
    same = [ds.field(name) == row[name] for name in RunKey.__dataclass_fields__]
    later = between("target_day", row["origin_day"], None)
    rows = Predictions(home).read(all_of(*same, *later), product_id=row["product_id"])
    return Forecast.from_rows(rows.to_pylist())


def make_forecast(
    profile: Profile,
    model: Model,
    history: PriceHistory,
    states: Mapping[int, CalibratorState],
    *,
    created_at: datetime,
    flow_run_id: str | None,
) -> Forecast:
    """Forecast from the last day of a history; nothing is read or written.

    Args:
        states: the calibrator's state for each horizon; none for a point.

    Raises:
        NotEnoughHistory: a gap in the input window.
    """
    newest_window(history.candles["day_utc"], history.closes, lookback=profile.consecutive_days)
    rows = profile.origins(history.candles, model.fitted)[-1:]
    if rows.tolist() != [len(history.candles) - 1]:
        raise NotEnoughHistory(f"the inputs of profile {profile.name} are not known on {history.origin}")
    predicted = profile.predict(model.fitted, history.candles, rows)
    key = RunKey.of_run(profile, history)
    last_close = float(history.closes[-1])
    fan = _fan(predicted, states)
    horizons = [
        _horizon_forecast(key, horizon, one, fan.get(horizon), last_close, states.get(horizon))
        for horizon, one in predicted.items()
    ]
    return Forecast(
        **vars(key),
        model_version=model.version,
        last_close=last_close,
        created_at=created_at,
        flow_run_id=flow_run_id,
        horizons=tuple(horizons),
    )


def _fan(predicted: Mapping[int, Predicted], states: Mapping[int, CalibratorState]) -> dict[int, Floats]:
    """The tracked quantiles of the log return over each horizon, (levels,); none for a point."""
    if any(one.quantiles is None for one in predicted.values()):
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
        assert predicted.points is not None  # noqa: S101 (a profile gives the one or the other)
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
    """The calibrator's chain of a profile's forecasts."""
    return Chain(product_id, profile.name, profile.recipe_version, profile.tracker_step)


@step(timeout_seconds=600, run_name="{history.product_id}")
def publish_forecast(
    home: Home,
    profile: Profile,
    model: Model,
    history: PriceHistory,
    *,
    created_at: datetime,
    flow_run_id: str | None,
) -> Forecast:
    """Forecast with the champion and the calibrator's states, and add the rows unless they are there.

    Returns the stored forecast. The components are written first: a row of the table always has its own.

    Raises:
        HomeUnusable: a table cannot be written.
        NotEnoughHistory: a gap in the input window.
    """
    first = model.fitted.quantile_offsets or {}
    states = states_at(home, chain_of(profile, history.product_id), history.origin, first, created_at)
    forecast = make_forecast(profile, model, history, states, created_at=created_at, flow_run_id=flow_run_id)
    components(home).add(component_rows(profile, forecast))
    stored = Predictions(home).publish(forecast.rows())
    revisions = {row["prediction_id"]: row["revision"] for row in stored}
    published = tuple(replace(row, revision=revisions[row.prediction_id]) for row in forecast.horizons)
    first, last = published[0], published[-1]
    kind = f"revision {first.revision}" if first.revision else "published"
    days = str(first.target_day) if first is last else f"{first.target_day} to {last.target_day}"
    log.info("%s: forecast for %s written to the table (%s)", history.product_id, days, kind)
    return replace(forecast, horizons=published)


def component_rows(profile: Profile, forecast: Forecast) -> list[dict[str, Any]]:
    """The rows of the component forecasts: the model alone, and each baseline."""
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


def days_to_backfill(home: Home, history: PriceHistory, profile: str, *, limit: int) -> list[date]:
    """The days with a close between the newest forecast's origin and this one, oldest first.

    A machine was off, or a schedule paused. None where nothing was forecast before: a first run has missed
    nothing. At most `limit` days back.
    """
    if limit < 1:
        return []
    rows = Predictions(home).between(history.product_id, profile=profile, columns=["origin_day"], horizon=1)
    earlier = [day for day in rows["origin_day"].unique().to_pylist() if day < history.origin]
    if not earlier:
        return []
    after = max(max(earlier), history.origin - timedelta(days=limit + 1))
    return [day for day in history.days.tolist() if after < day < history.origin]
