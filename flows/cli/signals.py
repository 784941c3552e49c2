"""How a command ends on a signal, and how Prefect's temporary server ends with the command."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from storage.core.errors import PrefectUnavailable

HANDLED = (signal.SIGINT, signal.SIGTERM)
# So long a run may take to tell Prefect that it was interrupted; what it has stored is whole at any moment.
GRACE_SECONDS = 5.0
STARTUP_SECONDS = 120
MESSAGE = "interrupted; the next run finishes what this one began"
SHOW_CURSOR = "\x1b[?25h"
# Prefect's server on a socket that is open already. It ends when its standard input does: when the command has
# closed it, or is gone, however it ended.
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
server = uvicorn.Server(uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error", lifespan="on"))
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


def start_prefect_server() -> Callable[[], None]:
    """Start a Prefect server that ends with this process, also when the process is killed.

    Prefect stops its own temporary server at the interpreter's exit, which a killed process never reaches: each
    kill would leave a server of 200 MB. And Ctrl-C in a terminal would end that one before the run could report
    its state to it; ours is in a session of its own.

    Returns:
        A function that waits until the server is up; it raises PrefectUnavailable when that does not happen.
        PREFECT_API_URL is set at once.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = subprocess.Popen(  # noqa: S603 (a program of ours, and a number)
            [sys.executable, "-c", SERVER, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(_stop, server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    return functools.partial(_wait_for_server, port)


def _wait_for_server(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STARTUP_SECONDS)
    try:
        connection.request("GET", "/api/health")  # the socket listens from the start: no need to ask twice
        status = connection.getresponse().status
    except OSError as error:
        raise PrefectUnavailable(
            f"Prefect's temporary server did not start within {STARTUP_SECONDS} s ({error}): run again, or set"
            " PREFECT_API_URL to a server that is up"
        ) from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise PrefectUnavailable(f"Prefect's temporary server answers with status {status}: run again")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.stdin:
        server.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(timeout=6)
