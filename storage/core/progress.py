"""How far a long piece of work is, told to whoever listens: a terminal draws a bar of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Listener = Callable[[str, int, int | None], None]
_listeners: list[Listener] = []


def tell(what: str, done: int, steps: int | None = None) -> None:
    """Say that `done` steps of a piece of work are behind it, of `steps` where their number is known."""
    for listener in tuple(_listeners):
        listener(what, done, steps)


@contextlib.contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Let a listener hear what this process does meanwhile; members that train side by side all call it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
