"""Where the tasks of a flow run: in its own task runner, or on the workers of a Dask scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from closecast.flows.settings import dask_address
from closecast.storage.core.errors import BadSetting, ClusterUnusable, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.locks.worker_check import WorkerCheck, check_file, check_worker

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

log = logging.getLogger("closecast.dask")
CONNECT_SECONDS = 10


@contextlib.contextmanager
def tasks_on(address: str | None, home: Home) -> Iterator[None]:
    """Run the flow run's tasks on a Dask cluster, or in the flow's own task runner without one.

    The workers need the same code as this process, and the same home, which is prepared: both are checked
    before any work. The address is by default that of CLOSECAST_DASK_ADDRESS.

    Raises:
        BadSetting: not an address, or the extra `dask` is not installed.
        ClusterUnusable: no scheduler responds, or a worker has other code or does not see the home.
    """
    chosen = dask_address(address)
    context = FlowRunContext.get()
    with contextlib.ExitStack() as stack:
        hosts = {check_worker("")["host"]}
        if chosen is not None and context is not None:
            runner = stack.enter_context(_connect(chosen))
            workers = _inspect_workers(chosen, runner, home)
            _require_same(workers, home)
            hosts |= {worker["host"] for worker in workers.values()}
            stack.enter_context(context.model_copy(update={"task_runner": runner}))
        if context is not None and len(hosts) == 1 and not PREFECT_API_URL.value():
            # The temporary server of this run serves its workers, too: each would start another.
            stack.enter_context(temporary_settings({PREFECT_API_URL: str(context.client.api_url)}))
        yield


@contextlib.contextmanager
def _connect(address: str) -> Iterator[DaskTaskRunner]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise BadSetting(f"tasks on {address} need the extra dask: pip install 'closecast[dask]'") from error
    try:
        # In a thread of its own: this one may have a running event loop.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _handshake(address)).result()
    except Exception as error:  # a listener that is no scheduler may send anything
        raise ClusterUnusable(
            f"no Dask scheduler responds at {address} within {CONNECT_SECONDS} s: start one with"
            " `dask scheduler`, or correct the address"
        ) from error
    with DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_SECONDS}) as runner:
        yield runner


async def _handshake(address: str) -> None:
    """Exchange Dask's greetings with the listener: Dask's client would wait for them without a limit."""
    from distributed import Security
    from distributed.comm.core import connect

    arguments = Security().get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, **arguments), CONNECT_SECONDS)
    await comm.close()


def _inspect_workers(address: str, runner: DaskTaskRunner, home: Home) -> dict[str, WorkerCheck]:
    try:
        with check_file(home) as file:
            workers: dict[str, WorkerCheck] = runner.client.run(check_worker, file)
    except HomeUnusable:
        raise
    except Exception as error:  # a worker may raise anything about a function that it cannot import
        raise ClusterUnusable(
            f"the workers of {address} cannot run closecast ({type(error).__name__}: {str(error)[:120]}):"
            " install the same version there"
        ) from error
    if not workers:
        log.warning("%s has no worker yet: start some with `dask worker %s --nthreads 1`", address, address)
    return workers


def _require_same(workers: Mapping[str, WorkerCheck], home: Home) -> None:
    """Refuse workers that would compute other figures, or store them elsewhere."""
    own = check_worker("")["versions"]
    for address, worker in workers.items():
        for name, here in own.items():
            if worker["versions"].get(name) != here:
                raise ClusterUnusable(
                    f"worker {address} has {name} {worker['versions'].get(name)}, but this machine has"
                    f" {here}: install the same version there"
                )
        if not worker["home"]:
            raise ClusterUnusable(
                f"worker {address} does not see the home {home.root}: workers on other machines need it as a"
                " shared folder, at the same path"
            )
