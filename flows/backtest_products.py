"""The backtest of a list of products: products by folds, all of them handed to one task runner."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import clock
from flows.backtest import scored
from flows.daily import speak_up
from flows.dask import outcome, tasks_on
from flows.settings import DEFAULT_PROFILE, ProfileName, home_at
from storage.core.errors import ProductsFailed
from storage.core.home import Home, check_product_id
from storage.core.provenance import code_version
from storage.locks.locks import backtest_lock
from storage.models.backtest_cache import Folds
from tasks.backtest.plan import Plan, plan_one
from tasks.backtest.result import BacktestResult, finish_one
from tasks.backtest.walk_forward import prepare_one
from tasks.core.steps import FLOW

log = logging.getLogger("closecast.backtest")

# Each product's lock is an open file, and a process may have 1,024 of those.
MAX_PRODUCTS = 500
# Of the flow's own: threads of one process share its cores member by member.
THREADS: Any = ThreadPoolTaskRunner(max_workers=4)
BASELINE = "last_close_250"


def _run_name() -> str:
    products = flow_run.get_parameters()["products"]
    return f"{products[0]}{f' and {len(products) - 1} more' if len(products) > 1 else ''}"


@flow(
    name="rolling-backtests",
    flow_run_name=_run_name,
    task_runner=THREADS,
    **FLOW,
)
def backtest_products(
    products: Annotated[list[str], Field(min_length=1, max_length=MAX_PRODUCTS)],
    profile: ProfileName = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    start: date | None = None,
    end: date | None = None,
    home: str | None = None,
    dask: str | None = None,
) -> dict[str, BacktestResult]:
    """Evaluate a profile on each product's stored closes; one product's failure stops none of the others.

    Args:
        products: exchange products, such as BTC-USD.
        profile: the recipe.
        settings: fields of the profile to set otherwise.
        start: first origin; a year before the end by default.
        end: last origin; each product's newest one with an outcome by default.
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process where that is not set.

    Returns:
        The verdict on each product; the rows are in the table `backtests`.

    Raises:
        ProductsFailed: some have none; all others were finished before.
    """
    speak_up()
    recipe, place = scored(profile, settings), home_at(home).prepare()
    # In one order, whoever asks: two lists that hold each other's locks would wait for ever.
    names = sorted({check_product_id(product) for product in products})
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as locks, tasks_on(dask, place):
        span: Any = {"start": start, "end": end, "code_version": code_version(), "moment": clock.now()}
        planned = {name: plan_one.submit(place, name, recipe, **span) for name in names}
        handed: dict[str, list[PrefectFuture[Any]]] = {}
        for name, future in planned.items():
            found[name] = plan = outcome([future])
            if isinstance(plan, Plan):
                locks.enter_context(backtest_lock(place, plan.backtest_id))
                locks.callback(Folds(place, plan.backtest_id).remove_drafts)  # before the lock is given back
                handed[name] = submitted(place, plan)
        for done, (name, futures) in enumerate(handed.items(), start=1):
            found[name] = outcome(futures)
            log.info(
                "%s: backtest %d of %d", name, done, len(handed), extra={"steps": len(handed), "done": done}
            )
    show(found)
    failed = {name: error for name, error in found.items() if not isinstance(error, BacktestResult)}
    if failed:
        named = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in failed.items())
        raise ProductsFailed(f"{len(failed)} of {len(names)} products failed, all others are done: {named}")
    return found


def submitted(home: Home, plan: Plan) -> list[PrefectFuture[Any]]:
    """One product's folds, handed to the task runner of this flow; the last future is the verdict's."""
    prepared = [prepare_one.submit(home, plan, fold) for fold in range(len(plan.folds))]
    return [*prepared, finish_one.submit(home, plan, return_state=False, wait_for=prepared)]


def show(found: Mapping[str, Any]) -> None:
    """A table of all products, as a Prefect artifact."""
    rows = [
        {
            "product": name,
            "backtest": one.backtest_id,
            "days": one.summary.days,
            f"CRPS over {BASELINE}": one.summary.against[BASELINE].ratio,
            "held by 80 %": one.summary.coverage[1].overall.share,
        }
        if isinstance(one, BacktestResult)
        else {"product": name, "failed": f"{type(one).__name__}: {one}"}
        for name, one in found.items()
    ]
    create_table_artifact(rows, key="backtests", description=f"Backtests of {len(found)} products")
