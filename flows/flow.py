"""The decorator of closecast's flows: what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow

from storage.core.errors import PrefectUnavailable

P = ParamSpec("P")
R = TypeVar("R")


class _Flow(Flow[P, R]):
    """A flow that names in one line what to do where no Prefect server responds."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow.

        Raises:
            PrefectUnavailable: the configured server does not respond, or the temporary one does not come up.
        """
        try:
            return super().__call__(*args, **kwargs)
        except RuntimeError as error:
            if "ephemeral Prefect API server" in str(error):
                raise PrefectUnavailable.of_temporary_server() from error
            if str(error).startswith("Failed to reach API at "):
                address = str(error).removeprefix("Failed to reach API at ")
                raise PrefectUnavailable(
                    f"the Prefect server at {address} does not respond: start it, or correct PREFECT_API_URL"
                ) from error
            raise


def flow(
    *, name: str, flow_run_name: Callable[[], str], **options: Any
) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a function a flow of that name, whose runs are named by the other function.

    The error of a failed run is kept in any case: as JSON, since a pickle runs what it holds when it is
    loaded.
    """
    shared: Any = {"persist_result": False, "result_serializer": "json", "validate_parameters": True}

    def decorate(fn: Callable[P, R]) -> Flow[P, R]:
        return _Flow(fn, name=name, flow_run_name=flow_run_name, **shared, **options)

    return decorate
