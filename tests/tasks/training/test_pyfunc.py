"""A registered version through MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from closecast.storage.core.candle_schema import CANDLE_COLUMNS
from closecast.storage.core.errors import BadSetting, Damaged
from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.tables.schemas import PREDICTIONS
from closecast.tasks.calibration.calibrator_states import CalibratorState
from closecast.tasks.forecast.publish import make_forecast
from closecast.tasks.prices.ingest import IngestRequest, read_stored
from closecast.tasks.profiles.named import profile_named
from closecast.tasks.training.pyfunc import load_pyfunc
from closecast.tasks.training.selection import select_model
from tests.calibrated import MADE, Runs, candles, champion_runs, day
from tests.engines import free_ports
from tests.helpers import BTC, NOW, PROJECT, SMALL, made_up, one_line, trained_home
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.sqlite,
    pytest.mark.folder,
    pytest.mark.filterwarnings("ignore:.*AnyType:UserWarning"),  # MLflow's own module, when it is loaded
]


@pytest.fixture(autouse=True, scope="module")
def _registry_is_set_back() -> Iterator[None]:
    yield
    mlflow.set_registry_uri(None)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "moved")  # from where it was trained


def opened(home: Home, profile: str = "calibrated") -> Any:
    mlflow.set_tracking_uri(f"sqlite:///{home.registry}")
    mlflow.set_registry_uri(f"sqlite:///{home.registry}")
    return mlflow.pyfunc.load_model(f"models:/closecast.{BTC}.{profile}@champion")


def given(days: int = MADE) -> pd.DataFrame:
    return candles().head(days)[CANDLE_COLUMNS]


def test_the_champion_of_a_moved_home_forecasts_with_the_offsets_of_its_training(runs: Runs) -> None:
    before = {path: path.read_bytes() for path in runs.home.models.rglob("*") if path.is_file()}
    frame = opened(runs.home).predict(given(650))
    history, model = runs.history(650), runs.model()
    offsets = model.fitted.quantile_offsets
    states = {horizon: CalibratorState("", day(1), own) for horizon, own in offsets.items()}
    made = make_forecast(runs.profile, model, history, states, created_at=NOW, flow_run_id=None)
    assert frame["horizon"].tolist() == [1, 3, 7]
    for row, expected in zip(frame.to_dict("records"), made.rows(), strict=True):
        for name, value in row.items():
            stored = expected[name]
            assert value == (pd.Timestamp(stored) if name.endswith("_day") else stored), name
    assert set(frame.columns) < set(PREDICTIONS.arrow.names)
    assert any(np.any(own) for own in offsets.values())
    # MLflow writes beside what it loads.
    assert {path: path.read_bytes() for path in runs.home.models.rglob("*") if path.is_file()} == before


def test_a_frame_may_come_in_many_forms(runs: Runs) -> None:
    model = opened(runs.home)
    frame = given()
    expected = model.predict(frame)
    dates = frame["day_utc"]
    named = frame.drop(columns="day_utc")
    for days in (
        dates.dt.date,
        dates.dt.strftime("%Y-%m-%d"),
        dates.dt.strftime("%Y-%m-%dT00:00:00Z"),
        dates.dt.tz_localize("UTC"),
    ):
        assert model.predict(named.assign(date=days)).equals(expected)
    assert model.predict(frame.set_index("day_utc")).equals(expected)
    assert model.predict(frame.sample(frac=1.0, random_state=1)).equals(expected)
    whole = frame.assign(close=frame["close"].round().astype("int64"))[["day_utc", "close"]]
    assert model.predict(whole)["last_close"].iloc[0] == whole["close"].iloc[-1]


def _days_to(last: str, count: int) -> pd.DatetimeIndex:
    return pd.date_range(end=last, periods=count, unit="s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="day_utc"), "need a column day_utc or date.*they have open, high"),
        (lambda frame: frame.head(0), "a row for each day is needed"),
        (lambda frame: frame.assign(day_utc="17/10/2019"), "need days such as 2019-10-17.*not 17/10/2019"),
        (lambda frame: frame.assign(day_utc=range(len(frame))), "need days such as 2019-10-17.*not 0"),
        (
            lambda frame: frame.assign(day_utc=frame["day_utc"] + pd.Timedelta(hours=5)),
            "at midnight UTC where they have a time, not 2019-01-01 05:00",
        ),
        (lambda frame: pd.concat([frame, frame.tail(1)]), "one row for each day, and 2020-08-22 comes twice"),
        (lambda frame: frame.assign(close=-1.0), "the candle of 2019-01-01 cannot be used: close -1.0"),
        (lambda frame: frame.assign(close="much"), "need figures as close"),
        (lambda frame: frame.assign(close=True), "need figures as close: not boolean"),
        (lambda frame: frame.assign(close=frame["day_utc"]), "need figures as close: not datetime64"),
        (lambda frame: frame.assign(volume=pd.Timedelta(1)), "need figures as volume: not timedelta64"),
        (lambda frame: frame.assign(close=[10**400] * len(frame)), "need figures as close: int too large"),
        (lambda frame: frame.assign(date="2019-01-01"), "one column of days, not both day_utc and date"),
        (lambda frame: frame.assign(day_utc=_days_to("9999-12-31", len(frame))), "date value out of range"),
        (lambda frame: frame.tail(25), "from the last candle, 2020-08-22: .* newest 15 days .* some weeks"),
    ],
)
def test_bad_candles_are_one_line(runs: Runs, change: Any, message: str) -> None:
    with pytest.raises(MlflowException, match=message, check=one_line):
        opened(runs.home).predict(change(given()))


def test_a_changed_file_is_not_loaded(runs: Runs, tmp_path: Path) -> None:
    (bundle,) = (path for path in runs.home.models.glob("*/*") if path.is_dir())
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    assert load_pyfunc(str(copy)).model.lineage.product_id == BTC
    for name in ("member-1.weights.h5", "MLmodel", "settings.json"):
        for folder, load in ((copy, lambda: load_pyfunc(str(copy))), (bundle, lambda: opened(runs.home))):
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content + b" ")
            with pytest.raises(Damaged, match=f"{name} is not the file that was stored"):
                load()
            (folder / name).write_bytes(content)
    # The registry's digest tells a manifest that was changed together with a file.
    (bundle / "manifest.json").write_bytes((bundle / "manifest.json").read_bytes() + b" ")
    with pytest.raises(Damaged, match=r"manifest\.json is not the file that was stored"):
        opened(runs.home)


def test_the_article_and_a_profile_of_ones_own(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, _ = trained_home(tmp_path_factory, tmp_path / "home")
    (row,) = opened(home, "article").predict(made_up()).to_dict("records")
    assert (row["horizon"], row["target_day"]) == (1, pd.Timestamp("2019-03-02"))
    assert row["point"] > 0
    assert np.isnan(row["lower_80"])
    (tmp_path / "own_profile.py").write_text(
        "from closecast.tasks.profiles.article import ArticleProfile\n"
        "class Own(ArticleProfile):\n    name = 'own'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    prices = read_stored(home, IngestRequest(BTC, None, NOW, NOW.date()))
    assert select_model(home, profile_named("own_profile:Own", SMALL), prices).version == "1"
    assert opened(home, "own").predict(made_up())["point"].item() == row["point"]
    monkeypatch.delattr(sys.modules["own_profile"], "Own")
    with pytest.raises(BadSetting, match="own_profile:Own cannot be imported"):
        opened(home, "own")


def test_mlflow_record_of_a_version(runs: Runs) -> None:
    models = Models(runs.home)
    (version,) = models.versions(BTC)
    registered = models.client.get_model_version(version.name, version.version)
    assert registered.source == f"closecast:/models/{version.name}/{version.bundle}"
    bundle = models.open(version)
    card = bundle.read("README.md").decode()
    assert registered.description == card.replace(
        "Not judged yet: the version in the registry has the gate's figures.",
        "Accepted without a comparison: no champion to compare with.",
    )
    for part in (
        version.tags["data_version"],
        "not the published forecast",
        "up to 2020-08-22",
        "23 quantiles",
    ):
        assert part in card
    run = models.client.get_run(registered.run_id or "")
    seconds = (run.info.end_time - run.info.start_time) / 1000
    assert 0.05 < seconds < 300
    assert registered.creation_timestamp >= run.info.end_time
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.tags[0].value) == (BTC, "training")
    assert used.dataset.digest == version.tags["data_version"].rpartition(":")[2][:32]
    source = mlflow.data.get_source(used.dataset)
    assert source.to_dict()["tags"] == {
        "data_version": version.tags["data_version"],
        "series": version.tags["series"],
    }
    model = opened(runs.home)
    assert model.metadata.signature.inputs.required_input_names() == ["close"]
    assert "closecast==" in bundle.read("requirements.txt").decode()
    assert model.predict(model.input_example)["horizon"].tolist() == [1, 3, 7]
    names = {name.rpartition("/")[2] for name in bundle.manifest}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_a_bucket_is_named_by_its_address() -> None:
    home = Home(Path("/nowhere"), storage_url="s3://bucket/prefix")
    assert home.shared.artifact_uri("models/a/b") == "s3://bucket/prefix/models/a/b"


@pytest.mark.engines
def test_mlflow_serves_a_version(runs: Runs, tmp_path: Path) -> None:
    (port,), tools = free_ports(1), Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{runs.home.registry}",
    }
    uri = f"models:/closecast.{BTC}.calibrated@champion"
    command = ["mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
        try:
            bundle = next(path for path in runs.home.models.glob("*/*") if path.is_dir())
            status, answer = post(port, (bundle / "serving_input_example.json").read_bytes(), server)
            assert status == 200
            rows = json.loads(answer)["predictions"]
            assert [row["horizon"] for row in rows] == [1, 3, 7]
            assert rows[0]["target_day"] == f"{day(MADE + 1)}T00:00:00"
            assert rows[0]["point"] == opened(runs.home).predict(given().tail(365))["point"].iloc[0]
            short = json.dumps({"dataframe_records": [{"date": "2020-01-01", "close": 5}]}).encode()
            status, answer = post(port, short, server)
            assert status == 400
            assert "no forecast can be made from the last candle, 2020-01-01" in answer
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def post(port: int, body: bytes, server: subprocess.Popen[bytes]) -> tuple[int, str]:
    def look() -> httpx.Response | None:
        assert server.poll() is None, "the server has ended"
        with contextlib.suppress(httpx.TransportError):
            address, headers = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
            return httpx.post(address, content=body, headers=headers, timeout=60)
        return None

    response = wait_for(look)
    return response.status_code, response.text
