"""Two machines on one PostgreSQL and one bucket: each sees what the other did, and does not repeat it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.backup.backup import back_up
from closecast.storage.backup.restore import restore
from closecast.storage.core.errors import HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.locks.bucket_owner import prepare_home
from closecast.storage.locks.locks import product_lock
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.opening import open_table
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import DAILY_TABLES, TABLES
from closecast.storage.tables.sql import query
from closecast.storage.upkeep.compaction import compact_table
from closecast.tasks.upkeep.pruning import prune_home
from closecast.tasks.upkeep.reproduce import reproduce_forecast
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import HORIZONS, MADE
from tests.engines import PASSWORD, SECRET, bucket_for, postgresql, s3
from tests.helpers import BTC, NOW, interrupt
from tests.lived import DAYS, lived_runs
from tests.processes import closecast_process

pytestmark = pytest.mark.engines


@pytest.fixture
def shared(tmp_path: Path) -> Home:
    """A home on both servers, with nothing in it."""
    s3()
    return Home(tmp_path / "one", postgresql().database_for(tmp_path / "shared"), bucket_for(tmp_path))


def rows(home: Home) -> list[dict[str, Any]]:
    return Predictions(home).read().sort_by("target_day").to_pylist()


def test_a_home_moves_to_the_servers_and_back(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, shared: Home
) -> None:
    runs = lived_runs(tmp_path_factory, tmp_path / "home")
    count = back_up(runs.home, tmp_path / "there.tar")
    assert restore(tmp_path / "there.tar", shared) == count
    with pytest.raises(HomeUnusable, match="empty database"):
        restore(tmp_path / "there.tar", replace(shared, root=tmp_path / "late"))
    assert [path.name for path in shared.root.glob("*.db")] == []
    before, now = verify_home(runs.home), verify_home(shared)
    assert now.findings == []
    assert {**now.checked, "files of tables": 0} == {**before.checked, "files of tables": 0}
    assert rows(shared) == rows(runs.home)
    version = runs.data(MADE)
    with Prices(shared) as prices, Prices(runs.home) as others:
        assert prices.prices_at(version).candles.equals(others.prices_at(version).candles)
        assert prices.table("closes") == others.table("closes")

    # Another machine, which has nothing of its own yet, makes the next day's forecast; the first one sees it.
    two = prepare_home(replace(shared, root=tmp_path / "two"))
    assert reproduce_forecast(two, runs.prediction_id(MADE)).same
    forecast = replace(runs, home=two).live(MADE + DAYS)
    assert forecast == runs.live(MADE + DAYS)
    files = [path for path in shared.root.rglob("*") if path.is_file()]
    assert replace(runs, home=shared).live(MADE + DAYS) == forecast
    assert [path for path in shared.root.rglob("*") if path.is_file()] == files
    assert query(shared, "select count(*) as n from predictions").to_pylist() == [
        {"n": len(HORIZONS) * (DAYS + 1)}
    ]
    for name in DAILY_TABLES:
        assert compact_table(shared, name)
    assert prune_home(shared, moment=NOW, dry_run=True) == prune_home(two, moment=NOW)
    assert verify_home(two).findings == verify_home(shared).findings == []

    back_up(two, tmp_path / "back.tgz")
    again = Home(tmp_path / "again")
    restore(tmp_path / "back.tgz", again)
    assert verify_home(again).findings == []
    assert rows(again) == rows(shared)
    champions = [Models(home).champion(BTC, "calibrated") for home in (again, shared, two)]
    assert champions[0]
    assert champions[0] == champions[1] == champions[2]
    with Prices(again) as prices:
        prices.start_series("ETH-USD", "csv", started_at=NOW)  # and goes on numbering


def test_a_restore_that_was_cut_short_is_done_again(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, shared: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = lived_runs(tmp_path_factory, tmp_path / "home")
    back_up(runs.home, tmp_path / "b.tar")
    for cut in ("load_registry", "load_prices", "_upload"):
        with monkeypatch.context() as patch:
            patch.setattr(f"closecast.storage.backup.restore.{cut}", interrupt)
            with pytest.raises(KeyboardInterrupt):
                restore(tmp_path / "b.tar", shared)
        with pytest.raises(HomeUnusable, match="only in part"):
            shared.prepare()
    restore(tmp_path / "b.tar", shared)
    assert verify_home(shared).findings == []
    assert rows(shared) == rows(runs.home)
    with Prices(shared) as prices:
        prices.start_series("ETH-USD", "csv", started_at=NOW)


def closecast(home: Home, *args: str) -> str:
    """The output of the command on a machine with that home."""
    shared = {
        "CLOSECAST_DATABASE_URL": home.database_url or "",
        "CLOSECAST_STORAGE_URL": home.storage_url or "",
        "CLOSECAST_HOME": str(home.root),
    }
    quiet = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "COLUMNS": "200"}
    done = closecast_process(*args, variables={**os.environ, **shared, **quiet}, timeout=280)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert PASSWORD not in output
    assert SECRET not in output
    return output


def commits_and_models(home: Home) -> tuple[list[int], list[str]]:
    """The commits of each table, and the model versions."""
    tables = (open_table(home.table(name)) for name in TABLES)
    commits = [-1 if table is None else table.version() for table in tables]
    return commits, [version.version for version in Models(home).versions()]


SMALL = ("--set", "units=4", "--set", "members=1", "--set", "epochs=1")


def test_a_second_machine_repeats_nothing_that_the_first_did(shared: Home, tmp_path: Path) -> None:
    two = replace(shared, root=tmp_path / "two")
    output = closecast(shared, "run", "--source", "sample", *SMALL)
    assert f"Stored in {shared.storage_url}/predictions" in output
    stored = rows(shared)
    assert [row["horizon"] for row in stored] == [1, 2, 3, 4, 5, 6, 7, 14, 30]
    assert Models(shared).champion(BTC, "calibrated")
    before = commits_and_models(shared)
    began = time.monotonic()
    output = closecast(two, "run", "--source", "sample", *SMALL)
    assert "nothing new; the forecast for 2019-10-18 is already stored" in output
    assert "epoch" not in output
    assert stored[0]["prediction_id"] in output
    assert rows(two) == stored
    assert (
        commits_and_models(two) == before
    )  # it has read, and written no more than its own page of the report
    assert time.monotonic() - began < 120
    assert stored[0]["prediction_id"] in closecast(two, "predictions", "--format", "json")
    assert "champion" in closecast(two, "versions")
    closecast(two, "verify")
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in kept if PASSWORD.encode() in content or SECRET.encode() in content]
    with product_lock(shared, BTC, wait_seconds=0.1):
        pass
