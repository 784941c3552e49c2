"""The backtest: what the forecasts would have been, day after day; of one product, or of a list of them."""

from __future__ import annotations

import contextlib
import logging
from datetime import date
from typing import Annotated, Any

from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from closecast.flows import clock
from closecast.flows.config import configured_product, configured_profile
from closecast.flows.daily import begin_run
from closecast.flows.dask import tasks_on
from closecast.flows.flow import finished, flow
from closecast.flows.settings import prepared_home, require_one_kind_of_workers
from closecast.flows.several import describe_failures, results_and_reasons
from closecast.flows.workers import by_worker, started_workers
from closecast.storage.core.errors import ProductsFailed
from closecast.storage.core.home import Home, check_product_id
from closecast.storage.core.progress import report_progress
from closecast.storage.locks.locks import backtest_lock
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.tasks.backtest import walk_forward
from closecast.tasks.backtest.plan import Plan, plan_backtest
from closecast.tasks.backtest.result import BacktestResult, finish_backtest, read_result
from closecast.tasks.backtest.summary import markdown
from closecast.tasks.core.formatting import artifact_key, count
from closecast.tasks.core.settings import ProductId
from closecast.tasks.core.steps import step, submit_step
from closecast.tasks.profiles.named import profile_named
from closecast.tasks.report.side_calls import Progress, show_artifact

log = logging.getLogger("closecast.backtest")

# Each product's lock is an open file, and a process may have 1,024 of those.
MAX_PRODUCTS = 500
MAX_WORKERS = 256
# A pool of the flow's own: threads of one process share its cores member by member.
THREADS: Any = ThreadPoolTaskRunner(max_workers=4)


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    first, last = parameters.get("start") or "a year", parameters.get("end") or "the newest day"
    return f"{configured_product(parameters.get('product_id'))} backtest, {first} to {last}"


@flow(name="rolling-backtest", flow_run_name=_run_name)
def rolling_backtest(
    product_id: ProductId | None = None,
    profile: str | None = None,
    settings: dict[str, Any] | None = None,
    start: date | None = None,
    end: date | None = None,
    home: str | None = None,
    dask: str | None = None,
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1,
) -> BacktestResult:
    """Evaluate a profile on stored closes by rolling origin; an interrupted backtest continues.

    Arguments that are not given come from the configuration file, else from the defaults.

    Args:
        product_id: exchange product whose stored closes are tested, BTC-USD by default.
        profile: `calibrated`, `article`, the name of an installed profile, or `package.module:Class`.
        settings: fields of the profile to change, such as {"members": 5}.
        start: first origin; a year before the end by default.
        end: last origin; the newest one with an outcome by default.
        home: folder of all data; CLOSECAST_HOME or the project's `data/` by default.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process if that is not set.
        workers: number of processes on this machine that do the work; 1 is this process. Worker processes
            import the calling script, so it needs `if __name__ == "__main__":` before its calls.

    Returns:
        The result; the rows are in the table `backtests`.

    Raises:
        BadSetting: both `dask` and `workers` are given.
        WorkerLost: a worker process was killed.
    """
    require_one_kind_of_workers(dask, workers)
    product_id = configured_product(product_id)
    chosen = profile_named(*configured_profile(profile, settings))
    data_home = prepared_home(home)
    begin_run(data_home)
    plan = plan_backtest(data_home, product_id, chosen, start=start, end=end, moment=clock.now())
    with backtest_lock(data_home, plan.backtest_id), tasks_on(dask, data_home):
        walk_forward.clear_cache(data_home, plan)
        with started_workers(min(workers, len(walk_forward.folds_left(data_home, plan)))):
            run_folds(data_home, plan)
            # By a worker, which has loaded what the statistics need.
            result = by_worker(read_result, data_home, plan, rank=(len(plan.folds),))
        BacktestCache(data_home, plan.backtest_id).remove_drafts()  # after workers that died
    key = artifact_key("backtest", product_id, chosen.name, data_home.label)
    description = f"{product_id}: {plan.origins} origins, {plan.start} to {plan.end}"
    show_artifact("markdown", key, markdown(result.every), description)
    return finished(result)


