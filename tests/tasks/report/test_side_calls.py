"""Side calls to a server that refuses, hangs, hangs up, or is none of Prefect's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, temporary_settings

from closecast.tasks.report import side_calls
from closecast.tasks.report.side_calls import Progress, create_artifact, show_artifact, side_call
from tests.proxy import Proxy, Refusal
from tests.serve_demo import free_port

ARTIFACTS = "(POST|PATCH) /api/artifacts/(?!filter)"


@pytest.fixture
def proxy(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(side_calls, "EVERY_SECONDS", 0.0)
    # Of the event that Prefect emits about each artifact.
    monkeypatch.setattr("prefect.events.utilities.should_emit_events", lambda: False)
    with Proxy(PREFECT_API_URL.value()) as started, temporary_settings({PREFECT_API_URL: started.api}):
        yield started


def shown(key: str) -> list[tuple[Any, ...]]:
    """The artifacts of that key: type, description and data."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return [(one.type, one.description, one.data) for one in found]


def test_a_call_that_the_server_takes_is_one_artifact(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"day": "2020-01-01", "ratio": float("nan"), "close": 1.5}]
    show_artifact("table", "a-table", rows, "two figures")
    ((kind, description, data),) = shown("a-table")
    assert (kind, description) == ("table", "two figures")
    assert json.loads(data) == [{"day": "2020-01-01", "ratio": None, "close": 1.5}]
    assert caplog.messages == []


@pytest.mark.parametrize("refusal", ["500", "hang", "hang up", "page"])
def test_refusals_by_the_server_are_warnings(
    proxy: Proxy, refusal: Refusal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("prefect.client.base.time.sleep", slept.append)
    monkeypatch.setattr(side_calls, "SECONDS", 0.2)
    proxy.refused = {ARTIFACTS: refusal}
    began = time.monotonic()
    assert not side_call("a note", lambda client: create_artifact(client, "markdown", "note", "x", ""))
    assert time.monotonic() - began < 5
    (message,) = caplog.messages
    assert message.startswith("a note: refused by Prefect's server, the run continues without it: ")
    assert len(proxy.seen) <= 2
    assert len(slept) <= 1


def test_a_missing_server_is_a_warning_and_a_mistake_of_ours_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        show_artifact("markdown", "note", "x", "")
        assert len(caplog.messages) == 1

        def mistake(_: object) -> None:
            raise AttributeError("a mistake")

        with pytest.raises(AttributeError):
            side_call("a note", mistake)


def test_progress_that_is_refused_is_not_tried_again(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("a-progress", "BTC-USD: training")
    progress.show(10.0)
    proxy.refused = {ARTIFACTS: "500"}
    for percent in (20.0, 30.0, 100.0):
        progress.show(percent)
    assert shown("a-progress") == [("progress", "BTC-USD: training", 10.0)]
    assert len(proxy.seen) == 1
    assert len(caplog.messages) == 1
