from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from storage.core.errors import Damaged, NotEnoughHistory
from storage.core.home import Home
from storage.models.registry import Models
from storage.tables.predictions import PREDICTIONS, Predictions
from storage.tables.schemas import calibrator, components
from tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, MEDIAN
from tasks.forecast import publish
from tasks.forecast.publish import find_prediction, prediction_key, publish_prediction
from tests.calibrated import MADE, Runs, candles, champion_runs, close, day, stored_runs
from tests.helpers import BTC, FIRST, NOW, VERSIONS, store, trained_home, without

ORIGIN = FIRST + timedelta(days=59)
KEY: dict[str, Any] = {
    "product_id": BTC,
    "origin": date(2019, 3, 1),
    "profile": "article",
    "data_version": "BTC-USD@1:ab",
    "settings_version": "article-1",
    "code_version": "0+1",
}


@pytest.fixture
def trained(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, str]:
    return trained_home(tmp_path_factory, tmp_path / "home")


def put(trained: tuple[Home, str, str], prediction_id: str = "id-1", **changed: Any) -> dict[str, Any]:
    home, data_version, model_version = trained
    given = {
        "origin": ORIGIN,
        "horizon": 1,
        "prediction_id": prediction_id,
        "model_version": model_version,
        "data_version": data_version,
        "settings_version": VERSIONS["settings_version"],
        "code_version": VERSIONS["code_version"],
        "created_at": NOW,
        "flow_run_id": "run-1",
    }
    return publish_prediction(home, BTC, "article", **given | changed)


def found(home: Home) -> dict[str, Any] | None:
    return find_prediction(home, "id-1", product_id=BTC, target_day=ORIGIN + timedelta(days=1))


def test_the_key_is_of_everything_that_goes_in() -> None:
    key = prediction_key(**KEY)
    assert len(key) == 32
    assert prediction_key(**KEY) == key
    others = {
        "product_id": "ETH-USD",
        "origin": date(2019, 3, 2),
        "profile": "calibrated",
        "data_version": "BTC-USD@2:ab",
        "settings_version": "article-2",
        "code_version": "0+2",
    }
    assert len({key, *(prediction_key(**KEY | {name: value}) for name, value in others.items())}) == 7


def test_a_row_with_every_column(trained: tuple[Home, str, str]) -> None:
    home, data_version, model_version = trained
    assert found(home) is None
    row = put(trained)
    stored = found(home)
    assert stored == row
    assert set(row) == set(PREDICTIONS.names)
    assert (row["origin_day"], row["target_day"]) == (ORIGIN, ORIGIN + timedelta(days=1))
    assert (row["data_version"], row["model_version"]) == (data_version, model_version)
    assert (row["revision"], row["flow_run_id"], row["created_at"]) == (0, "run-1", NOW)
    assert row["last_close"] > 0
    assert row["point"] > 0
    intervals = [name for name in row if name.startswith(("lower_", "upper_", "quantile"))]
    assert len(intervals) == 8
    assert all(row[name] is None for name in intervals)
    champion = Models(home).champion(BTC, "article")
    assert champion
    assert champion.version == model_version


def test_the_same_key_gives_back_the_stored_row(trained: tuple[Home, str, str]) -> None:
    first = put(trained)
    again = put(trained, created_at=NOW + timedelta(days=1), flow_run_id="run-2")
    assert again == first
    assert Predictions(trained[0]).read().num_rows == 1


def test_another_key_for_the_same_day_is_a_revision(trained: tuple[Home, str, str]) -> None:
    first, second = put(trained), put(trained, "id-2")
    assert (first["revision"], second["revision"]) == (0, 1)
    assert first["point"] == second["point"]
    assert found(trained[0]) == first


def test_a_damaged_bundle_moves_no_champion_and_writes_no_row(trained: tuple[Home, str, str]) -> None:
    home, _, number = trained
    bundle = Models(home).open(Models(home).version(BTC, "article", number))
    bundle.path("scaler.json").write_text("{}")
    with pytest.raises(Damaged):
        put(trained)
    assert Models(home).champion(BTC, "article") is None
    assert found(home) is None
    with pytest.raises(Damaged, match="no version 7"):
        put(trained, model_version="7")


