"""A backup is a whole home, also one taken while runs go on, and comes back as it was."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import shutil
import sqlite3
import tarfile
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.backup import backup as module
from storage.backup import restore as restoring
from storage.backup.backup import LIST, back_up
from storage.backup.restore import restore
from storage.core.errors import BadFile, BadSetting, Damaged, HomeBusy, HomeUnusable
from storage.core.home import RESTORING, Home
from storage.locks.locks import tables_lock
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.upkeep.compaction import compact_table
from tasks.upkeep.verify import verify_home
from tests.calibrated import CODE, MADE, Runs
from tests.helpers import BTC
from tests.lived import DAYS, key_of, live, lived_runs
from tests.processes import run_process


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    return lived_runs(tmp_path_factory, tmp_path / "home")


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
def test_a_home_comes_back_as_it_was(runs: Runs, tmp_path: Path, name: str) -> None:
    count = back_up(runs.home, tmp_path / name)
    again = Home(tmp_path / "again")
    assert restore(tmp_path / name, again) == count
    assert verify_home(again) == verify_home(runs.home)
    assert rows(again) == rows(runs.home)
    version = runs.data(MADE)
    with Prices(again) as prices, Prices(runs.home) as before:
        assert prices.closes_at(version).equals(before.closes_at(version))
    from tasks.upkeep.reproduce import reproduce_forecast

    assert reproduce_forecast(again, key_of(runs, MADE), code_version=CODE).same
    with tarfile.open(tmp_path / name) as tar:
        assert (tar.getmembers()[0].size > 0) is True
    magic = (tmp_path / name).read_bytes()[:2]
    assert (magic == b"\x1f\x8b") == name.endswith("gz")


def test_life_goes_on_in_the_restored_home(taken: Path, tmp_path: Path, runs: Runs) -> None:
    again = Home(tmp_path / "again")
    restore(taken, again)
    there = Runs(again, runs.recipe)
    assert live(there, MADE + DAYS) == live(runs, MADE + DAYS)
    for name in ("predictions", "scores"):
        assert compact_table(again, name)
    assert verify_home(again).wrong == []


def test_days_pass_while_backups_are_taken(runs: Runs, tmp_path: Path) -> None:
    """Whatever moment a backup catches, it is whole: nothing in it refers to what is not in it."""
    done = threading.Event()

    def days() -> None:
        try:
            for number in range(MADE + DAYS, MADE + DAYS + 5):
                live(runs, number)
        finally:
            done.set()

    thread = threading.Thread(target=days)
    thread.start()
    taken = []
    while not done.is_set():
        taken.append(tmp_path / f"{len(taken)}.tar")
        back_up(runs.home, taken[-1])
    thread.join()
    found = []
    for number, file in enumerate(taken):
        home = Home(tmp_path / f"again{number}")
        restore(file, home)
        assert verify_home(home).wrong == []
        found.append(len(rows(home)))
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_a_backup_keeps_what_is_changed_recognisable(runs: Runs, tmp_path: Path) -> None:
    part = next(runs.home.scores.rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-4] + b"XXXX")
    back_up(runs.home, tmp_path / "b.tar")
    restore(tmp_path / "b.tar", Home(tmp_path / "again"))
    assert any(part.name in line for line in verify_home(Home(tmp_path / "again")).wrong)


def test_what_only_passes_by_is_left_out(runs: Runs, tmp_path: Path) -> None:
    (runs.home.models / "closecast.BTC-USD.calibrated" / ".draft-1").mkdir()
    (runs.home.models / "closecast.BTC-USD.calibrated" / ".draft-1" / "half").write_bytes(b"half")
    (runs.home.models / "closecast.BTC-USD.calibrated" / "stray").mkdir()
    (runs.home.models / "closecast.BTC-USD.calibrated" / "stray" / "manifest.json").write_bytes(b"{}")
    (runs.home.root / "raw" / "aa").mkdir(parents=True)
    (runs.home.root / "raw" / "aa" / "link.json.gz").symlink_to("/etc/passwd")
    back_up(runs.home, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as tar:
        names = tar.getnames()
    assert not [name for name in names if "draft" in name or "stray" in name or "link" in name]
    assert not [name for name in names if name.startswith(("logs", "locks", "."))]


def test_a_file_that_is_there_is_not_written_over(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(b"mine")
    with pytest.raises(BadFile, match="a new file is needed"):
        back_up(runs.home, tmp_path / "mine.tar")
    assert (tmp_path / "mine.tar").read_bytes() == b"mine"


def test_nothing_is_left_of_a_backup_that_failed(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_add_folder", full)
    with pytest.raises(HomeUnusable, match="No space left"):
        back_up(runs.home, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_missing_folder_is_said(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="cannot be written"):
        back_up(runs.home, tmp_path / "none" / "b.tar")
    bundle = next(runs.home.models.glob("*/*/manifest.json"))
    bundle.unlink()
    with pytest.raises(Damaged, match="the registry names it"):
        back_up(runs.home, tmp_path / "b.tar")


def test_prices_in_a_file_elsewhere_are_backed_up_and_come_back_into_the_home(
    runs: Runs, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.db"
    (runs.home.root / "prices.db").rename(moved)
    back_up(Home(runs.home.root, f"sqlite:///{moved}"), tmp_path / "b.tar")
    with pytest.raises(BadSetting, match="CLOSECAST_DATABASE_URL"):
        restore(tmp_path / "b.tar", Home(tmp_path / "again", f"sqlite:///{moved}"))
    restore(tmp_path / "b.tar", Home(tmp_path / "again"))
    assert verify_home(Home(tmp_path / "again")).wrong == []


def test_upkeep_and_backup_wait_for_each_other(runs: Runs, tmp_path: Path) -> None:
    with tables_lock(runs.home), pytest.raises(HomeBusy):
        back_up(runs.home, tmp_path / "b.tar", wait_seconds=0.1)


# Back again


def test_a_home_that_holds_something_is_left_alone(taken: Path, runs: Runs) -> None:
    before = rows(runs.home)
    with pytest.raises(HomeUnusable, match="an empty home is needed"):
        restore(taken, runs.home)
    assert rows(runs.home) == before


def altered(taken: Path, place: Path, **changes: bytes | None) -> Path:
    """A copy of the backup with other bytes in a file, without it (None), or with a further one."""
    with tarfile.open(taken) as old, tarfile.open(place, "w") as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream
            content = changes.pop(member.name, stream.read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return place


@pytest.mark.parametrize("name", ["prices.db", "scores/_sha256sums"])
@pytest.mark.parametrize("content", [b"other", None])
def test_a_changed_backup_is_refused_and_nothing_comes_of_it(
    taken: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    home = Home(tmp_path / "again")
    with pytest.raises(BadFile, match=name):
        restore(altered(taken, tmp_path / "b.tar", **{name: content}), home)
    assert not [path for path in home.root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def hostile(place: Path, name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(place, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"evil") if kind == tarfile.REGTYPE else None)
        listed = json.dumps({"form": 1, "sha256": {}}).encode()
        entry = tarfile.TarInfo(LIST)
        entry.size = len(listed)
        tar.addfile(entry, io.BytesIO(listed))
    return place


@pytest.mark.parametrize(
    "how",
    [
        {"name": "../evil"},
        {"name": "models/../../evil"},
        {"name": "/tmp/evil"},  # noqa: S108
        {"name": "logs/evil"},
        {"name": "models/evil", "kind": tarfile.SYMTYPE, "link": "/etc"},
        {"name": "models/evil", "kind": tarfile.LNKTYPE, "link": "/etc/passwd"},
        {"name": "models/evil", "kind": tarfile.FIFOTYPE},
        {"name": "models/evil", "kind": tarfile.CHRTYPE},
        {"name": "models/evil"},
    ],
)
def test_a_hostile_archive_puts_nothing_anywhere(tmp_path: Path, how: dict[str, Any]) -> None:
    file = hostile(tmp_path / "b.tar", **how)
    with pytest.raises(BadFile):
        restore(file, Home(tmp_path / "again"))
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "again" / "models" / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00broken", b"[core]\n" * 999])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(BadFile, match="backup") as error:
        restore(tmp_path / "b.tar", Home(tmp_path / "again"))
    assert "\n" not in str(error.value)
    with pytest.raises(BadFile, match="no file"):
        restore(tmp_path / "none", Home(tmp_path / "again"))


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_backup_that_was_cut_short_is_refused(taken: Path, tmp_path: Path, share: float) -> None:
    whole = taken.read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadFile):
        restore(tmp_path / "b.tar", Home(tmp_path / "again"))


def _restore_and_die(taken: Path, root: Path, after: int) -> None:
    from storage.backup import restore as restoring
    from tests.helpers import die

    moved = 0
    whole = restoring._replace

    def replace(place: Path, came: Path) -> None:
        nonlocal moved
        if moved == after:
            die()
        moved += 1
        whole(place, came)

    restoring._replace = replace
    restoring.restore(taken, Home(root))


@pytest.mark.parametrize("after", [0, 5])
def test_a_restore_that_was_killed_is_made_whole_by_the_next(taken: Path, tmp_path: Path, after: int) -> None:
    home = Home(tmp_path / "again")
    assert run_process(_restore_and_die, taken, home.root, after) == -9
    assert (home.root / RESTORING).exists()
    with pytest.raises(HomeUnusable, match="restore` again"):
        home.prepare()
    restore(taken, home)
    assert verify_home(home).wrong == []
    assert len(rows(home)) == DAYS
    assert not list(home.root.glob(".restore*"))


def test_a_database_that_is_written_to_is_copied_in_one_state(runs: Runs, tmp_path: Path) -> None:
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


def _copied_and_die(taken: Path, root: Path) -> None:
    from storage.backup import restore as restoring
    from tests.helpers import die

    restoring._empty = lambda _: die()
    restoring.restore(taken, Home(root))


def test_folders_of_a_home_that_are_links_are_filled(taken: Path, tmp_path: Path) -> None:
    """On a bigger disk: here in memory, another file system where there is one."""
    home = Home(tmp_path / "again").prepare()
    far = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path))  # noqa: S108
    try:
        (tmp_path / "big").mkdir()
        home.models.rmdir()
        home.models.symlink_to(tmp_path / "big")
        (home.root / "scores").symlink_to(far)
        (far / "lost+found").mkdir()
        assert run_process(_copied_and_die, taken, home.root) == -9
        assert (home.root / RESTORING).exists()
        (far / "part").mkdir()  # of a copy cut short
        restore(taken, home)
        assert home.models.is_symlink()
        assert (home.root / "scores").is_symlink()
        assert next((tmp_path / "big").rglob("manifest.json"))
        assert sorted(path.name for path in far.iterdir()) == [
            "_delta_log",
            "_sha256sums",
            "lost+found",
            "product_id=BTC-USD",
        ]
        assert verify_home(home).wrong == []
        assert not list(home.root.glob(".restor*"))
    finally:
        shutil.rmtree(far)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOTEMPTY])
def test_a_folder_that_cannot_be_taken_away_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As one that another is mounted on: to mount one takes rights that tests do not have."""
    (tmp_path / "came" / "folder").mkdir(parents=True)
    (tmp_path / "came" / "folder" / "file").write_text("new")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "file").write_text("of a restore cut short")

    def busy(_: Path) -> None:
        raise OSError(number, "busy")

    def far(*_: object) -> None:
        raise OSError(errno.EXDEV, "far")

    monkeypatch.setattr(Path, "rmdir", busy)
    monkeypatch.setattr(Path, "rename", far)
    restoring._replace(tmp_path / "place", tmp_path / "came")
    found = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "place").rglob("*")]
    assert sorted(found) == ["place/folder", "place/folder/file"]
    assert (tmp_path / "place" / "folder" / "file").read_text() == "new"