@step(run_name="{fold}")
def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Prepare a fold, in a worker process if there are any."""
    by_worker(walk_forward.prepare_fold, home, plan, fold, rank=(fold, 0))


@step(run_name="{fold}")
def walk_fold(home: Home, plan: Plan, fold: int) -> None:
    """Walk forward through a fold, in a worker process if there are any, before later folds are prepared."""
    by_worker(walk_forward.walk_fold, home, plan, fold, rank=(fold, 1))


def run_folds(home: Home, plan: Plan) -> None:
    """Prepare and walk every fold; an artifact and a bar show the progress.

    All folds are submitted at once, so a free worker always takes the next task. A walk waits for its
    preparation and for the previous walk, and comes before the preparations of later folds.
    """
    origins, folds = count(plan.origins, "origin"), count(len(plan.folds), "fold")
    log.info("%s: %s in %s", plan.product_id, origins, folds)
    futures: list[PrefectFuture[Any]] = []
    for fold in range(len(plan.folds)):
        ready = submit_step(prepare_fold, home, plan, fold)
        walked = submit_step(walk_fold, home, plan, fold, wait_for=[ready, *futures[-1:]])
        futures += [ready, walked]
    description = f"{plan.product_id}: backtest of {plan.origins} origins"
    progress = Progress(artifact_key("backtest-progress", plan.product_id, home.label), description)
    progress.show(0.0)
    report_progress("folds", 0, len(futures))
    for done, future in enumerate(futures, start=1):
        future.result()
        progress.show(100.0 * done / len(futures))
        report_progress("folds", done, len(futures))
        if not done % 2:  # a preparation and a walk each
            log.info("%s: fold %d of %d is done", plan.product_id, done // 2, len(plan.folds))


def _run_name_of_products() -> str:
    products = flow_run.get_parameters()["products"]
    return f"{products[0]}{f' and {len(products) - 1} more' if len(products) > 1 else ''}"


@flow(name="rolling-backtests", flow_run_name=_run_name_of_products, task_runner=THREADS)
def backtest_products(
    products: Annotated[list[str], Field(min_length=1, max_length=MAX_PRODUCTS)],
    profile: str | None = None,
    settings: dict[str, Any] | None = None,
    start: date | None = None,
    end: date | None = None,
    home: str | None = None,
    dask: str | None = None,
) -> dict[str, BacktestResult]:
    """Evaluate a profile on each product's stored closes; a product that fails does not stop the others.

    The arguments are those of `rolling-backtest`, but for a list of products.

    Raises:
        ProductsFailed: some have no result; all others were finished before.
    """
    chosen = profile_named(*configured_profile(profile, settings))
    data_home = prepared_home(home)
    begin_run(data_home)
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
            walk_forward.clear_cache(data_home, plan)
            # Before the lock is given back.
            locks.callback(BacktestCache(data_home, plan.backtest_id).remove_drafts)
        submitted = {name: _submit_product(data_home, plan) for name, plan in plans.items()}
        awaited = {name: [future.result for future in futures] for name, futures in submitted.items()}
        results, failed = results_and_reasons("backtest", awaited)
    reasons = dict(sorted((unplanned | failed).items()))
    rows = [_result_row(name, result) for name, result in results.items()]
    rows += [{"product": name, "failed": reason} for name, reason in reasons.items()]
    key = artifact_key("backtests", data_home.label)
    show_artifact("table", key, rows, f"Backtests of {len(names)} products")
    if reasons:
        raise ProductsFailed(describe_failures("failed", results, reasons))
    return finished(results)


def _submit_product(home: Home, plan: Plan) -> list[PrefectFuture[Any]]:
    """One product's folds, handed to the task runner of this flow; the last future is the result's."""
    prepared = [submit_step(prepare_fold, home, plan, fold) for fold in range(len(plan.folds))]
    return [*prepared, submit_step(finish_backtest, home, plan, wait_for=prepared)]


def _result_row(name: str, result: BacktestResult) -> dict[str, Any]:
    summary = result.summary
    row = {"product": name, "backtest": result.backtest_id, "days": summary.days}
    row |= {"made by": "baselines alone (fallback)"} if summary.fallback else {}
    if not summary.coverage:
        return {**row, "RMSE over last close": summary.point.rmse_ratio_to_naive}
    covered = next(one for one in summary.coverage if one.percent == 80)
    if summary.best_baseline:
        best = summary.against[summary.best_baseline]
        row |= {"best baseline": summary.best_baseline, "CRPS over it": best.ratio, "DM p": best.p_value}
    return {**row, "covered by 80 %": covered.overall.share}
