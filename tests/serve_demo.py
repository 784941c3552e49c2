"""The whole platform on this machine: a Prefect server, a worker, the deployment, and a local exchange.

By hand: `python -m tests.serve_demo [--once] [--port 4200]`. The prices are the sample's, moved to end
yesterday, with some days to come. Everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import requests
import yaml

from tests.waiting import wait_for

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

PROJECT = Path(__file__).resolve().parent.parent
DEPLOYMENT = "daily-forecasts/daily"
POOL = "closecast"
DAYS_TO_COME = 14
USUAL_PORT = 4200


class Platform:
    """A server and a worker, each in a process group of its own; leaving the block ends them all.

    `folder` gets Prefect's home, the closecast home and the logs; `settings` are further variables of all.
    `project` holds the prefect.yaml, and `python` has Prefect and closecast.
    """

    def __init__(
        self,
        folder: Path,
        exchange_url: str,
        *,
        port: int | None = None,
        settings: dict[str, str] | None = None,
        python: str = sys.executable,
        project: Path = PROJECT,
    ) -> None:
        self.python, self.project = python, project
        self.folder, self.home, self.logs = folder, folder / "home", folder / "logs"
        self.url = f"http://127.0.0.1:{port or free_port()}"
        self.api = f"{self.url}/api"
        # The caller's own Prefect and home have no part in this.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "CLOSECAST_"))
        }
        self.environment = {
            **inherited,
            "CLOSECAST_COINBASE_URL": exchange_url,
            "CLOSECAST_HOME": str(self.home),
            "DO_NOT_TRACK": "1",
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            # The page takes the address of its API from here, not from `--port`.
            "PREFECT_SERVER_API_PORT": self.url.rpartition(":")[2],
            # In memory, the slot of a run would stay taken after a power failure.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            **(settings or {}),
        }
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Platform:
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start_server()
            self.command("prefect", "work-pool", "create", POOL, "--type", "process")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The worker before the server, to which it reports its runs.
        while self._children:
            stop_group(self._children.pop())
        # The runs of a killed worker have sessions of their own.
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        """The commands of this platform's processes, by their environment: server, worker, runs."""
        # Not the API's address: the caller's own shell may have the same one.
        mark = f"PREFECT_HOME={self.environment['PREFECT_HOME']}".encode()
        commands = {}
        for folder in Path("/proc").glob("[0-9]*"):
            # A process may end meanwhile, or belong to another user.
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    commands[int(folder.name)] = (folder / "cmdline").read_text()
        return commands

    def command(self, *arguments: str) -> str:
        """The output of a command of Prefect or closecast."""
        done = subprocess.run(
            [self.python, "-m", *arguments],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def deploy(self, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Deploy everything in prefect.yaml, each deployment after a change."""
        document = yaml.safe_load((self.project / "prefect.yaml").read_text(encoding="utf-8"))
        for deployment in document["deployments"]:
            change(deployment)
        (self.folder / "prefect.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        output = self.command(
            "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(self.folder / "prefect.yaml")
        )
        # The command exits with 0 also when it skips a file that it cannot read.
        if "successfully created" not in output:
            raise RuntimeError(f"prefect deploy created no deployment:\n{output}")

    def start_worker(self) -> None:
        """Start a worker of the pool in a folder outside the project."""
        elsewhere = self.folder / "worker"
        elsewhere.mkdir(exist_ok=True)
        self._spawn("worker", ["worker", "start", "--pool", POOL, "--type", "process"], cwd=elsewhere)

    def run(self, *, late: timedelta = timedelta(), **parameters: Any) -> UUID:
        """Start one run of the daily deployment, due so long ago; its id."""
        from prefect.states import Scheduled

        due: Any = Scheduled(scheduled_time=datetime.now(UTC) - late)
        with self.client() as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT).id
            return client.create_flow_run_from_deployment(deployment, parameters=parameters, state=due).id

    def client(self) -> SyncPrefectClient:
        """A client of this server's API."""
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.api)

    def wait(self, run_id: UUID, *, seconds: float = 120.0, until: str | None = None) -> FlowRun:
        """The run once it is over, or in the state of that name."""

        def look() -> FlowRun | None:
            run = client.read_flow_run(run_id)
            return run if run.state and (run.state.is_final() or run.state.name == until) else None

        with self.client() as client:
            return wait_for(look, seconds, pause=0.3, log=lambda: self.tail("worker"))

    def tail(self, name: str, lines: int = 40) -> str:
        """The end of the log of `server` or `worker`."""
        path = self.logs / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def _start_server(self) -> None:
        server = self._spawn("server", ["server", "start"], cwd=self.logs)

        def healthy() -> bool:
            if server.poll() is not None:
                raise RuntimeError(f"the Prefect server did not start:\n{self.tail('server')}")
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.api}/health", timeout=5).ok
            return False

        wait_for(healthy, 90, log=lambda: self.tail("server"))

    def _spawn(self, name: str, arguments: list[str], *, cwd: Path) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [self.python, "-m", "prefect", "--no-prompt", *arguments],
                cwd=cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        return child


