"""The log file of a home, and standard error below Python's own."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from closecast.storage.core.home import Home
from closecast.storage.core.masking import masked

log = logging.getLogger("closecast.native")
_stderr = threading.Lock()


def hide_timeout_warnings() -> None:
    """Keep Prefect's warning about each step with a time-out in a thread out of the run's log."""
    warning = "Timeout of %s seconds configured for this task, but"
    logging.getLogger("prefect.task_runs").addFilter(lambda record: not str(record.msg).startswith(warning))


class _Masking(logging.Formatter):
    """Masks addresses, also those that the errors of a traceback quote."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _LogFile(RotatingFileHandler):
    """A log file that is skipped while it cannot be written; the next record tries again."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Ignore a full or read-only disk: logging would fill standard error."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
            return
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def log_to_file(home: Home) -> Path:
    """Add `logs/closecast.log` (five files of 1 MB at most) to closecast's logger."""
    path = home.logs / "closecast.log"
    handler = _LogFile(path, maxBytes=1_000_000, backupCount=4, delay=True, encoding="utf-8")
    handler.setFormatter(_Masking("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("closecast").addHandler(handler)
    return path


def log_prefect_to_file() -> None:
    """Add the log file to Prefect's logger, too; Prefect is loaded, which replaces its logger's handlers."""
    for handler in logging.getLogger("closecast").handlers:
        if isinstance(handler, _LogFile):
            logging.getLogger("prefect").addHandler(handler)


@contextlib.contextmanager
def native_stderr_to_log() -> Iterator[None]:
    """Send what code of C++ or Rust writes to file descriptor 2 to the debug log instead of the terminal."""
    with _stderr, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                log.debug("%s", line)
