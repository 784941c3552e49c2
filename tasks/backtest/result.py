"""A finished backtest, read back from its table and summarised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from storage.core.errors import BadDay
from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan, read_histories
from tasks.backtest.summary import Evaluation, Summary, summarise
from tasks.backtest.walk_forward import walk_fold
from tasks.core.steps import step

COLUMNS = ["component", "horizon", "target_day", "last_close", "close", "sigma", "quantiles", "point"]


@dataclass(frozen=True)
class BacktestResult:
    """A backtest by its id, its summary, and the gate's line on each challenger, oldest first."""

    backtest_id: str
    summaries: tuple[Summary, ...]  # one for each horizon
    gates: tuple[str, ...]

    @property
    def summary(self) -> Summary:
        """That of the next day."""
        return self.summaries[0]

    def of(self, horizon: int) -> Summary:
        """That of one horizon.

        Raises:
            BadDay: no outcome so far ahead was known.
        """
        for summary in self.summaries:
            if summary.horizon == horizon:
                return summary
        raise BadDay(f"no origin of this backtest has an outcome {horizon} days ahead: begin it earlier")


def read_evaluations(home: Home, product_id: str, backtest_id: str, profile: str) -> dict[int, Evaluation]:
    """Every component's quantiles of the log return beside the outcomes, in the order of days, by horizon."""
    rows = backtests(home, product_id).read(ds.field("backtest_id") == backtest_id, COLUMNS).to_pandas()
    rows = rows.sort_values("target_day", kind="stable")
    return {int(horizon): _evaluation(part, profile) for horizon, part in rows.groupby("horizon")}


def _evaluation(rows: pd.DataFrame, profile: str) -> Evaluation:
    quantiles = {
        str(component): np.log(np.stack(part["quantiles"].tolist()) / part[["last_close"]].to_numpy())
        for component, part in rows.dropna(subset="quantiles").groupby("component", sort=False)
    }
    own = rows[rows["component"] == profile]
    figures = {name: own[name].to_numpy(np.float64) for name in ("last_close", "close", "sigma", "point")}
    return Evaluation(target_days=own["target_day"].to_list(), quantiles=quantiles, **figures)


def read_result(home: Home, plan: Plan) -> BacktestResult:
    """The result of a backtest whose folds were all walked."""
    history, _ = read_histories(home, plan)
    closes = history.candles.set_index("day_utc")["close"].asfreq("D")
    past = closes[closes.index < pd.Timestamp(plan.start)].to_numpy(dtype=np.float64)
    evaluations = read_evaluations(home, plan.product_id, plan.backtest_id, plan.profile.name)
    about: Any = {"model": plan.profile.name, "currency": history.quote_currency}
    summaries = [
        summarise(evaluation, past, horizon=horizon, **about) for horizon, evaluation in evaluations.items()
    ]
    last = BacktestCache(home, plan.backtest_id).read(f"fold-{len(plan.folds) - 1}") or {}
    return BacktestResult(plan.backtest_id, tuple(summaries), tuple(last.get("gates", ())))


@step(run_name="{plan.product_id}")
def finish_backtest(home: Home, plan: Plan) -> BacktestResult:
    """Walk a backtest whose folds were all prepared, and summarise it."""
    for fold in range(len(plan.folds)):
        walk_fold(home, plan, fold)
    return read_result(home, plan)
