"""A forecast made again is the same to the last bit, or the report says how far off it is, and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from closecast.storage.core.errors import BadInput, Damaged
from closecast.storage.models.registry import Models
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator, components
from closecast.storage.upkeep.compaction import compact_table
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.tensorflow_runtime import library_versions
from closecast.tasks.forecast.publish import publish_forecast
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.baselines import baselines_of
from closecast.tasks.training.registration import fit_with_twin, load_model
from closecast.tasks.upkeep import reproduce
from closecast.tasks.upkeep.reproduce import Comparison, reproduce_forecast
from tests.calibrated import HORIZONS, MADE, Runs, day
from tests.helpers import BTC, NOW, SMALL, made_up, modules_after, trained_home
from tests.lived import DAYS


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("number", range(MADE, MADE + DAYS))
def test_every_forecast_is_reproduced_to_the_last_bit(shared_runs: Runs, number: int, horizon: int) -> None:
    result = reproduce_forecast(shared_runs.home, shared_runs.prediction_id(number, horizon))
    assert result.same
    names = [figure.name for figure in result.figures]
    assert {"point", "lower_95", "quantiles", "lstm: quantiles", "har_120_t: sigma"} <= set(names)
    parts = 1 + len(baselines_of(horizon))
    assert sum(len(figure.stored) for figure in result.figures) == 8 + 2 * 23 + parts * 24
    assert (result.weights, result.changed_versions) == ((), {})
    assert [one.horizon for one in result.forecast.horizons] == [horizon]


def test_retraining_gives_the_same_weights_and_writes_nothing(shared_runs: Runs) -> None:
    def files() -> dict[Path, int]:
        paths = (path for path in shared_runs.home.root.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in paths if "prices.db" not in path.name}

    before = files()
    result = reproduce_forecast(shared_runs.home, shared_runs.prediction_id(MADE, 7), retrain=True)
    assert result.same
    network, twin, offsets = result.weights
    assert [figure.name for figure in result.weights] == [
        "weights of network 1",
        "weights of twin's network 1",
        "quantile offsets",
    ]
    assert len(network.stored) == len(twin.stored) > 100
    assert network.stored != twin.stored
    assert len(offsets.stored) == 3 * 23
    assert files() == before
    assert len(shared_runs.versions()) == 1


def test_reproducing_loads_no_training_libraries(shared_runs: Runs) -> None:
    program = (
        "from pathlib import Path\nfrom closecast.storage.core.home import Home\n"
        "from closecast.tasks.upkeep.reproduce import reproduce_forecast\n"
        f"home = Home(Path({str(shared_runs.home.root)!r}))\n"
        f"assert reproduce_forecast(home, {shared_runs.prediction_id(MADE)!r}).same"
    )
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & modules_after(program)


def test_a_fine_tuned_model_is_retrained_from_its_parent(runs: Runs) -> None:
    runs = runs.with_settings(fine_tune_every_days=10, refit_every_days=3650)
    forecast = runs.live(MADE + 190)
    assert forecast.model_version == "2"
    assert runs.versions()["2"].tags["training_kind"] == "fine-tune"
    result = reproduce_forecast(runs.home, forecast.first.prediction_id, retrain=True)
    assert result.same
    assert len(result.weights) == 3
    lineage = runs.model("2").lineage
    assert lineage.trained_through == day(MADE + 190)
    assert lineage.twin
    assert lineage.twin.trained_through == day(MADE + 10)


def test_a_network_or_twin_that_differs_by_one_bit_is_named(
    shared_runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = fit_with_twin

    def changed(*args: Any) -> FittedModel:
        fitted = honest(*args)
        assert fitted.twin
        weights = fitted.twin.state.members[0][0]
        weights[0, 0] = np.nextafter(weights[0, 0], np.float32(9))
        return fitted

    monkeypatch.setattr(reproduce, "fit_with_twin", changed)
    result = reproduce_forecast(shared_runs.home, shared_runs.prediction_id(MADE), retrain=True)
    assert not result.same
    different = [one.name for one in (*result.weights, *result.figures) if not one.same]
    assert different == ["weights of twin's network 1"]


def test_restated_closes_later_outcomes_and_compaction_change_nothing(runs: Runs) -> None:
    prediction_id = runs.prediction_id(MADE + 1)
    runs.restate(MADE - 5, 4321.0)
    runs.score(MADE + 10)
    for name in ("predictions", "components", "calibrator"):
        assert compact_table(runs.home, name)
    assert reproduce_forecast(runs.home, prediction_id).same


def test_a_point_and_its_network_are_reproduced(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    home, data_version, version = trained_home(tmp_path_factory, tmp_path / "home")
    profile = ArticleProfile(SMALL)
    model = load_model(Models(home), profile, BTC, version)
    history = PriceHistory(BTC, made_up(), data_version, "csv@0")
    forecast = publish_forecast(home, profile, model, history, created_at=NOW, flow_run_id=None)
    result = reproduce_forecast(home, forecast.first.prediction_id, retrain=True)
    assert result.same
    assert [figure.name for figure in result.figures] == ["last_close", "point"]
    assert [figure.name for figure in result.weights] == ["weights of network 1"]


def test_a_figure_that_differs_by_one_bit_is_named(runs: Runs) -> None:
    row = Predictions(runs.home).find(runs.prediction_id(MADE))
    assert row
    row["point"] = float(np.nextafter(row["point"], np.inf))
    stored = components(runs.home).read(ds.field("prediction_id") == row["prediction_id"]).to_pylist()
    components(runs.home).add([row | {"prediction_id": "f" * 32} for row in stored])
    del row["revision"]
    Predictions(runs.home).publish([{**row, "prediction_id": "f" * 32}])
    result = reproduce_forecast(runs.home, "f" * 32)
    assert [figure.name for figure in result.figures if not figure.same] == ["point"]
    assert 0 < max(figure.distance for figure in result.figures) < 1e-15


def test_other_libraries_and_another_code_are_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = library_versions() | {"tensorflow": "9.9", "new": "1"}
    prediction_id = runs.prediction_id(MADE)
    monkeypatch.setattr(reproduce, "library_versions", lambda: versions)
    monkeypatch.setattr(reproduce, "code_version", lambda *_: "0+other")
    changed = reproduce_forecast(runs.home, prediction_id).changed_versions
    assert set(changed) == {"tensorflow", "closecast (of the forecast)", "closecast (of the model)"}
    assert changed["tensorflow"][1] == "9.9"
    assert changed["closecast (of the model)"][1] == "0+other"


@pytest.mark.parametrize("name", ["0" * 32, "'; DROP TABLE candles --", "../../etc/passwd", ""])
def test_an_unknown_id_is_refused(shared_runs: Runs, name: str) -> None:
    with pytest.raises(BadInput, match="no forecast"):
        reproduce_forecast(shared_runs.home, name)


@pytest.mark.parametrize(
    ("table", "message"),
    [("calibrator", "the calibrator state .* is missing"), ("components", "lacks components")],
)
def test_missing_rows_are_damage(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, table: str, message: str
) -> None:
    rows = {"calibrator": calibrator, "components": components}[table](runs.home).read()
    empty = SimpleNamespace(read=lambda *_: rows.slice(0, 0))
    monkeypatch.setattr(reproduce, table, lambda *_: empty)
    with pytest.raises(Damaged, match=message):
        reproduce_forecast(runs.home, runs.prediction_id(MADE))


def test_distances_are_shares_of_the_stored_figure() -> None:
    assert Comparison("a", (1.0, 2.0), (1.0, 2.0)).same
    assert Comparison("a", (100.0, 2.0), (101.0, 2.0)).distance == pytest.approx(0.01)
    assert not Comparison("a", (0.0,), (-0.0,)).same
    assert Comparison("a", (1.0,), ()).distance == np.inf
