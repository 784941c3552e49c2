"""Steps: plain functions that become Prefect tasks when a flow first runs them.

A step's module imports without Prefect. `@step(...)` leaves the function as it is, so that tests, notebooks
and other processes call it directly; `run_step` and `submit_step` make its task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from storage.core.home import check_product_id

if TYPE_CHECKING:
    from prefect import Task
    from prefect.assets import Asset
    from prefect.futures import PrefectFuture

P = ParamSpec("P")
R = TypeVar("R")

# The error of a failed flow is kept in any case: as JSON, since a pickle runs what it holds when it is
# loaded.
FLOW: dict[str, Any] = {"persist_result": False, "result_serializer": "json", "validate_parameters": True}


class HasFacts(Protocol):
    """The result of a step that makes an asset."""

    def facts(self) -> Mapping[str, object]:
        """What Prefect records with the asset."""


def closes_asset(product_id: str) -> Asset:
    """The closes of a product."""
    return _asset(product_id, "closes", f"{product_id} closes", "Candles as observed")


def model_asset(product_id: str, profile: str) -> Asset:
    """The model that forecasts a product."""
    name = f"closecast.{product_id}.{profile}"
    return _asset(product_id, f"{profile}/model", name, "The champion among the model's versions")


def forecast_asset(product_id: str, profile: str) -> Asset:
    """The forecasts of a product."""
    name = f"{product_id} forecast, {profile}"
    return _asset(product_id, f"{profile}/forecast", name, "The next close, rows of the predictions")


def _asset(product_id: str, path: str, name: str, description: str) -> Asset:
    from prefect.assets import Asset, AssetProperties

    key = f"closecast://{check_product_id(product_id)}/{path}"
    return Asset(key=key, properties=AssetProperties(name=name, description=description))


def step(
    *, timeout_seconds: float | None = None, run_name: str = "", **options: Any
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a step, with options of `prefect.task`.

    `run_name` is added to the task's name: a template of the function's parameters.
    """

    def mark(fn: Callable[P, R]) -> Callable[P, R]:
        name = fn.__name__.replace("_", "-")
        fn.task_options = {  # type: ignore[attr-defined]
            "name": name,
            "task_run_name": f"{name} {run_name}".strip(),
            "timeout_seconds": timeout_seconds,
            **options,
        }
        return fn

    return mark


def run_step(
    fn: Callable[..., R],
    *args: object,
    makes: Asset | None = None,
    of: Sequence[Asset] = (),
    **kwargs: object,
) -> R:
    """Run a step as a task of the current flow, and wait for its result.

    Of the asset that it `makes`, Prefect records what it is made `of`, and the result's `facts()`.
    """
    task = _asset_task(fn, makes, of) if makes else task_of(fn)
    result: R = task.submit(*args, **kwargs).result()
    return result


def submit_step(
    fn: Callable[..., Any], *args: object, wait_for: Sequence[Any] = (), **kwargs: object
) -> PrefectFuture[Any]:
    """Hand a step to the current flow's task runner."""
    return task_of(fn).submit(*args, return_state=False, wait_for=wait_for, **kwargs)


@functools.cache
def task_of(fn: Callable[..., Any]) -> Task[..., Any]:
    """The task of a step."""
    from prefect import task

    return task(fn, **_options(fn))


def _asset_task(fn: Callable[..., Any], makes: Asset, of: Sequence[Asset]) -> Any:
    from prefect.tasks import MaterializingTask

    return MaterializingTask(fn=_with_facts(fn), assets=[makes], asset_deps=[*of], **_options(fn))


def _options(fn: Callable[..., Any]) -> dict[str, Any]:
    from prefect.cache_policies import NO_CACHE

    # Persisted results are pickles: steps hand on what they return in memory alone.
    options: dict[str, Any] = fn.task_options  # type: ignore[attr-defined]
    return options | {"persist_result": False, "cache_policy": NO_CACHE}


def _with_facts(fn: Callable[..., HasFacts]) -> Callable[..., HasFacts]:
    """The function, which also records the facts of its result with the asset that it makes."""
    from prefect.context import AssetContext

    @functools.wraps(fn)
    def recorded(*args: Any, **kwargs: Any) -> HasFacts:
        result = fn(*args, **kwargs)
        facts = {
            name: value if isinstance(value, str | int | float | None) else str(value)
            for name, value in result.facts().items()
        }
        context = AssetContext.get()
        for asset in context.downstream_assets if context else ():
            asset.add_metadata(facts)
        return result

    return recorded
