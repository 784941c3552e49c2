"""Steps: plain functions that become Prefect tasks when a flow first runs them.

A step's module imports without Prefect. `@step(...)` leaves the function as it is, so that tests, notebooks
and other processes call it directly; within a flow, `run_step` and `submit_step` make its task.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from closecast.storage.core.home import Home, check_product_id
from closecast.tasks.core.forecast import Forecast

if TYPE_CHECKING:
    from prefect import Task
    from prefect.futures import PrefectFuture

log = logging.getLogger("closecast.steps")

P = ParamSpec("P")
R = TypeVar("R")


class HasFacts(Protocol):
    """The result of a step that makes an asset."""

    def facts(self) -> Mapping[str, object]:
        """What Prefect records with the asset."""


@dataclass(frozen=True)
class DataAsset:
    """A Prefect asset: a series, a model or a table that steps make, by its key."""

    key: str
    name: str
    description: str


def closes_asset(home: Home, product_id: str) -> DataAsset:
    """The closes of a product."""
    return _asset(home, product_id, "closes", f"{product_id} closes", "Candles as observed")


def model_asset(home: Home, product_id: str, profile: str) -> DataAsset:
    """The model that forecasts a product."""
    name = f"closecast.{product_id}.{profile}"
    return _asset(home, product_id, f"{profile}/model", name, "The champion among the model's versions")


def forecast_asset(home: Home, product_id: str, profile: str) -> DataAsset:
    """The forecasts of a product."""
    description = "The closes of the next days, rows of the predictions"
    return _asset(home, product_id, f"{profile}/forecast", f"{product_id} forecast, {profile}", description)


def _asset(home: Home, product_id: str, path: str, name: str, description: str) -> DataAsset:
    """An asset under its home's label, which keeps the assets of homes apart."""
    label = home.label
    key = "/".join(filter(None, (label, check_product_id(product_id), path)))
    return DataAsset(f"closecast://{key}", f"{name} ({label})" if label else name, description)


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
    makes: DataAsset | None = None,
    of: Sequence[DataAsset] = (),
    **kwargs: object,
) -> R:
    """Run a step as a task of the current flow, and wait for its result; without a flow, just call it.

    Of the asset that it `makes`, Prefect records what it is made `of`, and the result's `facts()`.
    """
    context = sys.modules.get("prefect.context")  # not loaded: no flow
    if context is None or context.FlowRunContext.get() is None:
        return fn(*args, **kwargs)
    from prefect.utilities.annotations import opaque

    task = _asset_task(fn, makes, tuple(of)) if makes else task_of(fn)
    # Prefect would look for futures in every quantile.
    given = [opaque(value) if isinstance(value, Forecast) else value for value in args]
    result: R = result_of(task.submit(*given, **kwargs), fn, *args, **kwargs)
    return result


def result_of(future: PrefectFuture[R], fn: Callable[..., R], *args: object, **kwargs: object) -> R:
    """The result of a step that was submitted with these arguments.

    If Prefect's server refuses its task, the step is called directly: no work depends on that server, and a
    step that is done does nothing when called again.
    """
    import httpx
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

    try:
        result: R = future.result()
    except (httpx.HTTPError, ConcurrencySlotAcquisitionError) as error:  # no step makes such requests itself
        name = task_of(fn).name
        log.warning("%s: Prefect's server refused its task, it runs without one: %.200s", name, error)
        result = fn(*args, **kwargs)
    return result


def submit_step(
    fn: Callable[..., Any], *args: object, wait_for: Sequence[Any] = (), **kwargs: object
) -> PrefectFuture[Any]:
    """Submit a step to the current flow's task runner."""
    return task_of(fn).submit(*args, return_state=False, wait_for=wait_for, **kwargs)


@functools.cache
def task_of(fn: Callable[..., Any]) -> Task[..., Any]:
    """The task of a step."""
    from prefect import task

    return task(fn, **_options(fn))


@functools.lru_cache(maxsize=64)  # making a task takes as long as its run
def _asset_task(fn: Callable[..., Any], makes: DataAsset, of: tuple[DataAsset, ...]) -> Any:
    from prefect.assets import Asset, AssetProperties
    from prefect.tasks import MaterializingTask

    def known_to_prefect(asset: DataAsset) -> Asset:
        properties = AssetProperties(name=asset.name, description=asset.description)
        return Asset(key=asset.key, properties=properties)

    made_of: list[Asset | str] = [known_to_prefect(asset) for asset in of]
    return MaterializingTask(
        fn=_with_facts(fn), assets=[known_to_prefect(makes)], asset_deps=made_of, **_options(fn)
    )


def _options(fn: Callable[..., Any]) -> dict[str, Any]:
    from prefect.cache_policies import NO_CACHE

    # Persisted results are pickles: steps hand on what they return in memory alone.
    options: dict[str, Any] = fn.task_options  # type: ignore[attr-defined]
    return options | {"persist_result": False, "cache_policy": NO_CACHE}


def _with_facts(fn: Callable[..., HasFacts]) -> Callable[..., HasFacts]:
    """The function, extended to record the facts of its result with the asset that it makes."""
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
