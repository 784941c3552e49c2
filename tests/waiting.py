"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    look: Callable[[], T | None], seconds: float = 120, *, pause: float = 0.1, log: Callable[[], str] = str
) -> T:
    """The first true result of `look`; `TimeoutError` with the log where there is none in time."""
    give_up = time.monotonic() + seconds
    while not (result := look()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"not so within {seconds:.0f} s\n{log()}")
        time.sleep(pause)
    return result
