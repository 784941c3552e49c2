"""The backtest: what the forecasts would have been, day after day; of one product, or of a list of them."""

from __future__ import annotations

import contextlib
import logging
from datetime import date
from typing import Annotated, Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import clock
from flows.daily import show_log_lines
from flows.dask import tasks_on
from flows.flow import flow
from flows.settings import home_at, require_one_kind_of_workers
from flows.several import results_and_reasons
from flows.workers import by_worker, started_workers
from storage.core.errors import ProductsFailed
from storage.core.home import Home, check_product_id
from storage.core.progress import report_progress
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import backtest_lock
from storage.models.backtest_cache import BacktestCache
from tasks.backtest import walk_forward
from tasks.backtest.plan import Plan, plan_backtest
from tasks.backtest.result import BacktestResult, finish_backtest, read_result
from tasks.backtest.summary import markdown
from tasks.core.formatting import artifact_key
from tasks.core.settings import ProductId
from tasks.core.steps import step, submit_step
from tasks.profiles.named import DEFAULT_PROFILE, profile_named

log = logging.getLogger("closecast.backtest")

# Each product's lock is an open file, and a process may have 1,024 of those.
MAX_PRODUCTS = 500
MAX_WORKERS = 256
# A pool of the flow's own: threads of one process share its cores member by member.
THREADS: Any = ThreadPoolTaskRunner(max_workers=4)


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    first, last = parameters.get("start") or "a year", parameters.get("end") or "the newest day"
    return f"{parameters.get('product_id') or 'BTC-USD'} backtest, {first} to {last}"


@flow(name="rolling-backtest", flow_run_name=_run_name)
def rolling_backtest(
    product_id: ProductId = "BTC-USD",
    profile: str = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    start: date | None = None,
    end: date | None = None,
    home: str | None = None,
    dask: str | None = None,
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1,
) -> BacktestResult:
    """Evaluate a profile on stored closes by rolling origin; an interrupted one continues where it was.

    Args:
        product_id: exchange product whose stored closes are tested, such as BTC-USD.
        profile: `calibrated`, `article`, an installed one's name, or `package.module:Class`.
        settings: fields of the profile to set otherwise, such as {"members": 5}.
        start: first origin; a year before the end by default.
        end: last origin; the newest one with an outcome by default.
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process where that is not set.
        workers: processes on this machine that do the work, instead of this one, from 2 on. A script that
            asks for them keeps its own calls below `if __name__ == "__main__":`, since they import it.

    Returns:
        The result; the rows are in the table `backtests`.

    Raises:
        BadSetting: workers of both kinds.
        WorkerLost: a worker process was killed.
    """
    show_log_lines()
    require_one_kind_of_workers(dask, workers)
    chosen, data_home = profile_named(profile, settings), prepare_home(home_at(home))
    plan = plan_backtest(data_home, product_id, chosen, start=start, end=end, moment=clock.now())
    cache = BacktestCache(data_home, plan.backtest_id)
    with backtest_lock(data_home, plan.backtest_id), tasks_on(dask, data_home):
        cache.remove_drafts()
        with started_workers(min(workers, len(walk_forward.folds_left(data_home, plan)))):
            run_folds(data_home, plan)
            # By a worker, which has loaded what the statistics need.
            result = by_worker(read_result, data_home, plan, rank=(len(plan.folds),))
        cache.remove_drafts()  # after workers that died
    create_markdown_artifact(
        markdown(result.summaries),
        key=artifact_key("backtest", product_id, chosen.name),
        description=f"{product_id}: {plan.origins} origins, {plan.start} to {plan.end}",
    )
    return result


