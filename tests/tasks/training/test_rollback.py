from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.core.errors import BadInput
from storage.core.home import Home
from storage.models.registry import Models
from storage.models.version import CHALLENGER, CHAMPION
from tasks.training import selection as challenge
from tasks.training.rollback import roll_back_champion
from tests.calibrated import LENIENT, MADE, Runs, made_home, quick
from tests.helpers import BTC

DUE = MADE + 90
NEXT = DUE + 90


@functools.cache
def _grown(folder: Path) -> Path:
    runs = Runs(Home(shutil.copytree(made_home(folder), folder / "grown")), quick(**LENIENT))
    runs.choose(DUE)
    runs.choose(DUE + 30)
    assert runs.statuses() == dict.fromkeys("123", "accepted")
    return runs.home.root


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Version 1 of day 600, a refit of day 690 and its fine-tuning of day 720, which is the champion."""
    shutil.copytree(_grown(tmp_path_factory.getbasetemp()), tmp_path / "home")
    return Runs(Home(tmp_path / "home"), quick(**LENIENT))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(challenge, "fit_ensemble", never)
    monkeypatch.setattr(challenge, "fine_tune_ensemble", never)
    return monkeypatch


def back(runs: Runs, to: str | None = None) -> tuple[str, str]:
    return roll_back_champion(runs.home, BTC, "calibrated", to)


def mark(runs: Runs, number: str, status: str) -> None:
    Models(runs.home).mark(runs.versions()[number], {"status": status})


def test_to_the_version_before(runs: Runs) -> None:
    assert back(runs) == ("3", "2")
    assert runs.statuses() == {"1": "accepted", "2": "accepted", "3": "rolled-back"}
    assert runs.holder(CHAMPION) == "2"
    assert back(runs) == ("2", "1")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "rolled-back"}
    with pytest.raises(BadInput, match="version 1 has no earlier version"):
        back(runs)
    assert runs.holder(CHAMPION) == "1"


def test_the_version_before_is_one_that_may_forecast(runs: Runs) -> None:
    mark(runs, "2", "refused")
    assert back(runs) == ("3", "1")


def test_to_a_named_version(runs: Runs) -> None:
    assert back(runs, "1") == ("3", "1")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "rolled-back"}
    assert runs.holder(CHAMPION) == "1"


def test_the_policy_does_not_undo_it_before_the_next_refit(runs: Runs, untrained: pytest.MonkeyPatch) -> None:
    back(runs, "1")
    for number in (DUE + 31, DUE + 61, NEXT - 1):
        choice = runs.choose(number)
        assert choice.version == "1"
        assert "rolled back to version 1" in choice.why
        assert runs.holder(CHAMPION) == "1"
    assert len(runs.versions()) == 3
    untrained.undo()
    choice = runs.choose(NEXT)
    assert choice.version == "4"
    tags = runs.versions()["4"].tags
    assert (tags["training_kind"], tags["gate_champion"], tags["status"]) == ("refit", "1", "accepted")
    assert runs.holder(CHAMPION) == "4"
    assert runs.statuses()["2"] == runs.statuses()["3"] == "rolled-back"
    assert runs.choose(NEXT + 30).version == "5"  # and fine-tuning goes on


def test_the_age_is_that_of_the_version_that_forecasts(runs: Runs, untrained: pytest.MonkeyPatch) -> None:
    back(runs, "1")
    patient = runs.told(refit_every_days=3650)
    assert patient.choose(MADE + 180).warning is None
    assert patient.choose(MADE + 181).warning


@pytest.mark.parametrize("status", ["refused", "pending"])
def test_what_was_not_accepted_never_forecasts(runs: Runs, status: str) -> None:
    mark(runs, "2", status)
    before = runs.statuses()
    with pytest.raises(BadInput, match=f"version 2 is {status} and never forecasts") as error:
        back(runs, "2")
    assert "\n" not in str(error.value)
    assert runs.statuses() == before
    assert runs.holder(CHAMPION) == "3"


@pytest.mark.parametrize("name", ["4", "0", "", "one", "01", "1; DROP TABLE", "9" * 500])
def test_an_unknown_version_is_refused_in_one_line(runs: Runs, name: str) -> None:
    with pytest.raises(BadInput, match=r"it has 1, 2, 3") as error:
        back(runs, name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert runs.holder(CHAMPION) == "3"


def test_without_a_champion(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with pytest.raises(BadInput, match=r"closecast\.BTC-USD\.calibrated has no champion yet"):
        roll_back_champion(home, BTC, "calibrated", None)


def test_a_version_of_another_recipe_is_none_of_its_own(runs: Runs) -> None:
    other = runs.told(seed=7)
    assert other.choose(DUE + 31).version == "4"
    with pytest.raises(BadInput, match="version 4 has no earlier version"):
        back(runs)
    with pytest.raises(BadInput, match=r"has no version '3' of the champion's recipe"):
        back(runs, "3")
    assert runs.choose(DUE + 31).version == "3"  # this recipe's champion again
    assert back(runs) == ("3", "2")
    assert other.choose(DUE + 32).version == "4"
    assert runs.choose(DUE + 32).version == "2"


def test_forward_again(runs: Runs, untrained: pytest.MonkeyPatch) -> None:
    back(runs, "1")
    assert runs.choose(DUE + 31).version == "1"
    assert back(runs, "3") == ("1", "3")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "accepted"}
    assert runs.choose(DUE + 32).version == "3"
    assert back(runs) == ("3", "1")  # what was rolled back is not gone back to by itself
    assert back(runs, "2") == ("1", "2")
    assert runs.choose(DUE + 33).version == "2"
    assert runs.statuses() == {"1": "accepted", "2": "accepted", "3": "rolled-back"}


def test_to_where_it_is(runs: Runs) -> None:
    assert back(runs, "3") == ("3", "3")
    assert set(runs.statuses().values()) == {"accepted"}


def test_a_day_before_the_rollback_is_not_changed_by_it(runs: Runs, untrained: pytest.MonkeyPatch) -> None:
    back(runs, "1")
    assert runs.choose(MADE + 5).version == "1"
    assert runs.holder(CHAMPION) == "1"


def test_a_challenger_that_nobody_judged_does_not_undo_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run left it, and the next run would judge it and take it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(challenge, "gate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.choose(DUE + 60)
    assert runs.statuses()["4"] == "pending"
    assert back(runs, "2") == ("3", "2")
    assert runs.statuses() == {"1": "accepted", "2": "accepted", "3": "rolled-back", "4": "refused"}
    assert runs.choose(DUE + 61).version == "2"
    assert runs.holder(CHAMPION) == "2"
    assert runs.holder(CHALLENGER) == "4"


@pytest.mark.parametrize("calls", [1, 2])
def test_killed_on_the_way(runs: Runs, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    honest, count = Models.mark, iter(range(10))

    def mark_some(self: Models, *args: Any) -> None:
        if next(count) == calls:
            raise KeyboardInterrupt
        honest(self, *args)

    def no_promotion(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Models, "mark", mark_some)
        patch.setattr(Models, "promote", no_promotion)
        with pytest.raises(KeyboardInterrupt):
            back(runs, "1")
    assert back(runs, "1") == ("3", "1")
    assert runs.statuses() == {"1": "accepted", "2": "rolled-back", "3": "rolled-back"}
    assert runs.choose(DUE + 31).version == "1"
