from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from storage.core.errors import Damaged, HomeBusy, HomeUnusable
from storage.core.home import Home
from storage.core.s3_path import files_below
from storage.tables.delta import open_dataset
from storage.tables.predictions import PREDICTIONS, Predictions, Published
from tests.engines import parquet_of
from tests.helpers import BTC, NOW, PROJECT
from tests.processes import process_for

FIRST = date(2020, 1, 1)
COLUMNS = [
    "prediction_id",
    "product_id",
    "origin_day",
    "target_day",
    "horizon",
    "profile",
    "model_version",
    "data_version",
    "settings_version",
    "code_version",
    "last_close",
    "point",
    "lower_50",
    "upper_50",
    "lower_80",
    "upper_80",
    "lower_95",
    "upper_95",
    "quantile_levels",
    "quantiles",
    "created_at",
    "flow_run_id",
    "revision",
]


def row(prediction_id: str, offset: int = 0, product_id: str = BTC, **more: object) -> dict[str, Any]:
    """A forecast of the day FIRST + offset + 1."""
    point_only = {f"{side}_{level}": None for side in ("lower", "upper") for level in (50, 80, 95)}
    return {
        "prediction_id": prediction_id,
        "product_id": product_id,
        "origin_day": FIRST + timedelta(days=offset),
        "target_day": FIRST + timedelta(days=offset + 1),
        "horizon": 1,
        "profile": "article",
        "model_version": "1",
        "data_version": f"{product_id}@1:ab",
        "settings_version": "article-0",
        "code_version": "0+0",
        "last_close": 100.0,
        "point": 0.1 + 0.2,
        **point_only,
        "quantile_levels": None,
        "quantiles": None,
        "created_at": NOW,
        "flow_run_id": None,
        **more,
    }


@pytest.fixture
def table(tmp_path: Path) -> Predictions:
    return Predictions(Home(tmp_path).prepare())


def test_the_columns_of_the_design_in_their_order(table: Predictions) -> None:
    assert PREDICTIONS.names == COLUMNS
    assert table.read().schema == PREDICTIONS  # before there is a table
    table.publish(row("a"))
    stored = DeltaTable(str(table.folder))
    assert [field.name for field in stored.schema().fields] == COLUMNS
    assert stored.metadata().partition_columns == ["product_id"]
    assert table.read().schema == PREDICTIONS
    kinds = {field.name: str(field.type) for field in PREDICTIONS}
    assert kinds["target_day"] == "date32[day]"
    assert kinds["created_at"] == "timestamp[us, tz=UTC]"
    assert kinds["quantiles"] == "list<item: double>"
    may_be_missing = {field.name for field in PREDICTIONS if field.nullable}
    assert may_be_missing == {*COLUMNS[12:20], "flow_run_id"}


def test_a_row_comes_back_to_the_last_bit(table: Predictions) -> None:
    levels = [0.01, 0.5, 0.99]
    given = row("a", quantile_levels=levels, quantiles=[0.1, 1 / 3, 1e17], lower_50=5e-324)
    assert table.find("a") is None
    assert table.publish(given) == Published("a", 0, new=True)
    assert table.find("a") == {**given, "revision": 0}
    assert table.find("b") is None


def test_the_same_id_adds_nothing(table: Predictions) -> None:
    table.publish(row("a"))
    version = DeltaTable(str(table.folder)).version()
    assert table.publish(row("a", point=7.0)) == Published("a", 0, new=False)
    assert table.read().num_rows == 1
    assert table.find("a") == {**row("a"), "revision": 0}
    assert DeltaTable(str(table.folder)).version() == version


def test_revisions_are_counted_for_each_product_profile_and_day(table: Predictions) -> None:
    assert table.publish(row("a")).revision == 0
    assert table.publish(row("b")).revision == 1
    assert table.publish(row("c", 1)).revision == 0
    assert table.publish(row("d", product_id="ETH-USD")).revision == 0
    assert table.publish(row("e", profile="calibrated")).revision == 0
    assert table.publish(row("f")).revision == 2
    assert table.publish(row("b")) == Published("b", 1, new=False)
    found = table.between().select(["prediction_id", "revision"]).to_pydict()
    assert found == {"prediction_id": list("abfedc"), "revision": [0, 1, 2, 0, 0, 0]}


