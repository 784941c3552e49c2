"""Alerts end to end: a real server, a real worker, and a receiver of the webhook's calls."""

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
from prefect.blocks.notifications import SlackWebhook
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter
from prefect.events.schemas.automations import EventTrigger
from prefect.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import validate_user_template
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from closecast.flows.alerts import BLOCK, FILE, NO_BLOCK, read_automations, set_up_alerts
from closecast.storage.core.errors import BadFile, BadSetting, PrefectUnavailable
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.scores import Scores
from closecast.tasks.report.events import COVERAGE_ALARM, DELIVERED, STALE_MODEL
from tests.exchange import Exchange
from tests.flows.conftest import unknown_keys
from tests.flows.test_deployment import completed
from tests.helpers import publish_all, store
from tests.proxy import Proxy, Refusal
from tests.serve_demo import PROJECT, Platform, free_port
from tests.storage.tables.rows import ROWS
from tests.waiting import wait_for

DAY = timedelta(days=1)
SETTINGS = {"epochs": 1, "units": 4, "members": 1, "refit_every_days": 365, "fine_tune_every_days": 0}
STALE = {"max_model_age_days": 1}
TEXT = FILE.read_text(encoding="utf-8")


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append({"type": self.headers["Content-Type"], "alert": "", **json.loads(body)})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Receiver(ThreadingHTTPServer):
    """Keeps the JSON that is posted to it, in the order of arrival."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    def wait(self, alert: str, *, run: str | None = None, seconds: float = 60.0) -> dict[str, Any]:
        """The first message of that alert, and of that run."""

        def look() -> list[dict[str, Any]]:
            named = [each for each in self.messages if each["alert"] == f"closecast: {alert}"]
            return [message for message in named if run in (None, message.get("run"))]

        return wait_for(look, seconds, log=lambda: f"no alert {alert!r}, but {self.messages}")[0]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def platform(
    exchange: Exchange, candles: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A server that looks for late runs every second; no worker yet."""
    settings = {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    }
    with Platform(tmp_path_factory.mktemp("platform"), exchange.url, settings=settings) as started:
        store(Home(started.home).prepare(), candles[:450], source="coinbase")
        started.deploy(unscheduled)
        yield started


def unscheduled(deployment: dict[str, Any]) -> None:
    deployment["schedules"] = []
    # Several runs wait for the worker at once.
    deployment["concurrency_limit"]["collision_strategy"] = "ENQUEUE"


def events(platform: Platform, prefix: str) -> list[ReceivedEvent]:
    """The events that reached the server, the oldest first."""
    wanted = EventFilter(
        occurred=EventOccurredFilter(since=datetime.now(UTC) - DAY), event=EventNameFilter(prefix=[prefix])
    )
    with platform.client() as client:
        response = client.request(
            "POST", "/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50}
        )
    received = [ReceivedEvent.model_validate(event) for event in response.json()["events"]]
    return sorted(received, key=lambda event: event.occurred)


@pytest.fixture(scope="module")
def set_up(platform: Platform, receiver: Receiver) -> str:
    """The output of the command, after another address that it replaces."""
    with temporary_settings({PREFECT_API_URL: platform.api}):
        set_up_alerts("http://127.0.0.1:1/nobody")
    return platform.command("closecast", "alerts", receiver.url)


@pytest.mark.engines
def test_the_command_creates_each_automation_once_and_keeps_the_address_secret(
    platform: Platform, set_up: str, receiver: Receiver
) -> None:
    names = [automation.name for automation in read_automations(FILE, "webhook", NO_BLOCK)]
    assert set_up.splitlines() == names
    with platform.client() as client:
        stored = client.read_automations()
        block = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=False)
    assert sorted(automation.name for automation in stored) == sorted(names)
    assert receiver.url not in str(block.data)
    assert all(automation.enabled for automation in stored)