def test_interrupted_between_the_champion_and_the_row(
    trained: tuple[Home, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = trained[0]
    with monkeypatch.context() as patch:
        patch.setattr(publish.Predictions, "publish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            put(trained)
    champion = Models(home).champion(BTC, "article")
    assert champion
    assert found(home) is None
    assert put(trained)["revision"] == 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# The calibrated profile


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "calibrated")


def beside(home: Home, prediction_id: str) -> dict[str, dict[str, Any]]:
    rows = components(home).read(ds.field("prediction_id") == prediction_id).to_pylist()
    return {row["component"]: row for row in rows}


def test_a_distribution_and_what_stands_beside_it(runs: Runs) -> None:
    row = runs.publish(MADE, "id-1")
    assert row == Predictions(runs.home).find("id-1")
    assert set(row) == set(PREDICTIONS.names)
    assert (row["origin_day"], row["target_day"], row["horizon"]) == (day(MADE), day(MADE + 1), 1)
    assert (row["profile"], row["model_version"], row["revision"]) == ("calibrated", "1", 0)
    assert (row["data_version"], row["settings_version"]) == (runs.data(MADE), runs.recipe.version)
    assert row["last_close"] == close(MADE)
    assert row["quantile_levels"] == list(LEVELS)
    said = row["quantiles"]
    assert len(said) == 23
    assert said == sorted(said)
    assert said[0] > 0
    assert row["point"] == said[MEDIAN]
    for percent, (low, high) in INTERVAL_INDEXES.items():
        if percent != 90:
            assert (row[f"lower_{percent}"], row[f"upper_{percent}"]) == (said[low], said[high])
    found = beside(runs.home, "id-1")
    assert set(found) == {"lstm", "last_close_250", "ewma_t", "garch_t", "har_t"}
    assert {method for method, one in found.items() if one["calibrator_version"]} == {"lstm"}
    assert {one["target_day"] for one in found.values()} == {day(MADE + 1)}
    assert all(0 < one["sigma"] < 0.2 and len(one["quantiles"]) == 23 for one in found.values())
    (state,) = calibrator(runs.home).read().to_pylist()
    assert found["lstm"]["calibrator_version"] == state["calibrator_version"]
    assert (state["target_day"], state["prediction_id"]) == (day(MADE), None)
    bundle = Models(runs.home).open(runs.versions()["1"])
    assert state["quantile_offsets"] == bundle.read_json("calibration.json")["quantile_offsets"]


def test_the_forecast_is_made_of_what_stands_beside_it(runs: Runs) -> None:
    row, found = runs.publish(MADE, "id-1"), beside(runs.home, "id-1")
    (state,) = calibrator(runs.home).read().to_pylist()
    own, har = (np.log(found[method]["quantiles"]) for method in ("lstm", "har_t"))
    moved = np.array(state["quantile_offsets"]) * found["lstm"]["sigma"]
    said = np.sort(0.5 * own + 0.5 * har + moved)
    np.testing.assert_allclose(np.log(row["quantiles"]), said, rtol=0, atol=1e-12)


def test_the_same_distribution_again_adds_nothing(runs: Runs) -> None:
    first = runs.publish(MADE, "id-1")
    assert runs.publish(MADE, "id-1", created_at=NOW + timedelta(days=1), flow_run_id="run-2") == first
    tables = (Predictions(runs.home), components(runs.home), calibrator(runs.home))
    assert [table.read().num_rows for table in tables] == [1, 5, 1]


def test_the_same_distribution_in_another_home(
    runs: Runs, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = stored_runs(tmp_path_factory, tmp_path / "other")
    assert other.choose(MADE).version == "1"  # trained there, not copied
    for number in (MADE, MADE + 1):
        rows = []
        for one in (runs, other):
            one.score(number)
            rows.append((one.publish(number, f"id-{number}"), beside(one.home, f"id-{number}")))
        assert rows[0] == rows[1]


def test_a_forecast_names_the_state_that_it_was_made_with(runs: Runs) -> None:
    versions = []
    for number in range(MADE, MADE + 3):
        runs.score(number)
        runs.publish(number, f"id-{number}")
        versions.append(beside(runs.home, f"id-{number}")["lstm"]["calibrator_version"])
    states = {
        row["target_day"]: row["calibrator_version"] for row in calibrator(runs.home).read().to_pylist()
    }
    assert versions == [states[day(number)] for number in range(MADE, MADE + 3)]
    assert len(set(versions)) == 3
    again = runs.publish(MADE + 1, "again")  # a day of the past knows the state of that day
    assert beside(runs.home, "again")["lstm"]["calibrator_version"] == versions[1]
    first = Predictions(runs.home).find(f"id-{MADE + 1}")
    assert first
    assert (again["revision"], again["quantiles"]) == (1, first["quantiles"])


def test_no_row_without_what_stands_beside_it(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(publish.Predictions, "publish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.publish(MADE, "id-1")
    assert len(beside(runs.home, "id-1")) == 5
    assert Predictions(runs.home).read().num_rows == 0
    assert runs.publish(MADE, "id-1")["revision"] == 0
    assert len(beside(runs.home, "id-1")) == 5


def test_a_damaged_ensemble_writes_nothing(runs: Runs) -> None:
    bundle = Models(runs.home).open(runs.versions()["1"])
    bundle.path("member-1.weights.h5").write_bytes(b"")
    with pytest.raises(Damaged, match=r"member-1\.weights\.h5"):
        runs.publish(MADE, "id-1")
    tables = (Predictions(runs.home), components(runs.home), calibrator(runs.home))
    assert [table.read().num_rows for table in tables] == [0, 0, 0]


def test_a_hole_in_the_window_writes_nothing(tmp_path: Path, runs: Runs) -> None:
    home = Home(tmp_path / "holed").prepare()
    shutil.copytree(runs.home.models, home.models, dirs_exist_ok=True)
    shutil.copy(runs.home.registry, home.registry)
    store(home, without(candles(), day(MADE - 20), day(MADE - 20)))
    holed = Runs(home, runs.recipe)
    with pytest.raises(NotEnoughHistory):
        holed.publish(MADE, "id-1")
    assert Predictions(home).read().num_rows == 0
    assert components(home).read().num_rows == 0
    assert holed.publish(MADE + 1, "id-2")["revision"] == 0
