from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from tasks.report import events as alarms
from tasks.report.events import COVERAGE_ALARM, STALE_MODEL, raise_alarms

ROW = {
    "product_id": "BTC-USD",
    "profile": "calibrated",
    "target_day": date(2020, 1, 2),
    "model_version": "3",
    "prediction_id": "ab",
}


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(alarms, "emit_event", lambda **given: found.append(given))
    return found


def test_each_alarm_is_an_event_about_its_model(
    emitted: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    raise_alarms(ROW, ["the 80 % interval held little", "the 95 % as well"], "version 3 is old")
    assert [one["event"] for one in emitted] == [COVERAGE_ALARM, COVERAGE_ALARM, STALE_MODEL]
    assert {one["resource"]["prefect.resource.id"] for one in emitted} == {"closecast.BTC-USD.calibrated"}
    assert emitted[0]["payload"] == {
        "message": "BTC-USD: the 80 % interval held little",
        "target_day": "2020-01-02",
        "product_id": "BTC-USD",
        "profile": "calibrated",
        "model_version": "3",
        "prediction_id": "ab",
    }
    # The age of the model is logged where it is found.
    assert caplog.messages == ["BTC-USD: the 80 % interval held little", "BTC-USD: the 95 % as well"]


def test_where_all_is_well_nothing_is_said(
    emitted: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    raise_alarms(ROW, [], None)
    assert (emitted, caplog.messages) == ([], [])
