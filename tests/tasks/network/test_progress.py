from __future__ import annotations

import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest

from storage.core.home import Home
from tasks.network import progress
from tasks.network.architectures import article_network
from tasks.network.progress import TrainingArtifact, heard_by, shown, tell_epoch
from tasks.network.trainer import train

ID = uuid4()


@pytest.fixture
def shows(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is shown in Prefect: the key at first, then each percentage."""
    found: list[Any] = []

    def create(percent: float, *, key: str, description: str) -> Any:
        found.extend([key, description, percent])
        return ID

    def update(artifact: Any, percent: float) -> None:
        assert artifact == ID
        found.append(percent)

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    return found


def test_nobody_hears_what_nobody_listens_to(shows: list[Any]) -> None:
    tell_epoch("member 1", 1, 10)
    with heard_by(TrainingArtifact("BTC-USD", 1)):
        pass
    assert shows == []


def test_members_have_equal_shares_and_one_that_stops_early_is_done(shows: list[Any]) -> None:
    with heard_by(TrainingArtifact("BTC-USD", 2)):
        for member, epoch in (("a", 1), ("b", 5), ("a", 10), ("b", 6), ("b", 10)):
            tell_epoch(member, epoch, 10)
    assert shows[:2] == ["training-btc-usd", "BTC-USD: training, 2 members"]
    assert shows[2:] == pytest.approx([5.0, 30.0, 75.0, 80.0, 100.0])
    tell_epoch("a", 1, 10)
    assert len(shows) == 7


def test_not_each_epoch_is_a_request_but_the_last_always_is(
    shows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 3600.0)
    monkeypatch.setattr("time.monotonic", lambda: 7200.0)
    with heard_by(TrainingArtifact("BTC-USD", 1)):
        for epoch in range(1, 1001):
            tell_epoch("", epoch, 1000)
    assert shows[2:] == pytest.approx([0.1, 100.0])


def test_threads_of_members_tell_the_listener_of_their_own_run(shows: list[Any]) -> None:
    heard: dict[str, list[str]] = {"one": [], "other": []}

    def train_in_threads(run: str) -> None:
        with heard_by(lambda member, *_: heard[run].append(member)):
            threads = [
                threading.Thread(target=copy_context().run, args=(tell_epoch, f"{run} {number}", 1, 1))
                for number in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    runs = [threading.Thread(target=train_in_threads, args=(run,)) for run in heard]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert {run: sorted(members) for run, members in heard.items()} == {
        run: [f"{run} {number}" for number in range(3)] for run in heard
    }


def test_a_server_that_is_gone_costs_no_training(
    shows: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def gone(*_: object) -> None:
        asked.append(1)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(progress, "update_progress_artifact", gone)
    with heard_by(TrainingArtifact("BTC-USD", 1)):
        for epoch in range(1, 6):
            tell_epoch("", epoch, 5)
    assert asked == [1]
    assert caplog.messages == ["BTC-USD: the progress of training can no longer be shown"]


def test_a_training_tells_each_epoch_and_ends_at_its_end() -> None:
    heard: list[tuple[str, int, int]] = []
    network = article_network(
        lookback=3, horizon=1, units=2, activation="sigmoid", leaky_slope=0.5, dropout=0.1, seed=1
    )
    draw = np.random.default_rng(1)
    with heard_by(lambda *told: heard.append(told)):
        train(
            network,
            draw.normal(size=(20, 3, 1)),
            draw.normal(size=(20, 1)),
            validation_split=0.2,
            learning_rate=1e-3,
            batch_size=8,
            epochs=3,
            shuffle=False,
            seed=1,
            compiled=False,
        )
    assert heard == [("", 1, 3), ("", 2, 3), ("", 3, 3)]


def test_a_step_is_shown_with_the_members_of_its_settings(shows: list[Any], tmp_path: Path) -> None:
    def fit(home: Home, product_id: str, *, settings: dict[str, Any]) -> str:
        tell_epoch("member 1", 1, 2)
        return f"{product_id} {settings['epochs']}"

    home = Home(tmp_path)
    assert shown(fit)(home, "ETH-USD", settings={"members": 4, "epochs": 2}) == "ETH-USD 2"
    assert shown(fit)(home, "ETH-USD", settings={"epochs": 2}) == "ETH-USD 2"
    assert shows == [
        *("training-eth-usd", "ETH-USD: training, 4 members", 12.5),
        *("training-eth-usd", "ETH-USD: training, 1 members", 50.0),
    ]
