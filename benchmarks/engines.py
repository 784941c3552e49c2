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
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from storage.core.home import Home
from storage.core.intervals import INTERVALS
from storage.locks.locks import product_lock
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import calibrator, components
from storage.tables.scores import Scores
from tasks.core.quantiles import LEVELS
from tests.engines import bucket_for, postgresql, s3, stop_servers
from tests.helpers import BTC, FIRST, NOW, SHA, made_up, store

STORED = 2000
METHODS = ("lstm", "last_close_250", "ewma_t", "garch_t", "har_t")


def register(home: Home) -> None:
    """A model of the usual size, the champion."""
    models = Models(home)
    with models.draft(BTC, "calibrated") as draft:
        draft.write("model.weights.h5", bytes(300_000))
        draft.write_json("settings.json", {"units": 64})
        version = models.register(
            draft, product_id=BTC, profile="calibrated", key="one", tags={}, params={}, metrics={}, curves={}
        )
    models.promote(version)


def day(home: Home, number: int) -> dict[str, float]:
    """Do what a day does with its storage; seconds of each part."""
    spent: dict[str, float] = {}
    target = FIRST + timedelta(days=number + 1)
    quantiles = [1000.0 + n for n in range(len(LEVELS))]
    name = f"{number:032x}"

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        answer = work()
        spent[what] = time.perf_counter() - began
        return answer

    began = time.perf_counter()
    home.prepare()
    lock = product_lock(home, BTC)
    timed("lock", lock.__enter__)
    frame = made_up(number + 1).tail(8)

    def bring() -> str:
        with Prices(home) as prices:
            prices.append(BTC, frame, source="csv", observed_at=NOW, payload_sha256=SHA)
            return prices.data_version(BTC, frame["day_utc"].iloc[-1].date(), created_at=NOW)

    data_version = timed("prices", bring)
    timed("find the stored forecast", lambda: Predictions(home).find(name, product_id=BTC, target_day=target))
    score = {"prediction_id": name, "product_id": BTC, "target_day": target, "close": 1.0}
    timed("score", lambda: Scores(home).add([{**empty(Scores), **score, "data_version": data_version}]))
    state = {"calibrator_version": name, "product_id": BTC, "profile": "calibrated", "recipe_version": "r"}
    state |= {"target_day": target, "revision": 0, "quantile_offsets": [0.0] * 23, "created_at": NOW}
    timed("calibrator state", lambda: calibrator(home).add([state]))

    def champion() -> bytes:
        with Prices(home) as prices:
            prices.closes_at(data_version)
        version = Models(home).champion(BTC, "calibrated")
        return Models(home).open(version).read("model.weights.h5") if version else b""

    timed("closes and champion", champion)
    beside = {"prediction_id": name, "product_id": BTC, "target_day": target, "quantiles": quantiles}
    timed("components", lambda: components(home).add([{**beside, "component": one} for one in METHODS]))
    timed("forecast", lambda: Predictions(home).publish([forecast(name, number, data_version, quantiles)]))
    lock.__exit__(None, None, None)
    return {"all of it": time.perf_counter() - began, **spent}


def empty(_: type) -> dict[str, Any]:
    """The columns of a score that say nothing here."""
    names = ("error", "naive_error", "crps", "naive_crps", "covered_50", "covered_80", "covered_95", "pit")
    return {**dict.fromkeys(names), "scored_at": NOW}


def forecast(name: str, number: int, data_version: str, quantiles: list[float]) -> dict[str, Any]:
    """A row of the table of forecasts."""
    bands = {f"{side}_{level}": 1.0 for side in ("lower", "upper") for level in INTERVALS}
    return {
        "prediction_id": name, "product_id": BTC, "origin_day": FIRST + timedelta(days=number),
        "target_day": FIRST + timedelta(days=number + 1), "horizon": 1, "profile": "calibrated",
        "model_version": "1", "data_version": data_version, "settings_version": "s", "code_version": "c",
        "last_close": 1.0, "point": 1.0, **bands, "quantile_levels": list(LEVELS),
        "quantiles": quantiles, "created_at": NOW, "flow_run_id": None,
    }  # fmt: skip


def measured(home: Home, days: int) -> dict[str, float]:
    """The median milliseconds of each part over so many days, after one that is not counted."""
    home.prepare()
    store(home, made_up(STORED))
    register(home)
    found = [day(home, STORED + number) for number in range(days + 1)][1:]
    return {what: 1000 * statistics.median(one[what] for one in found) for what in found[0]}


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
    for what, spent in plain.items():
        print(f"| {what} | {spent:.1f} | {shared[what]:.1f} |")


if __name__ == "__main__":
    main()
