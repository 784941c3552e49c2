"""The model of a day: what is trained, what the gate decides, and what a killed run leaves to the next."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest

from closecast.storage.models.registry import CHALLENGER, CHAMPION, Models
from closecast.storage.prices.price_store import Prices
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.training.mlflow_model import CARD, EXAMPLE, MLMODEL, REQUIREMENTS, SERVED_EXAMPLE
from closecast.tasks.training.registration import weights_digest
from closecast.tasks.training.selection import select_model
from tests.calibrated import (
    LENIENT,
    MADE,
    STORED,
    Runs,
    champion_runs,
    day,
    made_home,
    quick,
    select_and_die,
    stored_runs,
)
from tests.engines import copy_home
from tests.helpers import BTC, NOW, SHA, home_with, interrupt, made_up, store
from tests.processes import run_process

DUE = MADE + 90
honest_fit = CalibratedProfile.fit


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "home")


@pytest.fixture
def stored(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return stored_runs(tmp_path_factory, tmp_path / "stored")


@pytest.fixture
def lenient(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "home", **LENIENT)


def forbid_training(patch: pytest.MonkeyPatch) -> None:
    for name in ("fit", "fine_tune"):
        patch.setattr(CalibratedProfile, name, lambda *_, **__: pytest.fail("trained"))


def ruined(*args: Any, **more: Any) -> FittedModel:
    """A training whose model forecasts intervals twenty times too wide."""
    fitted = honest_fit(*args, **more)
    weights = [array.copy() for array in fitted.state.members[0]]
    weights[-1][1::3] += 3.0
    return replace(fitted, state=replace(fitted.state, members=(weights,)))


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
        "trained_through": str(day(MADE)),
        "twin_trained_through": str(day(MADE - 180)),
        "series": "csv@0",
        "data_version": runs.data(MADE),
        "recipe_version": runs.profile.recipe_version,
        "settings_version": runs.profile.version,
    }
    assert expected.items() <= version.tags.items()
    bundle = Models(runs.home).open(version)
    bundle.verify()
    names = {"ensemble.json", "settings.json", "calibration.json", "losses.json", "lineage.json"}
    mlflow = {MLMODEL, CARD, REQUIREMENTS, EXAMPLE, SERVED_EXAMPLE}
    twin = {"twin/ensemble.json", "twin/member-1.weights.h5"}
    assert set(bundle.manifest) == names | twin | {"member-1.weights.h5", "figures/losses.png"} | mlflow
    losses = bundle.read_json("losses.json")
    assert losses["networks"][0]["val_loss"] == [None]  # it was trained on every day
    assert runs.metrics("1")["twin_network_1_best_val_loss"] == losses["twin"][0]["val_loss"][-1]
    assert runs.model().lineage.gaps == ()


def test_fine_tuning_is_due_after_30_days(lenient: Runs) -> None:
    assert lenient.select(MADE + 30).version == "2"
    first, second = (lenient.versions()[number].tags for number in ("1", "2"))
    assert (second["training_kind"], second["parent"], second["status"]) == ("fine-tune", "1", "accepted")
    for name in ("weights_sha256", "twin_weights_sha256"):
        assert second[name] != first[name]
    assert second["trained_through"] == str(day(MADE + 30))
    assert second["twin_trained_through"] == str(day(MADE + 30 - 180))
    assert second["gate_champion"] == "1"


def test_refit_is_due_after_90_days_and_passes_the_gate(lenient: Runs) -> None:
    runs = lenient.with_settings(fine_tune_every_days=0)
    assert runs.select(DUE - 1).version == "1"
    selection = runs.select(DUE)
    assert (selection.version, selection.warning) == ("2", None)
    assert str(day(MADE)) in selection.reason
    tags, metrics = runs.versions()["2"].tags, runs.metrics("2")
    assert (tags["training_kind"], tags["status"], tags["gate_passed"]) == ("refit", "accepted", "True")
    assert (tags["gate_days"], tags["gate_champion"]) == ("180", "1")
    assert (tags["gate_first_day"], tags["gate_last_day"]) == (str(day(DUE - 179)), str(day(DUE)))
    assert metrics["gate_ratio"] == float(tags["gate_ratio"])
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("2", None)


def test_a_refused_challenger_never_forecasts(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CalibratedProfile, "fit", ruined)
        assert runs.select(DUE).version == "1"
    tags = runs.versions()["2"].tags
    assert (tags["status"], tags["gate_passed"]) == ("refused", "False")
    assert tags["gate"].startswith("refused: CRPS ratio")
    assert float(tags["gate_ratio"]) > 2
    Models(runs.home).open(runs.versions()["2"]).verify()  # it is kept whole
    forbid_training(monkeypatch)
    for number in (DUE, DUE + 1, DUE + 29):
        assert runs.select(number).version == "1"
    assert runs.statuses() == {"1": "accepted", "2": "refused"}
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", "2")


@functools.cache
def undisturbed(folder: Path) -> tuple[dict[str, str], Mapping[str, float]]:
    """The tags and figures of the version that a run on day 690 makes."""
    runs = Runs(copy_home(made_home(folder), folder / "undisturbed"), quick(**LENIENT))
    assert runs.select(DUE).version == "2"
    return dict(runs.versions()["2"].tags), runs.metrics("2")


@pytest.mark.parametrize(
    ("point", "rest"), [("register", {}), ("gate", {"2": "pending"}), ("promote", {"2": "accepted"})]
)
def test_the_next_run_completes_a_killed_selection(
    lenient: Runs,
    point: str,
    rest: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if point == "promote":  # TensorFlow takes its time in a process of its own: twice is enough
        with monkeypatch.context() as patch:
            patch.setattr(Models, point, interrupt)
            with pytest.raises(KeyboardInterrupt):
                lenient.select(DUE)
    else:
        assert run_process(select_and_die, lenient, DUE, point) == -9
    assert lenient.statuses() == {"1": "accepted"} | rest
    assert lenient.holder(CHAMPION) == "1"
    assert lenient.select(DUE).version == "2"
    expected, metrics = undisturbed(tmp_path_factory.getbasetemp())
    # HDF5 writes the moment into its files, whose digests the manifest has.
    varying = {"manifest_sha256": ""}
    assert dict(lenient.versions()["2"].tags) | varying == expected | varying
    assert lenient.metrics("2") == metrics
    assert (lenient.holder(CHAMPION), lenient.holder(CHALLENGER)) == ("2", None)
    assert lenient.statuses() == {"1": "accepted", "2": "accepted"}
    assert not list(lenient.home.models.rglob(".draft-*"))


@pytest.mark.parametrize("step", ["challenge", "mark"])
def test_a_pending_challenger_is_judged_the_day_after(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CalibratedProfile, "fit", ruined)
        patch.setattr(Models, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.select(DUE)
    assert runs.statuses() == {"1": "accepted", "2": "pending"}
    runs = runs.with_settings(fine_tune_every_days=0)
    forbid_training(monkeypatch)
    assert runs.select(DUE - 1).version == "1"  # a run on an earlier day does not see it
    assert runs.statuses()["2"] == "pending"
    assert runs.select(DUE + 1).version == "1"
    tags = runs.versions()["2"].tags
    assert (tags["status"], tags["gate_last_day"]) == ("refused", str(day(DUE)))
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", "2")


def test_a_run_killed_between_figures_and_status_is_completed(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Models.mark

    def figures_only(self: Models, version: Any, tags: Any, metrics: Any = None) -> None:
        honest(self, version, {}, metrics)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CalibratedProfile, "fit", ruined)
        patch.setattr(Models, "mark", figures_only)
        with pytest.raises(KeyboardInterrupt):
            runs.select(DUE)
    before = runs.metrics("2")
    assert before["gate_ratio"] > 2
    assert runs.select(DUE).version == "1"
    assert runs.statuses() == {"1": "accepted", "2": "refused"}
    assert runs.metrics("2") == before


def test_a_day_before_the_champion_gets_a_separate_model(runs: Runs) -> None:
    assert runs.select(450).version == "2"
    tags = runs.versions()["2"].tags
    assert (tags["origin_day"], tags["trained_through"]) == (str(day(450)), str(day(450)))
    assert (tags["status"], tags["gate"]) == ("accepted", "no champion to compare with")
    again = runs.profile.fit(runs.history(450), {})
    assert tags["weights_sha256"] == weights_digest(runs.profile, again)
    assert (runs.holder(CHAMPION), runs.holder(CHALLENGER)) == ("1", None)
    for number, version in ((450, "2"), (451, "2"), (MADE + 1, "1")):
        assert runs.select(number).version == version
    assert len(runs.versions()) == 2


def test_each_recipe_has_its_own_champion(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    other = runs.with_settings(seed=7)
    assert other.select(MADE + 1).version == "2"
    assert runs.versions()["2"].tags["gate"] == "no champion to compare with"
    assert runs.holder(CHAMPION) == "2"
    forbid_training(monkeypatch)
    assert runs.select(MADE + 2).version == "1"
    assert runs.holder(CHAMPION) == "1"
    assert other.select(MADE + 2).version == "2"
    # The policy is no part of the recipe: no other model comes from it.
    changed = runs.with_settings(refit_every_days=80, max_model_age_days=100)
    assert changed.select(MADE + 2).version == "1"


def test_a_replaced_source_has_its_own_champion(runs: Runs) -> None:
    with Prices(runs.home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
        frame = made_up(MADE + 1, seed=2)
        prices.append(BTC, frame, source="coinbase", observed_at=NOW, payload_sha256=SHA)
    assert runs.select(MADE + 1).version == "2"
    tags = runs.versions()["2"].tags
    assert (tags["series"], tags["gate"]) == (f"coinbase@{STORED}", "no champion to compare with")
    assert runs.holder(CHAMPION) == "2"


def test_lineage_names_the_pool_and_why_products_are_left_out(
    stored: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(stored.home, made_up(STORED, seed=2), product_id="ETH-USD")
    store(stored.home, made_up(500, seed=3), product_id="LTC-USD")  # ends before the origin
    store(stored.home, made_up(100, day(MADE + 1), seed=4), product_id="ADA-USD")
    store(stored.home, made_up(20, day(MADE - 10), seed=5), product_id="DOT-USD")
    pool_products = (BTC, "ETH-USD", "LTC-USD", "ADA-USD", "XRP-USD", "DOT-USD")
    runs = stored.with_settings(pool_products=pool_products)
    monkeypatch.setattr(CalibratedProfile, "fit", spy := MagicMock(wraps=runs.profile.fit))
    assert runs.select(MADE).version == "1"
    assert [call.kwargs for call in spy.call_args_list] == [{"holdout_days": 180}, {"epochs": 1}]
    pooled = {name: one.candles for name, one in spy.call_args.args[1].items()}
    lasts = {name: frame["day_utc"].iloc[-1].date() for name, frame in pooled.items()}
    assert lasts == {"ETH-USD": day(MADE), "LTC-USD": day(500), "DOT-USD": day(MADE)}
    lineage = runs.model().lineage
    assert lineage.data_version == runs.data(MADE)
    assert lineage.pooled_data_versions == {
        "ETH-USD": runs.data(MADE, "ETH-USD"),
        "LTC-USD": runs.data(500, "LTC-USD"),
    }
    assert lineage.not_pooled == {
        "ADA-USD": f"begins on {day(MADE + 1)}",
        "XRP-USD": "is not in the database",
        "DOT-USD": f"has no window up to {day(MADE)}",
    }
    assert lineage.windows["pooled ETH-USD"] > 0
    assert runs.versions()["1"].tags["pooled"] == "ETH-USD,LTC-USD"
    with Prices(runs.home) as prices:
        again = prices.prices_at(lineage.pooled_data_versions["ETH-USD"]).candles
    pd.testing.assert_frame_equal(again, pooled["ETH-USD"])


def test_a_window_longer_than_the_history_leaves_the_forecast_to_the_baselines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = home_with(tmp_path / "long", made_up(200))
    runs = Runs(home, CalibratedProfile({"lookback": 250, "min_days": 100, "members": 1}))
    selection = select_model(home, runs.profile, runs.prices(200))
    assert selection.version is None
    assert selection.warning is not None
    assert selection.warning in caplog.text
    assert "training needs 100 windows of 250 days" in selection.warning
    assert not Models(home).versions()
