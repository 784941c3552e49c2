"""A forecast made again comes out to the last bit, or it is said how far it is apart, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from storage.core.errors import BadInput, Damaged
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import calibrator, components
from storage.upkeep.compaction import compact_table
from tasks.upkeep.reproduce import Compared, reproduce_forecast
from tests.calibrated import CODE, MADE, Runs
from tests.helpers import BTC, NOW, trained_home
from tests.lived import DAYS, key_of, live, lived_runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return lived_runs(tmp_path_factory, tmp_path_factory.mktemp("reproduce") / "home")


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    return lived_runs(tmp_path_factory, tmp_path / "home")


@pytest.mark.parametrize("number", range(MADE, MADE + DAYS))
def test_every_forecast_comes_again_to_the_last_bit(whole: Runs, number: int) -> None:
    found = reproduce_forecast(whole.home, key_of(whole, number), code_version=CODE)
    assert found.same
    names = [one.name for one in found.figures]
    assert {"point", "lower_95", "quantiles", "lstm: quantiles", "har_t: sigma"} <= set(names)
    assert sum(len(one.stored) for one in found.figures) == 8 + 2 * 23 + 5 * 24
    assert not found.weights
    assert not found.others


def test_the_model_trained_again_has_the_same_weights(whole: Runs) -> None:
    found = reproduce_forecast(whole.home, key_of(whole, MADE), code_version=CODE, retrain=True)
    assert found.same
    assert [one.name for one in found.weights] == ["weights of member 1", "quantile_offsets"]
    assert len(found.weights[0].stored) > 100


def test_a_fine_tuned_model_is_trained_on_from_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    runs = lived_runs(tmp_path_factory, tmp_path / "home").told(
        fine_tune_every_days=10, refit_every_days=3650
    )
    number = MADE + 190
    row = live(runs, number)
    assert row["model_version"] == "2"
    assert runs.versions()["2"].tags["training_kind"] == "fine-tune"
    found = reproduce_forecast(runs.home, row["prediction_id"], code_version=CODE, retrain=True)
    assert found.same
    assert found.weights


def test_what_came_since_changes_nothing(runs: Runs) -> None:
    """A restated close, later outcomes, a compaction: the forecast stands on what was known."""
    stored = Predictions(runs.home).find(key_of(runs, MADE + 1))
    assert stored
    runs.restate(MADE - 5, 4321.0)
    runs.score(MADE + 10)
    for name in ("predictions", "components", "calibrator"):
        assert compact_table(runs.home, name)
    assert reproduce_forecast(runs.home, stored["prediction_id"], code_version=CODE).same


def test_the_article_comes_again_too(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    from tasks.forecast.publish import publish_prediction

    home, data_version, version = trained_home(tmp_path_factory, tmp_path / "home")
    with Prices(home) as prices:
        origin = prices.closes_at(data_version)["day_utc"].iloc[-1].date()
    made: dict[str, Any] = {
        "prediction_id": "ab" * 16,
        "model_version": version,
        "data_version": data_version,
        "settings_version": "article-small",
        "code_version": "another",
        "created_at": NOW,
        "flow_run_id": None,
    }
    publish_prediction(home, BTC, "article", origin=origin, horizon=1, **made)
    found = reproduce_forecast(home, "ab" * 16, code_version="this", retrain=True)
    assert found.same
    assert [one.name for one in found.figures] == ["last_close", "point"]
    assert [one.name for one in found.weights] == ["weights of member 1", "scaler"]
    assert found.others["closecast (of the forecast)"] == ("another", "this")


def test_a_stored_figure_that_differs_by_a_bit_is_told(runs: Runs) -> None:
    row = Predictions(runs.home).find(key_of(runs, MADE))
    assert row
    row["point"] = float(np.nextafter(row["point"], np.inf))
    beside = components(runs.home).read(ds.field("prediction_id") == row["prediction_id"]).to_pylist()
    components(runs.home).add([one | {"prediction_id": "f" * 32} for one in beside])
    Predictions(runs.home).publish([{**row, "prediction_id": "f" * 32}])
    found = reproduce_forecast(runs.home, "f" * 32, code_version=CODE)
    assert [one.name for one in found.figures if not one.same] == ["point"]
    assert 0 < max(one.apart for one in found.figures) < 1e-15


def test_other_libraries_are_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.core.tensorflow_runtime import library_versions

    monkeypatch.setattr(
        "tasks.upkeep.reproduce.versions", lambda: library_versions() | {"tensorflow": "9.9", "new": "1"}
    )
    found = reproduce_forecast(runs.home, key_of(runs, MADE), code_version="0+other")
    assert set(found.others) == {"tensorflow", "closecast (of the forecast)", "closecast (of the model)"}
    assert found.others["tensorflow"][1] == "9.9"


def test_an_id_that_nobody_has_is_refused(whole: Runs) -> None:
    for name in ("0" * 32, "'; DROP TABLE candles --", "../../etc/passwd", ""):
        with pytest.raises(BadInput, match="no forecast"):
            reproduce_forecast(whole.home, name, code_version=CODE)


def test_a_bundle_that_was_changed_is_not_loaded(runs: Runs) -> None:
    weights = next(runs.home.models.rglob("*.weights.h5"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xee")
    with pytest.raises(Damaged, match=r"member-1\.weights\.h5"):
        reproduce_forecast(runs.home, key_of(runs, MADE), code_version=CODE)


def test_a_state_that_is_gone_is_missed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = calibrator(runs.home).read().slice(0, 0)
    monkeypatch.setattr(
        "tasks.upkeep.reproduce.calibrator", lambda *_: type("Empty", (), {"read": lambda *_: empty})()
    )
    with pytest.raises(Damaged, match="of the tracker is missing"):
        reproduce_forecast(runs.home, key_of(runs, MADE), code_version=CODE)


def test_nothing_is_written(whole: Runs) -> None:
    def state() -> dict[Path, int]:
        files = [
            path for path in whole.home.root.rglob("*") if path.is_file() and "prices.db" not in path.name
        ]
        return {path: path.stat().st_mtime_ns for path in files}

    before = state()
    reproduce_forecast(whole.home, key_of(whole, MADE), code_version=CODE, retrain=True)
    assert state() == before
    assert len(Models(whole.home).versions()) == 1


def test_distances_are_shares_of_the_stored_figure() -> None:
    assert Compared("a", (1.0, 2.0), (1.0, 2.0)).same
    assert Compared("a", (100.0, 2.0), (101.0, 2.0)).apart == pytest.approx(0.01)
    assert not Compared("a", (0.0,), (-0.0,)).same
    assert Compared("a", (1.0,), ()).apart == np.inf
