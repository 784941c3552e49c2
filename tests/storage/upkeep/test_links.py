"""Links inside a home that lead out of it: nothing outside is written, read or deleted."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from closecast.storage.backup.backup import back_up
from closecast.storage.backup.restore import restore
from closecast.storage.core.errors import Damaged, HomeUnusable
from closecast.storage.core.files import write_atomic
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import product_lock
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.storage.models.registry import Models
from closecast.storage.prices.raw_responses import keep_raw
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.scores import Scores
from closecast.storage.upkeep.compaction import compact_table, orphaned_bundles
from closecast.tasks.upkeep.pruning import prune_home
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import MADE, Runs
from tests.helpers import BTC, one_line

LONG_AGO = (datetime.now(UTC) - timedelta(days=400)).timestamp()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody's folder, whose files are as old as a vacuum likes them."""
    folder = tmp_path / "outside"
    (folder / "2019").mkdir(parents=True)
    for path in (folder / "letter.txt", folder / "2019" / "picture.parquet"):
        path.write_text("precious")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def check_untouched(outside: Path) -> None:
    names = sorted(path.relative_to(outside).as_posix() for path in outside.rglob("*"))
    assert names == ["2019", "2019/picture.parquet", "letter.txt"]
    assert {path.read_text() for path in outside.rglob("*") if path.is_file()} == {"precious"}


def test_the_home_and_its_folders_may_be_links(runs: Runs, tmp_path: Path) -> None:
    for name in ("models", "predictions"):
        (runs.home.root / name).rename(tmp_path / name)
        (runs.home.root / name).symlink_to(tmp_path / name)
    (tmp_path / "link").symlink_to(runs.home.root)
    linked = Runs(Home(tmp_path / "link"), runs.profile)
    linked.score(MADE + 4)
    forecast = linked.publish(MADE + 4, linked.select(MADE + 4).version)
    assert forecast.first.point > 0
    assert compact_table(linked.home, "predictions")
    assert verify_home(linked.home).findings == []
    back_up(linked.home, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", Home(tmp_path / "again"))
    assert verify_home(Home(tmp_path / "again")) == verify_home(linked.home)


def test_pruning_deletes_nothing_behind_a_link(runs: Runs, outside: Path) -> None:
    (runs.home.models / "closecast.ETH-USD.article").symlink_to(outside)
    (runs.home.models / f"closecast.{BTC}.calibrated" / "0123").symlink_to(outside)
    runs.home.folds.mkdir()
    (runs.home.folds / "abc").symlink_to(outside)
    assert orphaned_bundles(runs.home, BTC, "calibrated") == []
    assert prune_home(runs.home, moment=datetime.now(UTC)) == []
    check_untouched(outside)


def test_no_table_is_vacuumed_or_written_through_a_link(runs: Runs, outside: Path) -> None:
    row = Scores(runs.home).between().to_pylist()[0]
    (runs.home.root / "scores" / "product_id=ETH-USD").symlink_to(outside)
    with pytest.raises(HomeUnusable, match="ETH-USD is a link"):
        compact_table(runs.home, "scores")
    with pytest.raises(HomeUnusable, match="is a link"):
        Scores(runs.home).add([row | {"product_id": "ETH-USD"}])
    check_untouched(outside)


def test_no_model_is_written_through_a_link(runs: Runs, outside: Path) -> None:
    (outside / ".draft-mine").mkdir()
    (runs.home.models / "closecast.ETH-USD.article").symlink_to(outside)
    with pytest.raises(HomeUnusable, match="is a link"), Models(runs.home).draft("ETH-USD", "article"):
        pass
    (outside / ".draft-mine").rmdir()
    check_untouched(outside)


def test_a_draft_that_is_a_link_is_not_deleted(runs: Runs, outside: Path) -> None:
    (runs.home.models / f"closecast.{BTC}.calibrated" / ".draft-1").symlink_to(outside)
    with pytest.raises(HomeUnusable, match="is a link"), Models(runs.home).draft(BTC, "calibrated"):
        pass
    runs.home.folds.mkdir()
    folds = BacktestCache(runs.home, "abc")
    folds.folder.mkdir()
    (folds.folder / ".draft-2").symlink_to(outside)
    folds.remove_drafts()
    check_untouched(outside)


def test_a_bundle_or_file_that_is_a_link_is_not_loaded(runs: Runs, tmp_path: Path) -> None:
    """Its hash is right now; its target may change."""
    from closecast.tasks.upkeep.reproduce import reproduce_forecast

    name = runs.prediction_id(MADE)
    weights = next(runs.home.models.rglob("member-1.weights.h5"))
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    with pytest.raises(Damaged, match=r"member-1\.weights\.h5 is a link"):
        reproduce_forecast(runs.home, name)
    assert any("is a link" in line for line in verify_home(runs.home).findings)
    weights.unlink()
    (tmp_path / "weights").rename(weights)
    bundle = weights.parent
    bundle.rename(tmp_path / "bundle")
    bundle.symlink_to(tmp_path / "bundle")
    with pytest.raises(Damaged, match="is a link"):
        reproduce_forecast(runs.home, name)


def test_no_response_is_kept_through_a_link(home: Home, outside: Path) -> None:
    sha256 = keep_raw(home, b"[]")
    path = home.root / "raw" / sha256[:2] / f"{sha256}.json.gz"
    path.unlink()
    path.symlink_to(outside / "letter.txt")
    with pytest.raises(HomeUnusable, match="is a link"):
        keep_raw(home, b"[]")
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside)
    with pytest.raises(HomeUnusable, match="is a link"):
        keep_raw(home, b"[]")
    check_untouched(outside)


