"""The backtest: what the forecasts would have been, day after day, beside the baselines."""

from __future__ import annotations

import logging
from datetime import date
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from flows import clock
from flows.daily import speak_up
from flows.dask import tasks_on
from flows.settings import DEFAULT_PROFILE, Article, ProfileName, home_at, profile_named
from storage.core.errors import BadSetting
from storage.core.home import Home, check_product_id
from storage.core.progress import report_progress
from storage.core.provenance import code_version
from storage.locks.locks import backtest_lock
from storage.models.backtest_cache import Folds
from tasks.backtest.plan import Plan, plan_backtest
from tasks.backtest.result import BacktestResult, sum_up
from tasks.backtest.summary import markdown
from tasks.backtest.walk_forward import prepare_one, walk_one
from tasks.core.formatting import artifact_key
from tasks.core.steps import FLOW
from tasks.profiles.calibrated_settings import ProductId, Recipe

log = logging.getLogger("closecast.backtest")


def _run_name() -> str:
    given = flow_run.get_parameters()
    first, last = given.get("start") or "a year", given.get("end") or "the newest day"
    return f"{given.get('product_id') or 'BTC-USD'} backtest, {first} to {last}"


@flow(name="rolling-backtest", flow_run_name=_run_name, **FLOW)
def rolling_backtest(
    product_id: ProductId = "BTC-USD",
    profile: ProfileName = DEFAULT_PROFILE,
    settings: dict[str, Any] | None = None,
    start: date | None = None,
    end: date | None = None,
    home: str | None = None,
    dask: str | None = None,
) -> BacktestResult:
    """Evaluate a profile on stored closes by rolling origin; an interrupted one goes on where it was.

    Args:
        product_id: exchange product whose stored closes are tested, such as BTC-USD.
        profile: the recipe; the article's gives a point, which has no distribution to score.
        settings: fields of the profile to set otherwise, such as {"members": 5}.
        start: first origin; a year before the end by default.
        end: last origin; the newest one with an outcome by default.
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        dask: address of a Dask scheduler whose workers do the work, such as `tcp://HOST:8786`;
            CLOSECAST_DASK_ADDRESS by default, and this process where that is not set.

    Returns:
        The verdict; the rows are in the table `backtests`.
    """
    speak_up()
    recipe, place = scored(profile, settings), home_at(home).prepare()
    plan = plan_backtest(
        place,
        check_product_id(product_id),
        recipe,
        start=start,
        end=end,
        code_version=code_version(),
        moment=clock.now(),
    )
    with backtest_lock(place, plan.backtest_id), tasks_on(dask, place):
        Folds(place, plan.backtest_id).remove_drafts()
        progress = Progress(product_id, plan.origins, 2 * len(plan.folds))
        for done in submitted(place, plan):
            done.result()
            progress.step()
        Folds(place, plan.backtest_id).remove_drafts()  # after workers that died
        verdict = sum_up(place, plan)
    create_markdown_artifact(
        markdown(verdict.summary),
        key=artifact_key("backtest", product_id, profile),
        description=f"{product_id}: {plan.origins} origins, {plan.start} to {plan.end}",
    )
    return verdict


def submitted(home: Home, plan: Plan) -> list[PrefectFuture[Any]]:
    """Every fold's preparation, each followed by its walk, handed to the task runner of this flow.

    All at once, so that whoever is free does what comes next: a walk waits for its preparation and for the
    walk before it, and goes before the preparations of later folds.
    """
    futures: list[PrefectFuture[Any]] = []
    for fold in range(len(plan.folds)):
        ready = prepare_one.submit(home, plan, fold)
        before = [ready, *futures[-1:]]
        futures += [ready, walk_one.submit(home, plan, fold, return_state=False, wait_for=before)]
    return futures


def scored(profile: ProfileName, settings: dict[str, Any] | None) -> Recipe:
    """The recipe of that name with some fields set otherwise.

    Raises:
        BadSetting: as `profile_named`, or a profile whose forecast is no distribution.
    """
    recipe = profile_named(profile, settings)
    if isinstance(recipe, Article):
        raise BadSetting("a backtest scores distributions, and profile article gives a point: use calibrated")
    return recipe


class Progress:
    """How far a backtest is: an artifact in Prefect, and a bar in the terminal."""

    def __init__(self, product_id: str, origins: int, steps: int) -> None:
        self._steps, self._done = steps, 0
        log.info("%s: %d origins in %d folds", product_id, origins, steps // 2)
        report_progress("folds", 0, steps)
        self._artifact = create_progress_artifact(
            0.0,
            key=artifact_key("backtest-progress", product_id),
            description=f"{product_id}: backtest of {origins} origins",
        )

    def step(self) -> None:
        """One more fold prepared, or walked."""
        self._done += 1
        update_progress_artifact(self._artifact, 100.0 * self._done / self._steps)  # type: ignore[arg-type]
        report_progress("folds", self._done, self._steps)
