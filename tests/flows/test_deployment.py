"""End to end: a real server, a real worker, and a schedule that starts runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort

from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from tests.exchange import Exchange
from tests.helpers import store
from tests.serve_demo import DEPLOYMENT, Platform
from tests.waiting import wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.engines]

DAY = timedelta(days=1)
QUICK = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
EVERY = 10  # seconds


@pytest.fixture(scope="module")
def platform(
    exchange: Exchange, candles: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("platform"), exchange.url, settings=QUICK) as platform:
        store(Home(platform.home).prepare(), candles[:450], source="coinbase")
        platform.start_worker()
        platform.deploy(schedule_often)
        yield platform
        assert platform.processes()
    # The kernel takes a moment to remove a killed process.
    wait_for(lambda: not platform.processes(), 10)


def schedule_often(deployment: dict[str, Any]) -> None:
    """A small network and a run every few seconds for the daily deployment, no schedule for the others."""
    if deployment["name"] != "daily":
        deployment["schedules"] = []
    else:
        (slug,) = (schedule["slug"] for schedule in deployment["schedules"])
        deployment["schedules"] = [{"slug": slug, "interval": EVERY, "timezone": "UTC"}]
        deployment["parameters"]["settings"] = {"epochs": 1, "units": 4, "members": 1}


@pytest.fixture(scope="module")
def scheduled(platform: Platform) -> FlowRun:
    """The first run of the schedule, when it is over; the schedule is paused after it."""
    order = FlowRunSort.EXPECTED_START_TIME_ASC
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        runs = wait_for(lambda: client.read_flow_runs(sort=order), 60, log=lambda: platform.tail("server"))
        platform.wait(runs[0].id, until="Running")
        client.pause_deployment(deployment.id)
        return platform.wait(runs[0].id)


def completed(run: FlowRun, platform: Platform) -> FlowRun:
    assert run.state is not None
    assert run.state.is_completed(), f"{run.state}\n{platform.tail('worker')}"
    return run


def own_runs(platform: Platform, run_id: UUID) -> list[FlowRun]:
    """The runs of the products within it."""
    wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    with platform.client() as client:
        return client.read_flow_runs(flow_run_filter=wanted)


def row_of(platform: Platform, run_id: UUID) -> dict[str, Any]:
    (own,) = own_runs(platform, run_id)
    (row,) = [row for row in rows(platform.home) if row["flow_run_id"] == str(own.id)]
    return row


def rows(home: Path) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = Predictions(Home(home)).between(horizon=1).to_pylist()
    return stored


def test_the_schedule_starts_a_run_that_stores_its_forecast(
    platform: Platform, scheduled: FlowRun, newest: date
) -> None:
    completed(scheduled, platform)
    assert scheduled.auto_scheduled
    assert scheduled.created_by is not None
    assert scheduled.created_by.type == "SCHEDULE"
    row = row_of(platform, scheduled.id)
    assert row["product_id"] == "BTC-USD"
    assert row["origin_day"] in (newest, newest + DAY)
    assert row["target_day"] == row["origin_day"] + DAY
    assert row["point"] > 0
    (own,) = own_runs(platform, scheduled.id)
    assert scheduled.name == own.name == f"BTC-USD {row['origin_day']}"


def test_the_log_lines_of_a_run_reach_the_server(platform: Platform, scheduled: FlowRun) -> None:
    row = row_of(platform, scheduled.id)
    (own,) = own_runs(platform, scheduled.id)
    with platform.client() as client:
        time.sleep(3)  # log lines are sent in batches, every 2 s
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[own.id])))
    lines = [log.message for log in logs if log.name.startswith("closecast.")]
    assert not [log.message for log in logs if "worker thread" in log.message]
    assert any("refit, because there is no champion of these settings as of" in line for line in lines), lines
    assert any(f"forecast for {row['target_day']} to " in line for line in lines), lines


def test_a_second_run_beside_a_running_one_is_cancelled(
    platform: Platform, scheduled: FlowRun, newest: date
) -> None:
    before = {row["prediction_id"] for row in rows(platform.home)}
    origin = newest - DAY
    run_id = platform.run(origin=str(origin))
    platform.wait(run_id, until="Running")
    second = platform.wait(platform.run(origin=str(origin - DAY)))
    assert second.state is not None
    assert second.state.is_cancelled(), f"{second.state}\n{platform.tail('worker')}"

    run = completed(platform.wait(run_id), platform)
    assert not run.auto_scheduled
    assert run.name == f"BTC-USD {origin}"
    row = row_of(platform, run_id)
    assert (row["origin_day"], row["target_day"]) == (origin, newest)
    assert {stored["prediction_id"] for stored in rows(platform.home)} == before | {row["prediction_id"]}


def test_after_an_outage_one_run_makes_the_newest_and_the_missed_forecasts(
    platform: Platform, scheduled: FlowRun, candles: pd.DataFrame, newest: date, tmp_path: Path
) -> None:
    store(Home(tmp_path).prepare(), candles[:450], source="coinbase")
    before = platform.run(home=str(tmp_path), origin=str(newest - 3 * DAY))
    completed(platform.wait(before), platform)
    late = [platform.run(late=days * DAY, home=str(tmp_path)) for days in (3, 2, 1)]
    runs = [platform.wait(run_id) for run_id in late]
    states = [run.state for run in runs if run.state is not None]
    assert all(state.is_completed() or state.is_cancelled() for state in states), platform.tail("worker")
    stored = rows(tmp_path)
    origins = [row["origin_day"] for row in stored]
    assert origins[-1] in (newest, newest + DAY)
    assert origins == [newest - 3 * DAY + n * DAY for n in range(len(stored))]
    # One run has made all that were missing.
    assert len({row["flow_run_id"] for row in stored[1:]}) == 1
    assert {row["revision"] for row in stored} == {0}


def test_a_run_waits_for_an_exchange_that_is_down(
    platform: Platform, scheduled: FlowRun, exchange: Exchange
) -> None:
    before = rows(platform.home)
    exchange.faults.extend(["503"] * 100)
    run_id = platform.run()

    def waiting() -> list[TaskRun]:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in own_runs(platform, run_id)]))
        steps = client.read_task_runs(flow_run_filter=wanted)
        return [step for step in steps if step.state_name == "AwaitingRetry"]

    try:
        with platform.client() as client:
            (step,) = wait_for(waiting, 60, pause=0.3, log=lambda: platform.tail("worker"))
    finally:
        exchange.faults.clear()
    assert step.name == "ingest-prices BTC-USD"
    assert rows(platform.home) == before
    # The run still waits: the end of the platform must end it, too.


def test_a_paused_schedule_stays_paused_when_it_is_deployed_again(
    platform: Platform, scheduled: FlowRun
) -> None:
    """Prefect makes a schedule without a slug anew, and so an active one."""
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        (schedule,) = deployment.schedules
        client.update_deployment_schedule(deployment.id, schedule.id, active=False)
        platform.deploy(schedule_often)
        (again,) = client.read_deployment_by_name(DEPLOYMENT).schedules
    assert (again.id, again.slug, again.active) == (schedule.id, "daily", False)
