"""The homes of benchmarks/growth.py: what so many days leave behind, without running them.

A close a day after the 400 that the first forecast needs, a forecast with what stands beside it, a score and
a tracker state a day, a model version each thirty days. The storage's own classes add the rows, those of the
first years in one commit; the last four weeks a commit a day, each week compacted as `closecast maintain`
does it; the last six days as they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from storage.core.candle_schema import candle_frame
from storage.core.home import Home
from storage.core.intervals import INTERVALS
from storage.models.registry import Models
from storage.prices.database import Database
from storage.prices.price_store import Prices
from storage.prices.queries import DATA_VERSIONS, insert_new
from storage.tables.delta import Table
from storage.tables.schemas import PREDICTIONS, SCORES, components
from storage.upkeep.compaction import compact_table
from tasks.calibration.calibrator_states import OWN, advance_tracker, first_state
from tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, student_t
from tasks.profiles.baselines import BASELINES
from tasks.profiles.calibrated_settings import Recipe
from tasks.training.selection import select_model

PRODUCT, CODE = "BTC-USD", "0.0.0+bench"
# A network that is made in a moment: the storage is measured, not the forecast.
RECIPE = Recipe.model_validate({"units": 4, "members": 1, "epochs": 1, "pool_products": ()})
SETTINGS = RECIPE.model_dump(mode="json")
BEFORE = 400  # closes before the first forecast
FIRST = date(2015, 1, 1)
FEW = 9  # days of the home that warms up
TABLES = ("predictions", "scores", "components", "calibrator")
WEEKS, SINGLE, EVERY = 4, 6, 30


def day(number: int) -> date:
    """The day of that close; the first has number 1."""
    return FIRST + timedelta(days=number - 1)


def moment(number: int) -> datetime:
    """When the run whose origin has that number was at work."""
    return datetime.combine(day(number + 1), datetime.min.time(), UTC) + timedelta(minutes=15)


def walk(days: int) -> pd.DataFrame:
    """A candle frame of a made-up series; a longer one begins with the shorter."""
    draw = np.random.default_rng(1).normal(0, 0.03, (days, 2))
    close = np.round(4000 * np.exp(np.cumsum(draw[:, 0]) - 0.0004 * np.arange(days)), 2)
    spread = close * (0.01 + np.abs(draw[:, 1]))
    figures = {"open": close, "high": close + spread, "low": close / 1.02, "close": close}
    when = [pd.Timestamp(day(number)) for number in range(1, days + 1)]
    return candle_frame({"day_utc": when, **figures, "volume": np.exp(draw[:, 1])})


def make(home: Home, days: int) -> None:
    """Fill a home with the past that the next day finds."""
    candles = walk(BEFORE + days - 1)
    with Prices(home) as prices:
        prices.start_series(PRODUCT, "coinbase", started_at=moment(1))
        for first in range(0, len(candles), 300):
            page = candles.iloc[first : first + 300].reset_index(drop=True)
            prices.append(PRODUCT, page, source="coinbase", observed_at=moment(1), payload_sha256="ab" * 32)
            if first == 300:
                champion(home, prices.data_version(PRODUCT, day(BEFORE), created_at=moment(BEFORE)))
    database = Database(home)
    with database.write() as connection:
        insert_new(connection, DATA_VERSIONS, [data_row(BEFORE + n) for n in range(1, days)])
    database.close()
    register_more(home, days)
    quantile_offsets = np.zeros(len(LEVELS))
    first_state(home, PRODUCT, RECIPE, day(BEFORE), quantile_offsets, moment(BEFORE))
    closes = np.concatenate([[np.nan], candles["close"].to_numpy()])
    for first, last, tidied in stretches(days):
        fill(home, closes, first, last)
        for name in TABLES if tidied else ():
            compact_table(home, name)


def stretches(days: int) -> Iterator[tuple[int, int, bool]]:
    """The forecasts' numbers that go into one commit, first and last, and whether a compaction follows."""
    bulk = max(days - SINGLE - 7 * WEEKS, days % 7 or 1)
    yield 1, bulk, False
    yield from ((n, n, n <= days - SINGLE and (n - bulk) % 7 == 0) for n in range(bulk + 1, days + 1))


def champion(home: Home, data_version: str) -> None:
    """Train and promote the first version, from 400 closes."""
    select_model(
        home, PRODUCT, data_version=data_version, settings=SETTINGS, code_version=CODE, moment=moment(BEFORE)
    )


