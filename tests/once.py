"""What is made once a session, by the first process of pytest-xdist that needs it; the others wait."""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, TypeVar

import pytest
from filelock import FileLock

from closecast.storage.core.home import Home
from closecast.storage.core.s3_path import S3Path
from closecast.storage.prices.engine import database_engine
from tests.waiting import end

T = TypeVar("T")


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that the session's processes share; each has its own where a home is more than files."""
    own = factory.getbasetemp()
    home = Home(own / "home")
    files_alone = database_engine(home).file is not None and not isinstance(home.shared, S3Path)
    return own.parent if files_alone and "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(root: Path, make: Callable[[Path], T]) -> T:
    """What `make` returned, of JSON, when it made `root`, a folder or a file for copying."""
    returned = root.with_name(f"{root.name}.json")
    with FileLock(root.with_name(f"{root.name}.lock")):
        if not returned.exists():
            returned.write_text(json.dumps(make(root)))
    value: T = json.loads(returned.read_text())
    return value


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """Use the Prefect server of the session; the address of its API.

    It ends with the process that started it: those of pytest-xdist end together, after the last test of all.
    """
    from prefect.events.worker import EventsWorker
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    start = SubprocessASGIServer.start

    def start_or_join(server: Any, timeout: int | None = None) -> None:
        def started(_: Path) -> int:
            start(server, timeout)
            atexit.register(end, server.server_process, 5)
            server.server_process = None  # otherwise the harness ends it
            return int(server.port)

        server.port, server.running = made_once(folder / "prefect", started), True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessASGIServer, "start", start_or_join)
        harness = prefect_test_harness(server_startup_timeout=90)
        harness.__enter__()
    EventsWorker.instance()  # keeps this server's address, and not that of a test's proxy
    try:
        yield str(PREFECT_API_URL.value())
    finally:
        harness.__exit__(None, None, None)


def share_forkserver(folder: Path) -> None:
    """Fork the processes of tests from one of the session, which has loaded the big libraries.

    It ends with the process that started it, too. Multiprocessing itself gives each process its own.
    """
    server: Any = forkserver._forkserver
    start = server.ensure_running

    def started(_: Path) -> str:
        start()
        return str(server._forkserver_address)

    def start_or_join() -> None:
        if server._forkserver_address is None:
            address = made_once(folder / "forkserver", started)
            if server._forkserver_address is None:
                server._forkserver_address = address
                server._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)  # the starter's counts

    server.ensure_running = start_or_join
