"""What each command takes as a process of its own, beside what it cannot do without.

    python benchmarks/commands.py [--rounds 5] [--backtests 1] [--out docs/performance.md]

A yardstick is the bare import of the libraries that the command needs, or an empty flow run. Every process
runs once a round, every other round in the other order, on a home of the sample with three forecasts. A
ratio, or a difference, is within a round. Takes a minute and a half a round, and two more for a backtest on
one core and on two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.page import bar, measured_by, options, put, spread

PROJECT = Path(__file__).parents[1]
# The sample's newest days but one, from which the prepared homes have forecasts.
DAYS = ("2019-10-14", "2019-10-15", "2019-10-16")
# The settings that `closecast run` gives Prefect.
PREFECT = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
}
EMPTY_FLOW = """
from prefect import flow

@flow(name="empty", persist_result=False)
def empty() -> None:
    pass

empty()
"""
TENSORFLOW = "from closecast.tasks.core.tensorflow_runtime import tensorflow; tensorflow(); import keras"
YARDSTICKS = {
    "libraries": "import pandas, pyarrow, deltalake",
    "prefect": "import prefect",
    "empty": EMPTY_FLOW,
    "tensorflow": TENSORFLOW,
}
WORDS = {
    "libraries": "`import pandas, pyarrow, deltalake`",
    "prefect": "`import prefect`",
    "empty": "an empty flow run",
    "tensorflow": "the import of TensorFlow and Keras",
}
BACKTEST = ("backtest", "--start", "2016-08-01", "--end", "2019-09-30")


@dataclass(frozen=True)
class Command:
    """A command, its yardsticks, and the bar: seconds more than they take, or, of one, times as long."""

    name: str
    line: tuple[str, ...]
    over: tuple[str, ...]
    limit: float
    more: bool = False  # the bar is in seconds more
    exit_code: int = 0
    home: str = "scored"  # or "due", where the run scores a forecast, or "new"

    def measured(self, took: dict[str, list[float]]) -> list[float]:
        """The figure of each round."""
        rounds = zip(took[self.name], *(took[name] for name in self.over), strict=True)
        return [own - sum(others) if self.more else own / others[0] for own, *others in rounds]

    @property
    def words(self) -> str:
        """What is measured, as the table of bars has it."""
        over = " and ".join(WORDS[name] for name in self.over)
        return f"{self.name}, s more than {over}" if self.more else f"{self.name}, over {over}"


@dataclass(frozen=True)
class Run:
    """Wall seconds, and the largest process's memory in MB."""

    seconds: float
    megabytes: float


def commands(two_rows: Path) -> list[Command]:
    """Every command with a bar; `two_rows` is a file of two candles."""
    libraries, prefect = ("libraries",), ("prefect",)
    sample, eth = ("run", "--source", "sample"), ("--product", "ETH-USD")
    none = ("run", "--source", "coinbase", "--product", "NONE-USD")
    refusals = {
        "an unknown product": none,
        "a missing file": ("run", "--source", "csv", "--csv", "missing.csv"),
        "too little history": (*sample, "--as-of", "2015-01-10"),
        "a bad setting": (*sample, "--set", "members=0"),
    }
    return [
        Command("`predictions`", ("predictions",), libraries, 1.25),
        Command("`sql`", ("sql", "select 1"), libraries, 1.5),
        Command("`versions`", ("versions",), libraries, 1.5),
        Command("`score`, nothing due", ("score",), libraries, 2),
        Command("`import` of two rows", ("import", str(two_rows), *eth), libraries, 1.7),
        Command("`report`", ("report",), libraries, 3),
        Command("`verify`", ("verify",), libraries, 3),
        Command("`run`, nothing new", (*sample, "--as-of", DAYS[-1]), prefect, 1),
        *(Command(f"`run` refuses {name}", line, prefect, 1, exit_code=1) for name, line in refusals.items()),
        Command("`run`, the model kept", sample, ("empty",), 3, more=True, home="due"),
        Command("the first `run`", sample, ("empty", "tensorflow"), 6, more=True, home="new"),
    ]


def main() -> None:
    """Prepare, measure, write."""
    arguments = options(__doc__, rounds=5, backtests=1).parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="closecast-commands-") as name, exchange() as url:
        folder = Path(name)
        two_rows = folder / "two.csv"
        two_rows.write_text("date,close\n2019-10-15,180.5\n2019-10-16,174.5\n")
        chosen, runner = commands(two_rows), Runner(folder, url)
        runner.prepare()
        runs = runner.rounds(chosen, arguments.rounds)
        backtests = runner.backtests(arguments.backtests)
    put(arguments.out, "commands", *report(chosen, runs, backtests, load))


@contextmanager
def exchange() -> Iterator[str]:
    """The address of a local exchange that has no product."""
    from tests.exchange import Exchange

    with Exchange({}, clock=datetime(2021, 1, 1, 0, 20, tzinfo=UTC)) as served:
        yield served.url


