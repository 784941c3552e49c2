"""What the storage part of a day costs on SQLite and a folder, and on PostgreSQL and S3, side by side.

Both servers are on this machine, durable, and started for it: what a network adds is not in the figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.rows import NO_OFFSETS, PROFILE, digest, forecast, score
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import product_lock
from closecast.storage.models.registry import Models
from closecast.storage.models.training_run import TrainingRun
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator, components
from closecast.storage.tables.scores import Scores
from closecast.tasks.forecast.publish import component_rows
from tests.engines import bucket_for, postgresql, s3, stop_servers
from tests.helpers import BTC, FIRST, NOW, SHA, made_up, store

STORED = 2000


def register(home: Home) -> None:
    """A model of the usual size, the champion."""
    models = Models(home)
    with models.draft(BTC, PROFILE.name) as draft:
        draft.write("model.weights.h5", bytes(300_000))
        draft.write_json("settings.json", {"units": 64})
        version = models.register(draft, BTC, PROFILE.name, TrainingRun("one"), tags={})
    models.promote(version)


def day(home: Home, number: int) -> dict[str, float]:
    """Do what a day does with its storage; seconds of each part."""
    seconds: dict[str, float] = {}
    origin = FIRST + timedelta(days=number)

    def timed(part: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[part] = time.perf_counter() - start
        return result

    def bring() -> str:
        with Prices(home) as prices:
            prices.append(BTC, frame, source="csv", observed_at=NOW, payload_sha256=SHA)
            return prices.data_version(BTC, origin, created_at=NOW)

    def champion() -> None:
        with Prices(home) as prices:
            prices.prices_at(data_version)
        version = Models(home).champion(BTC, PROFILE.name)
        if version:
            Models(home).open(version).read("model.weights.h5")

    start = time.perf_counter()
    home.prepare()
    lock = product_lock(home, BTC)
    timed("lock", lock.__enter__)
    frame = made_up(number + 1).tail(8)
    data_version = timed("prices", bring)
    new, old = (forecast(BTC, one, 1.0, data_version=data_version) for one in (origin, origin - timedelta(1)))
    name, target = new.first.prediction_id, new.first.target_day
    timed("find the stored forecast", lambda: Predictions(home).find_all([name], BTC, [target]))
    scored = asdict(score(old, 1.0, number=number, data_version=data_version))
    timed("score", lambda: Scores(home).add([scored]))
    state = {"calibrator_version": digest(name), "product_id": BTC, "profile": PROFILE.name, "horizon": 1}
    state |= {"recipe_version": PROFILE.recipe_version, "target_day": origin, "revision": 0}
    state |= {
        "quantile_offsets": NO_OFFSETS.tolist(),
        "created_at": NOW,
        "prediction_id": name,
        "previous_version": None,
    }
    timed("calibrator state", lambda: calibrator(home).add([state | {"previous_version": None}]))
    timed("closes and champion", champion)
    timed("components", lambda: components(home).add(component_rows(PROFILE, new)))
    timed("forecast", lambda: Predictions(home).publish(new.rows()))
    lock.__exit__(None, None, None)
    return {"all of it": time.perf_counter() - start, **seconds}


def measured(home: Home, days: int) -> dict[str, float]:
    """The median milliseconds of each part over so many days, after one that is not counted."""
    home.prepare()
    store(home, made_up(STORED))
    register(home)
    runs = [day(home, STORED + number) for number in range(days + 1)][1:]
    return {part: 1000 * statistics.median(run[part] for run in runs) for part in runs[0]}


def main() -> None:
    """Print both as a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=20)
    days = parser.parse_args().days
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            s3()
            servers = Home(root / "servers", postgresql(durable=True).database_for(root), bucket_for(root))
            plain, shared = measured(Home(root / "plain"), days), measured(servers, days)
        finally:
            stop_servers()
    print(f"| ms, median of {days} days | SQLite, folder | PostgreSQL, S3 |")
    print("|---|---:|---:|")
    for part, milliseconds in plain.items():
        print(f"| {part} | {milliseconds:.1f} | {shared[part]:.1f} |")


if __name__ == "__main__":
    main()
