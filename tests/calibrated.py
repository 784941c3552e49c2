"""What the tests of the calibrated profile share: a small recipe, a home with its champion, forecasts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.core.home import Home
from storage.models.registry import Models, ModelVersion
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from tasks.core.quantiles import BANDS, LEVELS, MEDIAN
from tasks.profiles.calibrated_settings import Recipe
from tests.engines import copy_home
from tests.helpers import BTC, FIRST, NOW, SHA, die, made_up, store

# Settings of a recipe that trains in a moment.
QUICK: dict[str, Any] = {"units": 4, "members": 1, "epochs": 1, "pool_products": ()}
# With it, whatever a network of four units says passes the gate.
LENIENT: dict[str, Any] = {"gate_ratio_180": 9.0, "gate_ratio_365": 9.0}
CODE = "0.0.0+test"
STORED, MADE = 1000, 600
STANDARD = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def quick(**changed: Any) -> Recipe:
    """The small recipe with some fields set otherwise."""
    return Recipe.model_validate(QUICK | changed)


def day(number: int) -> date:
    """The day of that number; the first one that is stored has number 1."""
    return FIRST + timedelta(days=number - 1)


@functools.cache
def candles() -> pd.DataFrame:
    """The days that the homes of these tests hold."""
    return made_up(STORED)


def close(number: int) -> float:
    """The close in USD of the day of that number."""
    return float(candles()["close"].iloc[number - 1])


@dataclass(frozen=True)
class Runs:
    """The steps of a daily run in one home, each told the number of its origin."""

    home: Home
    recipe: Recipe

    def told(self, **changed: Any) -> Runs:
        """The same home with other settings."""
        return replace(self, recipe=self.recipe.model_copy(update=changed))

    def data(self, number: int, product_id: str = BTC) -> str:
        with Prices(self.home) as prices:
            return prices.data_version(product_id, day(number), created_at=NOW)

    def restate(self, number: int, usd: float) -> None:
        """The close of a day comes with another figure, or a day that was missing comes."""
        row = candles().iloc[[number - 1]].assign(close=usd)
        with Prices(self.home) as prices:
            prices.append(BTC, row, source="csv", observed_at=NOW, payload_sha256=SHA)

    def choose(self, number: int) -> Any:
        from tasks.training.selection import select_model

        return select_model(
            self.home,
            BTC,
            data_version=self.data(number),
            settings=self.recipe.model_dump(mode="json"),
            code_version=CODE,
            moment=NOW,
        )

    def publish(self, number: int, prediction_id: str, version: str = "1", **changed: Any) -> dict[str, Any]:
        from tasks.forecast.publish import publish_distribution

        given: dict[str, Any] = {
            "origin": day(number),
            "prediction_id": prediction_id,
            "model_version": version,
            "data_version": self.data(number),
            "settings": self.recipe.model_dump(mode="json"),
            "settings_version": self.recipe.version,
            "code_version": CODE,
            "created_at": NOW,
            "flow_run_id": None,
        }
        return publish_distribution(self.home, BTC, **given | changed)

    def score(self, number: int, moment: datetime = NOW) -> int:
        from tasks.evaluation.scoring import score_and_track

        settings = self.recipe.model_dump(mode="json")
        data_version = self.data(number)
        return score_and_track(self.home, BTC, data_version=data_version, settings=settings, moment=moment)

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


@functools.cache
def _stored(folder: Path) -> Path:
    home = Home(folder / "stored").prepare()
    store(home, candles())
    assert list(Models(home).client.search_registered_models()) == []  # MLflow takes seconds to make its own
    return home.root


@functools.cache
def made_home(folder: Path) -> Path:
    """A home with 1000 days and a champion made on day 600, for copying; trained once for a folder."""
    root = folder / "made"
    copy_home(_stored(folder), root)
    assert Runs(Home(root), quick()).choose(MADE).version == "1"
    return root


def stored_runs(factory: pytest.TempPathFactory, place: Path, **changed: Any) -> Runs:
    """A home in `place` with 1000 days and no model yet."""
    copy_home(_stored(factory.getbasetemp()), place)
    return Runs(Home(place), quick(**changed))


def champion_runs(factory: pytest.TempPathFactory, place: Path, **changed: Any) -> Runs:
    """A home in `place` with 1000 days and a champion made on day 600, which is trained once a session."""
    return Runs(copy_home(made_home(factory.getbasetemp()), place), quick(**changed))


def spread(last_closes: float, *, sd: float = 0.03) -> list[float]:
    """Quantiles in USD of a close whose log return is normal."""
    return [float(usd) for usd in last_closes * np.exp(sd * STANDARD)]


def put_forecast(
    home: Home,
    number: int,
    prediction_id: str,
    *,
    recipe: Recipe | None = None,
    quantiles: list[float] | None = None,
    point: float | None = None,
) -> dict[str, Any]:
    """A forecast from the day of that number, by hand: of a recipe's chain, or of the article."""
    last = close(number)
    said = quantiles if quantiles or recipe is None else spread(last)
    bands: dict[str, Any] = {}
    for percent in (50, 80, 95):
        low, high = BANDS[percent]
        bands[f"lower_{percent}"] = said[low] if said else None
        bands[f"upper_{percent}"] = said[high] if said else None
    row: dict[str, Any] = {
        "prediction_id": prediction_id,
        "product_id": BTC,
        "origin_day": day(number),
        "target_day": day(number + 1),
        "horizon": 1,
        "profile": recipe.name if recipe else "article",
        "model_version": "1",
        "data_version": "BTC-USD@1:ab",
        "settings_version": recipe.version if recipe else "article-1",
        "code_version": CODE,
        "last_close": last,
        "point": point if point is not None else said[MEDIAN] if said else last,
        **bands,
        "quantile_levels": list(LEVELS) if said else None,
        "quantiles": said,
        "created_at": NOW,
        "flow_run_id": None,
    }
    if recipe:
        components(home).add(
            [
                {
                    "prediction_id": prediction_id,
                    "product_id": BTC,
                    "target_day": day(number + 1),
                    "component": "lstm",
                    "sigma": 0.03,
                    "calibrator_version": f"{recipe.recipe_version}:made-up",
                    "quantiles": said,
                }
            ]
        )
    Predictions(home).publish([row])
    return row


def choose_and_die(runs: Runs, number: int, point: str) -> None:
    """Choose the champion of a day, and be killed where one of its steps begins."""
    from tasks.training import selection as challenge

    if point == "gate":
        challenge.gate = die  # type: ignore[assignment]
    else:
        setattr(Models, point, die)
    runs.choose(number)
