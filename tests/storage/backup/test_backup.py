"""A backup is a whole home, also when it is taken while runs go on, and is restored as it was."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.backup import restore as restoring
from closecast.storage.backup.backup import back_up
from closecast.storage.backup.restore import restore
from closecast.storage.core.errors import BadFile, BadSetting, Damaged, HomeBusy, HomeUnusable
from closecast.storage.core.home import RESTORING, Home
from closecast.storage.locks.locks import tables_lock
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.upkeep.compaction import compact_table
from closecast.tasks.upkeep.reproduce import reproduce_forecast
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import HORIZONS, MADE, Runs
from tests.helpers import BTC, deny, die_at
from tests.lived import DAYS, lived_runs
from tests.processes import run_process


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that tests only read."""
    folder = tmp_path_factory.mktemp("taken")
    runs = lived_runs(tmp_path_factory, folder / "home")
    back_up(runs.home, folder / "home.tar")
    return folder / "home.tar"


def rows(home: Home) -> list[dict[str, Any]]:
    return Predictions(home).read().sort_by("target_day").to_pylist()


@pytest.mark.parametrize("name", ["home.tar", "home.tgz"])
def test_a_home_is_restored_as_it_was(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    count = back_up(runs.home, Path(name))
    again = Home(tmp_path / "again")
    assert restore(Path(name), again) == count
    assert verify_home(again) == verify_home(runs.home)
    assert rows(again) == rows(runs.home)
    version = runs.data(MADE)
    with Prices(again) as prices, Prices(runs.home) as before:
        assert prices.prices_at(version).candles.equals(before.prices_at(version).candles)
    assert reproduce_forecast(again, runs.prediction_id(MADE)).same
    magic = (tmp_path / name).read_bytes()[:2]
    assert (magic == b"\x1f\x8b") == name.endswith("gz")


def test_a_restored_home_takes_the_next_day(taken: Path, tmp_path: Path, runs: Runs) -> None:
    again = Home(tmp_path / "again")
    restore(taken, again)
    there = Runs(again, runs.profile)
    assert there.live(MADE + DAYS) == runs.live(MADE + DAYS)
    for name in ("predictions", "scores"):
        assert compact_table(again, name)
    assert verify_home(again).findings == []


def test_backups_taken_during_runs_are_consistent(runs: Runs, tmp_path: Path) -> None:
    done = threading.Event()

    def days() -> None:
        try:
            for number in range(MADE + DAYS, MADE + DAYS + 2):
                runs.live(number)
        finally:
            done.set()

    thread = threading.Thread(target=days)
    thread.start()
    taken = list[Path]()
    while not done.is_set():
        taken.append(tmp_path / f"{len(taken)}.tar")
        back_up(runs.home, taken[-1])
    thread.join()
    counts = []
    for number, file in enumerate(taken):
        home = Home(tmp_path / f"again{number}")
        restore(file, home)
        assert verify_home(home).findings == []
        counts.append(len(rows(home)))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_a_changed_file_is_detected_in_the_copy_too(runs: Runs, tmp_path: Path) -> None:
    part = next((runs.home.root / "scores").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-4] + b"XXXX")
    back_up(runs.home, tmp_path / "b.tar")
    restore(tmp_path / "b.tar", Home(tmp_path / "again"))
    assert any(part.name in line for line in verify_home(Home(tmp_path / "again")).findings)


