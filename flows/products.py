"""The day of several products: a failure of one stops none of the others."""

from __future__ import annotations

import logging
from datetime import date
from typing import Annotated, Any

from prefect import flow, tags, task
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import clock
from flows.daily import daily_forecast, speak_up
from flows.dask import outcome, tasks_on
from flows.settings import DEFAULT_PROFILE, Market, ProfileName, Source, home_at
from storage.core.errors import ProductsFailed
from storage.locks.bucket_owner import prepare_home
from tasks.core.steps import FLOW, STEP
from tasks.profiles.calibrated_settings import ProductId
from tasks.report.prefect_artifacts import show_products

log = logging.getLogger("closecast.products")

MAX_NAMED = 3
# Networks that train side by side would share the cores, and gain nothing. (Prefect types its own runner
# more narrowly than it takes it.)
ONE_BY_ONE: Any = ThreadPoolTaskRunner(max_workers=1)


def _run_name() -> str:
    given = flow_run.get_parameters()
    products = list(dict.fromkeys(given["products"]))
    more = f" and {len(products) - MAX_NAMED} more" if len(products) > MAX_NAMED else ""
    day = given.get("origin")
    if day is None and given.get("source") == "coinbase":
        day = clock.last_complete_day()
    return f"{', '.join(products[:MAX_NAMED])}{more} {day or 'newest day'}"


@flow(
    name="daily-forecasts",
    flow_run_name=_run_name,
    task_runner=ONE_BY_ONE,
    **FLOW,
)
def daily_forecasts(
    products: Annotated[list[ProductId], Field(min_length=1, max_length=1000)],
    source: Source | None = None,
    profile: ProfileName = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    origin: date | None = None,
    home: str | None = None,
    backfill_days: Annotated[int, Field(ge=0, le=366)] = 0,
    dask: str | None = None,
) -> list[str]:
    """Make the day's forecast of each product, a run of `daily-forecast` each.

    Args:
        products: exchange products, such as BTC-USD; one that is named twice is forecast once.
        source: where closes come from; by default what each product has, else the sample.
        profile: the recipe: calibrated intervals, or the article's point.
        settings: fields of the profile to set otherwise, such as {"members": 5}.
        origin: the last day that the run may know; the newest complete one by default.
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        backfill_days: after an outage, also make the forecasts of so many missed days, each from the closes that
            were known on its own day; `created_at` tells them from forecasts that came in time.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process where that is not set.

    Returns:
        The `prediction_id` of each forecast, in the order of the products.

    Raises:
        ProductsFailed: some have no forecast; all others were made before.
    """
    speak_up()
    products = list(dict.fromkeys(products))
    if origin is None and source == "coinbase":
        origin = clock.last_complete_day()  # the same for all, also when midnight passes meanwhile
    place = prepare_home(home_at(home))
    # Prefect gives a run the tags of its deployment, and none to the runs within it.
    with tags(*flow_run.tags), tasks_on(dask, place):
        futures = [
            forecast_product.submit(
                product, source, profile, settings, origin, str(place.root), backfill_days
            )
            for product in products
        ]
        found = {name: outcome([future]) for name, future in zip(products, futures, strict=True)}
    failed = {product: made for product, made in found.items() if not isinstance(made, str)}
    made = {product: made for product, made in found.items() if isinstance(made, str)}
    reasons = {product: f"{type(error).__name__}: {error}" for product, error in failed.items()}
    show_products(place, made, reasons)
    if failed:
        named = "; ".join(f"{product}: {reason}" for product, reason in reasons.items())
        raise ProductsFailed(
            f"{len(failed)} of {len(products)} products have no forecast, all others are done: {named}",
            list(made.values()),
        )
    return list(made.values())


def forecast_one(
    product_id: str,
    source: Source | None,
    profile: ProfileName,
    settings: dict[str, Any] | None,
    origin: date | None,
    home: str | None,
    backfill_days: int,
) -> str:
    """One product's day, as a flow run of its own."""
    market = Market(product_id=product_id, source=source)
    return daily_forecast(market, profile, settings, origin, home, backfill_days)


# A function under its own name beside its task: a decorated one would be sent to other processes as a copy
# that has lost what its annotations name.
forecast_product = task(name="forecast-product", task_run_name="forecast {product_id}", **STEP)(forecast_one)
