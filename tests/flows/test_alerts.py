"""Alerts end to end: a real server, a real worker, and a receiver that hears what the webhook is told."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
import yaml
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter
from prefect.events.schemas.automations import EventTrigger
from prefect.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import validate_user_template
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from flows.alerts import BLOCK, FILE, read_automations, set_up_alerts
from storage.core.errors import BadFile, BadSetting, PrefectUnavailable
from storage.core.home import Home
from storage.tables.predictions import Predictions
from storage.tables.scores import Scores
from tasks.report.events import COVERAGE_ALARM, STALE_MODEL
from tests.exchange import Exchange
from tests.helpers import publish_all, store
from tests.serve_demo import DEPLOYMENT, PROJECT, Platform, free_port

DAY = timedelta(days=1)
SETTINGS = {"epochs": 1, "units": 4, "members": 1, "refit_every_days": 365, "fine_tune_every_days": 0}
STALE = {"max_model_age_days": 1}


class Receiver:
    """Whatever is posted to it, as JSON, in the order of arrival."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.append({"type": self.headers["Content-Type"], **json.loads(body)})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, alert: str, *, of: str | None = None, seconds: float = 60.0) -> dict[str, Any]:
        """The first of that alert, and of that run.

        Raises:
            TimeoutError: with all that came.
        """
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            for one in self.heard:
                if one["alert"] == f"closecast: {alert}" and of in (None, one.get("run")):
                    return one
            time.sleep(0.2)
        raise TimeoutError(f"no alert {alert!r} came, but {self.heard}")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture(scope="module")
