"""The events of a run: what they are about, and that a forecast is announced once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.home import Home, default_root
from closecast.tasks.report import events
from closecast.tasks.report.events import (
    COVERAGE_ALARM,
    DELIVERED,
    STALE_MODEL,
    announce_forecast,
    raise_alarms,
)
from tests.calibrated import forecast_by_hand, quick

DEFAULT_HOME = Home(default_root())


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is handed to Prefect, in a run of the id `run`."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: calls.append(event))
    monkeypatch.setattr("prefect.runtime.flow_run.get_id", lambda: "run")
    return calls


def test_a_forecast_is_announced_with_its_interval(emitted: list[dict[str, Any]]) -> None:
    forecast = replace(forecast_by_hand(365, "ab", profile=quick()), flow_run_id="run")
    announce_forecast(DEFAULT_HOME, forecast)
    (event,) = emitted
    low, high = forecast.first.interval(80) or (0.0, 0.0)
    payload = event["payload"]
    assert (event["event"], payload["product_id"], payload["quote_currency"]) == (DELIVERED, "BTC-USD", "USD")
    assert (payload["origin_day"], payload["target_day"]) == ("2019-12-31", "2020-01-01")
    assert (payload["median"], payload["lower_80"], payload["upper_80"]) == (forecast.first.point, low, high)
    assert (payload["model_version"], payload["basis"]) == ("1", "model")
    assert payload["message"] == (
        f"BTC-USD: the close of 2020-01-01: {forecast.price(forecast.first.point)},"
        f" with 80 % probability {forecast.prices(low, high)}"
    )


def test_a_point_is_announced_as_one(emitted: list[dict[str, Any]]) -> None:
    announce_forecast(DEFAULT_HOME, replace(forecast_by_hand(365, "ab", point=8100.5), flow_run_id="run"))
    payload = emitted[0]["payload"]
    assert (payload["point"], payload["lower_80"], payload["median"]) == (8100.5, None, None)
    assert payload["message"] == "BTC-USD: the close of 2020-01-01: 8,100.50 USD"


def test_neither_another_runs_forecast_nor_a_revision_is_announced(emitted: list[dict[str, Any]]) -> None:
    forecast = replace(forecast_by_hand(365, "ab"), flow_run_id="run")
    announce_forecast(DEFAULT_HOME, replace(forecast, flow_run_id="earlier"))
    announce_forecast(DEFAULT_HOME, replace(forecast, horizons=(replace(forecast.first, revision=1),)))
    assert emitted == []


def test_the_events_of_another_home_name_it(emitted: list[dict[str, Any]], tmp_path: Path) -> None:
    home = Home(tmp_path / "staging")
    raise_alarms(home, forecast_by_hand(365, "ab"), ["covered little"], None)
    (event,) = emitted
    assert event["resource"]["prefect.resource.id"] == f"closecast.BTC-USD.article.{home.label}"
    assert event["payload"]["message"] == f"BTC-USD ({home.label}): covered little"
    assert event["payload"]["home"] == home.label


@pytest.mark.parametrize("age_warning", [None, "version 1 is old"])
def test_each_alarm_is_an_event_about_its_model(
    emitted: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, age_warning: str | None
) -> None:
    alarms = ["the 80 % interval covered little", "the 95 % as well"]
    raise_alarms(DEFAULT_HOME, forecast_by_hand(365, "ab"), alarms, age_warning)
    stale = [STALE_MODEL] if age_warning else []
    assert [event["event"] for event in emitted] == [COVERAGE_ALARM, COVERAGE_ALARM, *stale]
    assert {event["resource"]["prefect.resource.id"] for event in emitted} == {"closecast.BTC-USD.article"}
    assert emitted[0]["payload"] == {
        "message": "BTC-USD: the 80 % interval covered little",
        "target_day": "2020-01-01",
        "product_id": "BTC-USD",
        "profile": "article",
        "home": "default",
        "model_version": "1",
        "prediction_id": "ab",
    }
    # The age of the model is logged where it is noticed.
    assert caplog.messages == [f"BTC-USD: {alarm}" for alarm in alarms]


def test_a_product_without_a_model_has_no_stale_one(emitted: list[dict[str, Any]]) -> None:
    fallback = replace(forecast_by_hand(80, "ab"), basis="fallback", model_version=None)
    raise_alarms(DEFAULT_HOME, fallback, [], "a model needs 400 closes, and there are 80")
    assert emitted == []
