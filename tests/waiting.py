"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
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


def end(process: subprocess.Popen[bytes], patience: float = 15.0) -> None:
    """Ask a process to end, and kill it when it does not."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