@step(run_name="{fold}")
def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Prepare a fold, by a worker process where there are any."""
    by_worker(walk_forward.prepare_fold, home, plan, fold, rank=(fold, 0))


@step(run_name="{fold}")
def walk_fold(home: Home, plan: Plan, fold: int) -> None:
    """Walk a fold, by a worker process where there are any, before it prepares later ones."""
    by_worker(walk_forward.walk_fold, home, plan, fold, rank=(fold, 1))


def run_folds(home: Home, plan: Plan) -> None:
    """Prepare and walk every fold; an artifact and a bar show the progress.

    All are submitted at once, so that a free worker does what comes next: a walk waits for its preparation
    and for the walk before it, and goes before the preparations of later folds.
    """
    log.info("%s: %d origins in %d folds", plan.product_id, plan.origins, len(plan.folds))
    futures: list[PrefectFuture[Any]] = []
    for fold in range(len(plan.folds)):
        ready = submit_step(prepare_fold, home, plan, fold)
        walked = submit_step(walk_fold, home, plan, fold, wait_for=[ready, *futures[-1:]])
        futures += [ready, walked]
    description = f"{plan.product_id}: backtest of {plan.origins} origins"
    key = artifact_key("backtest-progress", plan.product_id)
    artifact: Any = create_progress_artifact(0.0, key=key, description=description)
    report_progress("folds", 0, len(futures))
    for done, future in enumerate(futures, start=1):
        future.result()
        update_progress_artifact(artifact, 100.0 * done / len(futures))
        report_progress("folds", done, len(futures))
        if not done % 2:  # a preparation and a walk each
            log.info("%s: fold %d of %d is done", plan.product_id, done // 2, len(plan.folds))


def _run_name_of_products() -> str:
    products = flow_run.get_parameters()["products"]
    return f"{products[0]}{f' and {len(products) - 1} more' if len(products) > 1 else ''}"


@flow(name="rolling-backtests", flow_run_name=_run_name_of_products, task_runner=THREADS)
def backtest_products(
    products: Annotated[list[str], Field(min_length=1, max_length=MAX_PRODUCTS)],
    profile: str = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    start: date | None = None,
    end: date | None = None,
    home: str | None = None,
    dask: str | None = None,
) -> dict[str, BacktestResult]:
    """Evaluate a profile on each product's stored closes; one product's failure stops none of the others.

    The arguments are those of `rolling-backtest`, but for a list of products.

    Raises:
        ProductsFailed: some have no result; all others were finished before.
    """
    show_log_lines()
    chosen, data_home = profile_named(profile, settings), prepare_home(home_at(home))
    # In one order, whoever asks: two lists that hold each other's locks would wait for ever.
    names = sorted({check_product_id(product) for product in products})
    span: Any = {"start": start, "end": end, "moment": clock.now()}
    with contextlib.ExitStack() as locks, tasks_on(dask, data_home):
        planned = {
            name: [submit_step(plan_backtest, data_home, name, chosen, **span).result] for name in names
        }
        plans, unplanned = results_and_reasons("plan", planned)
        for plan in plans.values():
            locks.enter_context(backtest_lock(data_home, plan.backtest_id))
            # Before the lock is given back.
            locks.callback(BacktestCache(data_home, plan.backtest_id).remove_drafts)
        submitted = {name: _submit_product(data_home, plan) for name, plan in plans.items()}
        awaited = {name: [future.result for future in futures] for name, futures in submitted.items()}
        results, failed = results_and_reasons("backtest", awaited)
    reasons = dict(sorted((unplanned | failed).items()))
    rows = [_result_row(name, result) for name, result in results.items()]
    rows += [{"product": name, "failed": reason} for name, reason in reasons.items()]
    create_table_artifact(rows, key="backtests", description=f"Backtests of {len(names)} products")
    if reasons:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ProductsFailed(f"{len(reasons)} of {len(names)} products failed, all others are done: {listed}")
    return results


def _submit_product(home: Home, plan: Plan) -> list[PrefectFuture[Any]]:
    """One product's folds, handed to the task runner of this flow; the last future is the result's."""
    prepared = [submit_step(prepare_fold, home, plan, fold) for fold in range(len(plan.folds))]
    return [*prepared, submit_step(finish_backtest, home, plan, wait_for=prepared)]


def _result_row(name: str, result: BacktestResult) -> dict[str, Any]:
    summary = result.summary
    row = {"product": name, "backtest": result.backtest_id, "days": summary.days}
    if not summary.coverage:
        return {**row, "RMSE over last close": summary.point.rmse_ratio_to_naive}
    covered = next(one for one in summary.coverage if one.percent == 80)
    if summary.best_baseline:
        best = summary.against[summary.best_baseline]
        row |= {"best baseline": summary.best_baseline, "CRPS over it": best.ratio, "DM p": best.p_value}
    return {**row, "covered by 80 %": covered.overall.share}
