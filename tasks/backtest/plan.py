"""The plan of a backtest: its data, profile, origins and folds."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from closecast.storage.core.errors import BadDay, NotEnoughHistory
from closecast.storage.core.home import Home
from closecast.storage.core.provenance import code_version
from closecast.storage.prices.price_store import Prices
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.steps import step
from closecast.tasks.core.types import Rows
from closecast.tasks.features.volatility import rows_after
from closecast.tasks.prices.ingest import MAX_POOL, history_of
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.named import own_files
from closecast.tasks.training.policy import MIN_UNSEEN_DAYS


@dataclass(frozen=True)
class Plan:
    """A backtest, with the versions of everything that goes into it; its id is their digest.

    `folds` are the first origins of the folds; origins run from `start` to `end`, both included. Folds in
    `decided` begin because new decisions are known, not with a refit. `pooled` are the data
    versions of the pool products.
    """

    backtest_id: str
    product_id: str
    profile: Profile
    data_version: str
    pooled: Mapping[str, str]
    start: date
    end: date
    folds: tuple[date, ...]
    decided: tuple[date, ...]
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
    """Plan the folds over the stored closes; nothing is fetched.

    The origins run from `start` to `end`: by default the year up to the last day but one, whose outcome is
    the last close, or as much of it as has days enough behind it.

    Raises:
        BadDay: an end without an outcome, or a start after it.
        NotEnoughHistory: too few days before the start.
    """
    with Prices(home) as prices:
        began, last = prices.first_day(product_id), prices.last_day(product_id)
        if began is None or last is None:
            raise NotEnoughHistory(
                f"{product_id} has no closes in {home.root}: `closecast import` them or make a run first"
            )
        end = end or last - timedelta(days=1)
        enough = began + timedelta(days=profile.min_fallback_days - 1)
        start = start or max(end - timedelta(days=364), min(enough, end))
        if not start <= end < last:
            raise BadDay(
                f"a backtest cannot run from {start} to {end}: it must start before it ends, and end by"
                f" {last - timedelta(days=1)}, the last origin whose outcome is known"
            )
        # For the outcomes, as far as they are known.
        through = min(last, end + timedelta(days=max(profile.horizons)))
        history = history_of(product_id, prices.read_history(product_id, through, created_at=moment))
        origins = origins_between(history, profile, start, end)
        young = origins[0] + 1 < profile.min_days
        pooled, pool_from = _pin_pool(prices, product_id, profile, end, moment, young=young)
    folds = _fold_starts(history.candles, origins, profile, pool_from)
    days: list[date] = history.days[origins].tolist()
    # The first origin that knows each change of the decisions about days.
    changes = [days[bisect_left(days, day)] for day in history.knowledge_changes(days[0], days[-1])]
    code = code_version(*own_files(profile))
    parts = [product_id, profile.version, history.data_version, pooled, str(start), str(end), code]
    return Plan(
        backtest_id=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16],
        product_id=product_id,
        profile=profile,
        data_version=history.data_version,
        pooled=pooled,
        start=start,
        end=end,
        folds=tuple(sorted({*folds, *changes})),
        decided=tuple(sorted({*changes} - {*folds})),
        origins=len(origins),
        created_at=moment,
    )


def _pin_pool(
    prices: Prices, product_id: str, profile: Profile, end: date, moment: datetime, *, young: bool
) -> tuple[dict[str, str], date | None]:
    """The data versions of the pool up to `end`, and the day from which it can train for a young product."""
    older = list[str]()
    if young and profile.min_pool_days < profile.min_days:
        older = prices.oldest_products(end, min_days=profile.min_days, limit=MAX_POOL)
    pooled, begins = dict[str, str](), list[date]()
    for product in dict.fromkeys((*profile.pool_products, *older)):
        first = prices.first_day(product)
        if product != product_id and first is not None and first <= end:
            pooled[product] = prices.data_version(product, end, created_at=moment)
            if product in older:
                begins.append(prices.days(product).iloc[profile.min_days - 1].date())
    return pooled, min(begins, default=None)


def origins_between(history: PriceHistory, profile: Profile, start: date, end: date) -> Rows:
    """Rows of the origins in the span: every day whose close was known on it, with one on a day forecast.

    `NotEnoughHistory` if there is none, or the first one has too few days behind it.
    """
    candles = history.candles
    days = candles["day_utc"].to_numpy(dtype="datetime64[D]")
    rows = np.flatnonzero((days >= np.datetime64(start)) & (days <= np.datetime64(end)))
    outcomes = [rows_after(candles, horizon)[rows] >= 0 for horizon in profile.horizons]
    rows = rows[np.any(outcomes, axis=0)]
    rows = rows[[history.was_known(day) for day in days[rows].tolist()]]
    if not len(rows):
        raise NotEnoughHistory(
            f"a backtest needs closes on its days, and after them: no day from {start} to {end} has both;"
            " import more history"
        )
    behind = int((days[rows[0]] - days[0]).astype(int)) + 1
    if behind < profile.min_fallback_days:
        raise NotEnoughHistory(
            f"a forecast of profile {profile.name} needs {profile.min_fallback_days} days before it, but"
            f" there are {behind} up to {start}: start later with --start, or import more history"
        )
    return rows


def _fold_starts(
    candles: pd.DataFrame, origins: Rows, profile: Profile, pool_from: date | None
) -> tuple[date, ...]:
    """The origins on which a refit is due, as `policy.decide` finds them due; first that of the first model.

    Origins before it, without a model, are a fold of their own. The pool can train from `pool_from` on.
    """
    days = candles["day_utc"].dt.date.to_numpy()
    every = profile.policy.refit_every_days
    trained = origins[origins + 1 >= profile.min_days]
    if not every:
        return tuple(days[origins])
    enough = (origins + 1 >= profile.min_pool_days) & (origins + 1 < profile.min_days)
    young = (day for day in days[origins[enough]] if pool_from is not None and day >= pool_from)
    starts = [days[origins[0]], *_apart(every, young, date.min)]
    if len(trained):
        first = ripe = days[trained[0]]
        if profile.gate_days:
            # The first champion may have been trained on all days, and is judged once half a year is unseen.
            twin = int(trained[0]) + 1 >= profile.min_days + profile.gate_days
            ripe += timedelta(days=MIN_UNSEEN_DAYS - (profile.gate_days if twin else 0))
        starts += [first, *_apart(every, (day for day in days[trained] if day >= ripe), first)]
    return tuple(dict.fromkeys(starts))


def _apart(every: int, days: Iterable[date], last: date) -> Iterator[date]:
    """Those of the days, rising, that are so many days after `last`, and after one another."""
    for day in days:
        if (day - last).days >= every:
            yield day
            last = day


def read_histories(home: Home, plan: Plan) -> tuple[PriceHistory, dict[str, PriceHistory]]:
    """The product's history through the last outcome, and those of the pool."""
    pinned = {plan.product_id: plan.data_version, **plan.pooled}
    with Prices(home) as prices:
        histories = {
            product: history_of(product, prices.prices_at(version)) for product, version in pinned.items()
        }
    return histories.pop(plan.product_id), histories
