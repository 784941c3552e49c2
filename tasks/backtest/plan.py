"""What a backtest is made of: its data, its settings, its origins and its folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task

from storage.core.errors import BadDay, NotEnoughHistory
from storage.core.home import Home
from storage.prices.price_store import Prices
from tasks.core.steps import STEP
from tasks.features.inputs import columns_of, make_inputs, usable_rows
from tasks.profiles.baselines import MIN_RETURNS
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble import held_out_days
from tasks.training.policy import MIN_UNSEEN_DAYS


@dataclass(frozen=True)
class Plan:
    """One backtest, by the versions of everything that goes into it; its id is their digest.

    `folds` are the first origins of the folds; origins run from `start` to `end`, both included.
    """

    backtest_id: str
    product_id: str
    settings: Mapping[str, Any]
    data_version: str
    pooled: Mapping[str, str]
    start: date
    end: date
    folds: tuple[date, ...]
    origins: int
    created_at: datetime

    @property
    def recipe(self) -> Recipe:
        """The settings as the model that they were checked by."""
        return Recipe.model_validate(dict(self.settings))

    def span(self, fold: int) -> tuple[date, date]:
        """First and last day that can be an origin of the fold."""
        last = self.folds[fold + 1] - timedelta(days=1) if fold + 1 < len(self.folds) else self.end
        return self.folds[fold], last


def plan_backtest(
    home: Home,
    product_id: str,
    recipe: Recipe,
    *,
    start: date | None,
    end: date | None,
    code_version: str,
    moment: datetime,
) -> Plan:
    """Lay out the folds over the stored closes; nothing is fetched.

    Args:
        home: prepared, with closes of the product.
        product_id: whose closes.
        recipe: how.
        start: first origin; a year before `end` by default.
        end: last origin; the last day but one by default, whose outcome is the last close.
        code_version: of this code.
        moment: of the run, for the names of the data.

    Raises:
        BadDay: an end without an outcome, or a start after it.
        NotEnoughHistory: too few days before the start.
    """
    with Prices(home) as prices:
        last = prices.last_day(product_id)
        if last is None:
            raise NotEnoughHistory(
                f"{product_id} has no closes in {home.root}: `closecast import` them or make a run first"
            )
        end = end or last - timedelta(days=1)
        start = start or end - timedelta(days=364)
        if not start <= end < last:
            raise BadDay(
                f"a backtest needs a start, and an end whose outcome is known, not {start} to {end}:"
                f" the last origin with an outcome is {last - timedelta(days=1)}"
            )
        data_version = prices.data_version(product_id, end + timedelta(days=1), created_at=moment)
        candles = prices.closes_at(data_version)
        pooled = {}
        for product in recipe.pool_products:
            first = prices.first_day(product)
            if product != product_id and first is not None and first <= end:
                pooled[product] = prices.data_version(product, end, created_at=moment)
    origins = origins_between(candles, recipe, start, end)
    settings = recipe.model_dump(mode="json")
    parts = [product_id, settings, data_version, pooled, str(start), str(end), code_version]
    return Plan(
        backtest_id=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16],
        product_id=product_id,
        settings=settings,
        data_version=data_version,
        pooled=pooled,
        start=start,
        end=end,
        folds=_fold_starts(candles, origins, recipe),
        origins=len(origins),
        created_at=moment,
    )


def origins_between(candles: pd.DataFrame, recipe: Recipe, start: date, end: date) -> NDArray[np.int64]:
    """Rows of the origins in the span: a whole input window, and a close on the day after.

    Raises:
        NotEnoughHistory: there is none, or the first one has too few days behind it.
    """
    inputs = make_inputs(candles, recipe.input_settings, columns_of(candles, share=recipe.column_share))
    rows = usable_rows(inputs, lookback=recipe.lookback)
    rows = rows[np.isfinite(inputs.targets[rows])]
    rows = rows[(inputs.days[rows] >= np.datetime64(start)) & (inputs.days[rows] <= np.datetime64(end))]
    if not len(rows):
        raise NotEnoughHistory(
            f"a forecast needs {recipe.lookback + 1} consecutive days up to its origin and a close after it:"
            f" no day from {start} to {end} has them; import more history"
        )
    behind = int(rows[0]) + 1
    returns = int(np.isfinite(inputs.returns[:behind]).sum())
    if behind < recipe.min_days or returns < MIN_RETURNS:
        raise NotEnoughHistory(
            f"honest intervals need {recipe.min_days} days of closes, found {behind} up to {start}:"
            " begin later with --start, or import more history"
        )
    return rows


def _fold_starts(candles: pd.DataFrame, origins: NDArray[np.int64], recipe: Recipe) -> tuple[date, ...]:
    """The origins on which a refit is due, as `policy.decide` would find them due."""
    days = candles["day_utc"].dt.date.to_numpy()[origins]
    # The first champion may have seen all days, and is judged once half a year is unseen.
    held_out = held_out_days(int(origins[0]) + 1, recipe)
    ripe = days[0] + timedelta(days=MIN_UNSEEN_DAYS - held_out)
    starts = [days[0]]
    for day in days:
        if (day - starts[-1]).days >= recipe.refit_every_days and day >= ripe:
            starts.append(day)
    return tuple(starts)


def candles_until(home: Home, plan: Plan, through: date) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """The product's candles up to a day, inclusive, and those of the pooled products."""
    with Prices(home) as prices:
        frames = {product: prices.closes_at(version) for product, version in plan.pooled.items()}
        own = prices.closes_at(plan.data_version)
    until = pd.Timestamp(through)

    def cut(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["day_utc"] <= until].reset_index(drop=True)

    return cut(own), {product: cut(frame) for product, frame in frames.items()}


plan_one = task(name="plan-backtest", task_run_name="plan-backtest {product_id}", **STEP)(plan_backtest)
