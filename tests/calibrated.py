"""Shared by tests of the calibrated profile: small settings, a home with its champion, forecasts by hand."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models, ModelVersion
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import components
from closecast.tasks.core.forecast import Forecast, HorizonForecast
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import Model
from closecast.tasks.core.quantiles import LEVELS, MEDIAN
from closecast.tasks.evaluation.scoring import score_due
from closecast.tasks.forecast.publish import RunKey, component_rows, publish_forecast
from closecast.tasks.prices.ingest import IngestedPrices, IngestRequest, read_prices
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.training.registration import load_model
from closecast.tasks.training.selection import ModelSelection, select_model
from tests.engines import copy_home
from tests.helpers import BTC, FIRST, NOW, SHA, die, made_up, publish_all, store
from tests.once import made_once, session_folder

# Settings that train in a moment.
HORIZONS = (1, 3, 7)
QUICK: dict[str, Any] = {"units": 4, "members": 1, "epochs": 1, "horizons": HORIZONS, "pool_products": ()}
# With these every network of four units passes the gate.
LENIENT: dict[str, Any] = {"gate_ratio_180": 9.0, "gate_ratio_365": 9.0}
CODE = "0.0.0+test"
STORED, MADE = 1000, 600
STANDARD = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def quick(**changed: Any) -> CalibratedProfile:
    return CalibratedProfile(QUICK | changed)


def day(number: int) -> date:
    """The day of that number; the first one that is stored has number 1."""
    return FIRST + timedelta(days=number - 1)


@functools.cache
def candles() -> pd.DataFrame:
    """The days that the homes of these tests hold."""
    return made_up(STORED)


def close(number: int) -> float:
    return float(candles()["close"].iloc[number - 1])


@dataclass(frozen=True)
class Runs:
    """The steps of a daily run in one home, each by the number of its origin."""

    home: Home
    profile: CalibratedProfile

    def with_settings(self, **changed: Any) -> Runs:
        """The same home with other settings."""
        return replace(self, profile=CalibratedProfile(self.profile.settings.model_dump() | changed))

    def prices(self, number: int) -> IngestedPrices:
        """The stored prices up to a day, which need not have a close."""
        pool, days = self.profile.pool_products, self.profile.min_days
        request = IngestRequest(BTC, day(number), NOW, NOW.date(), pool_products=pool, model_days=days)
        with Prices(self.home) as prices:
            return read_prices(prices, request)

    def history(self, number: int) -> PriceHistory:
        return self.prices(number).history

    def data(self, number: int, product_id: str = BTC) -> str:
        with Prices(self.home) as prices:
            return prices.data_version(product_id, day(number), created_at=NOW)

    def restate(self, number: int, close: float) -> None:
        """The close of a day is observed with another figure, or a missing day is filled."""
        row = candles().iloc[[number - 1]].assign(close=close)
        with Prices(self.home) as prices:
            prices.append(BTC, row, source="csv", observed_at=NOW, payload_sha256=SHA)

    def select(self, number: int) -> ModelSelection:
        return select_model(self.home, self.profile, self.prices(number))

    def model(self, version: str = "1") -> Model:
        return load_model(Models(self.home), self.profile, BTC, version)

    def key(self, number: int) -> RunKey:
        return RunKey.of_run(self.profile, self.history(number))

    def prediction_id(self, number: int, horizon: int = 1) -> str:
        """The id of the forecast from a day; other settings give another one."""
        return self.key(number).prediction_id(horizon)

    def publish(self, number: int, version: str | None = "1", created_at: datetime = NOW) -> Forecast:
        history, model = self.history(number), self.model(version) if version else None
        return publish_forecast(
            self.home, self.profile, model, history, created_at=created_at, flow_run_id=None
        )

    def score(self, number: int, moment: datetime = NOW) -> int:
        return score_due(self.home, self.history(number), self.profile, moment)

    def live(self, number: int) -> Forecast:
        """All the steps of a day."""
        self.score(number)
        return self.publish(number, self.select(number).version)

    def versions(self) -> dict[str, ModelVersion]:
        return {version.version: version for version in Models(self.home).versions(BTC, "calibrated")}

    def statuses(self) -> dict[str, str]:
        return {number: version.tags["status"] for number, version in sorted(self.versions().items())}

    def holder(self, alias: str) -> str | None:
        return next((v.version for v in self.versions().values() if alias in v.aliases), None)

    def metrics(self, number: str) -> Mapping[str, float]:
        """The figures on the MLflow run of a version."""
        models, version = Models(self.home), self.versions()[number]
        run_id = models.client.get_model_version(version.name, number).run_id
        figures: Mapping[str, float] = models.client.get_run(run_id).data.metrics
        return figures


def _stored(folder: Path) -> Path:
    def make(root: Path) -> None:
        home = Home(root).prepare()
        store(home, candles())
        assert list(Models(home).client.search_registered_models()) == []

    made_once(folder / "stored", make)
    return folder / "stored"


def made_home(folder: Path) -> Path:
    """A home with 1000 days and a champion made on day 600, for copying; trained once for a folder."""

    def make(root: Path) -> None:
        copy_home(_stored(folder), root)
        assert Runs(Home(root), quick()).select(MADE).version == "1"

    made_once(folder / "made", make)
    return folder / "made"


def empty_runs(factory: pytest.TempPathFactory, place: Path, **changed: Any) -> Runs:
    """A home in `place` without prices, and with a registry."""
    home = Home(place).prepare()
    assert list(Models(home).client.search_registered_models()) == []
    return Runs(home, quick(**changed))


def stored_runs(factory: pytest.TempPathFactory, place: Path, **changed: Any) -> Runs:
    """A home in `place` with 1000 days and no model yet."""
    copy_home(_stored(session_folder(factory)), place)
    return Runs(Home(place), quick(**changed))


def champion_runs(factory: pytest.TempPathFactory, place: Path, **changed: Any) -> Runs:
    """A home in `place` with 1000 days and a champion made on day 600, which is trained once a session."""
    return Runs(copy_home(made_home(session_folder(factory)), place), quick(**changed))


def spread(last_closes: float, *, sd: float = 0.03) -> list[float]:
    """Quantiles of a close whose log return is normal."""
    return [float(price) for price in last_closes * np.exp(sd * STANDARD)]


def forecast_by_hand(
    number: int,
    prediction_id: str,
    *,
    profile: CalibratedProfile | None = None,
    quantiles: list[float] | None = None,
    point: float | None = None,
    horizon: int = 1,
) -> Forecast:
    """A forecast of one horizon from a day: by this profile, or by the article."""
    last = close(number)
    if quantiles is None and profile is not None:
        quantiles = spread(last)
    only = HorizonForecast(
        prediction_id=prediction_id,
        horizon=horizon,
        target_day=day(number + horizon),
        point=point if point is not None else quantiles[MEDIAN] if quantiles else last,
        quantiles=None if quantiles is None else tuple(quantiles),
        sigma=None if quantiles is None else 0.03,
        components={} if quantiles is None else {"lstm": tuple(quantiles)},
        calibrator_version=f"{profile.recipe_version}:made-up" if profile else None,
    )
    return Forecast(
        product_id=BTC,
        origin_day=day(number),
        profile=profile.name if profile else "article",
        model_version="1",
        data_version="BTC-USD@1:ab",
        settings_version=profile.version if profile else "article-1",
        code_version=CODE,
        last_close=last,
        created_at=NOW,
        flow_run_id=None,
        horizons=(only,),
    )


def put_forecast(home: Home, number: int, prediction_id: str, **how: Any) -> dict[str, Any]:
    """Store a forecast that was made by hand; its row."""
    forecast = forecast_by_hand(number, prediction_id, **how)
    components(home).add(component_rows(how.get("profile") or quick(), forecast))
    rows: list[dict[str, Any]] = Predictions(home).publish(forecast.rows())
    return rows[0]


def put_forecasts(home: Home, forecasts: Sequence[Forecast], profile: CalibratedProfile) -> None:
    """Store the first forecasts of their days, which were made by hand, in one commit a table."""
    components(home).add([row for forecast in forecasts for row in component_rows(profile, forecast)])
    publish_all(home, [row for forecast in forecasts for row in forecast.rows()])


def select_and_die(runs: Runs, number: int, point: str) -> None:
    """Select the model of a day, and be killed where one of its steps begins."""
    from closecast.tasks.training import selection

    if point == "gate":
        vars(selection)["judge"] = die
    else:
        setattr(Models, point, die)
    runs.select(number)
