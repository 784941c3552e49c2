"""The homes of benchmarks/growth.py: what many daily runs leave behind, without running them.

One close a day after the 400 that the first forecast needs; a forecast with its components, a score and a
calibrator state a day; a model version every thirty days. The storage's own classes add the rows: those of
the first years in one commit, the last four weeks a commit a day, compacted each week as `closecast maintain`
does, the last six days not compacted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import rows
from benchmarks.rows import NO_OFFSETS, PROFILE, digest
from closecast.storage.core.candle_schema import candle_frame
from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.models.training_run import TrainingRun
from closecast.storage.prices.database import Database
from closecast.storage.prices.price_store import Prices
from closecast.storage.prices.queries import insert_new
from closecast.storage.prices.schema import DATA_VERSIONS
from closecast.storage.tables.delta import Table
from closecast.storage.tables.schemas import DAILY_TABLES, PREDICTIONS, SCORES, components
from closecast.storage.upkeep.compaction import compact_table
from closecast.tasks.calibration.calibrator_states import advance_states, states_at
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.types import Floats
from closecast.tasks.forecast.publish import chain_of, component_rows
from closecast.tasks.prices.ingest import IngestRequest, read_stored
from closecast.tasks.training.selection import select_model

PRODUCT = "BTC-USD"
CHAIN = chain_of(PROFILE, PRODUCT)
BEFORE = 400  # closes before the first forecast
FIRST = date(2015, 1, 1)
WEEKS, SINGLE, EVERY = 4, 6, 30


def day(number: int) -> date:
    """The day of the close of that number; the first has number 1."""
    return FIRST + timedelta(days=number - 1)


def moment(number: int) -> datetime:
    """When the run from that day starts."""
    return rows.moment(day(number))


def request(number: int) -> IngestRequest:
    """What the run from that day asks of the prices."""
    origin = day(number)
    return IngestRequest(PRODUCT, origin, moment(number), origin, PROFILE.min_fallback_days)


def made_up_candles(days: int) -> pd.DataFrame:
    """A candle frame of a random walk; a longer one begins with the shorter."""
    draw = np.random.default_rng(1).normal(0, 0.03, (days, 2))
    close = np.round(4000 * np.exp(np.cumsum(draw[:, 0]) - 0.0004 * np.arange(days)), 2)
    spread = close * (0.01 + np.abs(draw[:, 1]))
    figures = {"open": close, "high": close + spread, "low": close / 1.02, "close": close}
    when = [pd.Timestamp(day(number)) for number in range(1, days + 1)]
    return candle_frame({"day_utc": when, **figures, "volume": np.exp(draw[:, 1])})


def fill_home(home: Home, days: int) -> None:
    """Fill a home with the past that the next day's run finds."""
    candles = made_up_candles(BEFORE + days - 1)
    with Prices(home) as prices:
        prices.start_series(PRODUCT, "coinbase", started_at=moment(1))
        for first in range(0, len(candles), 300):
            page = candles.iloc[first : first + 300].reset_index(drop=True)
            prices.append(PRODUCT, page, source="coinbase", observed_at=moment(1), payload_sha256="ab" * 32)
    select_model(home, PROFILE, read_stored(home, request(BEFORE)))
    database = Database(home)
    with database.write() as connection:
        insert_new(connection, DATA_VERSIONS, [data_row(BEFORE + n) for n in range(1, days)])
    database.close()
    register_more(home, days)
    states_at(home, CHAIN, day(BEFORE), {1: NO_OFFSETS}, moment(BEFORE))
    closes = np.concatenate([[np.nan], candles["close"].to_numpy()])
    for first, last, compacted in commits(days):
        add_runs(home, closes, first, last)
        for name in DAILY_TABLES if compacted else ():
            compact_table(home, name)


def commits(days: int) -> Iterator[tuple[int, int, bool]]:
    """The first and last forecast of each commit, and whether a compaction follows."""
    bulk = max(days - SINGLE - 7 * WEEKS, days % 7 or 1)
    yield 1, bulk, False
    last = days - SINGLE
    yield from ((n, n, n <= last and (last - n) % 7 == 0) for n in range(bulk + 1, days + 1))


def register_more(home: Home, days: int) -> None:
    """A version every thirty days, each third one a refit, as the policy makes them; the same networks."""
    models = Models(home)
    first = newest = models.version(PRODUCT, PROFILE.name, "1")
    bundle = models.open(first)
    for number in range(1, (days - 1) // EVERY + 1):
        origin = BEFORE + EVERY * number
        changed = {
            "origin_day": str(day(origin)),
            "trained_through": str(day(max(BEFORE, origin - PROFILE.gate_days))),
            "training_kind": "fine-tune" if number % 3 else "refit",
        }
        with models.draft(PRODUCT, PROFILE.name) as draft:
            for name in bundle.manifest:
                draft.write(name, bundle.read(name))
            params, metrics = PROFILE.settings.model_dump(mode="json"), {"network_1_best_val_loss": 1.0}
            run = TrainingRun(f"made up {number}", params, metrics)
            newest = models.register(draft, PRODUCT, PROFILE.name, run, tags={**first.tags, **changed})
    models.promote(newest)


def data_row(number: int) -> dict[str, object]:
    """A row of the table of data versions."""
    names = {"data_version": data_version(number), "product_id": PRODUCT, "sha256": digest(number)}
    through, created_at = day(number).isoformat(), moment(number).isoformat()
    numbers: dict[str, object] = {"seq": number, "decision_seq": 0, "rows": number}
    return numbers | names | {"through_day_utc": through, "created_at": created_at}


def data_version(number: int) -> str:
    """A data version with a made-up digest."""
    return f"{PRODUCT}@{number}:{digest(number)}"


def add_runs(home: Home, closes: Floats, first: int, last: int) -> None:
    """The rows that the runs of these forecasts leave: forecasts, components, scores, states.

    A run scores the forecast of the run before, so the scores and states are those of a day earlier.
    """
    forecasts = [forecast(number, closes) for number in range(first, last + 1)]
    components(home).add([row for one in forecasts for row in component_rows(PROFILE, one)])
    Table(home.predictions, PREDICTIONS).add([row for one in forecasts for row in one.rows()])
    scores = [
        rows.score(
            forecast(number, closes),
            float(closes[BEFORE + number]),
            number=number,
            data_version=data_version(BEFORE + number),
        )
        for number in range(max(first - 1, 1), last)
    ]
    Table(home.scores, SCORES).add([asdict(score) for score in scores])
    advance_states(home, CHAIN, day(BEFORE + last - 1), moment(BEFORE + last - 1))


def forecast(number: int, closes: Floats) -> Forecast:
    """The forecast that the run of that number published."""
    origin = BEFORE + number - 1
    version = str(1 + (number - 1) // EVERY)
    close = float(closes[origin])
    return rows.forecast(
        PRODUCT, day(origin), close, data_version=data_version(origin), model_version=version
    )
