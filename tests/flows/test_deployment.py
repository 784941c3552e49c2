"""End to end: a real server, a real worker, and a schedule that makes a run by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
import requests
import yaml
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Scheduled

from storage.core.home import Home
from storage.tables.predictions import Predictions
from tests.exchange import Exchange
from tests.helpers import store
from tests.serve_demo import DEPLOYMENT, PROJECT, Platform

pytestmark = [pytest.mark.timeout(300), pytest.mark.engines]

DAY = timedelta(days=1)
QUICK = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
EVERY = 10  # seconds


@pytest.fixture(scope="module")
def platform(
    exchange: Exchange, candles: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with Platform(folder, exchange.url, settings=QUICK) as platform:
        # Else the first run asks for years without a candle.
        store(Home(platform.home).prepare(), candles[:450], source="coinbase")
        platform.start_worker()
        platform.deploy(often(folder))
        yield platform
        assert platform.processes()
    # A killed process is still to be seen for as long as the kernel takes to clear it away.
    patience = time.monotonic() + 10
    while platform.processes() and time.monotonic() < patience:
        time.sleep(0.1)
    assert platform.processes() == {}


def often(folder: Path) -> Path:
    """A copy of prefect.yaml that trains one small network once, with a schedule of every few seconds."""
    found: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    deployment, *others = found["deployments"]
    for other in others:
        other["schedules"] = []
    deployment["schedules"] = [{"interval": EVERY, "timezone": "UTC"}]
    deployment["parameters"]["settings"] = {"epochs": 1, "units": 4, "members": 1}
    copy = folder / "prefect.yaml"
    copy.write_text(yaml.safe_dump(found), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def scheduled(platform: Platform) -> FlowRun:
    """The first run that nobody asked for, when it is over; no more are made after it."""
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        give_up = time.monotonic() + 60
        while not (runs := client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_ASC)):
            assert time.monotonic() < give_up, f"the schedule made no run:\n{platform.tail('server')}"
            time.sleep(0.3)
        platform.wait(runs[0].id, until="Running")
        client.pause_deployment(deployment.id)
        return platform.wait(runs[0].id)


def completed(run: FlowRun, platform: Platform) -> FlowRun:
    assert run.state is not None
    assert run.state.is_completed(), f"{run.state}\n{platform.tail('worker')}"
    return run


def own_runs(platform: Platform, run_id: UUID) -> list[FlowRun]:
    """The runs of its products, one each."""
    wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    with platform.client() as client:
        return client.read_flow_runs(flow_run_filter=wanted)


def row_of(platform: Platform, run_id: UUID) -> dict[str, Any]:
    (own,) = own_runs(platform, run_id)
    (row,) = [row for row in rows(platform) if row["flow_run_id"] == str(own.id)]
    return row


def at_once(platform: Platform, **parameters: Any) -> UUID:
    """Trigger a run without waiting for the start of a command."""
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def rows(platform: Platform) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Predictions(Home(platform.home)).between().to_pylist()
    return found


def test_the_schedule_makes_a_run_and_the_run_its_row(
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


def test_what_the_run_shows(platform: Platform, scheduled: FlowRun) -> None:
    row = row_of(platform, scheduled.id)
    (own,) = own_runs(platform, scheduled.id)
    with platform.client() as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[own.id]))
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}
        time.sleep(3)  # log lines are sent in batches, every 2 s
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[own.id])))
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[scheduled.id]))
        (summary,) = client.read_artifacts(artifact_filter=wanted)
    ours = [log.message for log in logs if log.name.startswith("closecast.")]
    assert not [log.message for log in logs if "worker thread" in log.message]
    assert summary.key == "products"
    assert f"| BTC-USD | {row['target_day']} | **{row['point']:,.2f} USD** |" in str(summary.data)
    assert sorted(str(artifact.type) for artifact in artifacts.values()) == [
        "image",
        "markdown",
        "progress",
        "table",
    ]
    assert float(str(artifacts["training-btc-usd"].data)) == 100.0
    assert row["prediction_id"] in str(artifacts["forecast-btc-usd-calibrated"].data)
    assert row["prediction_id"] in str(artifacts["forecasts-btc-usd-calibrated"].data)
    assert any("refit, because there is no champion yet" in line for line in ours), ours
    assert any(f"forecast for {row['target_day']} written" in line for line in ours), ours


def test_a_run_by_hand_makes_another_and_one_beside_it_is_cancelled(
    platform: Platform, scheduled: FlowRun, newest: date
) -> None:
    before = {row["prediction_id"] for row in rows(platform)}
    origin = newest - DAY
    run_id = platform.run(origin=str(origin))
    platform.wait(run_id, until="Running")
    second = platform.wait(at_once(platform, origin=str(origin - DAY)))
    assert second.state is not None
    assert second.state.is_cancelled(), f"{second.state}\n{platform.tail('worker')}"

    run = completed(platform.wait(run_id), platform)
    assert not run.auto_scheduled
    assert run.name == f"BTC-USD {origin}"
    row = row_of(platform, run_id)
    assert (row["origin_day"], row["target_day"]) == (origin, newest)
    assert {made["prediction_id"] for made in rows(platform)} == before | {row["prediction_id"]}


def test_after_an_outage_one_run_makes_the_newest_forecast_and_those_that_were_missed(
    platform: Platform, scheduled: FlowRun, candles: pd.DataFrame, newest: date, tmp_path: Path
) -> None:
    store(Home(tmp_path).prepare(), candles[:450], source="coinbase")
    before = platform.wait(at_once(platform, home=str(tmp_path), origin=str(newest - 3 * DAY)))
    completed(before, platform)
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        late = [
            client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"home": str(tmp_path)},
                state=Scheduled(scheduled_time=datetime.now(UTC) - days * DAY),
            ).id
            for days in (3, 2, 1)
        ]
    runs = [platform.wait(run_id) for run_id in late]
    states = [run.state for run in runs if run.state is not None]
    assert all(state.is_completed() or state.is_cancelled() for state in states), platform.tail("worker")
    made = Predictions(Home(tmp_path)).between().to_pylist()
    origins = [row["origin_day"] for row in made]
    assert origins[-1] in (newest, newest + DAY)
    assert origins == [newest - 3 * DAY + n * DAY for n in range(len(made))]
    # One run has made all that was lacking.
    assert len({row["flow_run_id"] for row in made[1:]}) == 1
    assert {row["revision"] for row in made} == {0}


def test_the_deployment_is_what_the_file_says(platform: Platform, scheduled: FlowRun) -> None:
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.concurrency_options is not None
    assert deployment.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert deployment.enforce_parameter_schema
    assert deployment.pull_steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(PROJECT)}}
    ]
    assert (deployment.work_pool_name, deployment.entrypoint) == (
        "closecast",
        "flows/products.py:daily_forecasts",
    )
    assert deployment.job_variables["env"]["PREFECT_LOGGING_EXTRA_LOGGERS"] == "closecast"


def test_the_server_tells_its_page_where_its_api_is(platform: Platform) -> None:
    assert requests.get(f"{platform.url}/ui-settings", timeout=10).json()["api_url"] == platform.api


def test_an_exchange_that_is_down_is_asked_again_later(
    platform: Platform, scheduled: FlowRun, exchange: Exchange
) -> None:
    before = rows(platform)
    exchange.faults.extend(["503"] * 100)
    try:
        run_id = at_once(platform)
        step, give_up = None, time.monotonic() + 60
        with platform.client() as client:
            while step is None and time.monotonic() < give_up:
                own = [run.id for run in own_runs(platform, run_id)]
                wanted = FlowRunFilter(id=FlowRunFilterId(any_=own))
                steps = client.read_task_runs(flow_run_filter=wanted)
                step = next((step for step in steps if step.state_name == "AwaitingRetry"), None)
                time.sleep(0.3)
    finally:
        exchange.faults.clear()
    assert step is not None, platform.tail("worker")
    assert step.name == "fetch-candles BTC-USD"
    assert rows(platform) == before
    # The run is left waiting: the end of the platform must end it too.
