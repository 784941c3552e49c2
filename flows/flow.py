"""The decorator of closecast's flows: what all of them have in common."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import Flow
from prefect.exceptions import PrefectHTTPStatusError

from closecast.storage.core.errors import ClosecastError, PrefectUnavailable

log = logging.getLogger("closecast")

P = ParamSpec("P")
R = TypeVar("R")

_results: ContextVar[list[Any] | None] = ContextVar("results", default=None)


class _Flow(Flow[P, R]):
    """A flow that says in one line what to do if no Prefect server responds."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow.

        A `finished` result is returned even if the server cannot record the run's end.

        Raises:
            PrefectUnavailable: the configured server does not respond or refuses the run, or the temporary
                one does not come up.
        """
        results: list[Any] = []
        before = sys.exception()
        token = _results.set(results)
        try:
            return super().__call__(*args, **kwargs)
        except (httpx.HTTPError, RuntimeError) as error:
            if results:
                log.warning("all is done, but Prefect's server did not record the run's end: %.200s", error)
                return results[0]
            if own := _own_error(error, before):
                raise own from None
            if "ephemeral Prefect API server" in str(error):
                raise PrefectUnavailable.of_temporary_server() from error
            if isinstance(error, PrefectHTTPStatusError):
                raise _unavailable(error) from error
            if str(error).startswith("Failed to reach API at "):
                address = str(error).removeprefix("Failed to reach API at ")
                raise PrefectUnavailable.of_server(address) from error
            raise
        finally:
            _results.reset(token)

    def __reduce__(self) -> Any:
        """Pickle a module's flow by its name, which `serve` needs to run it in a separate process.

        By value its function would lack the names in its annotations.
        """
        by_name = getattr(sys.modules.get(self.fn.__module__), self.fn.__name__, None) is self
        return self.fn.__name__ if by_name else super().__reduce__()


def _own_error(error: BaseException, before: BaseException | None) -> ClosecastError | None:
    """The error that failed the run, if Prefect's server then refused to record it.

    `before` was being handled already when the run began.
    """
    earlier = error.__cause__ or error.__context__
    if earlier is None or earlier is before:
        return None
    return earlier if isinstance(earlier, ClosecastError) else _own_error(earlier, before)


def _unavailable(error: PrefectHTTPStatusError) -> PrefectUnavailable:
    """The error for a response with which a server refuses a run."""
    url, code = error.request.url, error.response.status_code
    if code in (401, 403):
        return PrefectUnavailable(
            f"the Prefect server at {url.host} requires a login: set PREFECT_API_AUTH_STRING, or"
            " PREFECT_API_KEY, to the value that it was started with"
        )
    return PrefectUnavailable(
        f"the Prefect server at {url.host} refuses the run, {code} to {error.request.method} {url.path}:"
        " see the server's log, then run again"
    )


def finished(result: R) -> R:
    """Mark a flow's result as final, in its last line: no later error of Prefect's can lose it."""
    results = _results.get()
    if results is not None:
        results.append(result)
    return result


def flow(
    *, name: str, flow_run_name: Callable[[], str], **options: Any
) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a function a flow of that name, whose runs are named by the other function.

    Prefect always keeps the error of a failed run: as JSON, because loading a pickle can run code.
    """
    shared: Any = {"persist_result": False, "result_serializer": "json", "validate_parameters": True}

    def decorate(fn: Callable[P, R]) -> Flow[P, R]:
        return _Flow(fn, name=name, flow_run_name=flow_run_name, **shared, **options)

    return decorate
