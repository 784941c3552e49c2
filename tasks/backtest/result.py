"""A finished backtest, read back from its table and summarised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from closecast.storage.core.errors import BadDay
from closecast.storage.core.home import Home
from closecast.storage.models.backtest_cache import STATE, BacktestCache
from closecast.storage.prices.decisions import Splits, factors_to_last_day
from closecast.storage.tables.schemas import backtests
from closecast.tasks.backtest.plan import Plan, read_histories
from closecast.tasks.backtest.summary import NOT_COMPARED, Evaluation, Summary, summarise, tables
from closecast.tasks.backtest.walk_forward import walk_fold
from closecast.tasks.core.formatting import html_table
from closecast.tasks.core.steps import step

COLUMNS = [
    *("component", "basis", "horizon", "origin_day", "target_day"),
    *("last_close", "close", "sigma", "quantiles", "point"),
]


@dataclass(frozen=True)
class BacktestResult:
    """A backtest by its id, its summary, and the gate's line on each challenger, oldest first."""

    backtest_id: str
    summaries: tuple[Summary, ...]  # one for each horizon, of the forecasts by models
    gates: tuple[str, ...]
    fallbacks: tuple[Summary, ...] = ()  # of the other forecasts; of all, where no model forecast

    @property
    def every(self) -> tuple[Summary, ...]:
        """The summaries of the forecasts by models, then those of the fallbacks."""
        return (*self.summaries, *self.fallbacks)

    @property
    def summary(self) -> Summary:
        """The summary of the nearest day: of the forecasts by models, else of the fallbacks."""
        return self.every[0]

    def of(self, horizon: int) -> Summary:
        """The summary of one horizon: of the forecasts by models, else of the fallbacks.

        Raises:
            BadDay: no outcome that far ahead is known.
        """
        for summary in self.every:
            if summary.horizon == horizon:
                return summary
        raise BadDay(f"no origin of this backtest has an outcome {horizon} days ahead: start it earlier")

    def to_frame(self) -> pd.DataFrame:
        """One row per horizon, of the forecasts by models, then of the fallbacks, with days and figures.

        CRPS is that of the log return, `rmse` and `mae` are in the quote currency, across a split in the unit
        of the last day; each comes with its ratio to the best baseline or to the naive forecast. `covered_80`
        and similar columns are shares.
        """
        days = dict.fromkeys(("first_target_day", "last_target_day"), "datetime64[s]")
        return pd.DataFrame([_figures(one) for one in self.every]).astype(days)

    def __repr__(self) -> str:
        return f"<BacktestResult {self.backtest_id}, {self.summary.model}: {self.summary.span}>"

    def _repr_html_(self) -> str:
        """The tables by horizon, or that of a point, as a notebook shows them."""
        shown = tables(self.summary, self.every)
        chosen = [title for title in shown if "horizon" in title] or [*shown][:1]
        note = f"Backtest {self.backtest_id}: {self.summary.span}; prices in {self.summary.currency}"
        return "".join(
            html_table(f"{self.summary.model}: {title}", *shown[title], note if title == chosen[-1] else "")
            for title in chosen
        )


def _figures(summary: Summary) -> dict[str, Any]:
    best, point = summary.best_baseline, summary.point
    against = summary.against[best] if best else NOT_COMPARED
    return {
        "horizon": summary.horizon,
        "fallback": summary.fallback,
        "days": summary.days,
        "first_target_day": summary.first_target_day,
        "last_target_day": summary.last_target_day,
        "crps": summary.crps.get(summary.model),
        "best_baseline": best,
        "crps_ratio": against.ratio,
        "p_value": against.p_value,
        **{f"covered_{one.percent}": one.overall.share for one in summary.coverage},
        "rmse": point.rmse,
        "rmse_ratio_to_naive": point.rmse_ratio_to_naive,
        "mae": point.mae,
        "mae_ratio_to_naive": point.mae_ratio_to_naive,
    }


def read_rows(home: Home, product_id: str, backtest_id: str) -> pd.DataFrame:
    """A backtest's rows with the columns `COLUMNS`, by target day."""
    rows = backtests(home, product_id).read(ds.field("backtest_id") == backtest_id, COLUMNS)
    return cast("pd.DataFrame", rows.to_pandas()).sort_values("target_day", kind="stable")


def evaluations_of(
    rows: pd.DataFrame, profile: str, splits: Splits = (), *, fallback: bool = False
) -> dict[int, Evaluation]:
    """Every component's quantiles of the log return and the outcomes, in the order of days, by horizon.

    Either of the forecasts by models, or of the fallbacks. Prices are in the units of each origin, or with
    `splits` in those of the last day.
    """
    rows = rows[(rows["basis"] == "fallback") == fallback]
    return {
        int(cast("int", horizon)): _evaluation(part, profile, splits)
        for horizon, part in rows.groupby("horizon")
    }


def _evaluation(rows: pd.DataFrame, profile: str, splits: Splits) -> Evaluation:
    own = rows[rows["component"] == profile]
    quantiles = {
        str(component): np.log(np.stack(part["quantiles"].tolist()) / part[["last_close"]].to_numpy())
        for component, part in rows.dropna(subset="quantiles").groupby("component", sort=False)
        if len(part) == len(own)  # a young product has one more baseline, which goes when it is grown
    }
    figures = {name: own[name].to_numpy(np.float64) for name in ("last_close", "close", "sigma", "point")}
    if splits:  # else the mean of the errors would add different units
        factors = factors_to_last_day(pd.to_datetime(own["origin_day"]), splits)
        figures |= {name: figures[name] * factors for name in ("last_close", "close", "point")}
    return Evaluation(target_days=own["target_day"].to_list(), quantiles=quantiles, **figures)


def read_result(home: Home, plan: Plan) -> BacktestResult:
    """The result of a backtest whose folds were all walked; across a split, in the units of its last day."""
    history, _ = read_histories(home, plan)
    closes = history.candles.set_index("day_utc")["close"].asfreq("D")
    past = closes[closes.index < pd.Timestamp(plan.start)].to_numpy(dtype=np.float64)
    about: Any = {"model": plan.profile.name, "currency": history.quote_currency}
    rows = read_rows(home, plan.product_id, plan.backtest_id)
    models, fallbacks = (
        tuple(
            summarise(evaluation, past, horizon=horizon, fallback=fallback, **about)
            for horizon, evaluation in evaluations_of(
                rows, plan.profile.name, history.splits, fallback=fallback
            ).items()
        )
        for fallback in (False, True)
    )
    last = BacktestCache(home, plan.backtest_id).read(f"{STATE}{len(plan.folds) - 1}") or {}
    return BacktestResult(plan.backtest_id, models, tuple(last.get("gates", ())), fallbacks)


@step(run_name="{plan.product_id}")
def finish_backtest(home: Home, plan: Plan) -> BacktestResult:
    """Walk a backtest whose folds were all prepared, and summarise it."""
    for fold in range(len(plan.folds)):
        walk_fold(home, plan, fold)
    return read_result(home, plan)
