"""The processes of benchmarks/growth.py: the storage part of a day.

    python benchmarks/growth_day.py FOLDER fill DAYS
    python benchmarks/growth_day.py FOLDER day DAYS

`fill` fills FOLDER/DAYS, as benchmarks/growth_home.py says. `day` times the next day's steps in a copy of
that home, after the same in a copy of the home of nine days, so that the first use of a library is not timed.
It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.growth_home import BEFORE, PRODUCT, fill_home, made_up_candles, moment, request
from benchmarks.rows import PROFILE
from closecast.storage.core.candle_schema import rejected_frame
from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator
from closecast.storage.tables.scores import Scores
from closecast.tasks.evaluation.scoring import read_scoreboard, score_due
from closecast.tasks.forecast import publish
from closecast.tasks.prices.coinbase_client import Client, Page
from closecast.tasks.prices.ingest_coinbase import ingest_exchange
from closecast.tasks.report.model_section import figure_files
from closecast.tasks.report.prefect_artifacts import forecast_markdown, newest_forecasts
from closecast.tasks.training.registration import load_model
from closecast.tasks.training.selection import select_model
from closecast.tasks.upkeep.pruning import keep_few_files

FEW = 9  # days of the home of the warm-up


def main() -> None:
    """Do one job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("job", choices=["fill", "day"])
    parser.add_argument("days", type=int)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    filled, days = arguments.folder / str(arguments.days), arguments.days
    if arguments.job == "fill":
        fill_home(Home(filled).prepare(), days)
        print(json.dumps({"days": days}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        warm, home = Path(name) / "warm", Path(name) / "home"
        shutil.copytree(arguments.folder / str(FEW), warm)
        shutil.copytree(filled, home)
        gc.set_threshold(300_000)  # as a command has it: a search for garbage takes as long as a step
        next_day(Home(warm), FEW)
        print(json.dumps(next_day(Home(home), days)))


class Exchange:
    """Stands in for the exchange's client: the pages of made-up candles, without a wait."""

    def __init__(self, candles: pd.DataFrame) -> None:
        self.candles = candles

    def page(self, _product: str, first: date, last: date, *, expect_rows: bool = True) -> Page:  # noqa: ARG002
        """The days of the span."""
        inside = self.candles["day_utc"].between(pd.Timestamp(first), pd.Timestamp(last))
        return Page(first, last, b"[]", self.candles[inside].reset_index(drop=True), rejected_frame())


def next_day(home: Home, days: int) -> dict[str, float]:
    """The steps of the next day's run, in seconds each."""
    number, models = BEFORE + days, Models(home)
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    make_forecast = publish.make_forecast

    def timed_forecast(*positional: Any, **named: Any) -> Any:
        start = time.perf_counter()
        forecast = make_forecast(*positional, **named)
        seconds["forecast"] = time.perf_counter() - start
        return forecast

    now, client = moment(number), cast("Client", Exchange(made_up_candles(number)))
    with step("ingest"), Prices(home) as prices:
        ingested = ingest_exchange(home, prices, request(number), client=client)
    history = ingested.history
    with step("find"):
        publish.find_forecast(home, publish.RunKey.of_run(PROFILE, history), PROFILE.horizons)
    with step("score and track"):
        score_due(home, history, PROFILE, now)
    with step("select"):
        version = select_model(home, PROFILE, ingested).version
    with step("publish"), patch.object(publish, "make_forecast", timed_forecast):
        model = load_model(models, PROFILE, PRODUCT, version)
        forecast = publish.publish_forecast(home, PROFILE, model, history, created_at=now, flow_run_id=None)
    seconds["publish"] -= seconds["forecast"]
    with step("artifacts"):
        board = read_scoreboard(home, PRODUCT, PROFILE.name, history.splits_in_force)
        forecast_markdown(forecast, forecast, ingested, board)
        newest_forecasts(home, PRODUCT, PROFILE.name)
        bundle = models.open(models.version(PRODUCT, PROFILE.name, version))
        for file in figure_files(bundle).values():
            bundle.read(file)
    with step("compact"):
        keep_few_files(home, PRODUCT)
    # One close, score, state and forecast more: it was a day, and not a repetition.
    tables = (Scores(home).read(), calibrator(home).read(), Predictions(home).read())
    counts = (ingested.new_days, board.all_days.forecasts, *(table.num_rows for table in tables))
    if counts != (1, days, days, days + 1, days + 1):
        raise SystemExit(f"a day adds one row to each table, not {counts} after {days} days")
    return seconds


if __name__ == "__main__":
    main()