class Runner:
    """Runs processes with a Prefect that was used before, in copies of a prepared home."""

    def __init__(self, folder: Path, exchange_url: str) -> None:
        self.folder, self.prefect = folder, folder / "prefect"
        # Without compiled modules every import takes longer.
        foreign = ("PREFECT_", "CLOSECAST_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        self.environment = kept | {"PYTHONPATH": str(PROJECT), "CLOSECAST_COINBASE_URL": exchange_url}

    def prepare(self) -> None:
        """Use Prefect once, and make the three forecasts; in one home score the last of them, too."""
        due, scored = self.folder / "due", self.folder / "scored"
        self.timed(self.prefect, "-c", EMPTY_FLOW, settings=PREFECT)
        for day in DAYS:
            self.command(due, "run", "--source", "sample", "--as-of", day)
        shutil.copytree(due, scored)
        self.command(scored, "score")

    def rounds(self, chosen: list[Command], count: int) -> dict[str, list[Run]]:
        """Every yardstick and command once a round."""
        names: dict[str, Command | None] = dict.fromkeys(YARDSTICKS) | {one.name: one for one in chosen}
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for number in range(count):
            for name in names if number % 2 == 0 else reversed(names):
                runs[name].append(self.once(name, names[name]))
                print(f"round {number + 1}, {name}: {runs[name][-1].seconds:.2f} s", flush=True)
        return runs

    def once(self, name: str, command: Command | None) -> Run:
        """A yardstick, or a command in a fresh copy of the home."""
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            if command is None:
                settings = PREFECT if name == "empty" else {}
                return self.timed(self.used_prefect(own), "-c", YARDSTICKS[name], settings=settings)
            home = Path(own) / "home"
            if command.home != "new":
                shutil.copytree(self.folder / command.home, home)
            return self.command(home, *command.line, exit_code=command.exit_code)

    def backtests(self, count: int) -> dict[int, list[Run]]:
        """A backtest on one core and on two, each from a home that has no fold of it."""
        cores, runs = sorted(os.sched_getaffinity(0)), dict[int, list[Run]]({1: [], 2: []})
        for number in range(count):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                with tempfile.TemporaryDirectory(dir=self.folder) as own:
                    shutil.copytree(self.folder / "scored", home := Path(own) / "home")
                    os.sched_setaffinity(0, cores[-workers:])  # inherited by what is started
                    runs[workers].append(self.command(home, *BACKTEST, "--workers", str(workers)))
                    os.sched_setaffinity(0, cores)
                print(f"backtest, {workers} workers: {runs[workers][-1].seconds:.1f} s", flush=True)
        return runs

    def command(self, home: Path, *line: str, exit_code: int = 0) -> Run:
        """A command of closecast on a home."""
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            where = ("-m", "closecast", *line, "--home", str(home))
            return self.timed(self.used_prefect(own), *where, exit_code=exit_code)

    def used_prefect(self, folder: str) -> Path:
        """A copy of the Prefect home that was used once."""
        return Path(shutil.copytree(self.prefect, Path(folder) / "prefect"))

    def timed(
        self, prefect: Path, *arguments: str, exit_code: int = 0, settings: Mapping[str, str] | None = None
    ) -> Run:
        """Run Python to its end.

        Raises:
            SystemExit: it ended otherwise than expected.
        """
        environment = {**self.environment, **(settings or {}), "PREFECT_HOME": str(prefect)}
        with (self.folder / "output.txt").open("w+") as log:
            begun = time.perf_counter()
            process = subprocess.Popen(  # noqa: S603 (our own)
                [sys.executable, *arguments], stdout=log, stderr=log, env=environment, cwd=self.folder
            )
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != exit_code:
                log.seek(0)
                code, line = process.returncode, " ".join(arguments)
                raise SystemExit(f"{line} ended with {code}: {log.read()[-2000:]}")
        return Run(seconds, used.ru_maxrss / 1024)


def report(
    chosen: list[Command], runs: dict[str, list[Run]], backtests: dict[int, list[Run]], load: float
) -> tuple[str, list[str]]:
    """The part of the page, as Markdown, and the rows of bars."""
    took = {name: [run.seconds for run in some] for name, some in runs.items()}
    rows = [
        f"| {WORDS.get(name, name)} | {spread(took[name])} | {max(run.megabytes for run in some):.0f} |"
        for name, some in runs.items()
    ]
    bars = [bar(one.words, one.measured(took), one.limit) for one in chosen]
    peak = [run.megabytes / 1000 for run in runs["the first `run`"]]
    bars.append(bar("peak memory of a day with training, GB", peak, 1.5))
    rounds = len(runs["empty"])
    command = f"commands.py --rounds {rounds} --backtests {len(backtests[1])}"
    packages = ("prefect", "pandas", "pyarrow", "deltalake", "tensorflow")
    lines = [
        measured_by(command, load=load, packages=packages)
        + f" {rounds} rounds of whole processes, medians with minimum and maximum in brackets; ratios and"
        " differences are within a round.",
        "| | wall, s | largest process, MB |\n|---|---|---|\n" + "\n".join(rows),
    ]
    if backtests[1]:
        one, two = ([run.seconds for run in backtests[workers]] for workers in (1, 2))
        bars.append(bar("backtest on 1 core over 2", [a / b for a, b in zip(one, two, strict=True)], -1.7))
        lines.append(
            "A backtest of the sample from August 2016 to September 2019, with its refits and fine-tunings,"
            f" takes {spread(one, 's')} on one core, one worker, and {spread(two, 's')} on two, two workers."
        )
    return "\n\n".join(lines), bars


if __name__ == "__main__":
    main()
