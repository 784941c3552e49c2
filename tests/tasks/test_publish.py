from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.errors import Damaged
from storage.home import Home
from storage.models import Models
from storage.predictions import PREDICTIONS, Predictions
from tasks import publish
from tasks.publish import find_prediction, prediction_key, publish_prediction
from tests.helpers import BTC, FIRST, NOW, VERSIONS, trained_home

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
    assert row["last_close_usd"] > 0
    assert row["point_usd"] > 0
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
    assert first["point_usd"] == second["point_usd"]
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
