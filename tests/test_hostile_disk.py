"""Full, read-only and damaged homes, held databases, a clock set back: one line, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from tasks.upkeep.verify import verify_home
from tests.helpers import BTC, NOW, made_up, to_csv
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
def made(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A home with a forecast, for copying."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "btc.csv").write_bytes(to_csv(made_up(DAYS - 1)))
    done = run(folder / "home", folder / "btc.csv")
    assert done.returncode == 0, done.stderr
    return folder / "home"


def run(home: Path, csv: Path, *more: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    from prefect.settings import PREFECT_API_URL

    words = ["run", "--csv", str(csv), "--product", BTC, "--home", str(home), *QUICK, *more]
    server = {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    return closecast_process(*words, variables={**os.environ, **server}, first=first)


def predictions(home: Path) -> subprocess.CompletedProcess[str]:
    return closecast_process("predictions", "--home", str(home), "--format", "csv", variables=os.environ)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of error that a run ended with."""
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("closecast: ")
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def rows(home: Path) -> list[dict[str, object]]:
    stored: list[dict[str, object]] = Predictions(Home(home)).between().to_pylist()
    return stored


def succeeds(home: Path, csv: Path, before: list[dict[str, object]]) -> None:
    """With the fault gone, the next run makes the forecast, and the rows before it are unchanged."""
    done = run(home, csv)
    assert done.returncode == 0, done.stderr
    after = rows(home)
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert verify_home(Home(home)).findings == []


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A disk of its own at that folder."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@root_only
@pytest.mark.parametrize("spare", range(0, 340, 20) if LONG else [0])
def test_a_full_disk_loses_nothing(made: Path, csv: Path, tmp_path: Path, spare: int) -> None:
    """Full at once, or so many kilobytes later: at the prices, the model, the registry, or the page.

    With some space the run may succeed.
    """
    disk = tmp_path / "disk"
    with small_disk(disk, 16_000):
        shutil.copytree(made, disk / "home")
        before = rows(disk / "home")
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(free - spare * 1024))
        done = run(disk / "home", csv)
        if done.returncode or spare < 100:
            message = refused(done)
            assert re.search("space|full|disk I/O", message), message
            after = rows(disk / "home")
            assert after[: len(before)] == before
            # Full at the last step, the page: the forecast is stored, and the message tells it.
            stored = message.startswith(f"closecast: the forecast of {BTC} is stored")
            assert len(after) - len(before) == stored, message
        (disk / "ballast").unlink()
        succeeds(disk / "home", csv, before)


@root_only
def test_maintenance_on_a_full_disk_asks_for_room(made: Path, csv: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 16_000):
        shutil.copytree(made, disk / "home")
        succeeds(disk / "home", csv, rows(disk / "home"))
        before = rows(disk / "home")
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
        message = refused(
            closecast_process("maintain", "--home", str(disk / "home"), variables={**os.environ})
        )
        assert "No space left" in message
        assert "make room" in message
        (disk / "ballast").unlink()
        assert rows(disk / "home") == before
        assert verify_home(Home(disk / "home")).findings == []


@root_only
def test_a_read_only_disk_can_be_queried(made: Path, csv: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 16_000):
        shutil.copytree(made, disk / "home")
        before = rows(disk / "home")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        message = refused(run(disk / "home", csv))
        assert "--home or CLOSECAST_HOME" in message
        assert str(disk / "home") in message
        # Queries work.
        done = predictions(disk / "home")
        assert done.returncode == 0, done.stderr
        name = str(before[0]["prediction_id"])
        assert name in done.stdout
        for command in (
            ("verify",),
            ("sql", "SELECT count(*) FROM closes"),
            ("reproduce", name),
            ("versions",),
        ):
            done = closecast_process(*command, "--home", str(disk / "home"), variables=os.environ)
            assert done.returncode == 0, done.stderr
            assert "Logging error" not in done.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        succeeds(disk / "home", csv, before)


FOLDERS = ["models", "raw", "logs", "predictions/_delta_log"]


@pytest.mark.parametrize("name", [*FOLDERS, "locks", "predictions", "scores"] if LONG else FOLDERS)
def test_a_file_in_place_of_a_folder_is_named(made: Path, csv: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    folder = home / name
    if folder.exists():
        folder.rename(tmp_path / "away")
    folder.write_text("in the way")
    message = refused(run(home, csv))
    assert name.partition("/")[0] in message
    folder.unlink()
    if (tmp_path / "away").exists():
        (tmp_path / "away").rename(folder)
    if LONG:
        succeeds(home, csv, rows(home))
    assert verify_home(Home(home)).findings == []


@pytest.mark.parametrize("name", ["prices.db", "mlflow.db"] if LONG else ["prices.db"])
def test_a_folder_in_place_of_a_database_is_named(made: Path, csv: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    (home / name).rename(tmp_path / "away")
    (home / name).mkdir()
    assert name in refused(run(home, csv))
    (home / name).rmdir()
    (tmp_path / "away").rename(home / name)
    if LONG:
        succeeds(home, csv, rows(home))
    assert verify_home(Home(home)).findings == []


@pytest.mark.parametrize("name", ["prices.db", "mlflow.db"] if LONG else ["prices.db"])
def test_a_run_waits_20_seconds_for_a_held_database(made: Path, csv: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    before = rows(home)
    hold = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(20); c.execute('COMMIT')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(home / name)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        began = time.monotonic()
        succeeds(home, csv, before)
        assert time.monotonic() - began > 10


def test_a_database_held_for_too_long_is_an_error(
    made: Path, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    before = rows(home)
    monkeypatch.setattr("storage.prices.engine_base.BUSY_SECONDS", 1)
    with contextlib.closing(sqlite3.connect(home / "prices.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        from storage.core.errors import HomeUnusable

        with pytest.raises(HomeUnusable, match="is held by another process"), Prices(Home(home)) as prices:
            prices.start_series("ETH-USD", "csv", started_at=NOW)
    succeeds(home, csv, before)


def test_a_clock_set_back_repeats_no_day(made: Path, csv: Path, tmp_path: Path) -> None:
    """By a day: stored closes are newer than the clock. None is lost, and no day is forecast twice."""
    home = tmp_path / "home"
    shutil.copytree(made, home)
    before, last = rows(home), made_up(DAYS)["day_utc"].iloc[-1]
    clock = tmp_path / "clock.py"
    clock.write_text(
        "from datetime import UTC, datetime\nimport flows.clock\n"
        f"flows.clock.now = lambda: datetime({last - pd.Timedelta(days=1):%Y, %-m, %-d}, 12, tzinfo=UTC)\n"
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
