"""The days that no run made a forecast from: a machine was off, or a schedule paused."""

from __future__ import annotations

from datetime import date, timedelta

from prefect import task

from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from tasks.core.steps import STEP


def missed_days(home: Home, product_id: str, profile: str, *, origin: date, most: int) -> list[date]:
    """The days with a close between the newest forecast's origin and this one, oldest first.

    None where nothing was forecast before: a first run has missed nothing.

    Args:
        home: with the product's closes up to `origin`.
        product_id: whose forecasts.
        profile: of the forecasts.
        origin: of the run, which is not among the days.
        most: how many days, the newest ones, are worth it.
    """
    if most < 1:
        return []
    rows = Predictions(home).between(product_id, profile=profile, columns=["origin_day"])
    earlier = [day for day in rows["origin_day"].unique().to_pylist() if day < origin]
    if not earlier:
        return []
    after = max(max(earlier), origin - timedelta(days=most + 1))
    with Prices(home) as prices:
        days = prices.days(product_id, through=origin).dt.date
    return [day for day in days if after < day < origin]


find_missed = task(
    name="find-missed-days", task_run_name="find-missed-days {product_id}", timeout_seconds=60, **STEP
)(missed_days)
