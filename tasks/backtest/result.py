"""A finished backtest, read back from its table and summed up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
from prefect import task

from storage.core.home import Home
from storage.models.backtest_cache import Folds
from storage.prices.price_store import Prices
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan
from tasks.backtest.summary import Evaluation, Summary, summarise
from tasks.backtest.walk_forward import walk_fold
from tasks.core.steps import STEP

NEEDED = ["component", "target_day", "last_close", "close", "sigma", "quantiles"]


@dataclass(frozen=True)
class BacktestResult:
    """A backtest by its id, its summary, and what the gate said of each challenger, oldest first."""

    backtest_id: str
    summary: Summary
    gates: tuple[str, ...]


def evaluation_of(home: Home, product_id: str, backtest_id: str) -> Evaluation:
    """Every method's quantiles of the log return beside what came, in the order of days."""
    table = backtests(home, product_id)
    rows = table.read(ds.field("backtest_id") == backtest_id, NEEDED).to_pandas()
    rows = rows.sort_values("target_day", kind="stable")
    quantiles, common = {}, pd.DataFrame()
    for method, part in rows.groupby("component", sort=False):
        last = part["last_close"].to_numpy(dtype=np.float64)
        quantiles[str(method)] = np.log(np.stack(part["quantiles"].to_list()) / last[:, None])
        common = part
    return Evaluation(
        target_days=common["target_day"].to_list(),
        last_close=common["last_close"].to_numpy(dtype=np.float64),
        close=common["close"].to_numpy(dtype=np.float64),
        sigma=common["sigma"].to_numpy(dtype=np.float64),
        quantiles=quantiles,
    )


def sum_up(home: Home, plan: Plan) -> BacktestResult:
    """The verdict on a backtest whose folds were all walked; stored beside its models as well."""
    with Prices(home) as prices:
        candles = prices.closes_at(plan.data_version)
    before = candles[candles["day_utc"] < pd.Timestamp(plan.start)]
    past = before.set_index("day_utc")["close"].asfreq("D").to_numpy(dtype=np.float64)
    summary = summarise(
        evaluation_of(home, plan.product_id, plan.backtest_id), past_closes=past, model=plan.recipe.name
    )
    folds = Folds(home, plan.backtest_id)
    folds.write("summary", summary.as_json())
    walk = folds.read(f"fold-{len(plan.folds) - 1}") or {}
    return BacktestResult(plan.backtest_id, summary, tuple(walk.get("gates", ())))


def walk_all(home: Home, plan: Plan) -> BacktestResult:
    """Walk through a backtest whose folds were all prepared, and sum it up."""
    for fold in range(len(plan.folds)):
        walk_fold(home, plan, fold)
    return sum_up(home, plan)


finish_one = task(name="finish-backtest", task_run_name="finish-backtest {plan.product_id}", **STEP)(walk_all)