def test_a_file_replaces_a_link(tmp_path: Path, outside: Path) -> None:
    link = tmp_path / "state.json"
    link.symlink_to(outside / "letter.txt")
    write_atomic(link, b"ours")
    assert not link.is_symlink()
    assert link.read_bytes() == b"ours"
    check_untouched(outside)


def test_no_lock_is_taken_through_a_link(home: Home, outside: Path) -> None:
    (home.locks / "BTC-USD.lock").symlink_to(outside / "letter.txt")
    with pytest.raises(HomeUnusable, match="the lock file", check=one_line), product_lock(home, BTC):
        pass
    check_untouched(outside)


def linked(path: Path, outside: Path) -> None:
    """Move a file or folder out of the home, and link to it."""
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


@pytest.mark.parametrize(
    "where",
    [
        "predictions/product_id=*/*.parquet",
        "predictions/product_id=*",
        "predictions/_delta_log",
        "predictions/_delta_log/*0.json",
        "predictions/_sha256sums",
        "models/closecast.*",
        "models/closecast.*/[!.]*",
        "models/closecast.*/[!.]*/*.h5",
    ],
)
def test_a_backup_of_a_home_with_a_link_is_refused(runs: Runs, tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").mkdir()
    linked(next(runs.home.root.glob(where)), tmp_path / "secret")
    with pytest.raises(HomeUnusable, match="is a link", check=one_line):
        back_up(runs.home, tmp_path / "backup.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "secret"]


@pytest.mark.parametrize("way", ["../..", "file://{}"])
def test_a_backup_holds_nothing_that_a_table_names_outside_of_it(
    runs: Runs, tmp_path: Path, way: str
) -> None:
    log = runs.home.root / "predictions" / "_delta_log"
    part = next((runs.home.root / "predictions").rglob("*.parquet"))
    part.rename(tmp_path / part.name)
    for entry in log.glob("*.json"):
        text = entry.read_text(encoding="utf-8")
        entry.write_text(text.replace(f"product_id={BTC}/{part.name}", f"{way.format(tmp_path)}/{part.name}"))
    with pytest.raises(Damaged, match=r"predictions.*(is missing|not in it)"):
        back_up(runs.home, tmp_path / "backup.tar")
    with pytest.raises((Damaged, FileNotFoundError)):  # nor is it read
        Predictions(runs.home).read()
