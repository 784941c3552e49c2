"""Full, read-only and damaged homes, held databases, a clock set back: one line, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.upkeep.verify import verify_home
from tests.helpers import BTC, made_up, to_csv
from tests.processes import closecast_process

QUICK = ("--profile", "article", "--set", "epochs=1", "--set", "units=4")
DAYS = 60
# `make soak` sets it: every folder and every size, and after each the run that succeeds.
LONG = "SOAK" in os.environ
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "btc.csv"
    path.write_bytes(to_csv(made_up(DAYS)))
    return path


@pytest.fixture(scope="module")
def forecast_home(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A home with a forecast, for copying."""
    folder = tmp_path_factory.mktemp("forecast")
    (folder / "btc.csv").write_bytes(to_csv(made_up(DAYS - 1)))
    done = run(folder / "home", folder / "btc.csv")
    assert done.returncode == 0, done.stderr
    return folder / "home"


@pytest.fixture
def home(forecast_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(forecast_home, tmp_path / "home"))


@pytest.fixture
def disk(forecast_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB with a home on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16000k", "tmpfs", str(disk)]
    if done := subprocess.run(mount, capture_output=True).stderr:
        pytest.skip(f"no small disk can be mounted here: {done.decode().strip()}")
    shutil.copytree(forecast_home, disk / "home")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def run(home: Path, csv: Path, *more: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    from prefect.settings import PREFECT_API_URL

    words = ["run", "--csv", str(csv), "--product", BTC, "--home", str(home), *QUICK, *more]
    server = {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    return closecast_process(*words, variables={**os.environ, **server}, first=first)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a run ended with."""
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("closecast: ")
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def rows(home: Path) -> list[dict[str, object]]:
    return list(Predictions(Home(home)).between().to_pylist())


def succeeds(home: Path, csv: Path, before: list[dict[str, object]]) -> None:
    """When the fault is gone, the next run does what this one could not, and keeps all rows."""
    done = run(home, csv)
    assert done.returncode == 0, done.stderr
    after = rows(home)
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert verify_home(Home(home)).findings == []


def fill(disk: Path, spare: int = 0) -> Path:
    """A file that takes all of the disk but so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - spare))
    return ballast


@root_only
@pytest.mark.parametrize("spare", range(0, 340, 20) if LONG else [0])
def test_a_run_on_a_full_disk(disk: Path, csv: Path, spare: int) -> None:
    """It is full at once, or so many kilobytes later: at the prices, the model, the registry, or the page.

    With some of them free the run may come to its end.
    """
    before = rows(disk / "home")
    ballast = fill(disk, spare * 1024)
    done = run(disk / "home", csv)
    if done.returncode or spare < 100:
        message = refused(done)
        assert re.search("space|full|disk I/O", message), message
        after = rows(disk / "home")
        assert after[: len(before)] == before
        # Where the disk is full at the last step, the page, the message says that the forecast is stored.
        stored = message.startswith(f"closecast: the forecast of {BTC} is stored")
        assert len(after) - len(before) == stored, message
    ballast.unlink()
    succeeds(disk / "home", csv, before)


@root_only
def test_maintenance_on_a_full_disk(disk: Path, csv: Path) -> None:
    home = disk / "home"
    succeeds(home, csv, rows(home))
    before = rows(home)
    ballast = fill(disk)
    message = refused(closecast_process("maintain", "--home", str(home), variables=os.environ))
    assert "No space left" in message
    assert "make room" in message
    message = refused(closecast_process("verify", "--home", str(home), variables=os.environ))
    assert f"the disk of the price database {home / 'prices.db'} is full" in message
    ballast.unlink()
    assert rows(home) == before
    assert verify_home(Home(home)).findings == []


@root_only
def test_a_read_only_disk(disk: Path, csv: Path) -> None:
    home = disk / "home"
    before = rows(home)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    message = refused(run(home, csv))
    assert "--home or CLOSECAST_HOME" in message
    assert str(home) in message
    prediction_id = str(before[0]["prediction_id"])
    for words in (
        ("predictions", "--format", "csv"),
        ("verify",),
        ("sql", "SELECT count(*) FROM closes"),
        ("reproduce", prediction_id),
        ("versions",),
    ):
        done = closecast_process(*words, "--home", str(home), variables=os.environ)
        assert done.returncode == 0, done.stderr
        assert "Logging error" not in done.stderr
        assert words[0] != "predictions" or prediction_id in done.stdout
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert rows(home) == before
    assert verify_home(Home(home)).findings == []
    if LONG:
        succeeds(home, csv, before)


MORE = ["models", "locks", "predictions", "scores", "prices.db", "mlflow.db"]


@pytest.mark.parametrize("name", ["logs", "predictions/_delta_log", *(MORE if LONG else [])])
def test_a_file_for_a_folder_or_a_folder_for_a_database(
    home: Path, csv: Path, tmp_path: Path, name: str
) -> None:
    path, away = home / name, tmp_path / "away"
    if path.exists():
        path.rename(away)
    if path.suffix == ".db":
        path.mkdir()
    else:
        path.write_text("in the way")
    assert name.partition("/")[0] in refused(run(home, csv))
    if path.suffix == ".db":
        path.rmdir()
    else:
        path.unlink()
    if away.exists():
        away.rename(path)
    if LONG:
        succeeds(home, csv, rows(home))
    assert verify_home(Home(home)).findings == []


@pytest.mark.parametrize("name", ["prices.db", "mlflow.db"] if LONG else ["prices.db"])
def test_a_database_that_another_process_holds_for_a_while(home: Path, csv: Path, name: str) -> None:
    before, seconds = rows(home), 20 if LONG else 4
    hold = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True)\n"
        f"time.sleep({seconds}); c.execute('COMMIT')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(home / name)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        began = time.monotonic()
        succeeds(home, csv, before)
        assert time.monotonic() - began > seconds / 2


def test_a_clock_that_is_set_back(home: Path, csv: Path, tmp_path: Path) -> None:
    """A day back: the stored days are newer than the clock. None is lost, and no day comes twice."""
    before, last = rows(home), made_up(DAYS)["day_utc"].iloc[-1]
    clock = tmp_path / "clock.py"
    clock.write_text(
        "from datetime import UTC, datetime\nfrom closecast.flows import clock\n"
        f"clock.now = lambda: datetime({last - pd.Timedelta(days=1):%Y, %-m, %-d}, 12, tzinfo=UTC)\n"
    )
    done = run(home, csv, first=clock)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr.count("\n") == done.returncode
    after = rows(home)
    assert after[: len(before)] == before
    assert verify_home(Home(home)).findings == []
    done = run(home, csv)
    assert done.returncode == 0, done.stderr
    days = [row["origin_day"] for row in rows(home) if row["revision"] == 0]
    assert len(days) == len(set(days))
    assert str(days[-1]) == f"{last:%Y-%m-%d}"