def test_drafts_orphans_links_logs_and_locks_are_left_out(runs: Runs, tmp_path: Path) -> None:
    for name in (".draft-1", "orphan"):
        bundle = runs.home.models / "closecast.BTC-USD.calibrated" / name
        bundle.mkdir()
        (bundle / "manifest.json").write_bytes(b"{}")
    (runs.home.root / "raw" / "aa").mkdir(parents=True)
    (runs.home.root / "raw" / "aa" / "link.json.gz").symlink_to("/etc/passwd")
    back_up(runs.home, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as tar:
        names = tar.getnames()
    assert not [name for name in names if "draft" in name or "orphan" in name or "link" in name]
    assert not [name for name in names if name.startswith(("logs", "locks", "."))]


@pytest.mark.parametrize("name", ["raw", "reports", "scores"])
def test_a_folder_that_may_not_be_read_fails_the_backup(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (runs.home.root / name / "some").mkdir(parents=True)
    deny(monkeypatch, runs.home.root / name)
    with pytest.raises((HomeUnusable, Damaged), match=f"{name}.*Permission denied"):
        back_up(runs.home, tmp_path / "b.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_a_failed_backup_leaves_no_file(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(b"mine")
    with pytest.raises(BadFile, match="a new file is needed"):
        back_up(runs.home, tmp_path / "mine.tar")
    assert (tmp_path / "mine.tar").read_bytes() == b"mine"
    with pytest.raises(BadFile, match=r"there is none at .*none: make it, or name another$"):
        back_up(runs.home, tmp_path / "none" / "b.tar")
    with pytest.raises(HomeUnusable, match="cannot be written: File name too long; correct what stops it"):
        back_up(runs.home, tmp_path / f"{'b' * 300}.tar")
    with tables_lock(runs.home), pytest.raises(HomeBusy):
        back_up(runs.home, tmp_path / "b.tar", wait_seconds=0.1)
    bundle = next(runs.home.models.glob("*/*/manifest.json"))
    bundle.unlink()
    with pytest.raises(Damaged, match="the registry names it"):
        back_up(runs.home, tmp_path / "b.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"home", "mine.tar"}


def test_prices_in_a_file_elsewhere_are_restored_into_the_home(runs: Runs, tmp_path: Path) -> None:
    moved = tmp_path / "moved.db"
    (runs.home.root / "prices.db").rename(moved)
    back_up(Home(runs.home.root, f"sqlite:///{moved}"), tmp_path / "b.tar")
    with pytest.raises(BadSetting, match="CLOSECAST_DATABASE_URL"):
        restore(tmp_path / "b.tar", Home(tmp_path / "again", f"sqlite:///{moved}"))
    restore(tmp_path / "b.tar", Home(tmp_path / "again"))
    assert verify_home(Home(tmp_path / "again")).findings == []


def test_a_home_that_is_not_empty_is_not_changed(taken: Path, runs: Runs) -> None:
    before = rows(runs.home)
    with pytest.raises(HomeUnusable, match="an empty home is needed"):
        restore(taken, runs.home)
    assert rows(runs.home) == before


def altered(taken: Path, copy: Path, **changes: bytes | None) -> Path:
    """A copy of the backup with other bytes in a file, without it (None), or with a further one."""
    with tarfile.open(taken) as old, tarfile.open(copy, "w") as new:
        for member in old:
            content = changes.pop(member.name, old.extractfile(member).read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return copy


@pytest.mark.parametrize("name", ["prices.db", "scores/_sha256sums"])
@pytest.mark.parametrize("content", [b"other", None])
def test_a_changed_backup_is_refused_and_nothing_is_restored(
    taken: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    home = Home(tmp_path / "again")
    with pytest.raises(BadFile, match=name):
        restore(altered(taken, tmp_path / "b.tar", **{name: content}), home)
    assert not [path for path in home.root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def _restore_and_die(file: Path, root: Path, function: str, count: int) -> None:
    die_at(restoring, function, call=count + 1)
    restoring.restore(file, Home(root))


@pytest.mark.parametrize(("function", "count"), [("_replace_file", 0), ("_replace_folder", 3)])
def test_a_killed_restore_is_completed_by_the_next(
    taken: Path, tmp_path: Path, function: str, count: int
) -> None:
    home = Home(tmp_path / "again")
    assert run_process(_restore_and_die, taken, home.root, function, count) == -9
    assert (home.root / RESTORING).exists()
    with pytest.raises(HomeUnusable, match="restore` again"):
        home.prepare()
    restore(taken, home)
    assert verify_home(home).findings == []
    assert len(rows(home)) == len(HORIZONS) * DAYS
    assert not list(home.root.glob(".restor*"))


def test_a_database_is_copied_without_an_open_transaction(runs: Runs, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(runs.home.root / "prices.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute(
            "INSERT INTO series (product_id, source, after_candle_seq, started_at) VALUES (?, 'csv', 0, 'x')",
            ("ETH-USD",),
        )
        back_up(runs.home, tmp_path / "b.tar")
        other.commit()
    restore(tmp_path / "b.tar", Home(tmp_path / "again"))
    with Prices(Home(tmp_path / "again")) as prices:
        assert prices.source_of("ETH-USD") is None
        assert prices.source_of(BTC) == "csv"


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory: another file system, where there is one."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path))  # noqa: S108
    yield folder
    shutil.rmtree(folder)


def test_folders_of_a_home_that_are_links_are_filled(taken: Path, tmp_path: Path, other_disk: Path) -> None:
    home = Home(tmp_path / "again").prepare()
    (tmp_path / "big").mkdir()
    home.models.rmdir()
    home.models.symlink_to(tmp_path / "big")
    (home.root / "scores").symlink_to(other_disk)
    (other_disk / "lost+found").mkdir()
    assert run_process(_restore_and_die, taken, home.root, "_replace_folder", 1) == -9
    assert (home.root / RESTORING).exists()
    (other_disk / "part").mkdir()  # of an unfinished copy
    restore(taken, home)
    assert home.models.is_symlink()
    assert (home.root / "scores").is_symlink()
    assert next((tmp_path / "big").rglob("manifest.json"))
    names = ["_delta_log", "_sha256sums", "lost+found", f"product_id={BTC}"]
    assert sorted(path.name for path in other_disk.iterdir()) == names
    assert verify_home(home).findings == []
    assert not list(home.root.glob(".restor*"))


def test_a_mounted_folder_is_filled_by_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To mount one takes rights that tests do not have: here every rename fails as one to a mount does."""
    (tmp_path / "source" / "folder").mkdir(parents=True)
    (tmp_path / "source" / "folder" / "file").write_text("new")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("of an unfinished restore")

    def other_file_system(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", other_file_system)
    restoring._replace_folder(tmp_path / "target", tmp_path / "source")
    paths = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "target").rglob("*")]
    assert sorted(paths) == ["target/folder", "target/folder/file"]
    assert (tmp_path / "target" / "folder" / "file").read_text() == "new"


def test_links_that_cannot_be_filled_are_refused_before_anything_moves(taken: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "again").prepare()
    (home.root / "scores").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HomeUnusable, match="scores is a dangling link"):
        restore(taken, home)
    (tmp_path / "elsewhere").mkdir()
    (home.root / "folds").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HomeUnusable, match="lead to the same folder"):
        restore(taken, home)
    (home.root / "folds").unlink()
    (tmp_path / "elsewhere" / "letter.txt").write_text("precious")
    with pytest.raises(HomeUnusable, match="an empty home is needed"):
        restore(taken, home)
    assert (tmp_path / "elsewhere" / "letter.txt").read_text() == "precious"
    assert not (home.root / RESTORING).exists()
