"""Fixtures of the tests on a whole platform: an exchange that has one more day than is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import Artifact, FlowRun

from closecast.flows.clock import last_complete_day
from closecast.storage.core.home import Home
from tests.calibrated import Runs, champion_runs
from tests.exchange import Exchange

DAY = timedelta(days=1)
LAST = date(2019, 10, 17)


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    """A home with a champion and no forecast."""
    return champion_runs(tmp_path_factory, tmp_path / "home")


@pytest.fixture(scope="module")
def newest() -> date:
    """The newest complete day, the same although midnight may pass during the test."""
    return last_complete_day()


@pytest.fixture(scope="module")
def candles(walk: Callable[..., pd.DataFrame], newest: date) -> pd.DataFrame:
    """With one day more, so that a run after midnight gets the day that it asks for."""
    return walk(newest + DAY, days=461)


@pytest.fixture(scope="module")
def exchange(candles: pd.DataFrame) -> Iterator[Exchange]:
    with Exchange({"BTC-USD": candles}) as served:
        yield served


@pytest.fixture
def past_exchange(walk: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    """Two products up to two days after LAST; the clock, also that of the flows, is at 00:20 after LAST."""
    candles = {name: walk(LAST + 2 * DAY, days=62, seed=n) for n, name in ((7, "BTC-USD"), (8, "ETH-USD"))}
    clock = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
    with Exchange(candles, clock=clock, rate=1000, burst=1000) as served:
        monkeypatch.setenv("CLOSECAST_COINBASE_URL", served.url)
        monkeypatch.setattr("closecast.tasks.prices.ingest_coinbase.FIRST_DAY", LAST - 59 * DAY)
        monkeypatch.setattr("closecast.flows.clock.now", lambda: served.now)
        yield served


def artifacts_of(flow_run_id: Any) -> dict[str | None, Artifact]:
    """The artifacts of a run, by key."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}


def flow_runs_of(home: Home) -> list[FlowRun]:
    """The runs that have the tag of the home."""
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"home:{home.label}"]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=tagged)


def unknown_keys(given: Any, understood: Any, at: str = "") -> Iterator[str]:
    """Keys of a file that Prefect's models, dumped again, do not have."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in understood:
                yield f"{at}{key}"
            else:
                yield from unknown_keys(value, understood[key], f"{at}{key}.")
    elif isinstance(given, list) and isinstance(understood, list):
        for item, model in zip(given, understood, strict=True):
            yield from unknown_keys(item, model, at)
