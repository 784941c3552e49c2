"""Where the tasks of a flow run: by its own task runner, or on the workers of a Dask scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.settings import dask_address
from storage.core.errors import BadSetting, ClusterUnusable, HomeUnusable
from storage.core.home import Home
from storage.locks.worker_check import WorkerCheck, check_file, check_worker

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

log = logging.getLogger("closecast.cluster")

REACHED_WITHIN_SECONDS = 10


@contextlib.contextmanager
def tasks_on(address: str | None, home: Home) -> Iterator[None]:
    """Have the flow run's tasks done by a Dask cluster, or by the flow's own task runner where there is none.

    The workers need the same code as this process, and the same home: before any work they tell of both.

    Args:
        address: of the scheduler, such as `tcp://127.0.0.1:8786`; CLOSECAST_DASK_ADDRESS by default.
        home: where the tasks will work, prepared.

    Raises:
        BadSetting: not an address, or the extra `dask` is not installed.
        ClusterUnusable: nobody answers there, or a worker has other code, or does not see the home.
    """
    chosen = dask_address(address)
    context = FlowRunContext.get()
    with contextlib.ExitStack() as stack:
        hosts = {check_worker("")["host"]}
        if chosen is not None and context is not None:
            runner = stack.enter_context(_connected(chosen))
            found = _asked(chosen, runner, home)
            _check_workers(found, home)
            hosts |= {seen["host"] for seen in found.values()}
            stack.enter_context(context.model_copy(update={"task_runner": runner}))
        if context is not None and len(hosts) == 1 and not PREFECT_API_URL.value():
            # The server that this run started is one for its workers, too: each would start another.
            stack.enter_context(temporary_settings({PREFECT_API_URL: str(context.client.api_url)}))
        yield


def outcome(futures: Sequence[PrefectFuture[Any]]) -> Any:
    """What the last of these futures came to, or the exception of the first that came to one."""
    result: Any = None
    for future in futures:
        try:
            result = future.result(raise_on_failure=False)
        except Exception as error:  # Dask raises what became of its workers, all the same
            return error
        if isinstance(result, Exception):
            return result
    return result


@contextlib.contextmanager
def _connected(address: str) -> Iterator[DaskTaskRunner]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise BadSetting(f"work on {address} needs the extra dask: pip install 'closecast[dask]'") from error
    try:
        # In a thread of its own: in this one a loop may be at work already.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _greeted(address)).result()
    except Exception as error:  # whoever listens there may answer anything
        raise ClusterUnusable(
            f"no Dask scheduler answers at {address} within {REACHED_WITHIN_SECONDS} s: start one with"
            " `dask scheduler`, or mend the address"
        ) from error
    with DaskTaskRunner(address=address, client_kwargs={"timeout": REACHED_WITHIN_SECONDS}) as runner:
        yield runner


async def _greeted(address: str) -> None:
    """Exchange greetings with who listens there: Dask's own client waits for them for ever.

    Raises:
        TimeoutError: nobody greets in time.
        OSError: nobody listens.
    """
    from distributed import Security
    from distributed.comm.core import connect

    how = Security().get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, **how), REACHED_WITHIN_SECONDS)
    await comm.close()


def _asked(address: str, runner: DaskTaskRunner, home: Home) -> dict[str, WorkerCheck]:
    """What each worker tells of itself."""
    try:
        with check_file(home) as file:
            found: dict[str, WorkerCheck] = runner.client.run(check_worker, file)
    except HomeUnusable:
        raise
    except Exception as error:  # whatever a worker makes of a function that it does not know
        raise ClusterUnusable(
            f"the workers of {address} cannot run closecast ({type(error).__name__}: {str(error)[:120]}):"
            " install the same version of it there"
        ) from error
    if not found:
        log.warning("%s has no worker yet: start some with `dask worker %s --nthreads 1`", address, address)
    return found


def _check_workers(found: dict[str, WorkerCheck], home: Home) -> None:
    """Refuse workers that would make other figures, or put them elsewhere."""
    own = check_worker("")["versions"]
    for worker, seen in found.items():
        for name, here in own.items():
            if seen["versions"].get(name) != here:
                raise ClusterUnusable(
                    f"worker {worker} has {name} {seen['versions'].get(name)}, and here is {here}:"
                    " install the same there, for the same figures"
                )
        if not seen["home"]:
            raise ClusterUnusable(
                f"worker {worker} does not see the home {home.root}: workers on other machines need it as a"
                " shared folder, at the same path"
            )


first_error_or_result = outcome
