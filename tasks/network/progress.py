"""How far a training is: told by the loop that trains, shown by whoever listens."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from storage.core.home import Home
from storage.core.progress import report_progress
from tasks.core.formatting import artifact_key

log = logging.getLogger("closecast.progress")

P = ParamSpec("P")
R = TypeVar("R")
Listener = Callable[[str, int, int], None]

# A request to the server takes some milliseconds, and an epoch may be as short.
EVERY_SECONDS = 1.0
# The threads of members have a copy of the run's context, so they find it too.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell_epoch(member: str, epoch: int, epochs: int) -> None:
    """Say that a member has done so many of at most so many epochs: to the run and to the terminal."""
    report_progress(f"epochs of {member}" if member else "epochs", epoch, epochs)
    listener = _listener.get()
    if listener is not None:
        listener(member, epoch, epochs)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let the listener hear what is told in here."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class TrainingArtifact:
    """A progress artifact of the run, made when the first epoch is done: most days train nothing.

    Args:
        product_id: whose model.
        members: how many are trained, each of them an equal share.
    """

    def __init__(self, product_id: str, members: int) -> None:
        self._product_id, self._members = product_id, members
        self._shares: dict[str, float] = {}
        self._id: UUID | None = None
        self._shown_at, self._silent = 0.0, False
        self._lock = threading.Lock()

    def __call__(self, member: str, epoch: int, epochs: int) -> None:
        """Take in an epoch, and show it unless something was shown just now."""
        with self._lock:
            self._shares[member] = epoch / epochs
            done = len(self._shares) == self._members and min(self._shares.values()) >= 1.0
            if self._silent or (not done and time.monotonic() - self._shown_at < EVERY_SECONDS):
                return
            self._shown_at = time.monotonic()
            try:
                self._show(100.0 * min(1.0, sum(self._shares.values()) / self._members))
            except (httpx.HTTPError, PrefectException):
                # What is shown is not worth a training.
                self._silent = True
                log.warning("%s: the progress of training can no longer be shown", self._product_id)

    def _show(self, percent: float) -> None:
        if self._id is None:
            self._id = create_progress_artifact(  # type: ignore[assignment]  # not a coroutine here
                percent,
                key=artifact_key("training", self._product_id),
                description=f"{self._product_id}: training, {self._members} members",
            )
        else:
            update_progress_artifact(self._id, percent)


def shown(fn: Callable[Concatenate[Home, str, P], R]) -> Callable[Concatenate[Home, str, P], R]:
    """A function of a home, a product and `settings`, with the progress of its training shown in Prefect."""

    @functools.wraps(fn)
    def with_progress(home: Home, product_id: str, /, *args: P.args, **given: P.kwargs) -> R:
        settings: Any = given["settings"]
        with heard_by(TrainingArtifact(product_id, int(settings.get("members", 1)))):
            return fn(home, product_id, *args, **given)

    return with_progress
