"""What a day costs after ten years, beside the tenth day: the storage part of a run, without training.

    python benchmarks/growth.py [--rounds 7] [--core N] [--out docs/performance.md]

Fills a home with 3,650 past days and another with nine, as benchmarks/growth_home.py says, and times the
next day's run in copies of them, in turns, each in a process of its own on one core. Writes the part of
docs/performance.md between its markers. Takes two minutes, and half of one more a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from page import BARS, bar, processor, put, spread
from training import told

HERE = Path(__file__).parent
FEW, MANY = 9, 3650
DAYS = {f"{FEW + 1}th": FEW, f"{MANY + 1:,}st": MANY}
# Computed without opening a table: shown, but not part of the storage's sum.
NOT_STORAGE = "forecast"
WHAT = {
    "ingest": "the exchange's week, checked and stored; the data version",
    "find": "whether the forecast is there",
    "score and track": "scores of what is due; the tracker's next state",
    "select": "the champion among all versions",
    "publish": "bundle, closes and state read; components and forecast written",
    "artifacts": "scoreboard, last forecasts, figures of the model",
    "compact": "whether the tables have many files; they are compacted from 17 a product on",
    "forecast": "the network and four baselines, fitted to the whole history",
}
Run = dict[str, Any]


def main() -> None:
    """Make the homes, time them in turns, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "performance.md")
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})  # those that are started have it from here
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="closecast-bench-") as name:
        homes: dict[str, tuple[str, ...]] = {which: (str(days),) for which, days in DAYS.items()}
        for words, how in homes.items():
            print(f"filling a home for the day: {words}", flush=True)
            job(name, "make", *how)
        runs: dict[str, list[Run]] = {words: [] for words in homes}
        for turn in range(given.rounds):
            for words in list(homes)[:: -1 if turn % 2 else 1]:
                runs[words].append(job(name, "day", *homes[words]))
        counts = {words: job(name, "day", *how, "--count") for words, how in homes.items()}
    text = report(runs, counts, given, f"{load:.1f} before, {os.getloadavg()[0]:.1f} after")
    put(given.out, "growth", text)
    print(text)


def job(folder: str, *words: str) -> Run:
    """What a job of benchmarks/growth_day.py says."""
    return told((sys.executable, str(HERE / "growth_day.py"), folder, *words))


def report(runs: dict[str, list[Run]], counts: dict[str, Run], given: argparse.Namespace, load: str) -> str:
    """The part of the page, as Markdown."""
    few, many = DAYS
    names = ", ".join(f"{name} {version(name)}" for name in ("deltalake", "pyarrow", "mlflow-skinny"))
    found = ratios(runs[many], runs[few], storage)
    words = f"the {MANY + 1:,}st day's run over the {FEW + 1}th, storage part"
    parts = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} by `python benchmarks/growth.py --rounds {given.rounds}`:"
        f" {processor()}, one core for each process; Python {platform.python_version()}, {names}.",
        f"{given.rounds} rounds, each home once a round, every other round in the other order, each time in a"
        " fresh copy of it and after another day in the same process. Medians, with minimum and"
        " maximum in brackets; ratios are within a round. Load average of the machine's"
        f" {os.cpu_count()} cores: {load}.",
        f"### The {MANY + 1:,}st day's run against the {FEW + 1}th, storage part, no training",
        table(runs, few, many),
        "\n".join([BARS, bar(words, found, 1.5)]),
        f"The first forecast needs 400 closes, so there are"
        f" {FEW + 400} and {MANY + 400:,} of them; and 1 and {1 + (MANY - 1) // 30} model versions. The"
        " tables were compacted each week but for the last six days. The forecast itself is not storage: its"
        " baselines are fitted to the whole history.",
        "### What is read from the tables",
        read(counts, few, many),
        "A group is 1,024 rows of some columns. All rows are read of light columns alone, names and days, to"
        " find what is due; rows with lists are those whose quantiles or quantile_offsets were read.",
    ]
    return "\n\n".join(parts)


def storage(run: Run) -> float:
    """Seconds of the storage part."""
    return float(sum(seconds for step, seconds in run.items() if step != NOT_STORAGE))


def ratios(runs: list[Run], base: list[Run], seconds: Any) -> list[float]:
    """One over the other, round by round."""
    return [seconds(run) / seconds(one) for run, one in zip(runs, base, strict=True)]


def table(runs: dict[str, list[Run]], few: str, many: str) -> str:
    """A row a step, the worst ratio first, then their sum and what is not storage."""
    rows = {step: (WHAT[step], lambda run, step=step: float(run[step])) for step in runs[few][0]}
    apart = rows.pop(NOT_STORAGE)
    worst = sorted(rows, key=lambda step: -statistics.median(ratios(runs[many], runs[few], rows[step][1])))
    rows = {step: rows[step] for step in worst}
    rows |= {"**storage**": ("all of these", storage), NOT_STORAGE: apart}
    lines = [f"| step | | {FEW + 1}th day, ms | {MANY + 1:,}st day, ms | ratio |", "|---|---|---|---|---|"]
    for step, (what, seconds) in rows.items():
        cells = [spread([1000 * seconds(run) for run in runs[which]]) for which in (few, many)]
        lines.append(
            f"| {step} | {what} | {' | '.join(cells)} | {spread(ratios(runs[many], runs[few], seconds))} |"
        )
    return "\n".join(lines)


def read(counts: dict[str, Run], few: str, many: str) -> str:
    """A row a step that opens tables: files, row groups, rows, rows with lists."""
    kinds = ("files", "groups", "rows", "list rows")
    lines = [
        f"| the {FEW + 1}th day / the {MANY + 1:,}st | files | row groups | rows | rows with lists |",
        "|---|---|---|---|---|",
    ]
    for step, now in counts[many].items():
        if now["reads"]:
            cells = [f"{counts[few][step][kind]:,} / {now[kind]:,}" for kind in kinds]
            lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
