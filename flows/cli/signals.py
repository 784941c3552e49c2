"""How a command ends on a signal, and how Prefect's temporary server ends with the command."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
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
# Prefect's server on an open socket. It ends when its standard input does: when the command has closed that,
# or is gone, however it ended.
SERVER = """
import os, signal, socket, sys, threading, time
import uvicorn
from prefect.server.api.server import create_app

def end_with_the_command():
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)

threading.Thread(target=end_with_the_command, daemon=True).start()
app = create_app(ephemeral=True, final=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""


class Interruption:
    """The first signal that arrived, if any did."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code by which a shell knows that signal."""
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM interrupt the block; a block that does not end by itself is ended.

    A training goes on in threads that nothing can interrupt, and Prefect replaces our handler by its own. So
    a thread of ours learns of the signal from the interpreter itself: `GRACE_SECONDS` later, or at a second
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
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, interruption), daemon=True).start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(previous_fd)
        writer.close()
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
                exit_at_once(interruption.exit_code)
            timer = threading.Timer(GRACE_SECONDS, exit_at_once, (interruption.exit_code,))
            timer.daemon = True
            timer.start()


def exit_at_once(code: int) -> NoReturn:
    """Print the message and end the process without waiting for its threads."""
    stream = sys.__stderr__
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.write(f"{SHOW_CURSOR if stream.isatty() else ''}closecast: {MESSAGE}\n")
            stream.flush()
        sys.stdout.flush()
    os._exit(code)


def start_prefect_server() -> None:
    """Start a Prefect server that ends with this process, and set PREFECT_API_URL.

    Prefect stops its own temporary server at the interpreter's exit, which a killed process never reaches:
    each kill would leave a server of 200 MB. And Ctrl-C in a terminal would end that one before the run could
    report its state; ours is in a session of its own. Its socket listens at once: the first request waits.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = subprocess.Popen(  # noqa: S603 (a program of ours, and a number)
            [sys.executable, "-c", SERVER, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    atexit.register(_stop, server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.communicate(timeout=6)  # closes its standard input
