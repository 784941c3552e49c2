"""How a command ends when it is told to: soon, with one line, and with no server of Prefect's left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

HEEDED = (signal.SIGINT, signal.SIGTERM)
# So long may a run tell Prefect that it was interrupted; what it has stored is whole at any moment.
GRACE_SECONDS = 5.0
LINE = "interrupted; the next run finishes what this one began"
SHOW_CURSOR = "\x1b[?25h"
# Waits until closecast ends, however it ends, and then ends the server.
WATCH = """
import os, signal, sys, time
sys.stdin.read()
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.kill(int(sys.argv[1]), number)
    except OSError:
        break
    time.sleep(5)
"""


class Told:
    """Which signal came, if any did."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def code(self) -> int:
        """The exit code by which a shell knows that signal."""
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def heeded() -> Iterator[Told]:
    """Let SIGINT and SIGTERM interrupt what is in here; what does not end by itself is ended.

    A training goes on in threads that nobody can interrupt, Prefect puts a handler of its own in the place of
    ours, and a signal to the whole group takes its server away first. So a thread is told by the interpreter
    itself: `GRACE_SECONDS` later, or at a second signal, the line is written and the process is over.
    """
    told = Told()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        told.number = told.number or number
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in HEEDED}
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(ours, told), daemon=True).start()
    try:
        yield told
    finally:
        signal.set_wakeup_fd(woken)
        theirs.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(numbers: socket.socket, told: Told) -> None:
    heard = 0
    with numbers:
        while number := numbers.recv(1):
            if number[0] not in HEEDED:
                continue
            told.number = told.number or number[0]
            heard += 1
            if heard > 1:
                leave(told.code)
            watch = threading.Timer(GRACE_SECONDS, leave, (told.code,))
            watch.daemon = True
            watch.start()


def leave(code: int) -> NoReturn:
    """Write the one line and end at once, without a wait for threads; the server is ended, too."""
    stream = sys.__stderr__
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.write(f"{SHOW_CURSOR if stream.isatty() else ''}closecast: {LINE}\n")
            stream.flush()
        sys.stdout.flush()
    module = sys.modules.get("prefect.server.api.server")
    servers = module.SubprocessASGIServer._instances.values() if module else ()
    for server in list(servers):
        if server.server_process is not None:
            server.server_process.terminate()
    os._exit(code)


def watch_the_server() -> None:
    """See to it that Prefect's temporary server ends with this process, also when that one is killed.

    Prefect stops it at the end of the interpreter, which a killed process does not come to: each would leave
    one of 200 MB.
    """
    from prefect.server.api.server import SubprocessASGIServer

    from storage.core.logs import stderr_redirected

    class Watched(SubprocessASGIServer):
        _watcher: subprocess.Popen[Any] | None = None

        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            # Without a standard error: a Ctrl-C reaches the server, too, which would report it.
            with Path(os.devnull).open("wb") as nowhere, stderr_redirected(nowhere.fileno()):
                server = super()._run_uvicorn_command()
            self._watcher = subprocess.Popen(  # noqa: S603 (a program of ours, and a number)
                [sys.executable, "-S", "-E", "-c", WATCH, str(server.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            return server

        def stop(self) -> None:
            super().stop()
            if self._watcher is not None:
                self._watcher.kill()
                self._watcher.communicate()
                self._watcher = None

    Watched()  # Prefect keeps one of them, and takes the one that is there
