"""Rollback: which version becomes the champion, and that no later run undoes it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from closecast.storage.core.errors import BadInput
from closecast.storage.core.home import Home
from closecast.storage.models.registry import CHALLENGER, CHAMPION, Models
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.training import selection
from closecast.tasks.training.rollback import roll_back_champion
from tests.calibrated import LENIENT, MADE, Runs, made_home, quick
from tests.engines import copy_home
from tests.helpers import BTC, ending, interrupt

DUE = MADE + 90
NEXT = DUE + 90


@functools.cache
def _grown(folder: Path) -> Path:
    runs = Runs(copy_home(made_home(folder), folder / "grown"), quick(**LENIENT))
    runs.select(DUE)
    runs.select(DUE + 30)
    assert runs.statuses() == dict.fromkeys("123", "accepted")
    return runs.home.root


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Version 1 of day 600, a refit of day 690 and its fine-tuning of day 720, which is the champion."""
    return Runs(copy_home(_grown(tmp_path_factory.getbasetemp()), tmp_path / "home"), quick(**LENIENT))


def back(runs: Runs, to: str | None = None) -> tuple[str, str]:
    return roll_back_champion(runs.home, BTC, "calibrated", to)


def test_rollback_goes_to_the_version_before(runs: Runs) -> None:
    assert back(runs) == ("3", "2")
    assert runs.statuses() == {"1": "accepted", "2": "accepted", "3": "rolled-back"}
    assert runs.holder(CHAMPION) == "2"
    assert back(runs) == ("2", "1")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "rolled-back"}
    with pytest.raises(BadInput, match="version 1 has no earlier version"):
        back(runs)
    assert runs.holder(CHAMPION) == "1"


def test_a_rollback_holds_until_the_next_refit(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    back(runs, "1")
    with monkeypatch.context() as patch:
        for name in ("fit", "fine_tune"):
            patch.setattr(CalibratedProfile, name, lambda *_, **__: pytest.fail("trained"))
        for number in (DUE + 31, DUE + 61, NEXT - 1):
            selected = runs.select(number)
            assert selected.version == "1"
            assert "rolled back to version 1" in selected.reason
            assert runs.holder(CHAMPION) == "1"
    assert runs.select(NEXT).version == "4"
    tags = runs.versions()["4"].tags
    assert (tags["training_kind"], tags["gate_champion"], tags["status"]) == ("refit", "1", "accepted")
    assert runs.holder(CHAMPION) == "4"
    assert runs.statuses()["2"] == runs.statuses()["3"] == "rolled-back"
    assert runs.select(NEXT + 30).version == "5"  # fine-tuning goes on


@pytest.mark.parametrize("status", ["refused", "pending"])
def test_only_accepted_versions_can_be_named(runs: Runs, status: str) -> None:
    Models(runs.home).mark(runs.versions()["2"], {"status": status})
    before = runs.statuses()
    with pytest.raises(BadInput, match=f"version 2 is {status} and never forecasts"):
        back(runs, "2")
    assert runs.statuses() == before
    assert runs.holder(CHAMPION) == "3"
    assert back(runs) == ("3", "1")  # version 2 is passed over


def test_an_unknown_version_is_refused_in_one_line(runs: Runs, tmp_path: Path) -> None:
    for name in ("4", "0", "", "one", "01", "1; DROP TABLE", "9" * 500):
        with pytest.raises(BadInput, match=r"it has 1, 2, 3") as error:
            back(runs, name)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 250
    assert runs.holder(CHAMPION) == "3"
    with pytest.raises(BadInput, match=r"closecast\.BTC-USD\.calibrated has no champion yet"):
        roll_back_champion(Home(tmp_path / "empty").prepare(), BTC, "calibrated", None)


def test_rollback_stays_within_the_recipe(runs: Runs) -> None:
    other = runs.with_settings(seed=7)
    assert other.select(DUE + 31).version == "4"
    with pytest.raises(BadInput, match="version 4 has no earlier version"):
        back(runs)
    with pytest.raises(BadInput, match=r"has no version '3' of the champion's recipe"):
        back(runs, "3")
    assert runs.select(DUE + 31).version == "3"  # this recipe's champion again
    assert back(runs) == ("3", "2")
    assert other.select(DUE + 32).version == "4"
    assert runs.select(DUE + 32).version == "2"


def test_a_rolled_back_version_can_be_named_again(runs: Runs) -> None:
    assert back(runs, "3") == ("3", "3")
    assert set(runs.statuses().values()) == {"accepted"}
    back(runs, "1")
    assert back(runs, "3") == ("1", "3")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "accepted"}
    assert runs.select(DUE + 32).version == "3"
    assert back(runs) == ("3", "1")  # version 2 is still rolled back
    assert back(runs, "2") == ("1", "2")
    assert runs.select(DUE + 33).version == "2"
    assert runs.statuses() == {"1": "accepted", "2": "accepted", "3": "rolled-back"}


def test_a_pending_challenger_does_not_undo_a_rollback(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next run would judge it and take it."""
    with monkeypatch.context() as patch:
        patch.setattr(selection, "judge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.select(DUE + 60)
    assert runs.statuses()["4"] == "pending"
    assert back(runs, "2") == ("3", "2")
    assert runs.statuses() == {"1": "accepted", "2": "accepted", "3": "rolled-back", "4": "refused"}
    assert runs.select(DUE + 61).version == "2"
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("2", "4")


@pytest.mark.parametrize("calls", [1, 2])
def test_a_killed_rollback_is_completed_by_the_next(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Models, "mark", ending(Models.mark, interrupt, call=calls + 1))
        patch.setattr(Models, "promote", interrupt)
        with pytest.raises(KeyboardInterrupt):
            back(runs, "1")
    assert back(runs, "1") == ("3", "1")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "rolled-back"}
    assert runs.holder(CHAMPION) == "1"
    assert runs.select(DUE + 31).version == "1"