def register_more(home: Home, days: int) -> None:
    """A version each thirty days, each third one a refit, as the policy makes them; the same networks."""
    models = Models(home)
    first = models.version(PRODUCT, RECIPE.name, "1")
    bundle = models.open(first)
    newest = first
    for number in range(1, (days - 1) // EVERY + 1):
        origin = BEFORE + EVERY * number
        with models.draft(PRODUCT, RECIPE.name) as draft:
            for name in bundle.manifest:
                draft.write(name, bundle.read(name))
            kept = {name: tag for name, tag in first.tags.items() if name not in ("key", "manifest_sha256")}
            changed = {
                "origin_day": str(day(origin)),
                "trained_through": str(day(max(BEFORE, origin - RECIPE.gate_days))),
                "training_kind": "fine-tune" if number % 3 else "refit",
            }
            newest = models.register(
                draft,
                product_id=PRODUCT,
                profile=RECIPE.name,
                key=f"made up {number}",
                tags={**kept, **changed},
                params=SETTINGS,
                metrics={"member_1_best_val_loss": 1.0},
                curves={},
            )
    models.promote(newest)


def data_row(number: int) -> dict[str, object]:
    """What a run leaves in the table of data versions."""
    name = data_name(number)
    return {
        "data_version": name,
        "product_id": PRODUCT,
        "seq": number,
        "through_day_utc": day(number).isoformat(),
        "rows": number,
        "sha256": name.rpartition(":")[2],
        "created_at": moment(number).isoformat(),
    }


def data_name(number: int) -> str:
    """A name as a run gives it; its digest is made up."""
    return f"{PRODUCT}@{number}:{hashlib.sha256(str(number).encode()).hexdigest()}"


def fill(home: Home, closes: np.ndarray[Any, Any], first: int, last: int) -> None:
    """What the runs of those forecasts left: forecasts and what stands beside them, scores, states.

    A run scores the forecast of the run before, so the scores and states are those of a day earlier.
    """
    numbers = range(first, last + 1)
    shape = np.exp(student_t(np.zeros(1), np.full(1, 0.03), np.full(1, 4.0))[0])
    said = {number: closes[BEFORE + number - 1] * shape for number in numbers}
    beside = [
        {
            "prediction_id": prediction_id(number),
            "product_id": PRODUCT,
            "target_day": day(BEFORE + number),
            "component": method,
            "sigma": 0.03,
            "calibrator_version": f"{RECIPE.recipe_version}:{number:016d}" if method == OWN else None,
            "quantiles": (said[number] * (1 + 0.001 * place)).tolist(),
        }
        for number in numbers
        for place, method in enumerate((OWN, *BASELINES))
    ]
    components(home).add(beside)
    forecasts = [forecast_row(number, closes, said[number]) for number in numbers]
    Table(home.predictions, PREDICTIONS).add(forecasts)
    scored = range(max(first - 1, 1), last)
    Table(home.scores, SCORES).add([score_row(number, closes) for number in scored])
    advance_tracker(home, PRODUCT, RECIPE, day(BEFORE + last - 1), moment(BEFORE + last - 1))


def prediction_id(number: int) -> str:
    """As long as a real one."""
    return hashlib.sha256(f"p{number}".encode()).hexdigest()[:32]


def forecast_row(
    number: int, closes: np.ndarray[Any, Any], quantiles: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """The forecast that the run of that number published."""
    origin = BEFORE + number - 1
    bands = {
        f"{side}_{percent}": float(quantiles[place])
        for percent in INTERVALS
        for side, place in zip(("lower", "upper"), INTERVAL_INDEXES[percent], strict=True)
    }
    return {
        "prediction_id": prediction_id(number),
        "product_id": PRODUCT,
        "origin_day": day(origin),
        "target_day": day(origin + 1),
        "horizon": 1,
        "profile": RECIPE.name,
        "model_version": str(1 + (number - 1) // EVERY),
        "data_version": data_name(origin),
        "settings_version": RECIPE.version,
        "code_version": CODE,
        "last_close": float(closes[origin]),
        "point": float(closes[origin]),
        **bands,
        "quantile_levels": list(LEVELS),
        "quantiles": quantiles.tolist(),
        "created_at": moment(origin),
        "flow_run_id": f"{number:036d}",
        "revision": 0,
    }


def score_row(number: int, closes: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The score of that forecast, made by the run after it."""
    origin = BEFORE + number - 1
    error = float(closes[origin] - closes[origin + 1])
    return {
        "prediction_id": prediction_id(number),
        "product_id": PRODUCT,
        "target_day": day(origin + 1),
        "close": float(closes[origin + 1]),
        "error": error,
        "naive_error": error,
        "crps": 0.016 + 1e-6 * number,
        "naive_crps": 0.017,
        **{f"covered_{percent}": number % 100 < percent for percent in INTERVALS},
        "pit": number % 100 / 100,
        "data_version": data_name(origin + 1),
        "scored_at": moment(origin + 1),
    }
