"""Many days and many products in one process, beside empty flow runs with as many tasks.

    python benchmarks/days.py [--days 120] [--products 20] [--out docs/performance.md]

The flow on the sample day after day, with the trainings that fall due; the forecasts that an outage left out;
one day of many products. Prefect's server is a process of its own. What is timed is the function of a flow,
less what as many empty tasks take in another. That Prefect makes a run of a flow and ends it comes on top, up
to two seconds, when a busy SQLite server lets a client wait. Runs have no heartbeats, whose thread would end
each up to a second late. Takes some four minutes.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as the commands and the deployments have it

from benchmarks.page import bar, measured_by, options, put, spread

SETTLED = 28  # days in which libraries come in and every kind of run is seen once
MISSED = 28  # days of the outage: with the day itself fewer than until the next training
EMPTY_EVERY = 5
Took = dict[str, list[float]]


@dataclass
class Figures:
    """Seconds of single days and empty runs, of a day or a product in the long ones; memory, open files."""

    kept: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    more: dict[str, tuple[float, float]] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)


def main() -> None:
    """Start a server, run, measure, write."""
    from tests.serve_demo import Platform

    arguments = options(__doc__, days=120, products=20).parse_args()
    load, figures = os.getloadavg()[0], Figures()
    with tempfile.TemporaryDirectory(prefix="closecast-days-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with Platform(folder, "http://127.0.0.1:9", settings={"PREFECT_LOGGING_LEVEL": "ERROR"}) as platform:
            os.environ.update(platform.environment)
            from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                took = watched()
                days(figures, took, folder, arguments.days)
                backfill(figures, took, folder)
                products(figures, took, folder, arguments.products)
    put(arguments.out, "days", *report(figures, arguments.days, arguments.products, load))


def watched() -> dict[str, list[float]]:
    """The seconds of each later run of a flow's function, by the flow's name; the lists grow."""
    from prefect.flow_engine import FlowRunEngine

    took, call = defaultdict[str, list[float]](list), FlowRunEngine.call_flow_fn

    def timed(engine: Any) -> Any:
        begun = time.perf_counter()
        result = call(engine)
        took[engine.flow.name].append(time.perf_counter() - begun)
        return result

    setattr(FlowRunEngine, "call_flow_fn", timed)  # noqa: B010 (mypy takes no assignment)
    return took


def empty_run(took: Took, tasks: int) -> float:
    """The seconds of a flow's function with so many tasks that do nothing."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    @task(persist_result=False, cache_policy=NO_CACHE)
    def nothing() -> None:
        pass

    @flow(persist_result=False)
    def empty() -> None:
        for _ in range(tasks):
            nothing.submit().result()

    empty()
    return took["empty"][-1]


