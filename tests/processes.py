"""Processes that start in a moment: forked from processes that have loaded the big libraries."""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers import PROJECT
from tests.preloaded import LIBRARIES

# TensorFlow reads it when it is loaded.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


@functools.cache
def forked() -> ForkServerContext:
    """Starts processes that run functions, from one that has loaded the libraries."""
    os.environ.update(QUIET)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, "tests.processes"])
    return context


def process_for(target: Callable[..., None], *args: object) -> BaseProcess:
    """A process for that call, with the variables of this one; it ends with this one at the latest."""
    return forked().Process(target=_as_here, args=(dict(os.environ), target, args), daemon=True)


def _as_here(variables: dict[str, str], target: Callable[..., None], args: tuple[object, ...]) -> None:
    # Otherwise the collector touches, and so copies, all memory that is shared with the parent.
    gc.freeze()
    # The parent has the variables of the moment at which the first process was started.
    from prefect.context import refresh_global_settings_context

    os.environ.clear()
    os.environ.update(variables)
    refresh_global_settings_context()
    target(*args)


def run_process(target: Callable[..., None], *args: object) -> int | None:
    """Run the call in a process of its own; the exit code, -9 when it was killed."""
    started = process_for(target, *args)
    started.start()
    started.join(60)
    code = started.exitcode
    started.kill()
    return code


def run_at_once(target: Callable[..., None], *calls: tuple[object, ...]) -> None:
    """Run the calls, each in a process of its own, all at once; each has to end well."""
    workers = [process_for(target, *args) for args in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


@functools.cache
def _preloaded() -> subprocess.Popen[str]:
    """A process that forks commands; it ends with this one, which holds its standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.preloaded"],
        cwd=PROJECT,
        env={**os.environ, **QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def closecast_process(
    *words: str,
    variables: Mapping[str, str],
    first: Path | None = None,
    terminal: str | None = None,
    timeout: float = 240.0,
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with these variables and no others, after the script `first`.

    Its output goes to the `terminal`, such as /dev/pts/3, where one is named.

    Raises:
        subprocess.TimeoutExpired: it did not end, and was killed.
    """
    server = _preloaded()
    assert server.stdin
    assert server.stdout
    with tempfile.TemporaryDirectory(prefix="closecast-output-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        order = {"words": words, "variables": dict(variables), "folder": str(PROJECT)}
        order |= {"first": str(first) if first else None}
        order |= {"out": terminal or str(out), "err": terminal or str(err)}
        print(json.dumps(order), file=server.stdin, flush=True)
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            _preloaded.cache_clear()
            raise subprocess.TimeoutExpired(words, timeout, out.read_text(), err.read_text())
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())
