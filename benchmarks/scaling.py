"""A hundred products by a year of folds on Dask: one worker, two, and what a hundred would do.

    python benchmarks/scaling.py [--products 100] [--rounds 1] [--out docs/scaling.md]

Made-up closes, 800 days of each product; backtests of the last year in four folds, by a reduced recipe
(`REDUCED`), since the full one takes three times as long; two products by the full one for comparison. A
Prefect server, a Dask scheduler and its workers are processes of their own; a worker has one thread and one
core. Each run starts from a home without any fold; after it, the same list is run again, which finds all of
it done: what that costs is not the fits. CPU seconds are shares beside wall seconds, since they hold on a
shared machine, too. With 100 products a round is some fifteen minutes of two quiet cores, with 12 three.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.page import DOCS, measured_by, options, put, ratios, spread

DAYS, YEAR, FOLDS = 800, 365, 4
REDUCED: dict[str, Any] = {"members": 1, "units": 8, "epochs": 6, "pool_products": ()}
# A plan, the preparation of each fold, the result.
TASKS = 2 + FOLDS
MANY = 100
FEW = 2  # products by the full recipe


@dataclass(frozen=True)
class Run:
    """One list of products on so many workers: wall seconds, and CPU seconds by process."""

    workers: int
    kind: str
    wall: float
    cpu: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Run, measure, write."""
    from tests.serve_demo import Platform

    arguments = options(__doc__, DOCS / "scaling.md", products=100, rounds=1).parse_args()
    load, runs = os.getloadavg()[0], list[Run]()
    with (
        tempfile.TemporaryDirectory(prefix="closecast-scaling-", ignore_cleanup_errors=True) as name,
        Platform(Path(name), "", settings={"PREFECT_LOGGING_LEVEL": "ERROR"}) as platform,
    ):
        os.environ.update(platform.environment)
        (pid,) = (number for number, command in platform.processes().items() if "server" in command)
        stored = Path(name) / "stored"
        names = fill(stored, arguments.products)
        for number in range(arguments.rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                runs += on(Path(name) / f"{number}-{workers}", stored, names, workers, pid)
    put(arguments.out, "scaling", report(runs, arguments.products, load))


def fill(stored: Path, products: int) -> list[str]:
    """A home with made-up closes of so many products, and of two more to warm up with."""
    from closecast.storage.core.home import Home
    from tests.helpers import made_up, store

    home = Home(stored).prepare()
    names = [f"P{number:03d}-USD" for number in range(products)]
    for seed, product in enumerate([*names, "WARM0-USD", "WARM1-USD"]):
        store(home, made_up(DAYS, seed=seed), product_id=product)
    return names


def on(folder: Path, stored: Path, names: list[str], workers: int, server_pid: int) -> list[Run]:
    """The list on so many fresh workers, and the same once more."""
    from closecast.flows.backtest import backtest_products
    from tests.dask_cluster import started

    home = folder / "home"
    shutil.copytree(stored, home)
    cores = sorted(os.sched_getaffinity(0))
    runs = []
    with started(folder, *(f"worker-{number}" for number in range(workers))) as cluster:
        pids = [cluster.pid(f"worker-{number}") for number in range(workers)]
        for number, pid in enumerate(pids):
            os.sched_setaffinity(pid, {cores[-1 - number % len(cores)]})
        where = ("calibrated", REDUCED, None, None, str(home), cluster.address)
        backtest_products([f"WARM{number}-USD" for number in range(2)], *where)
        watched = {
            "workers": pids,
            "flow": [os.getpid()],
            "scheduler": [cluster.process("scheduler")],
            "server": [server_pid],
        }
        full = ("calibrated", {"pool_products": ()}, *where[2:])
        jobs = {"first": (names, *where), "again": (names, *where), "full": (names[:FEW], *full)}
        for kind, job in jobs.items():
            before, begun = cpu(watched), time.perf_counter()
            backtest_products(*job)
            wall = time.perf_counter() - begun
            used = {name: seconds - before[name] for name, seconds in cpu(watched).items()}
            runs.append(Run(workers, kind, wall, used))
            print(f"{workers} workers, {kind}: {wall:.1f} s, {used}", flush=True)
    return runs


def cpu(watched: dict[str, list[int]]) -> dict[str, float]:
    """CPU seconds that the processes and what they started have used so far."""
    import psutil  # type: ignore[import-untyped]

    seconds = {}
    for name, pids in watched.items():
        family = [psutil.Process(pid) for pid in pids]
        if name == "server":  # what was started here starts the server proper
            family += [child for process in family for child in process.children(recursive=True)]
        seconds[name] = sum(sum(process.cpu_times()[:2]) for process in family)
    return seconds


def report(runs: list[Run], products: int, load: float) -> str:
    """The part of the page, as Markdown."""
    words = {
        "first": f"{products} products",
        "again": "again, with nothing left to do",
        "full": f"{FEW} products by the full recipe",
    }
    lines = [
        "| | workers | wall, s | CPU of the workers, s | of the flow | of the scheduler | of the server |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, what in words.items():
        for workers in (1, 2):
            chosen = [run for run in runs if run.kind == kind and run.workers == workers]
            cells = [spread([run.wall for run in chosen])]
            cells += [spread([run.cpu[name] for run in chosen]) for name in chosen[0].cpu]
            lines.append(f"| {what} | {workers} | {' | '.join(cells)} |")
    one, two = ([run for run in runs if run.kind == "first" and run.workers == many] for many in (1, 2))
    gains = ratios(one, two, lambda run: run.wall)
    rounds = "One round" if len(one) == 1 else "Medians, with minimum and maximum in brackets"
    command = f"scaling.py --products {products} --rounds {len(one)}"
    return "\n\n".join(
        [
            measured_by(command, load=load, packages=("prefect", "prefect-dask", "distributed")),
            f"{products} products of {DAYS} simulated days, each backtested over its last {YEAR} days in"
            f" {FOLDS} folds, {TASKS} tasks a product, by a reduced recipe"
            f" ({', '.join(f'{name} {value}' for name, value in REDUCED.items() if value)}). {rounds}.",
            "\n".join(lines),
            f"Wall time of one worker over that of two: {spread(gains)}. They share the machine's"
            f" {os.cpu_count()} cores with the flow, the scheduler and Prefect's server.",
            estimate(runs, products),
        ]
    )


def estimate(runs: list[Run], products: int) -> str:
    """What a hundred workers would do, from the CPU seconds of one, with the assumptions."""

    def middle(kind: str, name: str) -> float:
        return statistics.median(run.cpu[name] for run in runs if run.kind == kind and run.workers == 1)

    tasks = products * TASKS
    serial = {name: middle("again", name) / tasks for name in ("flow", "scheduler", "server")}
    shares = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in serial.items())
    lines = [
        "| a hundred products by | a worker's CPU s a product | one worker, s | 100 workers, s: in parallel"
        " | one after the other | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    for what, kind, count in (("the reduced recipe", "first", products), ("the full one", "full", FEW)):
        work = middle(kind, "workers") / count
        alone = MANY * (work + TASKS * sum(serial.values()))
        # Each product's walk-forward is done by one worker: the last one has nobody to share it with.
        best = max(work, MANY * TASKS * max(serial.values()))
        worst = work + MANY * TASKS * sum(serial.values())
        lines.append(
            f"| {what} | {work:.2f} | {alone:.0f} | {best:.0f} | {worst:.0f} |"
            f" {alone / worst:.0f} to {alone / best:.0f} |"
        )
    return (
        "**A hundred workers, estimated** by Amdahl's rule. The work that is not distributed, in CPU time per"
        f" task, from the runs with nothing left to do: {shares}. Either these three work in parallel, each"
        " on its own core, and the slowest is the limit, or they wait for each other.\n\n"
        + "\n".join(lines)
        + "\n\n"
        "Assumptions: workers are as fast as this one, one for each product; database, tables and network"
        " accept all writes without a wait. The fixed cost of the flow run is included in the tasks' figures,"
        " which are therefore too high for few products."
    )


if __name__ == "__main__":
    main()
