"""What a backtest is made of: its data, its profile, its origins and its folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from storage.core.errors import BadDay, NotEnoughHistory
from storage.core.home import Home
from storage.core.provenance import code_version
from storage.prices.price_store import Prices
from tasks.core.history import PriceHistory
from tasks.core.steps import step
from tasks.core.types import Rows
from tasks.features.volatility import log_returns, with_outcome
from tasks.profiles.base import Profile
from tasks.profiles.baselines import MIN_RETURNS
from tasks.profiles.named import own_files
from tasks.training.policy import MIN_UNSEEN_DAYS


@dataclass(frozen=True)
class Plan:
    """One backtest, by the versions of everything that goes into it; its id is their digest.

    `folds` are the first origins of the folds; origins run from `start` to `end`, both included. `pooled` are
    the data versions of the pool products.
    """

    backtest_id: str
    product_id: str
    profile: Profile
    data_version: str
    pooled: Mapping[str, str]
    start: date
    end: date
    folds: tuple[date, ...]
    origins: int
    created_at: datetime

    def span(self, fold: int) -> tuple[date, date]:
        """First and last day that can be an origin of the fold."""
        last = self.folds[fold + 1] - timedelta(days=1) if fold + 1 < len(self.folds) else self.end
        return self.folds[fold], last


@step(run_name="{product_id}")
def plan_backtest(
    home: Home, product_id: str, profile: Profile, *, start: date | None, end: date | None, moment: datetime
) -> Plan:
    """Lay out the folds over the stored closes; nothing is fetched.

    The origins run from `start` to `end`: by default the year up to the last day but one, whose outcome is
    the last close.

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
        # For the outcomes, as far as they are known.
        through = min(last, end + timedelta(days=max(profile.horizons)))
        data_version = prices.data_version(product_id, through, created_at=moment)
        candles = prices.closes_at(data_version)
        pooled = {}
        for product in profile.pool_products:
            first = prices.first_day(product)
            if product != product_id and first is not None and first <= end:
                pooled[product] = prices.data_version(product, end, created_at=moment)
    origins = origins_between(candles, profile, start, end)
    code = code_version(*own_files(profile))
    parts = [product_id, profile.version, data_version, pooled, str(start), str(end), code]
    return Plan(
        backtest_id=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16],
        product_id=product_id,
        profile=profile,
        data_version=data_version,
        pooled=pooled,
        start=start,
        end=end,
        folds=_fold_starts(candles, origins, profile),
        origins=len(origins),
        created_at=moment,
    )


def origins_between(candles: pd.DataFrame, profile: Profile, start: date, end: date) -> Rows:
    """Rows of the origins in the span: a whole input window, and a close on the day after.

    Raises:
        NotEnoughHistory: there is none, or the first one has too few days behind it.
    """
    rows = with_outcome(candles, profile.origins(candles))
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]")
    rows = rows[(days[rows] >= np.datetime64(start)) & (days[rows] <= np.datetime64(end))]
    if not len(rows):
        raise NotEnoughHistory(
            f"a forecast needs {profile.consecutive_days} consecutive days up to its origin and a close after"
            f" it: no day from {start} to {end} has them; import more history"
        )
    behind = int(rows[0]) + 1
    enough = not profile.levels or np.isfinite(log_returns(candles)[:behind]).sum() >= MIN_RETURNS
    if behind < profile.min_days or not enough:
        raise NotEnoughHistory(
            f"profile {profile.name} needs {profile.min_days} days of closes, found {behind} up to {start}:"
            " begin later with --start, or import more history"
        )
    return rows


def _fold_starts(candles: pd.DataFrame, origins: Rows, profile: Profile) -> tuple[date, ...]:
    """The origins on which a refit is due, as `policy.decide` finds them due."""
    days = candles["day_utc"].dt.date.to_numpy()[origins]
    every = profile.policy.refit_every_days
    if not every:
        return tuple(days)
    ripe = days[0]
    if profile.gate_days:
        # The first champion may have been trained on all days, and is judged once half a year is unseen.
        enough = int(origins[0]) + 1 >= profile.min_days + profile.gate_days
        ripe += timedelta(days=MIN_UNSEEN_DAYS - (profile.gate_days if enough else 0))
    starts = [days[0]]
    for day in days:
        if (day - starts[-1]).days >= every and day >= ripe:
            starts.append(day)
    return tuple(starts)


def read_histories(home: Home, plan: Plan) -> tuple[PriceHistory, dict[str, PriceHistory]]:
    """The product's history through the last outcome, and those of the pool."""
    pinned = {plan.product_id: plan.data_version, **plan.pooled}
    with Prices(home) as prices:
        histories = {
            product: PriceHistory(product, prices.closes_at(version), version, prices.series_of(version))
            for product, version in pinned.items()
        }
    return histories.pop(plan.product_id), histories
