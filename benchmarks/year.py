"""A year of daily runs in one process: does its memory grow, and do its days get slower?

    python benchmarks/year.py [--days 365] [--out docs/performance.md]

Runs the flow on the sample day after day, as a process that never ends would, with the refits and
fine-tunings that fall due, its tables compacted each week. (A Prefect worker starts a process for each run:
this is the worse case.) Takes some ten minutes.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.page import BARS, bar, options, put

FORGOTTEN = 35  # the first days, on which libraries come in and every kind of run is seen once


def main() -> None:
    """Run, measure, write."""
    arguments = options(__doc__, days=365).parse_args()
    with tempfile.TemporaryDirectory(prefix="closecast-year-") as name:
        os.environ |= {"PREFECT_HOME": f"{name}/prefect", "PREFECT_LOGGING_LEVEL": "ERROR"}
        os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        seconds, megabytes, trained = year(Path(name) / "home", arguments.days)
    put(arguments.out, "year", report(seconds, megabytes, trained))


def year(home: Path, days: int) -> tuple[list[float], list[float], int]:
    """Each run's seconds, the process's memory after it in MB, and how many models were trained."""
    from prefect.testing.utilities import prefect_test_harness

    from flows.daily import daily_forecast
    from flows.maintain import maintain
    from storage.core.home import Home
    from storage.models.registry import Models
    from tasks.prices.csv_reader import read_candles
    from tasks.prices.sources import SAMPLE, Market

    last = read_candles(SAMPLE.read_bytes(), "BTC-USD", name=SAMPLE.name).candles["day_utc"].iloc[-1].date()
    seconds, megabytes = [], []
    with prefect_test_harness(server_startup_timeout=120):
        for number in range(days):
            begun = time.perf_counter()
            origin = last - timedelta(days=days - 1 - number)
            daily_forecast(Market(source="sample"), origin=origin, home=str(home))
            seconds.append(time.perf_counter() - begun)
            if number % 7 == 6:
                maintain(home=str(home))
            gc.collect()
            megabytes.append(resident())
            if number % 30 == 0:
                print(f"day {number + 1}: {seconds[-1]:.1f} s, {megabytes[-1]:.0f} MB", flush=True)
    return seconds, megabytes, len(Models(Home(home)).versions())


def resident() -> float:
    """The process's own memory in MB, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def report(seconds: list[float], megabytes: list[float], trained: int) -> str:
    """The part of the page, as Markdown."""
    rest = len(seconds) - FORGOTTEN
    quarters = [slice(FORGOTTEN + rest * part // 4, FORGOTTEN + rest * (part + 1) // 4) for part in range(4)]
    rows = [
        f"| {part.start + 1} to {part.stop} | {statistics.median(seconds[part]):.2f} |"
        f" {statistics.median(megabytes[part]):.0f} | {max(megabytes[part]):.0f} |"
        for part in quarters
    ]
    first, final = (statistics.median(megabytes[part]) for part in (quarters[0], quarters[-1]))
    text = (
        f"`python benchmarks/year.py --days {len(seconds)}`: {len(seconds)} daily runs of the flow on the"
        f" sample in one process, {trained} models trained on the way, the tables compacted each week."
        f" Memory of the last quarter over the first: {final / first:.2f}. A Prefect worker runs each day in"
        " a process of its own, which gives all of it back."
    )
    growth = bar(
        f"memory of {len(seconds)} daily runs in one process, last quarter over first", [final / first], 1.1
    )
    head = ["| days | median run, s | memory, MB | at most, MB |", "|---|---|---|---|"]
    return "\n".join([text, "", *head, *rows, "", BARS, growth])


if __name__ == "__main__":
    main()
