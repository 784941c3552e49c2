"""A Dask cluster as users start one: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed import Client

from tests.waiting import end, wait_for


class Cluster:
    """A scheduler on a free port of this machine, and the workers that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        told = folder / "scheduler.json"
        at = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
        self._start("scheduler", "scheduler", *at, "--scheduler-file", str(told))
        wait_for(told.exists)
        self.client = Client(scheduler_file=str(told), timeout=60, set_as_default=False)
        self.address: str = self.client.scheduler.address

    def add_worker(self, name: str, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a worker of one thread, and wait until the scheduler knows it."""
        place = self.folder / name
        place.mkdir()
        options = (*options, "--nthreads", "1", "--no-dashboard", "--local-directory", str(place))
        self._start(name, "worker", self.address, "--name", name, *options, environment=environment)
        wait_for(lambda: name in self.workers())

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler knows of each worker, by its name."""
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        return {worker["name"]: {**worker, "address": address} for address, worker in known.items()}

    def process(self, name: str) -> int:
        """The id of the process that was started under this name."""
        return self._processes[name].pid

    def pid(self, name: str) -> int:
        """The worker's own process, which a nanny may have started."""
        address = self.workers()[name]["address"]
        return int(self.client.run(os.getpid, workers=[address])[address])

    def at_work(self, name: str) -> tuple[str, ...]:
        """The tasks that the scheduler has given the worker and not got back."""
        address = self.workers()[name]["address"]
        return tuple(self.client.processing(workers=[address])[address])

    def stop(self) -> None:
        """End all of its processes."""
        self.client.close()
        for process in reversed(self._processes.values()):
            end(process)

    def end(self, name: str) -> None:
        """End one worker, as its administrator would."""
        end(self._processes.pop(name))

    def _start(self, name: str, *words: str, environment: Mapping[str, str] | None = None) -> None:
        chosen = {**os.environ, "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "0", **(environment or {})}
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *words], stdout=log, stderr=log, env=chosen, cwd=self.folder
            )


@contextlib.contextmanager
def started(folder: Path, *names: str) -> Iterator[Cluster]:
    """A cluster with workers of these names, without nannies: who is killed stays dead."""
    cluster = Cluster(folder)
    try:
        for name in names:
            cluster.add_worker(name, "--no-nanny")
        yield cluster
    finally:
        cluster.stop()
