"""Many processes in one home at once: `python tests/soak/crowd.py --rounds 5`.

In each round, in a home that is not there yet: ten processes start the same day, ten start different days,
each product is started at once, files are imported during a run, and rows are asked for while tables are
compacted.
Nobody may fail, and nothing may be there twice, be missing, or contradict itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PROJECT)

import pandas as pd  # noqa: E402

from closecast.storage.core.home import Home  # noqa: E402
from closecast.storage.prices.price_store import Prices  # noqa: E402
from closecast.storage.tables.predictions import Predictions  # noqa: E402
from tests.calibrated import LENIENT, QUICK, day  # noqa: E402
from tests.helpers import BTC, made_up, to_csv  # noqa: E402
from tests.processes import forked, process_for  # noqa: E402

DAYS = 600
SETTINGS = QUICK | LENIENT | {"fine_tune_every_days": 0}
PATIENCE = 240.0


@dataclass(frozen=True)
class Job:
    """A daily run of a product from a file, or an import of the file alone."""

    home: Path
    csv: Path
    product_id: str = BTC
    origin: date | None = None
    imports: bool = False


def work(job: Job, results: Any) -> None:
    """Do the job in this process, and report its result or its error."""
    import closecast.storage.core.provenance
    from closecast.flows.actions import import_file
    from closecast.flows.daily import daily_forecast
    from closecast.tasks.prices.sources import Market

    closecast.storage.core.provenance.DECIDING = ()  # type: ignore[assignment]
    try:
        if job.imports:
            ingested = import_file(Home(job.home).prepare(), job.product_id, job.csv)
            results.put(("done", ingested.history.data_version))
            return
        market = Market(product_id=job.product_id, source="csv", csv=job.csv)
        prediction_id = daily_forecast(market, "calibrated", SETTINGS, job.origin, str(job.home))
        results.put(("done", prediction_id))
    except BaseException as error:
        results.put(("failed", f"{job.origin} {job.product_id}: {type(error).__name__}: {error}"))


def at_once(jobs: Sequence[Job]) -> list[str]:
    """Start all jobs, and wait for the result of each.

    Raises:
        AssertionError: one of them failed, or does not end.
    """
    results = forked().Queue()
    running = [process_for(work, job, results) for job in jobs]
    for started in running:
        started.start()
    ended = [results.get(timeout=PATIENCE) for _ in jobs]
    for process in running:
        process.join(PATIENCE)
    failed = [text for kind, text in ended if kind == "failed"]
    assert not failed, failed
    return [text for _, text in ended]


def files(folder: Path, products: Sequence[str]) -> dict[str, Path]:
    paths = {product: folder / f"{product}.csv" for product in products}
    for number, path in enumerate(paths.values()):
        path.write_bytes(to_csv(made_up(DAYS, seed=number)))
    return paths


def origins(home: Home, product_id: str) -> list[date]:
    """The origins of a product's forecasts of the next day."""
    return [row["origin_day"] for row in Predictions(home).between(product_id, horizon=1).to_pylist()]


def same_day(home: Home, csv: Path, processes: int) -> None:
    """All of them start the newest day: one forecast, and each of them returns it."""
    ids = at_once([Job(home.root, csv)] * processes)
    assert len(set(ids)) == 1, ids
    assert origins(home, BTC) == [day(DAYS)]


def different_days(home: Home, csv: Path, processes: int) -> None:
    """Each of them starts another day: each its own row."""
    wanted = [day(DAYS - number) for number in range(1, processes + 1)]
    before = origins(home, BTC)
    ids = at_once([Job(home.root, csv, origin=origin) for origin in wanted])
    assert len(set(ids)) == processes, ids
    assert sorted(origins(home, BTC)) == sorted([*before, *wanted])


def different_products(home: Home, csvs: dict[str, Path]) -> None:
    """Each of them starts a product of its own: none waits for another."""
    at_once([Job(home.root, csv, product_id=product) for product, csv in csvs.items()])
    for product in csvs:
        assert origins(home, product) == [day(DAYS)], product


def import_during_a_run(home: Home, csv: Path, other: Path, product_id: str) -> None:
    """A file of the same product comes during its run, and one of another product."""
    later = csv.with_name("later.csv")
    later.write_bytes(to_csv(made_up(DAYS + 2)))
    jobs = [
        Job(home.root, csv, origin=day(DAYS - 40)),
        Job(home.root, later, imports=True),
        Job(home.root, other, product_id=product_id, imports=True),
    ]
    at_once(jobs)
    assert day(DAYS - 40) in origins(home, BTC)
    with Prices(home) as prices:
        closes = prices.table("closes").to_pandas()
    assert (closes["product_id"] == BTC).sum() == DAYS + 2
    assert (closes["product_id"] == product_id).sum() == DAYS
    assert not closes.duplicated(["product_id", "day_utc"]).any()


def _compact(root: Path, times: int) -> None:
    from closecast.tasks.upkeep.pruning import compact_tables

    for _ in range(times):
        compact_tables(Home(root))


def queries_during_compaction(home: Home, times: int) -> int:
    """Each row is there once in every query; returns the number of queries."""
    from closecast.storage.tables.sql import query

    sql = "select count(*) as rows, count(distinct prediction_id) as ids from predictions"
    before = query(home, sql).to_pylist()
    assert before[0]["rows"] == before[0]["ids"] > 0
    compacting = process_for(_compact, home.root, times)
    compacting.start()
    count = 0
    while compacting.is_alive():
        assert query(home, sql).to_pylist() == before
        count += 1
    compacting.join()
    assert compacting.exitcode == 0
    return count


def whole(home: Home) -> None:
    """Nothing is duplicated, missing or contradictory."""
    from closecast.tasks.upkeep.verify import verify_home

    findings = verify_home(home).findings
    assert not findings, findings
    rows = pd.DataFrame(Predictions(home).read().to_pylist())
    assert not rows.duplicated("prediction_id").any()


def play(folder: Path, *, processes: int, say: Callable[[str], None]) -> None:
    """A round of everything in a home that is not there yet."""
    products = [BTC, *(f"C{number}-USD" for number in range(1, processes))]
    csvs = files(folder, [*products, "NEW-USD"])
    new, home = csvs.pop("NEW-USD"), Home(folder / "home")
    others = {product: csvs[product] for product in products[1:]}
    acts: dict[str, Callable[[], object]] = {
        f"{processes} processes, the same day of a new home": lambda: same_day(home, csvs[BTC], processes),
        f"{processes} processes, different days": lambda: different_days(home, csvs[BTC], processes),
        f"{len(others)} products": lambda: different_products(home, others),
        "two imports during a run": lambda: import_during_a_run(home, csvs[BTC], new, "NEW-USD"),
        "queries during 20 compactions": lambda: queries_during_compaction(home, 20),
    }
    for name, act in acts.items():
        began = time.monotonic()
        act()
        whole(home)
        say(f"{name}: {time.monotonic() - began:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=10)
    given = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201 (what the program is for)

    from tests.soak.killing import prefect_server

    with tempfile.TemporaryDirectory(prefix="closecast-crowd-") as scratch:
        (Path(scratch) / "prefect").mkdir()
        with prefect_server(Path(scratch)):
            for number in range(given.rounds):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                say(f"round {number + 1} of {given.rounds}")
                play(folder, processes=given.processes, say=say)
    say("no problems")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    sys.exit(main())
