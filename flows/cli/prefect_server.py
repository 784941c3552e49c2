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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from closecast.storage.core.errors import BadFile, PrefectUnavailable
from closecast.storage.core.files import read_bytes

if TYPE_CHECKING:
    from closecast.storage.core.home import Home

log = logging.getLogger("closecast")

# So long the first request may wait for a server that starts with the run.
START_SECONDS = "120"
TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
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

    Prefect is loaded only if one of its files names an address.
    """
    if os.environ.get("PREFECT_API_URL"):
        return True
    folder = os.environ.get("PREFECT_HOME") or "~/.prefect"
    profiles = os.environ.get("PREFECT_PROFILES_PATH") or f"{folder}/profiles.toml"
    # An account may have no folder: then the `~` stays, and the file is none.
    names = (os.path.expanduser(profiles), ".env", "prefect.toml", "pyproject.toml")  # noqa: PTH111
    if not any(_may_name_a_server(Path(name)) for name in names):
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
    """A Prefect server that was started for this command, and comes up while the command continues."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}/api"
        self._started_at, self._is_up = time.monotonic(), False

    def wait(self) -> None:
        """Wait until it responds; raises `PrefectUnavailable` if it ended, or takes too long."""
        if self._is_up:
            return
        seconds = float(os.environ.get(TIMEOUT, START_SECONDS))
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
    """Let flows run in the block, on the temporary server if there is one.

    They send a temporary server no heartbeats, which nobody would read, because at its end a run waits up to
    a second for the heartbeat thread. `PrefectUnavailable` if the temporary server does not come up, or the
    configured one hangs.
    """
    import prefect.main  # noqa: F401 (sets up Prefect's logging)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from closecast.storage.core.logs import log_prefect_to_file

    log_prefect_to_file()
    if server is None:
        _check_configured_server()
        yield
        return
    server.wait()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _check_configured_server() -> None:
    """Raise `PrefectUnavailable` soon: a flow waits ten minutes for a server that hangs."""
    import httpx
    from prefect.settings import get_current_settings

    from closecast.tasks.report.side_calls import quick_client

    if address := get_current_settings().api.url:  # else a flow of the caller's brings its own
        with quick_client() as client:
            error = client.api_healthcheck()
        if isinstance(error, httpx.TransportError):  # what a server answers, the flow itself hears
            raise PrefectUnavailable.of_server(address) from error


@functools.cache
def start(home: Home) -> TemporaryServer | None:
    """Choose Prefect's settings and start a temporary server, once, unless the user has a server.

    The caller loads what else it needs before it waits for the server.
    """
    for name, value in defaults(home).items():
        os.environ.setdefault(name, value)
    server = None
    if not is_configured():
        server = start_temporary(os.environ)
        # It has no UI, and ends with the command: nothing links to it.
        os.environ |= {"PREFECT_API_URL": server.url, "PREFECT_SERVER_UI_ENABLED": "false"}
    if "prefect" in sys.modules:  # it has read its settings
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
    return server


def defaults(home: Home) -> dict[str, str]:
    """The variables that Prefect gets unless the user has set them."""
    from closecast.storage.core.home import prefect_home

    folder = prefect_home(home)
    return {
        # An account may have none, and Prefect ends where it finds none.
        "HOME": str(folder.parent),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "closecast",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_REQUEST_TIMEOUT": START_SECONDS,
        TIMEOUT: START_SECONDS,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder),
    }


def start_temporary(variables: Mapping[str, str]) -> TemporaryServer:
    """Start a Prefect server with these variables, which ends with this process.

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
            env=variables,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        port: int = listener.getsockname()[1]
    atexit.register(_stop, process)
    return TemporaryServer(process, port)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=6)  # closes its standard input
