"""An interrupted command ends within seconds, with one line, and leaves no Prefect server behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from closecast.flows.cli.signals import MESSAGE
from closecast.storage.core.home import Home
from tests.helpers import PROJECT, made_up, store
from tests.processes import is_gone
from tests.waiting import wait_for

# Trainings that take minutes.
LONG = ("--set", "epochs=10000")
RUN = ("run", "--source", "sample", "--profile", "article", *LONG)
BACKTEST = ("backtest", "--product", "ETH-USD", "--workers", "2", *LONG, "--set", "patience=9999")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked up in /proc"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all tests: Prefect takes seconds to make its database."""
    return tmp_path_factory.mktemp("signals")


@contextmanager
def training(
    folder: Path, words: tuple[str, ...] = RUN, lines: str = "out"
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A command in the middle of its training, a group of its own as in a terminal, and its processes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["CLOSECAST_HOME"] = str(folder / "home")
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "closecast", *words],
            cwd=PROJECT,
            env=environment,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            wait_for(lambda: "epoch" in read(folder / lines) or process.poll() is not None)
            assert process.poll() is None, (folder / "err").read_text()
            yield process, children_of(process.pid)
        finally:
            process.kill()
            process.wait()


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def children_of(parent: int) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.read_text().rpartition(")")[2].split()[1] == str(parent)
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_process_group_ends_a_training_with_one_line(
    number: signal.Signals, code: int, folder: Path
) -> None:
    with training(folder) as (process, (server,)):
        os.killpg(process.pid, number)
        assert process.wait(20) == code
        lines = (folder / "home" / "logs" / "closecast.log").read_text()
        assert {" INFO closecast.ingest: ", " INFO prefect.flow_runs: "} <= set(
            re.findall(r" INFO \S+: ", lines)
        )
        assert (folder / "err").read_text(encoding="utf-8") == f"closecast: {MESSAGE}\n"
        wait_for(lambda: is_gone(server), 15)


def test_the_line_is_printed_while_standard_error_goes_to_the_log() -> None:
    code = """
from closecast.flows.cli.signals import interruptible
from closecast.storage.core.logs import native_stderr_to_log
with interruptible() as interruption, native_stderr_to_log():
    interruption.exit_at_once()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"closecast: {MESSAGE}\n")


def test_two_threads_that_end_the_process_at_once_print_one_line() -> None:
    code = """
import os, threading, time
from closecast.flows.cli.signals import interruptible
write = os.write
os.write = lambda *arguments: (write(*arguments), time.sleep(0.3))
with interruptible() as interruption:
    threading.Thread(target=interruption.exit_at_once).start()
    interruption.exit_at_once()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"closecast: {MESSAGE}\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_backtest_and_its_workers_with_one_line(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    store(Home(tmp_path / "home").prepare(), made_up(900), product_id="ETH-USD")
    with training(tmp_path, BACKTEST, lines="home/logs/closecast.log") as (process, children):
        assert len(children) == 4  # the server, two workers, and Python's cleaner of what they share
        os.killpg(process.pid, number)
        assert process.wait(20) == code
        wait_for(lambda: all(map(is_gone, children)), 15)
        assert (tmp_path / "err").read_text(encoding="utf-8") == f"closecast: {MESSAGE}\n"


def test_the_server_of_a_killed_run_ends(folder: Path) -> None:
    with training(folder) as (process, (server,)):
        process.kill()
        process.wait()
        wait_for(lambda: is_gone(server), 15)
