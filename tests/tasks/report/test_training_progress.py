from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tasks.network.progress import listening, report_epoch
from tasks.report import prefect_artifacts
from tasks.report.prefect_artifacts import TrainingProgress

ID = uuid4()


@pytest.fixture
def artifact(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Prefect receives: the key and the description, then each percentage."""
    received: list[Any] = []

    def create(percent: float, *, key: str, description: str) -> Any:
        received.extend([key, description, percent])
        return ID

    def update(artifact_id: Any, percent: float) -> None:
        assert artifact_id == ID
        received.append(percent)

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", create)
    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", update)
    monkeypatch.setattr(prefect_artifacts, "EVERY_SECONDS", 0.0)
    return received


def test_no_epoch_makes_no_artifact(artifact: list[Any]) -> None:
    with listening(TrainingProgress("BTC-USD", 1)):
        pass
    report_epoch("member 1", 1, 10)
    assert artifact == []


def test_members_have_equal_shares_and_early_stopping_completes_one(artifact: list[Any]) -> None:
    with listening(TrainingProgress("BTC-USD", 2)):
        for member, epoch in (("a", 1), ("b", 5), ("a", 10), ("b", 6), ("b", 10)):
            report_epoch(member, epoch, 10)
    assert artifact[:2] == ["training-btc-usd", "BTC-USD: training, 2 members"]
    assert artifact[2:] == pytest.approx([5.0, 30.0, 75.0, 80.0, 100.0])


def test_the_first_and_the_last_epoch_are_sent_at_once(
    artifact: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_artifacts, "EVERY_SECONDS", 3600.0)
    monkeypatch.setattr("time.monotonic", lambda: 7200.0)
    with listening(TrainingProgress("BTC-USD", 1)):
        for epoch in range(1, 1001):
            report_epoch("", epoch, 1000)
    assert artifact[2:] == pytest.approx([0.1, 100.0])


def test_an_unreachable_server_does_not_end_the_training(
    artifact: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = []

    def refuse(*_: object) -> None:
        requests.append(1)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", refuse)
    with listening(TrainingProgress("BTC-USD", 1)):
        for epoch in range(1, 6):
            report_epoch("", epoch, 5)
    assert requests == [1]
    assert caplog.messages == ["BTC-USD: the progress of training can no longer be shown"]