def days(figures: Figures, took: Took, folder: Path, count: int) -> None:
    """Day after day; a copy of the home of the first day is kept."""
    from closecast.flows.daily import daily_forecast
    from closecast.flows.maintain import maintain
    from closecast.storage.core.home import Home
    from closecast.storage.models.registry import Models
    from closecast.tasks.prices.sources import Market

    home, database = folder / "home", folder / "prefect" / "prefect.db"
    models = Models(Home(home))
    tasks, trained, begun = 0, 0, 0
    for number in range(count):
        before = recorded_tasks()
        origin = last_day() - timedelta(days=count - 1 - number)
        daily_forecast(Market(source="sample"), origin=origin, home=str(home))
        if number == 0:
            shutil.copytree(home, folder / "first")
        if number == SETTLED:
            begun = database.stat().st_size
        versions = len(models.versions())
        if versions == trained and number >= SETTLED:
            figures.kept.append(took["daily-forecast"][-1])
            tasks = recorded_tasks() - before
            if number % EMPTY_EVERY == 0:
                figures.empty.append(empty_run(took, tasks))
        trained = versions
        if number % 7 == 6:
            maintain(home=str(home))
        gc.collect()
        figures.megabytes.append(resident())
        figures.files.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 (no path is needed)
        if number % 30 == 0:
            print(
                f"day {number + 1}: {took['daily-forecast'][-1]:.2f} s, {figures.megabytes[-1]:.0f} MB",
                flush=True,
            )
    files = [path for path in home.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    grown = (database.stat().st_size - begun) / 1e6 / (count - SETTLED + len(figures.empty))
    figures.facts = [
        f"{trained} models trained on the way, the tables compacted each week",
        f"a kept day has {tasks} tasks",
        f"the home has {size:.1f} MB in {len(files):,} files after them",
        f"Prefect's database grows by {grown:.2f} MB a run",
    ]


def backfill(figures: Figures, took: Took, folder: Path) -> None:
    """The run after an outage, from the home of the first day, which has a forecast of that day alone."""
    from closecast.flows.daily import daily_forecast
    from closecast.storage.core.home import Home
    from closecast.storage.tables.predictions import Predictions
    from closecast.tasks.prices.sources import Market

    home = folder / "first"
    first = Predictions(Home(home)).between("BTC-USD", horizon=1)["origin_day"].to_pylist()[0]
    before, wanted = recorded_tasks(), MISSED + 1
    origin = first + timedelta(days=wanted)
    daily_forecast(Market(source="sample"), origin=origin, home=str(home), backfill_days=MISSED)
    tasks = recorded_tasks() - before
    made = Predictions(Home(home)).between("BTC-USD", horizon=1).num_rows - 1
    if made != wanted:
        raise SystemExit(f"{made} forecasts were made after the outage, not {wanted}")
    one = f"a day of {wanted} in one run after an outage"
    figures.more[one] = (took["daily-forecast"][-1] / wanted, empty_run(took, tasks) / wanted)


def products(figures: Figures, took: Took, folder: Path, count: int) -> None:
    """A day of many products in one flow run: the second one, which scores the first."""
    from closecast.flows.daily import daily_forecasts
    from closecast.storage.core.home import Home

    home, names = Home(folder / "many").prepare(), [f"P{number:03d}-USD" for number in range(count)]
    last = fill(home, names)
    for day in (last - timedelta(days=1), last):
        before, begun = recorded_tasks(), time.perf_counter()
        daily_forecasts(names, origin=day, home=str(home.root))
        seconds = time.perf_counter() - begun
        print(f"{count} products: {seconds:.1f} s", flush=True)
    tasks = (recorded_tasks() - before) // count - 1
    figures.more[f"a product of {count} in one run"] = (
        statistics.median(took["daily-forecast"][-count:]),
        empty_run(took, tasks),
    )
    figures.facts.append(f"the run of {count} products took {seconds:.0f} s, all of Prefect's included")


def fill(home: Any, names: list[str]) -> date:
    """Closes and a trained model for each product; the model is the first one's. Returns the last day."""
    from closecast.flows.daily import daily_forecast
    from closecast.storage.models.registry import Models
    from closecast.storage.models.training_run import TrainingRun
    from closecast.storage.prices.price_store import Prices
    from closecast.tasks.prices.sources import Market
    from tests.helpers import made_up, store

    candles = made_up(800)
    stored = {name: store(home, candles, product_id=name) for name in names}
    with Prices(home) as prices:
        series = {name: prices.prices_at(version).series for name, version in stored.items()}
    last: date = candles["day_utc"].iloc[-1].date()
    daily_forecast(Market(product_id=names[0]), origin=last - timedelta(days=2), home=str(home.root))
    models = Models(home)
    (first,) = models.versions(names[0])
    bundle = models.open(first)
    for name in names[1:]:
        with models.draft(name, first.profile) as draft:
            for file in bundle.manifest:
                draft.write(file, bundle.read(file))
            models.promote(
                models.register(
                    draft, name, first.profile, TrainingRun(name), tags={**first.tags, "series": series[name]}
                )
            )
    return last


def recorded_tasks() -> int:
    """How many task runs the server has."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return int(client.request("POST", "/task_runs/count", json={}).json())


def last_day() -> date:
    """The last day of the sample."""
    from closecast.tasks.prices.file_reader import read_candles
    from closecast.tasks.prices.sources import SAMPLE

    candles = read_candles(SAMPLE.read_bytes(), "BTC-USD", name=SAMPLE.name).candles
    day: date = candles["day_utc"].iloc[-1].date()
    return day


def resident() -> float:
    """The process's own memory in MB, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def report(figures: Figures, count: int, many: int, load: float) -> tuple[str, list[str]]:
    """The part of the page, as Markdown, and the rows of bars."""
    quarter = (count - SETTLED) // 4

    def growth(series: list[Any]) -> list[float]:
        """The last quarter over the first, once settled."""
        first, last = series[SETTLED : SETTLED + quarter], series[-quarter:]
        return [statistics.median(last) / statistics.median(first)]

    empty = statistics.median(figures.empty)
    rows = [
        f"| a day whose model is kept | {spread(figures.kept)} | {spread(figures.empty)} |",
        *(f"| {name} | {own:.2f} | {other:.2f} |" for name, (own, other) in figures.more.items()),
    ]
    what = ", s more than as many empty tasks"
    bars = [
        bar(f"a kept day of {count} in one process{what}", [one - empty for one in figures.kept], 0.3),
        *(bar(name + what, [own - other], 0.3) for name, (own, other) in figures.more.items()),
        bar(
            f"memory over {count} days in one process, last quarter over first",
            growth(figures.megabytes),
            1.1,
        ),
        bar(f"open files over {count} days, last quarter over first", growth(figures.files), 1.1),
    ]
    table = ["| s | closecast | empty flow run, as many tasks |", "|---|---|---|", *rows]
    parts = [
        measured_by(f"days.py --days {count} --products {many}", load=load, packages=("prefect",)),
        f"{count} days of the sample in one process: {'; '.join(figures.facts)}. Memory"
        f" {max(figures.megabytes):.0f} MB and open files {max(figures.files)} at most. The times are those"
        " of the flow's function; Prefect's time to start and end a run comes on top in both columns.",
        "\n".join(table),
    ]
    return "\n\n".join(parts), bars


if __name__ == "__main__":
    main()
