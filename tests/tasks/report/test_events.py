from __future__ import annotations

from typing import Any

import pytest

from tasks.report import events
from tasks.report.events import COVERAGE_ALARM, STALE_MODEL, raise_alarms
from tests.calibrated import forecast_by_hand


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    received: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: received.append(event))
    return received


def test_each_alarm_is_an_event_about_its_model(
    emitted: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    forecast = forecast_by_hand(365, "ab")
    raise_alarms(forecast, ["the 80 % interval covered little", "the 95 % as well"], "version 1 is old")
    assert [event["event"] for event in emitted] == [COVERAGE_ALARM, COVERAGE_ALARM, STALE_MODEL]
    assert {event["resource"]["prefect.resource.id"] for event in emitted} == {"closecast.BTC-USD.article"}
    assert emitted[0]["payload"] == {
        "message": "BTC-USD: the 80 % interval covered little",
        "target_day": "2020-01-01",
        "product_id": "BTC-USD",
        "profile": "article",
        "model_version": "1",
        "prediction_id": "ab",
    }
    # The age of the model is logged where it is noticed.
    assert caplog.messages == ["BTC-USD: the 80 % interval covered little", "BTC-USD: the 95 % as well"]


def test_no_alarm_emits_nothing(emitted: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    raise_alarms(forecast_by_hand(365, "ab"), [], None)
    assert (emitted, caplog.messages) == ([], [])
