"""Single faults of a home's files, by the thousand: what `verify` and every answer make of them.

`python tests/soak/faults.py --bits 3000 --seed 1`: in a copy of a small home one bit is flipped, or a file is
deleted, cut short or overwritten in part. Then `verify` has a finding, or every answer is as before:
forecasts, scores, SQL, the scoreboard, `versions`, `reproduce`, the report, the next day's forecast and a
backtest. Whatever is read of the damaged home ends in an answer or in one line, never in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

PROJECT = Path(__file__).resolve().parents[2]
sys.path[0:0] = [str(PROJECT)] if str(PROJECT) not in sys.path else []

from closecast.flows.cli.output import print_versions  # noqa: E402
from closecast.storage.core.errors import ClosecastError  # noqa: E402
from closecast.storage.core.home import Home  # noqa: E402
from closecast.storage.core.location import LocalPath  # noqa: E402
from closecast.storage.models.registry import Models  # noqa: E402
from closecast.storage.prices.price_store import Prices  # noqa: E402
from closecast.storage.prices.raw_responses import keep_raw  # noqa: E402
from closecast.storage.tables.predictions import Predictions  # noqa: E402
from closecast.storage.tables.sql import VIEWS, query  # noqa: E402
from closecast.tasks.backtest.plan import Plan, plan_backtest  # noqa: E402
from closecast.tasks.backtest.result import finish_backtest  # noqa: E402
from closecast.tasks.backtest.walk_forward import prepare_fold  # noqa: E402
from closecast.tasks.evaluation.scoring import read_scoreboard  # noqa: E402
from closecast.tasks.report.context import read_context  # noqa: E402
from closecast.tasks.report.page import render, write_report  # noqa: E402
from closecast.tasks.upkeep.reproduce import reproduce_forecast  # noqa: E402
from closecast.tasks.upkeep.verification import Verification  # noqa: E402
from closecast.tasks.upkeep.verify import verify_home  # noqa: E402
from tests.calibrated import LENIENT, MADE, Runs, candles, day, quick  # noqa: E402
from tests.helpers import BTC, NOW  # noqa: E402
from tests.processes import LIBRARIES, forked, process_for  # noqa: E402

Change = Literal["bit", "deletion", "cut", "zeros"]
DAYS, PAGE = 4, 300
WHEN = day(MADE + 10)
SOON = {"refit_every_days": 3, "fine_tune_every_days": 2}
NO_CONTENT = (".lock", ".log")


@dataclass(frozen=True)
class Fault:
    """A change of one file, by its path in the home; `at` is the bit, or the byte from which on."""

    path: str
    change: Change
    at: int = 0

    @property
    def kind(self) -> str:
        """The part of the home that it is in."""
        parts = Path(self.path).parts
        if len(parts) == 1:
            return parts[0]
        if "_delta_log" in parts:
            return "log entries and checkpoints of tables"
        if parts[0] in ("predictions", "scores", "components", "calibrator", "backtests"):
            return "Parquet files of tables" if self.path.endswith(".parquet") else "lists of checksums"
        return f"{parts[0]}/"

    def put(self, root: Path) -> None:
        """Change the file."""
        path = root / self.path
        if self.change == "deletion":
            path.unlink()
            return
        content = bytearray(path.read_bytes())
        if self.change == "bit":
            content[self.at // 8] ^= 1 << self.at % 8
        elif self.change == "cut":
            del content[self.at :]
        else:
            content[self.at : self.at + 512] = bytes(len(content[self.at : self.at + 512]))
        path.write_bytes(content)


@dataclass
class Outcome:
    """What became of a fault; `broken` are the tracebacks and the changed answers that nothing names."""

    fault: Fault
    findings: list[str]
    refused: dict[str, str]
    changed: list[str]
    broken: list[str]

    @property
    def name(self) -> str:
        """Its column in the table."""
        if self.broken:
            return "broken"
        return "found" if self.findings else "unchanged"


def runs_of(root: Path) -> Runs:
    return Runs(Home(root), quick(**LENIENT))


def make_home(root: Path) -> None:
    """A home with responses, candles, a champion, scored forecasts of four days, a report and a backtest."""
    runs = runs_of(root)
    frame = candles()
    with Prices(runs.home.prepare()) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        for start in range(0, len(frame), PAGE):
            page = frame.iloc[start : start + PAGE]
            moments = page["day_utc"].astype("int64").tolist()
            figures = page[["low", "high", "open", "close", "volume"]].to_numpy().tolist()
            rows = [[moment, *row] for moment, row in zip(moments, figures, strict=True)]
            sha256 = keep_raw(runs.home, json.dumps(rows[::-1]).encode())
            prices.append(BTC, page, source="coinbase", observed_at=NOW, payload_sha256=sha256)
    assert runs.select(MADE).version == "1"
    for number in range(MADE, MADE + DAYS):
        runs.live(number)
    write_report(runs.home, BTC, "calibrated", day=WHEN)
    walk(runs.home)


def plan_of(home: Home) -> Plan:
    """A backtest of four origins in two folds."""
    profile = quick(**LENIENT, **SOON)
    return plan_backtest(home, BTC, profile, start=day(MADE), end=day(MADE + 3), moment=NOW)


def walk(home: Home) -> str:
    """The result of the backtest; what is walked already is read."""
    plan = plan_of(home)
    for fold in range(len(plan.folds)):
        prepare_fold(home, plan, fold)
    return repr(finish_backtest(home, plan))


def _sql(home: Home) -> str:
    # Threads add the means of `scoreboard` in any order, so last bits differ; `score` reads the same rows.
    views = [view for view in VIEWS if view != "scoreboard"]
    rows = (f"select '{view}', count(*), sum(hash({view})) from {view}" for view in views)  # noqa: S608
    return repr(query(home, " union all ".join(rows)).to_pylist())


def _versions(home: Home) -> str:
    versions = Models(home).versions()
    print_versions(versions, "json")
    return repr(versions)


def _reproduced(home: Home) -> str:
    result = reproduce_forecast(home, runs_of(home.root).prediction_id(MADE + 1))
    return repr((result.same, result.figures))


def _report(home: Home) -> str:
    return render(read_context(home, BTC, "calibrated", WHEN, None, None, None))


def _next_day(home: Home) -> str:
    forecast = runs_of(home.root).live(MADE + DAYS)
    return repr((forecast.rows(), [one.components for one in forecast.horizons]))


def _stored_report(home: Home) -> str:
    return "".join(sorted(path.read_text(errors="replace") for path in home.reports.glob("*")))


# What only reads comes first; a backtest that has no rows any more is walked again.
ANSWERS: dict[str, Callable[[Home], str]] = {
    "predictions": lambda home: repr(Predictions(home).between().to_pylist()),
    "sql": _sql,
    "score": lambda home: repr(read_scoreboard(home, BTC, "calibrated", ())),
    "versions": _versions,
    "reproduce": _reproduced,
    "report": _report,
    "stored report": _stored_report,
    "backtest": walk,
    "next day": _next_day,
}
QUICK = ("predictions", "score", "versions")
# Of a part that no other answer reads.
READERS = {"reports/": ("stored report",), "folds/": ("backtest",), "raw/": ("sql", "next day")}


def outcome(root: Path, fault: Fault, expected: dict[str, str]) -> Outcome:
    """Change a file of a home, verify the home, and compare every answer."""
    fault.put(root)
    result, verification, home = Outcome(fault, [], {}, [], []), Verification(), Home(root)
    try:
        verification = verify_home(home)
    except ClosecastError as error:
        verification.add("home", 0, [f"verify: {error}"])
        if "held by another" in str(error):
            result.broken.append(f"verify: {error}")
    except Exception:
        result.broken.append(f"verify: {traceback.format_exc()}")
    result.findings = verification.findings
    # What is found already is only searched for tracebacks: for one in three by every answer.
    asked = READERS.get(fault.kind, QUICK if result.findings and fault.at % 3 else tuple(ANSWERS))
    for name in [name for name in asked if name in expected]:
        try:
            if ANSWERS[name](home) != expected[name]:
                result.changed.append(name)
        except ClosecastError as error:
            result.refused[name] = str(error)
            if "\n" in str(error):
                result.broken.append(f"{name}: several lines: {error}")
        except Exception:
            result.broken.append(f"{name}: {traceback.format_exc()}")
    if not result.findings:
        result.broken += [f"{name} changed, and verify finds nothing" for name in result.changed]
        result.broken += [
            f"{name} refused, and verify finds nothing: {text}" for name, text in result.refused.items()
        ]
    return result


def _in_a_copy(root: Path, fault: Fault, expected: dict[str, str], answer: Path) -> None:
    logging.disable(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory(prefix="closecast-fault-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        copy = Path(folder) / "home"
        shutil.copytree(root, copy)
        answer.write_text(json.dumps(asdict(outcome(copy, fault, expected))))


def tried(root: Path, fault: Fault, expected: dict[str, str]) -> Outcome:
    """The outcome of a fault, in a process of its own, which damaged bytes may end."""
    with tempfile.TemporaryDirectory(prefix="closecast-answer-") as folder:
        answer = Path(folder) / "outcome.json"
        process = process_for(_in_a_copy, root, fault, expected, answer)
        process.start()
        process.join(120)
        process.kill()
        # Not by the exit code: of two threads that ask for it at once, one is told 255.
        if not answer.is_file():
            return Outcome(fault, [], {}, [], [f"the process ended with {process.exitcode}"])
        plain = json.loads(answer.read_text())
    return Outcome(**{**plain, "fault": fault})


def expected_of(root: Path, names: Iterable[str] = ANSWERS) -> dict[str, str]:
    """The answers of an undamaged home."""
    with (
        tempfile.TemporaryDirectory(prefix="closecast-whole-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        home = Home(Path(shutil.copytree(root, Path(folder) / "home")))
        assert verify_home(home).findings == []
        return {name: ANSWERS[name](home) for name in names}


def files_of(root: Path) -> dict[str, int]:
    """The size of each file of the home, by its path, without locks and logs."""
    paths = LocalPath(root).files()
    return {
        str(path.relative_to(root)): path.stat().st_size for path in paths if path.suffix not in NO_CONTENT
    }


def deletions(root: Path) -> list[Fault]:
    return [Fault(path, "deletion") for path in files_of(root)]


def changes(root: Path, count: int, draw: random.Random) -> list[Fault]:
    """Random bits, one in ten changes cuts or zeroes; a file is drawn by the root of its size."""
    sizes = {path: size for path, size in files_of(root).items() if size}
    faults = []
    for path in draw.choices(list(sizes), [math.sqrt(size) for size in sizes.values()], k=count):
        at = draw.randrange(sizes[path])
        if draw.random() < 0.1:
            faults.append(Fault(path, draw.choice(("cut", "zeros")), at))
        else:
            faults.append(Fault(path, "bit", at * 8 + draw.randrange(8)))
    return faults


def write(*parts: object, between: str = " | ") -> None:
    sys.stdout.write(f"{between.join(map(str, parts))}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deletions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the home and the outcomes")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="closecast-faults-"))
    root = folder / "home"
    if not root.exists():
        make_home(root)
    forked().set_forkserver_preload([*LIBRARIES, "duckdb", "tests.processes", "tests.soak.faults"])
    expected = expected_of(root)
    faults = [
        *(deletions(root) if given.deletions else ()),
        *changes(root, given.bits, random.Random(given.seed)),  # noqa: S311
    ]
    table: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(given.processes) as pool:
        for number, one in enumerate(pool.map(lambda fault: tried(root, fault, expected), faults), start=1):
            column = "deletion" if one.fault.change == "deletion" else "change"
            table.setdefault(one.fault.kind, Counter())[f"{column} {one.name}"] += 1
            with (folder / "outcomes.jsonl").open("a") as outcomes:
                outcomes.write(json.dumps({**asdict(one), "kind": one.fault.kind}) + "\n")
            if one.broken:
                write(one.fault, *one.broken, *one.findings[:2], between="\n  ")
            if number % 20 == 0:
                sys.stderr.write(f"{number} of {len(faults)}\n")
    names = [
        f"{change} {what}" for change in ("deletion", "change") for what in ("found", "unchanged", "broken")
    ]
    write("part", *names)
    for kind, counts in sorted(table.items()):
        write(kind, *(counts[name] for name in names))
    if not given.keep:
        shutil.rmtree(folder)
    sys.exit(any(counts[name] for counts in table.values() for name in names if name.endswith("broken")))


if __name__ == "__main__":
    # By its name as a module: each process has it from the one that it is forked from.
    from tests.soak import faults

    faults.main()
