"""What a day costs after ten years, beside the tenth day: the storage part of a run, without training.

    python benchmarks/growth.py [--rounds 3] [--days 3650] [--core N] [--out docs/performance/storage.md]

Fills a home with 3,650 past days and another with nine, as benchmarks/growth_home.py says, and times the
next day's run in copies of them, in turns, each in a process of its own on one core. Takes two minutes, and
half of one more a round.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import page

FEW = 9
# Computed without opening a table: shown, but not part of the storage's sum.
STORAGE, NOT_STORAGE = "**storage**", "forecast"
STEPS = {
    "ingest": "the exchange's week, checked and stored; the history read, the data version",
    "find": "whether the forecast is there",
    "score and track": "scores of what is due; the calibrator's next state",
    "select": "the champion among all versions",
    "publish": "bundle and calibrator state read; components and forecast written",
    "artifacts": "scoreboard, newest forecasts, figures of the model",
    "compact": "whether the tables have many files; they are compacted from 9 a product on",
    "forecast": "the network and four baselines, fitted to the whole history",
}
Run = dict[str, Any]


def main() -> None:
    """Fill the homes, time them in turns, write."""
    arguments = page.options(__doc__, page.STORAGE, rounds=3, days=3650, core=page.last_core()).parse_args()
    os.sched_setaffinity(0, {arguments.core})  # the processes started here inherit it
    load, homes = os.getloadavg()[0], (FEW, arguments.days)
    with tempfile.TemporaryDirectory(prefix="closecast-bench-") as folder:

        def job(name: str, days: int) -> Run:
            program = str(Path(__file__).with_name("growth_day.py"))
            return page.output(sys.executable, program, folder, name, str(days))

        for days in homes:
            print(f"filling a home with {days:,} days", flush=True)
            job("fill", days)
        runs: dict[int, list[Run]] = {days: [] for days in homes}
        for turn in range(arguments.rounds):
            for days in homes[:: -1 if turn % 2 else 1]:
                runs[days].append(job("day", days))
    few, many = runs[FEW], runs[arguments.days]
    name = f"the {arguments.days + 1:,}st day's run over the {FEW + 1}th, storage part"
    bars = [page.bar(name, page.ratios(many, few, seconds), 1.5)]
    page.put(arguments.out, "growth", report(few, many, arguments.days, load), bars)


def report(few: list[Run], many: list[Run], days: int, load: float) -> str:
    """The part of the page, as Markdown."""
    rounds, versions = len(few), 1 + (days - 1) // 30
    packages = ("deltalake", "pyarrow", "mlflow-skinny")
    parts = [
        page.measured_by(f"growth.py --rounds {rounds}", page.ONE_CORE, load=load, packages=packages),
        f"{rounds} rounds, each home once a round, every other round in the other order, each time in a"
        " fresh copy of it and after another day in the same process. Medians, with minimum and"
        " maximum in brackets; ratios are within a round.",
        steps_table(few, many, days),
        f"The first forecast needs 400 closes, so there are {FEW + 400} and {days + 400:,} of them, and 1 and"
        f" {versions} model versions. The tables were compacted each week, except for the last six days. The"
        " forecast itself is not storage: its baselines are fitted to the whole history.",
    ]
    return "\n\n".join(parts)


def seconds(run: Run, step: str = STORAGE) -> float:
    """Seconds of a step, or of the storage part."""
    return float(run[step] if step != STORAGE else sum(run.values()) - run[NOT_STORAGE])


def steps_table(few: list[Run], many: list[Run], days: int) -> str:
    """A row a step, the worst ratio first, then their sum and what is not storage."""

    def ratio(step: str) -> list[float]:
        return page.ratios(many, few, lambda run: seconds(run, step))

    steps = sorted(STEPS.keys() - {NOT_STORAGE}, key=lambda step: -statistics.median(ratio(step)))
    lines = [f"| step | | {FEW + 1}th day, ms | {days + 1:,}st day, ms | ratio |", "|---|---|---|---|---|"]
    for step in (*steps, STORAGE, NOT_STORAGE):
        cells = [page.spread([1000 * seconds(run, step) for run in runs]) for runs in (few, many)]
        text = STEPS.get(step, "all of these")
        lines.append(f"| {step} | {text} | {' | '.join(cells)} | {page.spread(ratio(step))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