def test_links_that_cannot_be_filled_are_refused_before_anything_moves(taken: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "again").prepare()
    (home.root / "scores").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HomeUnusable, match="scores is a link that leads to nothing"):
        restore(taken, home)
    (tmp_path / "nowhere").mkdir()
    (home.root / "folds").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HomeUnusable, match="lead to one place"):
        restore(taken, home)
    (home.root / "folds").unlink()
    (tmp_path / "nowhere" / "letter.txt").write_text("precious")
    with pytest.raises(HomeUnusable, match="an empty home is needed"):
        restore(taken, home)
    assert (tmp_path / "nowhere" / "letter.txt").read_text() == "precious"
    assert not (home.root / RESTORING).exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")  # noqa: S108
def test_a_disk_behind_a_link_that_is_too_small_is_said_before_anything_moves(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "again").prepare()
    far = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if far.stat().st_dev == tmp_path.stat().st_dev:
        far.rmdir()
        pytest.skip("no second file system")
    whole = shutil.disk_usage
    full = SimpleNamespace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda at: full if "scores" in str(at) else whole(at))
    try:
        (home.root / "scores").symlink_to(far)
        with pytest.raises(HomeUnusable, match=r"more bytes are needed on the disk that .*scores is on"):
            restore(taken, home)
        assert not list(far.iterdir())
        assert not list(home.root.glob(".restor*"))
    finally:
        shutil.rmtree(far)