def test_spans_are_inclusive_and_sorted(table: Predictions) -> None:
    for offset in (3, 0, 2, 1):
        table.publish(row(f"btc{offset}", offset))
        table.publish(row(f"eth{offset}", offset, "ETH-USD"))

    def ids(*wanted: Any, **more: Any) -> list[str]:
        return table.between(*wanted, **more)["prediction_id"].to_pylist()

    assert ids(BTC) == ["btc0", "btc1", "btc2", "btc3"]
    assert ids(BTC, date(2020, 1, 3), date(2020, 1, 4)) == ["btc1", "btc2"]
    assert ids(None, date(2020, 1, 5)) == ["btc3", "eth3"]
    assert ids(last=date(2020, 1, 2)) == ["btc0", "eth0"]
    assert ids(BTC, date(2021, 1, 1)) == []
    assert ids("LTC-USD") == []
    assert ids(profile="calibrated") == []


def test_columns_days_and_the_newest(table: Predictions) -> None:
    assert table.newest(BTC, "article", 3).num_rows == table.of_days(BTC, [FIRST]).num_rows == 0
    for offset in (5, 0, 9, 3):
        table.publish(row(f"p{offset}", offset))
    table.publish(row("again", 3))
    table.publish(row("other", 9, profile="calibrated"))
    table.publish(row("eth", 9, "ETH-USD"))
    whole = table.between(BTC, profile="article")
    for columns in (["prediction_id"], ["revision", "point"]):
        assert table.between(BTC, profile="article", columns=columns) == whole.select(columns)
        for count in (1, 2, 3, 4, 5, 9):  # a day with a revision is cut in two as well
            newest = table.newest(BTC, "article", count, columns)
            assert newest.to_pylist() == whole.select(columns).to_pylist()[-count:]
    assert table.newest(BTC, "article", 9).schema == PREDICTIONS
    days = [FIRST + timedelta(days=offset + 1) for offset in (9, 3, 4)]
    assert table.of_days(BTC, days, ["prediction_id"]).to_pylist() == [
        {"prediction_id": name} for name in ("p3", "again", "p9", "other")
    ]


@pytest.mark.folder
def test_it_lies_in_a_folder_a_product_and_others_can_read_it(table: Predictions) -> None:
    table.publish(row("a"))
    table.publish(row("b", product_id="ETH-USD"))
    folders = {path.name for path in table.folder.iterdir() if not path.name.startswith("_")}
    assert folders == {"product_id=BTC-USD", "product_id=ETH-USD"}
    # pandas by itself, on the folder of Parquet files
    frame = pd.read_parquet(table.folder / "product_id=BTC-USD")
    assert frame["point"].tolist() == [0.1 + 0.2]
    frame = pd.read_parquet(table.folder)
    assert sorted(frame["product_id"].astype(str)) == [BTC, "ETH-USD"]
    # DuckDB, on the files and through Delta's own list of them
    files = DeltaTable(str(table.folder)).file_uris()
    found = duckdb.sql(f"FROM read_parquet({files}) SELECT prediction_id, target_day, lower_50 ORDER BY 1")
    assert found.fetchall() == [("a", date(2020, 1, 2), None), ("b", date(2020, 1, 2), None)]
    dataset = table.dataset()
    assert dataset is not None
    assert duckdb.sql("SELECT count(*) FROM dataset WHERE product_id = 'ETH-USD'").fetchall() == [(1,)]


def test_a_row_that_lacks_something_is_not_stored(table: Predictions) -> None:
    table.publish(row("a"))
    with pytest.raises((pa.ArrowException, HomeUnusable)):
        table.publish(row("b", point=None))
    assert table.read()["prediction_id"].to_pylist() == ["a"]


def test_after_a_checkpoint(table: Predictions) -> None:
    for offset in range(3):
        table.publish(row(str(offset), offset))
    DeltaTable(str(table.folder)).create_checkpoint()  # as Delta does every 100 commits
    assert [path for path in files_below(table.folder) if path.name.endswith(".checkpoint.parquet")]
    assert table.publish(row("2", 2)) == Published("2", 0, new=False)
    assert table.publish(row("x", 2)).revision == 1
    assert table.read()["prediction_id"].to_pylist().count("2") == 1
    assert table.read().num_rows == 4


