"""How a command ends on a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

HANDLED = (signal.SIGINT, signal.SIGTERM)
# So long a run may take to tell Prefect that it was interrupted; what it has stored is whole at any moment.
GRACE_SECONDS = 5.0
MESSAGE = "interrupted; the next run finishes what this one began"
SHOW_CURSOR = "\x1b[?25h"


class Interruption:
    """The first signal that arrived, if any did."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.stderr = 2
        self._ends = threading.Lock()

    def exit_at_once(self) -> NoReturn:
        """Print the message and end the process with the signal's exit code, threads or not."""
        # The main thread may be done just when the grace is over: the second one here leaves it to the first.
        if self._ends.acquire(timeout=1):
            with contextlib.suppress(OSError, ValueError):
                cursor = SHOW_CURSOR if os.isatty(self.stderr) else ""
                os.write(self.stderr, f"{cursor}closecast: {MESSAGE}\n".encode())
                sys.stdout.flush()
        os._exit(128 + (self.number or signal.SIGINT))


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM interrupt the block; a block that does not end by itself is ended.

    A training runs in threads that nothing can interrupt, and Prefect replaces our handler with its own. So
    a separate thread learns of the signal from the interpreter itself: `GRACE_SECONDS` later, or at a second
    signal, it prints the message and ends the process.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        interruption.number = interruption.number or number
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, interrupt) for number in HANDLED}
    interruption.stderr = os.dup(2)  # which leads elsewhere while TensorFlow compiles
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, interruption), daemon=True).start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(previous_fd)
        writer.close()
        os.close(interruption.stderr)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch(reader: socket.socket, interruption: Interruption) -> None:
    timer: threading.Timer | None = None
    with reader:
        while number := reader.recv(1):
            if number[0] not in HANDLED:
                continue
            interruption.number = interruption.number or number[0]
            if timer:
                interruption.exit_at_once()
            timer = threading.Timer(GRACE_SECONDS, interruption.exit_at_once)
            timer.daemon = True
            timer.start()
