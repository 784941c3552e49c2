"""What benchmarks/growth.py times in processes of their own: the storage part of a day.

    python benchmarks/growth_day.py FOLDER make DAYS
    python benchmarks/growth_day.py FOLDER day DAYS [--count]

`make` fills FOLDER/DAYS, as benchmarks/growth_home.py says. `day` times the next day's steps in a copy of
that home, after the same in a copy of the home of nine days: what the first use of a library costs is not in
it. It prints one line of JSON. With `--count` the steps are not timed, but what they read is counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from growth_home import BEFORE, CODE, FEW, PRODUCT, RECIPE, SETTINGS, TABLES, day, make, moment, walk

from storage.core.candle_schema import rejected_frame
from storage.core.home import Home
from storage.models.registry import Models
from storage.tables.delta import Table
from storage.tables.predictions import Predictions
from storage.tables.schemas import calibrator
from storage.tables.scores import Scores
from tasks.evaluation.scoring import board_of, score_and_track
from tasks.forecast import publish
from tasks.prices.coinbase_client import Client, Page
from tasks.prices.ingest_coinbase import ingest_exchange
from tasks.report import prefect_artifacts as artifacts
from tasks.training.selection import select_model
from tasks.upkeep.pruning import keep_few_files

STEPS = ("ingest", "find", "score and track", "select", "publish", "forecast", "artifacts", "compact")


def main() -> None:
    """Do one job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("job", choices=["make", "day"])
    parser.add_argument("days", type=int)
    parser.add_argument("--count", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    place = given.folder / str(given.days)
    if given.job == "make":
        make(Home(place).prepare(), given.days)
        print(json.dumps({"files": {name: len(list((place / name).rglob("*.parquet"))) for name in TABLES}}))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        warm, home = (Path(name) / word for word in ("warm", "home"))
        shutil.copytree(given.folder / str(FEW), warm)
        shutil.copytree(place, home)
        next_day(Home(warm), FEW)
        if given.count:
            with counting() as counts:
                next_day(Home(home), given.days, lambda step: counts.append({"step": step}))
            print(json.dumps(summed(counts)))
        else:
            print(json.dumps(next_day(Home(home), given.days)))


class Exchange:
    """Stands in for the exchange's client: the pages of a made-up series, at once."""

    def __init__(self, candles: pd.DataFrame) -> None:
        self.candles = candles

    def page(self, _product: str, first: date, last: date, *, expect_rows: bool = True) -> Page:  # noqa: ARG002
        """The days of the span."""
        inside = self.candles["day_utc"].between(pd.Timestamp(first), pd.Timestamp(last))
        return Page(first, last, b"[]", self.candles[inside].reset_index(drop=True), rejected_frame())


def next_day(home: Home, days: int, mark: Callable[[str], Any] = lambda _: None) -> dict[str, float]:
    """The steps of the next day's run, in seconds each; `mark` is called before each."""
    number, seconds, forecasting = BEFORE + days, dict.fromkeys(STEPS, 0.0), [0.0]

    @contextmanager
    def step(name: str) -> Iterator[None]:
        mark(name)
        start = time.perf_counter()
        yield
        seconds[name] += time.perf_counter() - start

    def forecast(*given: Any) -> Any:
        start = time.perf_counter()
        try:
            return forecast_calibrated(*given)
        finally:
            forecasting.append(time.perf_counter() - start)

    origin, now, client = day(number), moment(number), cast("Client", Exchange(walk(number)))
    with step("ingest"):
        series = ingest_exchange(
            home, PRODUCT, client=client, origin=origin, observed_at=now, min_days=RECIPE.min_days,
            consecutive_days=RECIPE.lookback + 1,
        )  # fmt: skip
    made: dict[str, Any] = {"data_version": series.data_version, "code_version": CODE}
    key = publish.prediction_key(
        product_id=PRODUCT, origin=origin, profile=RECIPE.name, settings_version=RECIPE.version, **made
    )
    with step("find"):
        publish.find_prediction(home, key, product_id=PRODUCT, target_day=day(number + 1))
    with step("score and track"):
        score_and_track(home, PRODUCT, data_version=series.data_version, settings=SETTINGS, moment=now)
    with step("select"):
        choice = select_model(home, PRODUCT, settings=SETTINGS, moment=now, **made)
    forecast_calibrated = publish.forecast_calibrated
    with step("publish"), patch.object(publish, "forecast_calibrated", forecast):
        row = publish.publish_distribution(
            home, PRODUCT, origin=origin, prediction_id=key, model_version=choice.version, settings=SETTINGS,
            settings_version=RECIPE.version, created_at=now, flow_run_id=None, **made,
        )  # fmt: skip
    seconds["publish"] -= sum(forecasting)
    seconds["forecast"] = sum(forecasting)
    with step("artifacts"):
        board = board_of(home, PRODUCT, RECIPE.name)
        artifacts.beside(home, row)
        artifacts.last_forecasts(home, PRODUCT, RECIPE.name)
        models = Models(home)
        bundle = models.open(models.version(PRODUCT, RECIPE.name, choice.version))
        [bundle.read(name) for name in bundle.manifest if name.startswith("figures/")]
    with step("compact"):
        keep_few_files(home, PRODUCT)
    mark("")
    # One close, one score and one state more, and a forecast: it was a day, and not a repetition.
    tables = (Scores(home).read(), calibrator(home).read(), Predictions(home).read())
    found = (series.new_days, board.spans[-1].forecasts, *(table.num_rows for table in tables))
    if found != (1, days, days, days + 1, days + 1):
        raise SystemExit(f"that was no day like the others: {found}")
    return seconds


@contextmanager
def counting() -> Iterator[list[dict[str, Any]]]:
    """Note of each read of a table the data files and row groups that its question leaves, and its rows."""
    found: list[dict[str, Any]] = []
    rows_of = Table._rows

    def noted(self: Table, dataset: Any, wanted: Any, columns: Any) -> Any:
        rows = rows_of(self, dataset, wanted, columns)
        left = list(dataset.get_fragments(wanted))
        if wanted is not None:
            left = [fragment.subset(wanted, schema=dataset.schema) for fragment in left]
        lists = [name for name in rows.column_names if str(rows.schema.field(name).type).startswith("list")]
        found.append(
            {
                "table": self.name,
                "files": len(left),
                "groups": sum(len(fragment.row_groups) for fragment in left),
                "rows": rows.num_rows,
                "list rows": rows.num_rows if lists else 0,
            }
        )
        return rows

    with patch.object(Table, "_rows", noted):
        yield found


def summed(counts: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What each step read: how often a table, files opened, row groups, rows, rows with their lists."""
    found: dict[str, dict[str, int]] = {}
    step = ""
    for count in counts:
        step = count.get("step", step)
        if not step:  # the day is over, and what comes is to see whether it was one
            break
        now = found.setdefault(step, dict.fromkeys(("reads", "files", "groups", "rows", "list rows"), 0))
        if "table" in count:
            now["reads"] += 1
            for name in ("files", "groups", "rows", "list rows"):
                now[name] += count[name]
    return found


if __name__ == "__main__":
    main()
