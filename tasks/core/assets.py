"""What the steps make, as assets of Prefect: closes → model → forecast, each with where it came from.

A step is told at its call whose asset it makes, and of what: `making(choose, model, closes).submit(...)`.
Prefect then records the lineage and the outcome of each materialization, a failed one as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext
from prefect.tasks import MaterializingTask

from storage.core.home import check_product_id

P = ParamSpec("P")
R = TypeVar("R")

# What a step makes until a product is named.
CLOSES, MODEL, FORECAST = (f"closecast://{kind}" for kind in ("closes", "model", "forecast"))


def closes_asset(product_id: str) -> Asset:
    """The closes of a product."""
    return _asset(f"{check_product_id(product_id)}/closes", f"{product_id} closes", "Candles as observed")


def model_asset(product_id: str, profile: str) -> Asset:
    """The model that forecasts a product."""
    key = f"{check_product_id(product_id)}/{profile}/model"
    return _asset(key, f"closecast.{product_id}.{profile}", "The champion among the model's versions")


def forecast_asset(product_id: str, profile: str) -> Asset:
    """The forecasts of a product."""
    key = f"{check_product_id(product_id)}/{profile}/forecast"
    return _asset(key, f"{product_id} forecast, {profile}", "The next day's close, a row of the predictions")


def making(step: MaterializingTask[P, R], asset: Asset, *of: Asset) -> MaterializingTask[P, R]:
    """The step as one that makes the asset of the others."""
    return step.with_options(assets=[asset], asset_deps=[*of])


def noting(fn: Callable[P, R], facts: Callable[[R], Mapping[str, Any]]) -> Callable[P, R]:
    """The function, which also leaves the facts of what it made with the asset that its step makes."""

    @functools.wraps(fn)
    def noted(*args: P.args, **kwargs: P.kwargs) -> R:
        made = fn(*args, **kwargs)
        context = AssetContext.get()
        for asset in context.downstream_assets if context else ():
            asset.add_metadata({name: _plain(fact) for name, fact in facts(made).items()})
        return made

    return noted


def _asset(key: str, name: str, description: str) -> Asset:
    return Asset(key=f"closecast://{key}", properties=AssetProperties(name=name, description=description))


def _plain(fact: object) -> object:
    return fact if isinstance(fact, str | int | float | bool | None) else str(fact)