@pytest.mark.engines
def test_a_run_without_a_worker_is_late(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    products = ["NONE-USD", "BTC-USD"]
    platform.run(late=timedelta(hours=1), products=products, settings=SETTINGS, origin=str(newest - 4 * DAY))
    message = receiver.wait("a run is late")
    assert message["type"] == "application/json"
    assert (message["event"], message["deployment"]) == ("prefect.flow-run.Late", "daily")
    assert re.match(r'closecast: daily run ".+" is Late', message["text"])


@pytest.mark.engines
def test_a_failed_run_is_one_alert_with_the_product_and_the_reason(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    platform.start_worker()
    message = receiver.wait("a run failed", seconds=150)
    assert (message["event"], message["deployment"]) == ("prefect.flow-run.Failed", "daily")
    assert message["run"] == f"NONE-USD, BTC-USD {newest - 4 * DAY}"
    assert "1 of 2 products have no forecast, all others are done: NONE-USD: BadProduct: " in message["text"]
    assert message["url"].startswith(platform.url)
    # The product's own run failed, too, and is no alert of its own.
    failed = [each for each in receiver.messages if each["alert"] == "closecast: a run failed"]
    assert failed == [message]


@pytest.mark.engines
def test_a_coverage_alarm_and_a_stale_model_are_alerts_of_a_completed_run(
    platform: Platform, set_up: str, receiver: Receiver, candles: pd.DataFrame, newest: date
) -> None:
    store_misses(Home(platform.home), candles, newest)
    run_id = platform.run(origin=str(newest), settings=SETTINGS | STALE, backfill_days=0)
    completed(platform.wait(run_id, seconds=150), platform)
    coverage, stale = receiver.wait("coverage alarm"), receiver.wait("a model is stale")
    assert re.match(
        r"closecast: BTC-USD \(home-[0-9a-f]{4}\): the (80|95) % interval covered \d\.\d % of the last 180",
        coverage["text"],
    )
    assert (coverage["event"], stale["event"]) == (COVERAGE_ALARM, STALE_MODEL)
    assert ": version 1 was made 4 days ago, more than max_model_age_days (1)" in stale["text"]
    for message in (coverage, stale):
        facts = (message["product"], message["target_day"], message["model_version"])
        assert facts == ("BTC-USD", str(newest + DAY), "1")


def store_misses(home: Home, candles: pd.DataFrame, newest: date) -> None:
    """Store forecasts and scores of 180 days, up to ten days ago, whose intervals all missed."""
    closes = dict(zip(candles["day_utc"].dt.date, candles["close"], strict=True))
    (stored,) = Predictions(home).between(horizon=1).to_pylist()
    days = [newest - number * DAY for number in range(190, 10, -1)]
    publish_all(
        home,
        [{**stored, "prediction_id": str(day), "origin_day": day - DAY, "target_day": day} for day in days],
    )
    missed = {**ROWS["scores"], "data_version": stored["data_version"], "crps": 0.02, "naive_crps": 0.02}
    Scores(home).add(
        [{**missed, "prediction_id": str(day), "target_day": day, "close": closes[day]} for day in days]
    )


@pytest.mark.engines
def test_the_lineage_of_a_forecast_reaches_the_server(platform: Platform, newest: date) -> None:
    materialized = [event for event in events(platform, "prefect.asset.materialization.") if event.payload]
    by_key = {event.resource.id: event for event in materialized}
    closes, model, forecast = (
        by_key[f"closecast://{Home(platform.home).label}/BTC-USD/{name}"]
        for name in ("closes", "calibrated/model", "calibrated/forecast")
    )
    assert {event.event for event in (closes, model, forecast)} == {"prefect.asset.materialization.succeeded"}
    assert (closes.occurred, model.occurred) < (model.occurred, forecast.occurred)
    upstream = {
        event.resource.id: {related.id for related in event.related if related.role == "asset"}
        for event in materialized
    }
    assert upstream[closes.resource.id] == set()
    assert upstream[model.resource.id] == {closes.resource.id}
    assert upstream[forecast.resource.id] == {closes.resource.id, model.resource.id}
    row = Predictions(Home(platform.home)).between(horizon=1).to_pylist()[-1]
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
    assert {event.resource.id for event in failed} == {
        f"closecast://{Home(platform.home).label}/NONE-USD/closes"
    }


@pytest.mark.engines
def test_a_delivered_forecast_is_sent_once(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    """Of the run before, and of another one of the same day."""
    row = Predictions(Home(platform.home)).between(horizon=1).to_pylist()[-1]
    run_id = platform.run(origin=str(newest), settings=SETTINGS | STALE, backfill_days=0)
    completed(platform.wait(run_id), platform)
    receiver.wait("a forecast was delivered")
    time.sleep(5)
    of_day = [each for each in receiver.messages if each.get("target_day") == str(newest + DAY)]
    (message,) = [each for each in of_day if each.get("event") == DELIVERED]
    figures = (message["product"], message["median"], message["lower_80"], message["upper_80"])
    assert figures == ("BTC-USD", row["point"], row["lower_80"], row["upper_80"])
    assert (message["currency"], message["basis"], message["model_version"]) == ("USD", "model", "1")
    assert message["url"] == f"{platform.url}/runs/flow-run/{row['flow_run_id']}"
    assert message["home"] == Home(platform.home).label


@pytest.mark.engines
def test_a_notification_block_gets_the_same_and_a_paused_automation_stays_paused(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    with temporary_settings({PREFECT_API_URL: platform.api}), platform.client() as client:
        SlackWebhook(url=SecretStr(receiver.url.replace("http:", "json:"))).save("my-team")
        (stale,) = client.read_automations_by_name("closecast: a model is stale")
        client.pause_automation(stale.id)
        names = set_up_alerts("slack-webhook/my-team")
        try:
            assert [one.enabled for one in client.read_automations_by_name(stale.name)] == [False]
            day = str(newest - 5 * DAY)
            platform.wait(platform.run(origin=day, settings=SETTINGS, backfill_days=0), seconds=150)
            subject = f"closecast: BTC-USD, forecast for {newest - 4 * DAY}"
            told = wait_for(lambda: [one for one in receiver.messages if one.get("title") == subject], 60)
            assert f"({Home(platform.home).label}): the close of {newest - 4 * DAY}: " in told[0]["message"]
            with pytest.raises(
                BadSetting, match="no block slack-webhook/nobody: list them with `prefect block ls`"
            ):
                set_up_alerts("slack-webhook/nobody")
        finally:
            client.resume_automation(stale.id)
            assert set_up_alerts(receiver.url) == names


@pytest.mark.engines
def test_the_product_run_within_a_killed_run_is_crashed_too(
    platform: Platform, set_up: str, receiver: Receiver, newest: date
) -> None:
    """With 45 seconds instead of five minutes: a run sends a heartbeat every 30."""
    shorten(platform, "a run is dead", was=timedelta(minutes=5), seconds=45)
    endless = SETTINGS | {"epochs": 10_000, "units": 64, "refit_every_days": 1}
    run_id = platform.run(origin=str(newest - 2 * DAY), settings=endless, backfill_days=0)
    within = run_with_heartbeat(platform, run_id)
    for process, command in platform.processes().items():
        if not {"server", "worker"} & set(command.split("\0")):
            os.kill(process, signal.SIGKILL)
    killed = platform.wait(run_id)
    assert killed.state is not None
    assert killed.state.is_crashed()
    message = receiver.wait("a run failed", run=killed.name)
    assert message["event"] == "prefect.flow-run.Crashed"
    crashed = platform.wait(within, seconds=200)
    assert crashed.state is not None
    assert crashed.state.is_crashed()
    assert crashed.state.message == "No heartbeat for five minutes. Its stored data are intact; run it again."
    # No alert of its own: that of its parent run was sent.
    assert [each for each in receiver.messages if each.get("run") == killed.name] == [message]


def run_with_heartbeat(platform: Platform, run_id: UUID) -> UUID:
    """The run of a product within that one, once the server has its heartbeat."""

    def look() -> list[UUID]:
        alive = {event.resource.id for event in events(platform, "prefect.flow-run.heartbeat")}
        running = [run.id for run in client.read_flow_runs() if run.state and run.state.is_running()]
        return [each for each in running if each != run_id and f"prefect.flow-run.{each}" in alive]

    with platform.client() as client:
        return wait_for(look, 150, pause=0.3, log=lambda: platform.tail("worker"))[0]


@pytest.mark.engines
def test_a_day_without_a_completed_run_is_an_alert(
    platform: Platform, set_up: str, receiver: Receiver
) -> None:
    """With ten seconds instead of 26 hours: the minimum that Prefect accepts."""
    shorten(platform, "no day was done", was=timedelta(hours=26), seconds=10)
    message = receiver.wait("no day was done", seconds=90)
    assert message["text"] == (
        "closecast: no run of daily was completed in the last 26 hours: look at the server and its worker"
    )


def shorten(platform: Platform, alert: str, *, was: timedelta, seconds: float) -> None:
    """Let an automation wait for less."""
    name = f"closecast: {alert}"
    with platform.client() as client:
        block_id = client.read_block_document_by_name(BLOCK, "webhook").id
        (automation,) = (one for one in read_automations(FILE, "webhook", block_id) if one.name == name)
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.within == was
        automation.trigger.within = timedelta(seconds=seconds)
        (stored,) = client.read_automations_by_name(name)
        client.update_automation(stored.id, automation)


@pytest.mark.parametrize(
    "address", ["hooks.example.com", "ftp://example.com", "https://", "file:///etc/passwd", "", "a/b/c"]
)
def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(BadSetting, match="alerts need an address"):
        set_up_alerts(address)


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(BadSetting, match="set PREFECT_API_URL"):
        set_up_alerts("https://example.com/x")
    nobody = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: nobody}), pytest.raises(PrefectUnavailable, match=nobody):
        set_up_alerts("https://example.com/x")
    with Proxy(nobody) as proxy, temporary_settings({PREFECT_API_URL: proxy.api}):
        monkeypatch.setattr("closecast.tasks.report.side_calls.SECONDS", 0.1)
        refusals: tuple[Refusal, ...] = ("page", "hang")  # a proxy's page in place of JSON
        for refusal in refusals:
            proxy.refused = {".*": refusal}
            with pytest.raises(PrefectUnavailable, match="rejected the alerts"):
                set_up_alerts("https://example.com/x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TEXT, "automations: ["),
        (TEXT, "[]"),
        ("automations:", "automation:"),
        ("type: call-webhook", "type: call-webhok"),
        ("posture: Reactive", "posture: Reaktive"),
        ('block_document_id: "{{ webhook }}"', 'block_document_id: "webhook"'),
    ],
)
def test_a_file_that_prefect_cannot_read_is_refused(old: str, new: str, tmp_path: Path) -> None:
    file = tmp_path / "automations.yaml"
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(BadFile, match="automations in Prefect's format are needed"):
        read_automations(file, "webhook", NO_BLOCK)


def test_every_key_of_the_file_is_one_of_prefects() -> None:
    given = yaml.safe_load(TEXT)["automations"]
    sent: dict[str, list[str]] = {"webhook": [], "notification": []}
    for kind, names in sent.items():
        understood = [one.model_dump(mode="json") for one in read_automations(FILE, kind, NO_BLOCK)]
        mine = f"{{{{ {kind} }}}}"
        for entry, automation in zip(given, understood, strict=True):
            actions = [one for one in entry["actions"] if one.get("block_document_id", mine) == mine]
            assert list(unknown_keys(entry | {"actions": actions}, automation)) == []
            assert automation["description"]
            for action in automation["actions"]:
                for template in ("payload", "subject", "body"):
                    validate_user_template(action.get(template, ""))
            names += [entry["name"]] * len(automation["actions"])
    # Both kinds send every alert.
    assert sent["webhook"] == sent["notification"] == [entry["name"] for entry in given]
    expected = {event for entry in given for event in entry["trigger"]["expect"]}
    assert {COVERAGE_ALARM, STALE_MODEL, DELIVERED} <= expected


def test_a_run_is_dead_after_ten_missing_heartbeats() -> None:
    document = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    frequencies = {
        deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        for deployment in document["deployments"]
    }
    (dead,) = [
        automation for automation in read_automations(FILE, "webhook", NO_BLOCK) if "dead" in automation.name
    ]
    assert isinstance(dead.trigger, EventTrigger)
    assert {dead.trigger.within.total_seconds()} == {10.0 * int(seconds) for seconds in frequencies}