def free_port(wanted: int = 0) -> int:
    """The wanted port where it is free, else any that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])


def stop_group(child: subprocess.Popen[bytes], *, patience: float = 15.0) -> None:
    """End a child and its process group: SIGTERM first, then SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(patience)
    # The group outlives its leader.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def demo(port: int) -> Iterator[Platform]:
    """The platform with the sample's prices, moved to now, ready for runs."""
    from closecast.flows.clock import last_complete_day
    from closecast.flows.settings import home_at
    from closecast.tasks.prices.file_reader import read_candles
    from closecast.tasks.prices.sources import SAMPLE, SAMPLE_PRODUCT
    from tests.exchange import Exchange, shift

    place = home_at().root / "demo"
    place.mkdir(parents=True, exist_ok=True)
    sample = read_candles(SAMPLE.read_bytes(), SAMPLE_PRODUCT).candles
    moved = shift(sample, last_complete_day() + timedelta(days=DAYS_TO_COME))
    with (
        tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder,
        Exchange({SAMPLE_PRODUCT: moved}) as exchange,
    ):
        print_line(f"local exchange at {exchange.url}; starting the Prefect server")
        with Platform(Path(folder), exchange.url, port=port) as platform:
            platform.deploy()
            platform.start_worker()
            print_line(f"server, worker and schedule are up: {platform.url}")
            yield platform


def forecast_once(platform: Platform) -> None:
    from closecast.flows.settings import home_at
    from closecast.storage.tables.predictions import Predictions
    from closecast.tasks.core.forecast import Forecast

    print_line(f"a run of {DEPLOYMENT}")
    run = platform.wait(platform.run(), seconds=1800)
    if run.state is None or not run.state.is_completed():
        sys.exit(f"the run {run.name} did not complete: {run.state}\n{platform.tail('worker')}")
    row = Predictions(home_at(platform.home)).between(horizon=1).to_pylist()[-1]
    print_line(f"{run.name}: close of {row['target_day']}")
    for label, text in Forecast.from_rows([row]).summary():
        print_line(f"  {label:<12}{text}")


def print_line(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)  # noqa: T201


def _interrupted(*_: object) -> None:
    # A second signal would interrupt the stopping of the children.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C, or with --once until the run is done."""
    parser = argparse.ArgumentParser(description="A Prefect server, a worker and the daily deployment.")
    parser.add_argument("--once", action="store_true", help="end after the run")
    parser.add_argument("--port", type=int, help=f"of the server; {USUAL_PORT} where it is free")
    given = parser.parse_args(argv)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupted)
    try:
        with demo(given.port or free_port(USUAL_PORT)) as platform:
            forecast_once(platform)
            if not given.once:
                print_line(f"the schedule is on, the page is {platform.url}; stop with Ctrl-C")
                print_line(f"forecasts: closecast predictions --home {platform.home}")
                signal.pause()
    except KeyboardInterrupt:
        print_line("stopped")
    except (RuntimeError, TimeoutError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
