"""Worker processes and the turns of the calls, without a flow."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

import closecast.flows.workers
from closecast.flows.workers import by_worker, started_workers
from closecast.storage.core.errors import BadSetting, WorkerLost
from closecast.tasks.core.tensorflow_runtime import cores
from tests.helpers import PROJECT, die
from tests.processes import is_gone
from tests.waiting import wait_for

log = logging.getLogger("closecast.backtest")
caller: ContextVar[str] = ContextVar("caller", default="")


def pid_after(seconds: float) -> tuple[int, int]:
    """A worker's id and the cores that it trains on."""
    time.sleep(seconds)
    return os.getpid(), cores()


def fail_with_a_line() -> None:
    log.warning("a line of %s letters", 2000 * "x")
    raise BadSetting("no such thing")


@pytest.fixture(scope="module")
def knowing() -> Iterator[Context]:
    """A context with two worker processes; other tests' contexts have none."""
    context, block = Context(), started_workers(2)
    context.run(block.__enter__)
    yield context
    context.run(block.__exit__, None, None, None)


def test_the_same_processes_take_all_calls(knowing: Context) -> None:
    with ThreadPoolExecutor(6) as threads:
        calls = [functools.partial(by_worker, pid_after, 0.2, rank=(rank,)) for rank in range(6)]
        made = [future.result() for future in [threads.submit(knowing.copy().run, call) for call in calls]]
    pids = {pid for pid, _ in made}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert {cores_of_worker for _, cores_of_worker in made} == {1}


def test_errors_and_log_lines_of_a_worker_are_those_of_the_call(knowing: Context) -> None:
    seen = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((caller.get(), record.levelname, record.getMessage()))

    handler, context = Handler(), knowing.copy()
    context.run(caller.set, "this test")
    log.addHandler(handler)
    try:
        with pytest.raises(BadSetting, match=r"^no such thing$"):
            context.run(by_worker, fail_with_a_line, rank=(100,))
        wait_for(lambda: seen)
    finally:
        log.removeHandler(handler)
    ((who, level, line),) = seen
    assert (who, level) == ("this test", "WARNING")
    assert line.startswith("a line of xxx")


def test_a_ctrl_c_cannot_reach_the_locks_of_the_executor(
    knowing: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It strikes the main thread, which therefore submits nothing itself."""
    submit, threads = ProcessPoolExecutor.submit, list[threading.Thread]()

    def seen(*args: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        return submit(*args, **more)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", seen)
    assert knowing.copy().run(by_worker, abs, -1, rank=(150,)) == 1
    assert threads[0] is not threading.main_thread()


def test_a_killed_worker_is_told_in_one_line(knowing: Context) -> None:
    """The last test with these processes: they take no calls afterwards."""
    message = r"^a worker process was killed, [^\n]* continues where it stopped$"
    with pytest.raises(WorkerLost, match=message):
        knowing.copy().run(by_worker, die, rank=(200,))


def test_a_script_that_workers_cannot_import_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from closecast.flows.workers import by_worker, require_importable_script, started_workers\n"
        "require_importable_script()\n"
        "with started_workers(2):\n"
        "    by_worker(os.getpid, rank=(0,))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith('as the lines above tell: put its own calls below `if __name__ == "__main__":`')
    assert "memory" not in done.stderr


def test_calls_that_wait_are_made_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closecast.flows.workers, "cores", lambda: 1)
    made, held = [], threading.Event()
    ranks = [(1, 1), (2, 0), (0, 1), (1, 0), (3, 0)]

    def submit(threads: ThreadPoolExecutor, call: Any, rank: tuple[int, int]) -> None:
        threads.submit(copy_context().run, lambda: by_worker(call, rank=rank))

    with started_workers(1), ThreadPoolExecutor(len(ranks) + 1) as threads:
        pool = closecast.flows.workers._pool.get()
        submit(threads, held.wait, (0, 0))
        wait_for(lambda: pool._idle == 0)
        for rank in ranks:
            submit(threads, lambda rank=rank: made.append(rank), rank)
        wait_for(lambda: len(pool._waiting) == len(ranks))
        held.set()
    assert made == sorted(ranks)


def test_an_exception_in_the_block_cancels_waiting_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closecast.flows.workers, "cores", lambda: 1)
    held = threading.Event()

    def fail(threads: ThreadPoolExecutor) -> Iterator[Any]:
        with started_workers(1), started_workers(2):
            pool = closecast.flows.workers._pool.get()
            yield threads.submit(copy_context().run, lambda: by_worker(held.wait, rank=(0,)))
            wait_for(lambda: pool._idle == 0)
            yield threads.submit(copy_context().run, lambda: by_worker(held.wait, rank=(1,)))
            wait_for(lambda: pool._waiting)
            raise BadSetting("the first failure")

    with ThreadPoolExecutor(2) as threads:
        calls = fail(threads)
        working, waiting = next(calls), next(calls)
        with pytest.raises(BadSetting):
            next(calls)
        with pytest.raises(CancelledError):
            waiting.result(10)
        held.set()
        assert working.result(10)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import os, signal, time; from closecast.flows.workers import by_worker, started_workers\n"
        # A shell's background job ignores Ctrl-C, and so would its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with started_workers(2):\n"
        "    print(by_worker(os.getpid, rank=(0,)), flush=True)\n"
        "    by_worker(time.sleep, 300, rank=(1,))\n"
    )
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=err,
            start_new_session=True,
        )
    with process:
        worker = int(process.stdout.readline())
        # As from a terminal, to all of them; a killed process alone knows nothing of it.
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.kill()
        assert process.wait(20) == -number
        wait_for(lambda: is_gone(worker), 20)
    messages = (tmp_path / "err").read_text()
    assert "Process SpawnProcess" not in messages
    assert messages.count("KeyboardInterrupt") == (number == signal.SIGINT)
