"""Prefect's settings for a command that runs a flow, and a temporary server that ends with the command."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from storage.core.errors import BadFile, PrefectUnavailable
from storage.core.files import read_bytes

if TYPE_CHECKING:
    from storage.core.home import Home

log = logging.getLogger("closecast")

# So long the first request may wait for a server that starts with the run.
START_SECONDS = "120"
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


def is_configured() -> bool:
    """Whether the user has a Prefect server: by PREFECT_API_URL, a profile, or a file of settings.

    Prefect is loaded, and asked, only where one of its files names an address.
    """
    if os.environ.get("PREFECT_API_URL"):
        return True
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    files = (profiles.expanduser(), *map(Path, (".env", "prefect.toml", "pyproject.toml")))
    if not any(map(_may_name_a_server, files)):
        return False
    from prefect.settings import Settings

    return Settings().api.url is not None


def _may_name_a_server(file: Path) -> bool:
    try:
        text = read_bytes(file).lower()
    except BadFile:  # most often there is none
        return False
    return b"prefect_api_url" in text or (b"url" in text and (b"[api" in text or b"prefect.api" in text))


class TemporaryServer:
    """A Prefect server that was started for this command, and comes up while the command goes on."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port
        self._started_at, self._is_up = time.monotonic(), False

    def wait(self) -> None:
        """Wait until it responds; `PrefectUnavailable` where it ended, or takes too long."""
        if self._is_up:
            return
        seconds = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
        left = max(1.0, self._started_at + seconds - time.monotonic())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=left)
        try:
            connection.request("GET", "/api/health")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            timed_out = isinstance(error, TimeoutError)
            reason = f"within {seconds:g} s" if timed_out else f"but ended with code {self.process.wait()}"
            raise PrefectUnavailable.of_temporary_server(reason) from error
        finally:
            connection.close()
        self._is_up = True
        log.info("Prefect's temporary server is up after %.1f s", time.monotonic() - self._started_at)


@contextlib.contextmanager
def ready(server: TemporaryServer | None) -> Iterator[None]:
    """Let flows run in the block, on the temporary server where there is one.

    They send a temporary server no heartbeats, which nobody would read: at its end a run waits up to a second
    for the thread that sends them.

    Raises:
        PrefectUnavailable: the temporary server does not come up.
    """
    import prefect.main  # noqa: F401 (sets up Prefect's logging)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from storage.core.logs import log_prefect_to_file

    log_prefect_to_file()
    if server is None:
        yield
        return
    server.wait()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@functools.cache
def start(home: Home) -> TemporaryServer | None:
    """Choose Prefect's settings, and start a temporary server, once, where the user has none.

    The caller loads what else it needs before it waits for the server.
    """
    from storage.core.home import prefect_home

    defaults = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "closecast",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_REQUEST_TIMEOUT": START_SECONDS,
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": START_SECONDS,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(prefect_home(home)),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    server = None if is_configured() else _start_temporary()
    if "prefect" in sys.modules:  # it has read its settings
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
    return server


def _start_temporary() -> TemporaryServer:
    """Start a Prefect server that ends with this process, and set PREFECT_API_URL.

    Prefect stops its own temporary server at the interpreter's exit, which a killed process never reaches:
    each kill would leave a server of 200 MB. And Ctrl-C in a terminal would end that one before the run could
    report its state; ours is in a session of its own. Its socket listens at once: the first request waits.
    """
    log.info("starting Prefect's temporary server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(  # noqa: S603 (a program of ours, and a number)
            [sys.executable, "-c", SERVER, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        port: int = listener.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    atexit.register(_stop, process)
    return TemporaryServer(process, port)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=6)  # closes its standard input