def platform(
    exchange: Exchange, candles: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A server that looks for late runs each second; no worker yet."""
    folder = tmp_path_factory.mktemp("platform")
    settings = {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    }
    with Platform(folder, exchange.url, settings=settings) as started:
        # Else the first run asks for years without a candle.
        store(Home(started.home).prepare(), candles[:450], source="coinbase")
        started.deploy(unscheduled(folder))
        yield started


def unscheduled(folder: Path) -> Path:
    found: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in found["deployments"]:
        deployment["schedules"] = []
        # Several runs wait for the worker at once.
        deployment["concurrency_limit"]["collision_strategy"] = "ENQUEUE"
    copy = folder / "prefect.yaml"
    copy.write_text(yaml.safe_dump(found), encoding="utf-8")
    return copy


def start(platform: Platform, *, hours_ago: float = 0.0, **parameters: Any) -> UUID:
    with platform.client() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        when = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=hours_ago))
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters, state=when).id


def events(platform: Platform, prefix: str) -> list[ReceivedEvent]:
    """The events that reached the server, the oldest first."""
    wanted = EventFilter(
        occurred=EventOccurredFilter(since=datetime.now(UTC) - DAY), event=EventNameFilter(prefix=[prefix])
    )
    with platform.client() as client:
        found = client.request(
            "POST", "/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50}
        )
    read = [ReceivedEvent.model_validate(one) for one in found.json()["events"]]
    return sorted(read, key=lambda event: event.occurred)


@pytest.fixture(scope="module")
def set_up(platform: Platform, receiver: Receiver) -> str:
    """The command, after another address that no longer counts."""
    with temporary_settings({PREFECT_API_URL: platform.api}):
        set_up_alerts("http://127.0.0.1:1/nobody")
    return platform.closecast("alerts", receiver.url)


@pytest.mark.engines
def test_the_command_makes_each_automation_once_and_keeps_the_address_a_secret(
    platform: Platform, set_up: str, receiver: Receiver
) -> None:
    names = [one.name for one in read_automations(FILE, str(UUID(int=0)))]
    assert set_up.splitlines() == names
    with platform.client() as client:
        known = client.read_automations()
        block = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=False)
    assert sorted(one.name for one in known) == sorted(names)
    assert receiver.url not in str(block.data)
    assert all(one.enabled for one in known)


@pytest.mark.engines
def test_a_run_that_nobody_begins_is_late(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    start(
        platform,
        hours_ago=1,
        products=["NONE-USD", "BTC-USD"],
        settings=SETTINGS,
        origin=str(newest - 4 * DAY),
    )
    said = receiver.wait("a run is late")
    assert said["type"] == "application/json"
    assert (said["event"], said["deployment"]) == ("prefect.flow-run.Late", "daily")
    assert re.match(r'closecast: daily run ".+" is Late', said["text"])


@pytest.mark.engines
def test_a_run_that_fails_is_told_of_once_with_the_product_and_the_reason(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    platform.start_worker()
    said = receiver.wait("a run failed", seconds=150)
    assert (said["event"], said["deployment"]) == ("prefect.flow-run.Failed", "daily")
    assert said["run"] == f"NONE-USD, BTC-USD {newest - 4 * DAY}"
    assert "1 of 2 products have no forecast, all others are done: NONE-USD: BadProduct: " in said["text"]
    assert said["url"].startswith(platform.url)
    # The product's own run failed as well, and is not told of twice.
    assert [one["run"] for one in receiver.heard if one["alert"] == "closecast: a run failed"] == [
        said["run"]
    ]


@pytest.mark.engines
def test_a_coverage_alarm_and_a_stale_model_are_told_of_although_the_run_went_well(
    platform: Platform, set_up: str, receiver: Receiver, candles: pd.DataFrame, newest: date
) -> None:
    never_hit(Home(platform.home), candles, newest)
    run = platform.wait(
        start(platform, origin=str(newest), settings=SETTINGS | STALE, backfill_days=0), seconds=150
    )
    assert run.state is not None
    assert run.state.is_completed(), platform.tail("worker")
    coverage, stale = receiver.wait("intervals do not hold"), receiver.wait("a model is stale")
    assert re.match(
        r"closecast: BTC-USD: the (80|95) % interval held \d\.\d % of the last 180 days", coverage["text"]
    )
    assert (coverage["event"], stale["event"]) == (COVERAGE_ALARM, STALE_MODEL)
    assert "BTC-USD: version 1 was made 4 days ago, more than max_model_age_days (1)" in stale["text"]
    for one in (coverage, stale):
        assert (one["product"], one["target_day"], one["model_version"]) == (
            "BTC-USD",
            str(newest + DAY),
            "1",
        )


def never_hit(home: Home, candles: pd.DataFrame, newest: date) -> None:
    """Forecasts and scores of 180 days, up to ten days ago, on which no interval held."""
    closes = dict(zip(candles["day_utc"].dt.date, candles["close"], strict=True))
    (made,) = Predictions(home).between().to_pylist()
    days = [newest - number * DAY for number in range(190, 10, -1)]
    publish_all(
        home,
        [{**made, "prediction_id": str(day), "origin_day": day - DAY, "target_day": day} for day in days],
    )
    figures = {"error": 1.0, "naive_error": 1.0, "crps": 0.02, "naive_crps": 0.02, "pit": 0.999}
    figures |= dict.fromkeys(("covered_50", "covered_80", "covered_95"), False)
    names = {"product_id": "BTC-USD", "data_version": made["data_version"], "scored_at": datetime.now(UTC)}
    Scores(home).add(
        [
            {**names, **figures, "prediction_id": str(day), "target_day": day, "close": closes[day]}
            for day in days
        ]
    )


# Lineage


@pytest.mark.engines
def test_the_lineage_of_a_forecast_reaches_the_server(platform: Platform, newest: date) -> None:
    made = [event for event in events(platform, "prefect.asset.materialization.") if event.payload]
    by_key = {event.resource.id: event for event in made}
    closes, model, forecast = (
        by_key[f"closecast://BTC-USD/{name}"]
        for name in ("closes", "calibrated/model", "calibrated/forecast")
    )
    assert {event.event for event in (closes, model, forecast)} == {"prefect.asset.materialization.succeeded"}
    assert (closes.occurred, model.occurred) < (model.occurred, forecast.occurred)
    upstream = {event.resource.id: {one.id for one in event.related if one.role == "asset"} for event in made}
    assert upstream[closes.resource.id] == set()
    assert upstream[model.resource.id] == {closes.resource.id}
    assert upstream[forecast.resource.id] == {closes.resource.id, model.resource.id}
    row = Predictions(Home(platform.home)).between().to_pylist()[-1]
    assert forecast.payload["prediction_id"] == row["prediction_id"]
    assert (forecast.payload["target_day"], forecast.payload["point"]) == (
        str(newest + DAY),
        row["point"],
    )
    assert (model.payload["version"], closes.payload["data_version"]) == ("1", row["data_version"])
    assert {f"prefect.flow-run.{row['flow_run_id']}"} <= {one.id for one in forecast.related}


@pytest.mark.engines
def test_closes_that_could_not_be_fetched_are_a_failed_materialization(platform: Platform) -> None:
    failed = events(platform, "prefect.asset.materialization.failed")
    assert {event.resource.id for event in failed} == {"closecast://NONE-USD/closes"}


# The schedule


@pytest.mark.engines
def test_what_ran_within_a_killed_run_is_dead_as_well(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    """With 45 seconds in place of five minutes: a run gives a sign of life every 30."""
    hurried(platform, "a run is dead", was=timedelta(minutes=5), seconds=45)
    endless = SETTINGS | {"epochs": 10_000, "units": 64, "refit_every_days": 1}
    run_id = start(platform, origin=str(newest - 2 * DAY), settings=endless, backfill_days=0)
    within = sign_of_life_within(platform, run_id)
    for process, words in platform.processes().items():
        if not {"server", "worker"} & set(words.split("\0")):
            os.kill(process, signal.SIGKILL)
    killed = platform.wait(run_id)
    assert killed.state is not None
    assert killed.state.is_crashed()
    told = receiver.wait("a run failed", of=killed.name)
    assert told["event"] == "prefect.flow-run.Crashed"
    found = platform.wait(within, seconds=200)
    assert found.state is not None
    assert found.state.is_crashed()
    assert found.state.message == "No sign of life for five minutes. What it did is whole; run it again."
    # Which is for the page alone: the run that it belonged to was told of.
    assert [one for one in receiver.heard if one.get("run") == killed.name] == [told]


def sign_of_life_within(platform: Platform, run_id: UUID) -> UUID:
    """The run of a product within that one, once the server has heard of it."""
    give_up = time.monotonic() + 150
    with platform.client() as client:
        while time.monotonic() < give_up:
            alive = {event.resource.id for event in events(platform, "prefect.flow-run.heartbeat")}
            for run in client.read_flow_runs():
                running = run.state is not None and run.state.is_running() and run.id != run_id
                if running and f"prefect.flow-run.{run.id}" in alive:
                    return run.id
            time.sleep(0.3)
    raise TimeoutError(f"no product's run has begun:\n{platform.tail('worker')}")


@pytest.mark.engines
def test_a_day_that_nobody_does_is_told_of(platform: Platform, set_up: str, receiver: Receiver) -> None:
    """With ten seconds in place of the 26 hours: the fewest that Prefect takes."""
    hurried(platform, "no day was done", was=timedelta(hours=26), seconds=10)
    said = receiver.wait("no day was done", seconds=90)
    assert said["text"] == (
        "closecast: no run of daily was completed in the last 26 hours: look at the server and its worker"
    )


def hurried(platform: Platform, alert: str, *, was: timedelta, seconds: float) -> None:
    """Let an automation wait for less."""
    name = f"closecast: {alert}"
    (hasty,) = (one for one in read_automations(FILE, block_id(platform)) if one.name == name)
    assert isinstance(hasty.trigger, EventTrigger)
    assert hasty.trigger.within == was
    hasty.trigger.within = timedelta(seconds=seconds)
    with platform.client() as client:
        (known,) = client.read_automations_by_name(name)
        client.update_automation(known.id, hasty)


def block_id(platform: Platform) -> str:
    with platform.client() as client:
        return str(client.read_block_document_by_name(BLOCK, "webhook").id)


# What the file and the command refuse


def test_an_address_or_a_server_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("hooks.example.com", "ftp://example.com", "https://", "file:///etc/passwd", ""):
        with pytest.raises(BadSetting, match="alerts go to an address"):
            set_up_alerts(address)
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(BadSetting, match="set PREFECT_API_URL"):
        set_up_alerts("https://example.com/x")
    nobody = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: nobody}), pytest.raises(PrefectUnavailable, match=nobody):
        set_up_alerts("https://example.com/x")


def test_a_file_that_prefect_does_not_understand_is_refused(tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8")
    for wrong in (
        "automations: [",
        "[]",
        "automations: []".replace("automations", "automation"),
        text.replace("type: call-webhook", "type: call-webhok"),
        text.replace("posture: Reactive", "posture: Reaktive"),
        text.replace('block_document_id: "{{ webhook }}"', 'block_document_id: "webhook"'),
    ):
        (tmp_path / "automations.yaml").write_text(wrong)
        with pytest.raises(BadFile, match="as Prefect knows them"):
            read_automations(tmp_path / "automations.yaml", str(UUID(int=0)))


def unknown_keys(given: Any, understood: Any, at: str = "") -> Iterator[str]:
    """Keys of the file that did not come through Prefect's models, which pass over what they do not know."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in understood:
                yield f"{at}{key}"
            else:
                yield from unknown_keys(value, understood[key], f"{at}{key}.")
    elif isinstance(given, list) and isinstance(understood, list):
        for one, other in zip(given, understood, strict=True):
            yield from unknown_keys(one, other, at)


def test_the_file_says_only_what_prefect_understands() -> None:
    given = yaml.safe_load(FILE.read_text(encoding="utf-8").replace("{{ webhook }}", str(UUID(int=0))))
    understood = [one.model_dump(mode="json") for one in read_automations(FILE, str(UUID(int=0)))]
    assert list(unknown_keys(given["automations"], understood)) == []
    for automation in given["automations"]:
        assert automation["description"]
        for action in automation["actions"]:
            validate_user_template(action.get("payload", ""))
    names = {event for one in understood for event in one["trigger"]["expect"]}
    assert {COVERAGE_ALARM, STALE_MODEL} <= names


def test_a_run_is_given_up_only_after_ten_signs_of_life_did_not_come() -> None:
    found = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    every = {
        one["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        for one in found["deployments"]
    }
    dead = next(one for one in read_automations(FILE, str(UUID(int=0))) if "dead" in one.name)
    assert isinstance(dead.trigger, EventTrigger)
    assert {dead.trigger.within.total_seconds()} == {10.0 * int(seconds) for seconds in every}
