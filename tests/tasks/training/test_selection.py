from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tasks.profiles.ensemble_io import ensemble_sha256, read_ensemble

from storage.core.errors import NotEnoughHistory
from storage.core.home import Home
from storage.models.registry import Models
from storage.models.version import CHALLENGER, CHAMPION
from storage.prices.price_store import Prices
from tasks.profiles.ensemble import fit_ensemble
from tasks.training import selection as challenge
from tests.calibrated import (
    CODE,
    LENIENT,
    MADE,
    QUICK,
    STORED,
    Runs,
    candles,
    champion_runs,
    choose_and_die,
    day,
    made_home,
    quick,
    stored_runs,
)
from tests.helpers import BTC, NOW, SHA, made_up, store
from tests.processes import run_process

DUE = MADE + 90


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "home")


@pytest.fixture
def stored(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return stored_runs(tmp_path_factory, tmp_path / "stored")


@pytest.fixture
def lenient(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "home", **LENIENT)


def never(*_: object, **__: object) -> None:
    raise AssertionError("nothing was to be trained")


def ruined(*args: Any) -> Any:
    """A training after which every day is expected to be twenty times as wild."""
    trained = fit_ensemble(*args)
    trained.ensemble.members[0][-1][1] += 3.0
    return trained


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def lineage(runs: Runs, number: str) -> dict[str, Any]:
    found: dict[str, Any] = Models(runs.home).open(runs.versions()[number]).read_json("lineage.json")
    return found


def test_the_first_run_makes_a_champion(runs: Runs) -> None:
    version = runs.versions()["1"]
    assert version.aliases == (CHAMPION,)
    expected = {
        "status": "accepted",
        "gate": "no champion to compare with",
        "training_kind": "refit",
        "parent": "none",
        "pooled": "none",
        "origin_day": str(day(MADE)),
        "trained_through": str(day(MADE - 180)),
        "series": "csv@0",
        "data_version": runs.data(MADE),
        "recipe_version": runs.recipe.recipe_version,
        "settings_version": runs.recipe.version,
        "code_version": CODE,
    }
    assert expected.items() <= version.tags.items()
    bundle = Models(runs.home).open(version)
    bundle.verify()
    assert set(bundle.manifest) == {
        "member-1.weights.h5",
        "ensemble.json",
        "settings.json",
        "calibration.json",
        "losses.json",
        "lineage.json",
        "figures/losses.png",
    }
    known = lineage(runs, "1")
    assert known["weights_sha256"] == ensemble_sha256(read_ensemble(bundle, runs.recipe).ensemble)
    assert (known["held_out_days"], known["gaps"]) == (180, [])
    assert (
        runs.metrics("1")["member_1_best_val_loss"]
        == bundle.read_json("losses.json")["members"][0]["val_loss"][-1]
    )


def test_the_same_again_in_another_home_is_the_same_to_the_last_bit(runs: Runs, stored: Runs) -> None:
    choice = stored.choose(MADE)
    assert (choice.version, choice.warning) == ("1", None)
    assert "no champion yet" in choice.why
    here, there = (Models(one.home).open(one.versions()["1"]) for one in (runs, stored))
    # The lineage holds the digest of the weights; HDF5 writes the moment into its files.
    for name in ("calibration.json", "losses.json", "ensemble.json", "lineage.json"):
        assert here.read_json(name) == there.read_json(name)


def test_the_next_days_keep_it_and_train_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(challenge, "fit_ensemble", never)
    monkeypatch.setattr(challenge, "fine_tune_ensemble", never)
    for number in (MADE, MADE + 1, MADE + 29):
        choice = runs.choose(number)
        assert (choice.version, choice.warning) == ("1", None)
    assert len(runs.versions()) == 1
    with pytest.raises(AssertionError, match="nothing was to be trained"):
        runs.choose(MADE + 30)


def test_a_fine_tuning_makes_a_child(lenient: Runs) -> None:
    assert lenient.choose(MADE + 30).version == "2"
    first, second = (lenient.versions()[number].tags for number in ("1", "2"))
    assert (second["training_kind"], second["parent"], second["status"]) == ("fine-tune", "1", "accepted")
    assert second["weights_sha256"] != first["weights_sha256"]
    assert second["trained_through"] == str(day(MADE + 30 - 180))
    assert second["gate_champion"] == "1"
    models = Models(lenient.home)
    parent, child = (
        models.open(lenient.versions()[number]).read_json("calibration.json") for number in ("1", "2")
    )
    assert child == parent
    assert lenient.choose(MADE + 59).version == "2"
    assert len(lenient.versions()) == 2
    lenient.choose(DUE)  # a refit, counted from the refit
    assert lenient.versions()["3"].tags["training_kind"] == "refit"


def test_after_90_days_a_challenger_is_judged(lenient: Runs) -> None:
    runs = lenient.told(fine_tune_every_days=0)
    assert runs.choose(DUE - 1).version == "1"
    choice = runs.choose(DUE)
    assert choice.version == "2"
    assert str(day(MADE)) in choice.why
    tags, metrics = runs.versions()["2"].tags, runs.metrics("2")
    assert (tags["training_kind"], tags["status"], tags["gate_passed"]) == ("refit", "accepted", "True")
    assert (tags["gate_days"], tags["gate_champion"]) == ("180", "1")
    assert (tags["gate_first_day"], tags["gate_last_day"]) == (str(day(DUE - 179)), str(day(DUE)))
    assert metrics["gate_ratio"] == float(tags["gate_ratio"])
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("2", None)


def test_a_ruined_challenger_never_forecasts(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(challenge, "fit_ensemble", ruined)
        assert runs.choose(DUE).version == "1"
    tags, metrics = runs.versions()["2"].tags, runs.metrics("2")
    assert (tags["status"], tags["gate_passed"]) == ("refused", "False")
    assert tags["gate"].startswith("refused: CRPS ratio")
    assert metrics["gate_ratio"] == float(tags["gate_ratio"]) > 2
    assert metrics["gate_challenger_crps"] / metrics["gate_champion_crps"] == metrics["gate_ratio"]
    assert metrics["gate_days"] == 180
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", "2")
    Models(runs.home).open(runs.versions()["2"]).verify()  # it is kept whole
    monkeypatch.setattr(challenge, "fit_ensemble", never)
    monkeypatch.setattr(challenge, "fine_tune_ensemble", never)
    for number in (DUE, DUE + 1, DUE + 29):
        assert runs.choose(number).version == "1"
    assert runs.statuses() == {"1": "accepted", "2": "refused"}
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", "2")


@functools.cache
def undisturbed(folder: Path) -> tuple[dict[str, str], Mapping[str, float]]:
    """The tags and figures of the version that a run on day 690 makes."""
    runs = Runs(Home(shutil.copytree(made_home(folder), folder / "undisturbed")), quick(**LENIENT))
    assert runs.choose(DUE).version == "2"
    return dict(runs.versions()["2"].tags), runs.metrics("2")


@pytest.mark.parametrize(
    ("point", "left"), [("register", {}), ("gate", {"2": "pending"}), ("promote", {"2": "accepted"})]
)
def test_killed_on_the_way(
    lenient: Runs,
    point: str,
    left: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if point == "promote":  # TensorFlow takes its time in a process of its own: twice is enough
        with monkeypatch.context() as patch:
            patch.setattr(Models, point, interrupt)
            with pytest.raises(KeyboardInterrupt):
                lenient.choose(DUE)
    else:
        assert run_process(choose_and_die, lenient, DUE, point) == -9
    assert lenient.statuses() == {"1": "accepted"} | left
    assert lenient.holder(CHAMPION) == "1"
    assert lenient.choose(DUE).version == "2"
    tags, metrics = undisturbed(tmp_path_factory.getbasetemp())
    found = dict(lenient.versions()["2"].tags)
    for some in (found, tags):
        some.pop("manifest_sha256", None)  # HDF5 writes the moment into its files
    assert found == tags
    assert lenient.metrics("2") == metrics
    assert (lenient.holder(CHAMPION), lenient.holder(CHALLENGER)) == ("2", None)
    assert lenient.statuses() == {"1": "accepted", "2": "accepted"}
    assert not list(lenient.home.models.rglob(".draft-*"))


@pytest.mark.parametrize("step", ["challenge", "mark"])
def test_what_a_killed_run_left_is_judged_the_day_after(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(challenge, "fit_ensemble", ruined)
        patch.setattr(Models, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.choose(DUE)
    assert runs.statuses() == {"1": "accepted", "2": "pending"}
    runs = runs.told(fine_tune_every_days=0)
    monkeypatch.setattr(challenge, "fit_ensemble", never)
    assert runs.choose(DUE - 1).version == "1"  # a run on an earlier day does not see it
    assert runs.statuses()["2"] == "pending"
    assert runs.choose(DUE + 1).version == "1"
    tags = runs.versions()["2"].tags
    assert (tags["status"], tags["gate_last_day"]) == ("refused", str(day(DUE)))
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", "2")


def test_killed_between_the_figures_and_the_status(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Models.mark

    def figures_only(self: Models, version: Any, tags: Any, metrics: Any = None) -> None:
        honest(self, version, {}, metrics)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(challenge, "fit_ensemble", ruined)
        patch.setattr(Models, "mark", figures_only)
        with pytest.raises(KeyboardInterrupt):
            runs.choose(DUE)
    before = runs.metrics("2")
    assert before["gate_ratio"] > 2
    assert runs.choose(DUE).version == "1"
    assert runs.statuses() == {"1": "accepted", "2": "refused"}
    assert runs.metrics("2") == before


def test_a_day_before_the_champions_has_a_model_of_its_own(runs: Runs) -> None:
    assert runs.choose(450).version == "2"
    tags = runs.versions()["2"].tags
    assert (tags["origin_day"], tags["trained_through"]) == (str(day(450)), str(day(450)))
    assert (tags["status"], tags["gate"]) == ("accepted", "no champion to compare with")
    known = fit_ensemble(candles().head(450).reset_index(drop=True), runs.recipe, {})
    assert tags["weights_sha256"] == ensemble_sha256(known.ensemble)
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", None)
    assert runs.choose(450).version == "2"
    assert runs.choose(451).version == "2"
    assert runs.choose(MADE + 1).version == "1"
    assert len(runs.versions()) == 2


def test_another_recipe_has_its_own_champion(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    other = runs.told(seed=7)
    assert other.choose(MADE + 1).version == "2"
    assert runs.versions()["2"].tags["gate"] == "no champion to compare with"
    assert runs.holder(CHAMPION) == "2"
    monkeypatch.setattr(challenge, "fit_ensemble", never)
    assert runs.choose(MADE + 2).version == "1"
    assert runs.holder(CHAMPION) == "1"
    assert other.choose(MADE + 2).version == "2"
    # The policy is no part of the recipe: no other model comes from it.
    assert runs.told(refit_every_days=80, max_model_age_days=100).choose(MADE + 2).version == "1"


def test_a_replaced_source_has_its_own_champion(runs: Runs) -> None:
    with Prices(runs.home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
        frame = made_up(MADE + 1, seed=2)
        prices.append(BTC, frame, source="coinbase", observed_at=NOW, payload_sha256=SHA)
    assert runs.choose(MADE + 1).version == "2"
    tags = runs.versions()["2"].tags
    assert (tags["series"], tags["gate"]) == (f"coinbase@{STORED}", "no champion to compare with")
    assert runs.holder(CHAMPION) == "2"


def test_what_is_pooled_and_what_is_missing(stored: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    home = stored.home
    store(home, made_up(STORED, seed=2), product_id="ETH-USD")
    store(home, made_up(500, seed=3), product_id="LTC-USD")  # ends before the origin
    store(home, made_up(100, day(MADE + 1), seed=4), product_id="ADA-USD")
    store(home, made_up(20, day(MADE - 10), seed=5), product_id="DOT-USD")
    pool = (BTC, "ETH-USD", "LTC-USD", "ADA-USD", "XRP-USD", "DOT-USD")
    runs = stored.told(pool_products=pool)
    shown: dict[str, pd.DataFrame] = {}

    def spy(frame: pd.DataFrame, recipe: Any, pools: Any) -> Any:
        shown.update(pools)
        return fit_ensemble(frame, recipe, pools)

    monkeypatch.setattr(challenge, "fit_ensemble", spy)
    assert runs.choose(MADE).version == "1"
    assert {name: frame["day_utc"].iloc[-1].date() for name, frame in shown.items()} == {
        "ETH-USD": day(MADE),
        "LTC-USD": day(500),
        "DOT-USD": day(MADE),
    }
    known = lineage(runs, "1")
    assert known["data_version"] == runs.data(MADE)
    assert known["pooled_data_versions"] == {
        "ETH-USD": runs.data(MADE, "ETH-USD"),
        "LTC-USD": runs.data(500, "LTC-USD"),
    }
    assert known["not_pooled"] == {
        "ADA-USD": f"begins on {day(MADE + 1)}",
        "XRP-USD": "is not in the database",
        "DOT-USD": f"has no window up to {day(MADE - 360)}",
    }
    assert known["windows"]["pooled ETH-USD"] > 0
    assert runs.versions()["1"].tags["pooled"] == "ETH-USD,LTC-USD"
    with Prices(home) as prices:
        pooled = prices.closes_at(known["pooled_data_versions"]["ETH-USD"])
    pd.testing.assert_frame_equal(pooled, shown["ETH-USD"])


def test_a_model_without_a_successor_is_told_of(runs: Runs) -> None:
    old = runs.told(refit_every_days=3650, fine_tune_every_days=0)
    assert old.choose(MADE + 180).warning is None
    choice = old.choose(MADE + 181)
    assert choice.version == "1"
    assert choice.warning
    assert "181 days ago" in choice.warning


def test_a_short_series_waits_until_a_challenger_can_be_judged(stored: Runs) -> None:
    runs = stored.told(**LENIENT)
    assert runs.choose(400).version == "1"
    assert runs.versions()["1"].tags["trained_through"] == str(day(400))
    choice = runs.choose(579)
    assert choice.version == "1"
    assert f"waits until {day(580)}" in choice.why
    assert runs.choose(580).version == "2"
    assert runs.versions()["2"].tags["gate_days"] == "180"


def test_too_few_days_leave_nothing(stored: Runs) -> None:
    with pytest.raises(NotEnoughHistory, match="400 days of closes, found 399"):
        stored.choose(399)
    assert not stored.versions()


def test_the_settings_of_these_tests_are_of_the_recipe() -> None:
    assert quick().model_dump().items() >= QUICK.items()
    assert np.isclose(quick(**LENIENT).gate_ratio_180, 9.0)
    assert day(MADE) + timedelta(days=90) == day(DUE)
