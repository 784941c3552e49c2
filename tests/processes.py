"""Processes that start in a moment: forked from one that has loaded the big libraries.

Loading them, TensorFlow and Prefect above all, costs each process seven seconds of processor time.
"""

from __future__ import annotations

import atexit
import functools
import gc
import io
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from tests.helpers import PROJECT

# None of them has started a thread that a fork would lose. Prefect alone has read the environment when it was
# loaded.
LIBRARIES = [
    *(
        "alembic.command",
        "arch",
        "deltalake",
        "closecast.flows.actions",
        "closecast.flows.backtest",
        "h5py",
        "httpx",
        "jinja2",
    ),
    *("keras", "matplotlib.figure", "mlflow.store.model_registry.sqlalchemy_store"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking", "pandas", "prefect.main"),
    *("pyarrow.dataset", "pydantic", "requests", "rich.progress", "scipy.stats", "sklearn.preprocessing"),
    *(
        "closecast.tasks.report.page",
        "closecast.tasks.training.rollback",
        "closecast.tasks.upkeep.pruning",
        "tensorflow",
        "typer",
    ),
]


@functools.cache
def forked() -> ForkServerContext:
    """Starts processes that run functions, from one that has loaded the libraries."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow reads it when it is loaded
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, "tests.processes"])
    return context


def process_for(target: Callable[..., None], *args: object) -> BaseProcess:
    """A process for that call, with the variables of this one; it ends with this one at the latest."""
    return forked().Process(target=_as_here, args=(dict(os.environ), target, args), daemon=True)


def _as_here(variables: dict[str, str], target: Callable[..., None], args: tuple[object, ...]) -> None:
    # The parent has the variables of the moment at which the first process was started.
    from prefect.context import refresh_global_settings_context

    _set_up(variables)
    refresh_global_settings_context()
    target(*args)


def _set_up(variables: Mapping[str, str]) -> None:
    # Otherwise the collector touches, and so copies, all memory that is shared with the parent.
    gc.freeze()
    os.environ.clear()
    os.environ.update(variables)


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


def is_gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"  # without an init nothing reaps it


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
    with tempfile.TemporaryDirectory(prefix="closecast-output-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        streams = (os.devnull, terminal or str(out), terminal or str(err))
        process = forked().Process(target=_become, args=(words, dict(variables), streams, first))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


class Result(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def closecast_here(*words: str, **variables: str) -> Result:
    """Run the command in this process, with these variables beside its own."""
    import prefect.main  # noqa: F401 (while it sets up logging, absl would close a redirected stream)

    import closecast

    out, err = io.StringIO(), io.StringIO()
    loggers = [logging.getLogger(name) for name in ("root", "closecast", "prefect")]
    before = [log.handlers.copy() for log in loggers]
    for log in loggers:
        log.handlers.clear()  # a command of its own process has none
    with (
        patch.dict(os.environ, variables),
        patch("sys.argv", ["closecast", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        closecast.main()
    for log, handlers in zip(loggers, before, strict=True):
        for handler in log.handlers:
            handler.close()
        log.handlers[:] = handlers
    return Result(int(end.value.code or 0), out.getvalue(), err.getvalue())


def _become(
    words: tuple[str, ...], variables: Mapping[str, str], streams: tuple[str, ...], first: Path | None
) -> None:
    """Run `closecast` in this process to its end, with those standard streams; `first` may set a clock."""
    os.chdir(PROJECT)
    _set_up(variables)
    for number, path in enumerate(streams):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate(("r", "w", "w"))
    )
    sys.argv = ["closecast", *words]
    _let_prefect_read_anew()
    try:
        if first:
            runpy.run_path(str(first))
        runpy.run_module("closecast", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a forked process does not, and Prefect needs it


def _let_prefect_read_anew() -> None:
    """Let Prefect read its variables and set up logging at the first use of its settings.

    It does so when it is loaded, and a command sets variables before it loads it. Until then nothing logs.
    """
    for name in ("root", "prefect", "closecast"):
        logging.getLogger(name).handlers.clear()
    import prefect.settings
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    read = prefect.settings.get_current_settings

    def read_anew() -> prefect.settings.Settings:
        prefect.settings.get_current_settings = read
        refresh_global_settings_context()
        setup_logging(incremental=False)
        return read()

    prefect.settings.get_current_settings = read_anew
