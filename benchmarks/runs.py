"""What a run costs beside an empty flow of Prefect's, and what a second core brings to a backtest.

    python benchmarks/runs.py [--rounds 3] [--backtests 1] [--out docs/performance.md]

Every command is a process of its own, in turns, every other round the other way about; the first run and the
backtest have all cores, as a user's have. Takes some two minutes a round, and four a round of backtests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.page import BARS, bar, options, processor, put, spread

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "data" / "sample" / "coinbase_btc-usd_daily.csv"
# The settings that `closecast run` starts Prefect with; the empty flow has the same.
EMPTY = """
import os
chosen = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
          "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "DO_NOT_TRACK": "1"}
os.environ.update(chosen)
from prefect import flow

@flow(name="empty", persist_result=False)
def empty() -> None:
    pass

empty()
"""
IMPORT = "from tasks.core.tensorflow_runtime import tensorflow; tensorflow(); import keras"


@dataclass(frozen=True)
class Run:
    """Wall seconds and the largest process's memory in MB."""

    seconds: float
    megabytes: float


def main() -> None:
    """Run, measure, write."""
    arguments = options(__doc__, rounds=3, backtests=1).parse_args()
    with tempfile.TemporaryDirectory(prefix="closecast-runs-") as name:
        folder = Path(name)
        timed(folder, "warm-up", "python", "-c", EMPTY)
        runs = rounds_of_runs(folder, arguments.rounds)
        backtests = rounds_of_backtests(folder, arguments.backtests)
    put(arguments.out, "runs", report(runs, backtests))


def rounds_of_runs(folder: Path, rounds: int) -> dict[str, list[Run]]:
    """An empty flow, the bare import, a first run and a second one of the same day, once a round."""
    runs: dict[str, list[Run]] = {"empty": [], "import": [], "first": [], "second": []}
    for number in range(rounds):
        home = folder / f"home-{number}"
        run = ("closecast", "run", "--source", "sample", "--home", str(home))
        scripts = {"empty": ("python", "-c", EMPTY), "import": ("python", "-c", IMPORT)}
        jobs: dict[str, tuple[str, ...]] = {**scripts, "first": run, "second": run}
        names = list(jobs) if number % 2 == 0 else ["first", "second", "import", "empty"]
        for name in names:
            # Every run's Prefect is used once already, and knows nothing of the runs before.
            runs[name].append(timed(folder, f"{name}-{number}", *jobs[name]))
            print(f"round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s", flush=True)
    return runs


def rounds_of_backtests(folder: Path, rounds: int) -> dict[int, list[Run]]:
    """The sample from August 2016 on, on one core and on two, each from a home that knows no fold of it."""
    cores = sorted(os.sched_getaffinity(0))
    runs: dict[int, list[Run]] = {1: [], 2: []}
    stored = folder / "stored"
    if rounds:
        where = ("--product", "BTC-USD", "--home", str(stored))
        timed(folder, "import", "closecast", "import", str(SAMPLE), *where)
    for number in range(rounds):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            home = folder / f"backtest-{number}-{workers}"
            shutil.copytree(stored, home)
            span = ("--start", "2016-08-01", "--end", "2019-09-30", "--workers", str(workers))
            command = ("closecast", "backtest", *span, "--home", str(home))
            os.sched_setaffinity(0, cores[-workers:])  # what is started has it from here
            runs[workers].append(timed(folder, home.name, *command))
            os.sched_setaffinity(0, cores)
            print(f"backtest on {workers}: {runs[workers][-1].seconds:.1f} s", flush=True)
    return runs


def timed(folder: Path, name: str, *command: str) -> Run:
    """Run a command to its end with a Prefect that was used before.

    Raises:
        SystemExit: it failed.
    """
    base = folder / "prefect"
    own = folder / f"prefect-{name}"
    if base.exists():
        shutil.copytree(base, own)
    prefect = str(own if base.exists() else base)
    environment = os.environ | {"PREFECT_HOME": prefect, "PYTHONPATH": str(HERE.parent)}
    program = [sys.executable] if command[0] == "python" else [sys.executable, "-m", "closecast"]
    with (folder / f"{name}.txt").open("w+") as log:
        begun = time.perf_counter()
        process = subprocess.Popen([*program, *command[1:]], stdout=log, stderr=log, env=environment)  # noqa: S603
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} failed: {log.read()[-2000:]}")
    return Run(seconds, used.ru_maxrss / 1024)


def report(runs: dict[str, list[Run]], backtests: dict[int, list[Run]]) -> str:
    """The part of the page, as Markdown."""
    words = {
        "empty": "an empty flow of Prefect's",
        "import": "the import of TensorFlow and Keras",
        "first": "the first run: migrations, registry, three members trained",
        "second": "the same again, nothing new",
    }
    took = {name: [run.seconds for run in some] for name, some in runs.items()}
    over = {name: [a / b for a, b in zip(took[name], took["empty"], strict=True)] for name in took}
    rows = [
        f"| {words[name]} | {spread(took[name])} | {spread(over[name])} |"
        f" {spread([run.megabytes for run in some])} |"
        for name, some in runs.items()
    ]
    left = [a - b - c for a, b, c in zip(took["first"], took["empty"], took["import"], strict=True)]
    most = [run.megabytes / 1000 for run in runs["first"]]
    bars = [
        bar("first run, less an empty flow and the import, s", left, 30),
        bar("second run, nothing new, over an empty flow", over["second"], 1.5),
        bar("peak memory of a day with training, GB", most, 1.5),
    ]
    lines = [
        f"`python benchmarks/runs.py --rounds {len(runs['first'])} --backtests"
        f" {len(backtests[1])}` on {processor()}: the sample's newest day by `closecast run`,"
        " default profile, in a new home.",
        "| | wall, s | over an empty flow | largest process, MB |\n|---|---|---|---|\n" + "\n".join(rows),
    ]
    if backtests[1]:
        one, two = ([run.seconds for run in backtests[workers]] for workers in (1, 2))
        gain = [a / b for a, b in zip(one, two, strict=True)]
        lines.append(
            "A backtest of the sample from August 2016 to September 2019, with its refits and fine-tunings,"
            f" takes {spread(one, 's')} on one core, one worker, and {spread(two, 's')} on two, two workers."
        )
        bars.append(bar("backtest on 1 core over 2", gain, -1.7))
    return "\n\n".join([*lines, "\n".join([BARS, *bars])])


if __name__ == "__main__":
    main()
