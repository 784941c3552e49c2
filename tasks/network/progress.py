"""The progress of a training, from the training loop to the terminal and to the run's listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from storage.core.progress import report_progress

# Called with the member's name, the epoch and the number of epochs.
Listener = Callable[[str, int, int], None]
# The threads of members have a copy of the run's context, and so the run's listener.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report_epoch(member: str, epoch: int, epochs: int) -> None:
    """Report to the terminal and to the listener that a member finished an epoch, of at most `epochs`."""
    report_progress(f"epochs of {member}" if member else "epochs", epoch, epochs)
    listener = _listener.get()
    if listener is not None:
        listener(member, epoch, epochs)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener with each epoch that is reported in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
