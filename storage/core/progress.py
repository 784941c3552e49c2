"""Progress of long work: steps report it, and a terminal that listens draws a bar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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
