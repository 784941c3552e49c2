"""A run in the caller's process, such as a notebook: quiet and without lasting changes.

Prefect's settings apply only during the run; the caller's variables, loggers and warnings are restored. Only
a temporary server stays for the next run, until the process ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from closecast.flows.cli import prefect_server, terminal
from closecast.storage.core.logs import log_to_file

if TYPE_CHECKING:
    from closecast.flows.cli.prefect_server import TemporaryServer
    from closecast.storage.core.home import Home

OURS, PREFECT = logging.getLogger("closecast"), logging.getLogger("prefect")
# Handlers and warnings belong to the whole process, and trainings side by side would share its cores.
_one_at_a_time = threading.RLock()
_server: TemporaryServer | None = None
_prefects_own: list[logging.Handler] = []


@contextlib.contextmanager
def session(home: Home, *, verbose: bool) -> Iterator[None]:
    """Let a run work in the block: its lines go to the home's log file, and are shown if `verbose`.

    The caller's handlers still get closecast's lines. A second thread waits until the first has ended.
    """
    with _one_at_a_time, _kept_logging(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations are not the user's concern
        if verbose:
            with terminal.session(home):
                yield
            return
        log_to_file(home)
        OURS.setLevel(logging.DEBUG)
        yield


@contextlib.contextmanager
def _kept_logging() -> Iterator[None]:
    """Take the log lines of the block, hand closecast's to the caller's handlers, and restore everything."""
    loggers = (OURS, PREFECT)
    before = [(log, log.handlers.copy(), log.level, log.propagate) for log in loggers]
    # The levels change for the log file: the caller's handlers are asked by the levels as they were.
    callers = _ToCaller([*OURS.handlers, *logging.getLogger().handlers], OURS.getEffectiveLevel())
    OURS.handlers[:], PREFECT.handlers[:] = [callers], []
    OURS.propagate = PREFECT.propagate = False
    try:
        yield
    finally:
        made = {*OURS.handlers} - {*before[0][1]}
        prefects_level = PREFECT.level
        for log, handlers, level, propagate in before:
            log.handlers[:], log.propagate = handlers, propagate
            log.setLevel(level)
        if _prefects_own:  # it was loaded in the block
            PREFECT.handlers += _prefects_own
            PREFECT.setLevel(prefects_level)
            _prefects_own.clear()
        for handler in made:
            handler.close()


class _ToCaller(logging.Handler):
    """Hands closecast's lines to the caller's handlers."""

    def __init__(self, handlers: Sequence[logging.Handler], level: int) -> None:
        super().__init__(level)
        # Prefect's would send the lines to the run twice.
        self._handlers = [one for one in handlers if type(one).__name__ != "APILogHandler"]

    def emit(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)


def is_configured() -> bool:
    """Whether the user has a Prefect server: by Prefect's settings in this process, or as for a command.

    In a flow run of the user's, it is the server of that run.
    """
    if "prefect.main" in sys.modules:
        from prefect.context import FlowRunContext
        from prefect.settings import get_current_settings

        if FlowRunContext.get() or get_current_settings().api.url:
            return True
    return prefect_server.is_configured()


def start(home: Home) -> TemporaryServer | None:
    """The temporary server of this process, started if needed; None if the user has a server.

    Prefect is loaded while it comes up.
    """
    global _server  # one for the process
    server = None
    if not is_configured():
        if _server is None or _server.process.poll() is not None:
            _server = prefect_server.start_temporary(prefect_server.defaults(home) | os.environ)
        server = _server
    _load_prefect(home)
    return server


def _load_prefect(home: Home) -> None:
    """Load Prefect without its handler on the root logger, which would take the lines of all loggers."""
    if "prefect.main" in sys.modules:
        return
    from closecast.storage.core.home import prefect_home

    folder = prefect_home(home)
    if folder.is_relative_to(home.root):  # Prefect's own cannot be written
        os.environ.setdefault("PREFECT_HOME", str(folder))
        os.environ.setdefault("HOME", str(home.root))  # without one Prefect ends
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    import prefect.main  # noqa: F401

    # For the lines of the caller's own flows it is kept, at Prefect's own logger.
    _prefects_own[:] = [handler for handler in root.handlers if handler not in handlers]
    root.handlers[:] = handlers
    root.setLevel(level)


@contextlib.contextmanager
def ready(server: TemporaryServer | None) -> Iterator[None]:
    """Let flows run in the block, on the temporary server if there is one, as `prefect_server.ready`."""
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
        PREFECT_SERVER_UI_ENABLED,
        temporary_settings,
    )

    settings: dict[Any, Any] = {PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
    if server is not None:
        settings |= {PREFECT_API_URL: server.url, PREFECT_SERVER_UI_ENABLED: False}  # nothing links to it
        settings |= {PREFECT_API_REQUEST_TIMEOUT: float(prefect_server.START_SECONDS)}
    lines = APILogHandler()  # closecast's own lines are part of the run's log
    with prefect_server.ready(server), temporary_settings(settings):
        OURS.addHandler(lines)
        try:
            yield
        finally:
            OURS.removeHandler(lines)
