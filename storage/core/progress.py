"""Progress of long work: steps report it, and a terminal that listens draws a bar; log lines announce it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("closecast.progress")

Listener = Callable[[str, int, int | None], None]
_listeners: list[Listener] = []


def report_progress(work: str, done: int, total: int | None = None) -> None:
    """Report that `done` steps of a piece of work are finished, of `total` where the number is known."""
    for listener in tuple(_listeners):
        listener(work, done, total)


@contextlib.contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """Call the listener for all progress of this process, from any of its threads."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def announced(work: str) -> Iterator[None]:
    """Log the start of silent work, such as `loading TensorFlow`, and at its end the seconds it took."""
    log.info("%s", work)
    started = time.monotonic()
    yield
    log.info("%s took %.1f s", work, time.monotonic() - started)