def publish_some(home: Home, worker: int) -> None:
    """Three forecasts of a day of one's own, one of a day that all have, one that all have."""
    table = Predictions(home)
    while not (home.root / "go").exists():
        time.sleep(0.001)
    for turn in range(3):
        table.publish(row(f"own-{worker}-{turn}", 10 + worker))
    table.publish(row(f"day-{worker}", 1))
    table.publish(row("same", 2))


def test_several_processes_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    workers = [process_for(publish_some, home, n) for n in range(3)]
    for worker in workers:
        worker.start()
    (home.root / "go").touch()  # the first of them make the table at once
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    rows = Predictions(home).read().to_pylist()
    ids = [row["prediction_id"] for row in rows]
    own = [f"own-{worker}-{turn}" for worker in range(3) for turn in range(3)]
    assert sorted(ids) == sorted([*own, *(f"day-{n}" for n in range(3)), "same"])
    days: dict[date, list[int]] = {}
    for found in rows:
        days.setdefault(found["target_day"], []).append(found["revision"])
    assert all(sorted(revisions) == list(range(len(revisions))) for revisions in days.values())


def publish_until_killed(home: Home) -> None:
    table = Predictions(home)
    for n in range(10_000):
        published = table.publish(row(f"id-{n}", n // 3))
        with (home.root / "told").open("a") as told:
            told.write(f"{published.prediction_id} {published.revision}\n")


def test_killed_while_publishing(tmp_path: Path) -> None:
    draw = random.Random(7)  # noqa: S311 - when to be killed, not a secret
    for turn in range(4):
        home = Home(tmp_path / str(turn)).prepare()
        process = process_for(publish_until_killed, home)
        process.start()
        deadline = time.monotonic() + 30
        while turn and not (home.root / "told").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.25))
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        table = Predictions(home)
        before = table.between().to_pylist()
        told = (home.root / "told").read_text().splitlines() if (home.root / "told").exists() else []
        # What was told is there; of the rest at most the one whose writing was over.
        assert [f"{r['prediction_id']} {r['revision']}" for r in before[: len(told)]] == told
        assert len(before) - len(told) in (0, 1)
        for n in range(len(before) + 2):
            assert table.publish(row(f"id-{n}", n // 3)).revision == n % 3
        assert table.read().num_rows == len(before) + 2


@pytest.mark.folder
def test_a_table_that_was_begun_and_not_made(table: Predictions) -> None:
    (table.folder / "_delta_log").mkdir(parents=True)
    assert table.read().num_rows == 0
    assert table.find("a") is None
    assert table.publish(row("a")).new


def refused(error: type[Exception], call: Any, *args: Any) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_table_says_so(table: Predictions) -> None:
    table.publish(row("a"))
    log = table.folder / "_delta_log" / "00000000000000000000.json"
    kept = log.read_bytes()
    log.write_bytes(kept[: len(kept) // 2])
    for call, args in ((table.read, ()), (table.find, ("a",)), (table.publish, (row("b"),))):
        assert "restore" in refused(Damaged, call, *args)
    refused(Damaged, open_dataset, table.folder)
    log.write_bytes(kept)
    (file,) = parquet_of(table.folder, BTC)
    file.unlink()
    for call, args in ((table.read, ()), (table.find, ("a",)), (table.publish, (row("b"),))):
        assert "restore" in refused(Damaged, call, *args)


@pytest.mark.folder
def test_a_file_in_the_place_of_the_table(tmp_path: Path) -> None:
    table = Predictions(Home(tmp_path))
    table.folder.write_text("a file")
    assert "--home" in refused(HomeUnusable, table.publish, row("a"))


def test_others_that_never_let_one_write(table: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake.exceptions import CommitFailedError

    def conflict(_: object) -> Published:
        raise CommitFailedError("somebody else was faster")

    monkeypatch.setattr(table, "_publish_once", conflict)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert str(table.folder) in refused(HomeBusy, table.publish, row("a"))


def test_reading_an_empty_home_loads_no_delta(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.core.home import Home;"
        " from storage.tables.predictions import Predictions;"
        f" assert Predictions(Home(Path({str(tmp_path)!r}))).find('a') is None;"
        " assert not {'deltalake', 'tensorflow', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)
