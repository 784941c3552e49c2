"""A home brought back from the file that `storage.backup.backup` wrote."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from storage.backup.archive import BLOCK_BYTES, open_archive, unpack
from storage.backup.backup import TOPS
from storage.backup.moving import move_out, require_unused
from storage.core.errors import BadSetting, HomeUnusable
from storage.core.files import fsync_folder
from storage.core.home import RESTORING, Home
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import tables_lock
from storage.prices.engine import database_engine

# What a new file system has in it, and nobody may take away.
NOT_OURS = "lost+found"


def restore(file: Path, home: Home) -> int:
    """Bring a backup back into a home that holds nothing yet; returns how many files came.

    Every file is checked against the backup's list before anything is moved into its place. Killed on the
    way, nothing can run in the home until the same is done again. Where the home's databases are in
    PostgreSQL, the rows come there, where it has a bucket, the tables, bundles and answers: this is how a
    home moves to them, and back.

    Raises:
        BadFile: it is no backup, or it was changed.
        BadSetting: CLOSECAST_DATABASE_URL names a SQLite file elsewhere.
        HomeUnusable: the home, its database or its bucket holds something, or cannot be written, or its disk
            has too little room.
    """
    if database_engine(home).file not in (None, home.root / "prices.db"):
        raise BadSetting(
            "a backup's prices come back as prices.db of the home: unset CLOSECAST_DATABASE_URL first"
        )
    with open_archive(file) as source:
        _require_empty(home)
        with tables_lock(prepare_home(home, restoring=True)):
            _require_empty(home)
            return _restored(source, file, home)


def _restored(source: BinaryIO, file: Path, home: Home) -> int:
    staging = home.root / f".restore-{secrets.token_hex(8)}"
    try:
        for left in home.root.glob(".restore-*"):
            shutil.rmtree(left)
        staging.mkdir()
        count = unpack(source, file, staging)
        _require_room(staging, home)
        marker = home.root / RESTORING
        marker.touch()
        fsync_folder(home.root)
        move_out(staging, home)
        for name in TOPS:
            _replace(home.root / name, staging / name)
        fsync_folder(home.root)
        marker.unlink()
        fsync_folder(home.root)
    except OSError as error:
        raise HomeUnusable(
            f"{home.root} cannot be written: {error.strerror or error}; make room or rights, or choose"
            " another --home"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _require_empty(home: Home) -> None:
    for name in TOPS:
        path = home.root / name
        if path.is_symlink() and not path.exists():
            raise HomeUnusable(
                f"{path} is a link that leads to nothing: make what it leads to, or take it away"
            )
    _require_distinct([home.root / name for name in TOPS])
    if (home.root / RESTORING).exists():
        return
    require_unused(home)
    for name in TOPS:
        path = home.root / name
        if path.is_file() or (path.is_dir() and _children(path)):
            raise HomeUnusable(
                f"an empty home is needed, but there is {path}: move it away, or name another with --home"
            )


def _require_distinct(places: list[Path]) -> None:
    """Refuse two folders that are one, or one in the other, by way of a link: each is emptied."""
    for path, other in itertools.permutations(places, 2):
        if path.resolve().is_relative_to(other.resolve()):
            raise HomeUnusable(f"{path} and {other} lead to one place: give each a folder of its own")


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != NOT_OURS]


def _require_room(staging: Path, home: Home) -> None:
    """Refuse a disk behind a folder that has too little room for what comes to it, before anything moves."""
    lacking, where, ours = dict[int, int](), dict[int, Path](), staging.stat().st_dev
    for name in TOPS:
        place, came = home.root / name, staging / name
        if came.is_dir() and place.is_dir() and (device := place.stat().st_dev) != ours:
            room = lacking.get(device, -shutil.disk_usage(place).free)
            lacking[device] = room + _taken(came) - _taken(place)  # what is there goes
            where[device] = place
    for device, missing in lacking.items():
        if missing > 0:
            raise HomeUnusable(
                f"{missing:,} more bytes are needed on the disk that {where[device]} is on: make room there"
            )


def _taken(folder: Path) -> int:
    sizes = [path.lstat().st_size for path in folder.rglob("*")]
    return sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes)


def _replace(place: Path, came: Path) -> None:
    """Put a part of the backup into its place, where nothing is but what a restore cut short has left."""
    if place.is_dir():
        _empty(place)
        if place.is_symlink() or not _removed(place):
            if came.is_dir():
                for path in came.iterdir():
                    _move(path, place / path.name)
                fsync_folder(place)
            return
    for left in (place, place.with_name(f"{place.name}-wal"), place.with_name(f"{place.name}-shm")):
        left.unlink(missing_ok=True)
    if came.exists():
        came.rename(place)


def _empty(folder: Path) -> None:
    for path in _children(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _removed(folder: Path) -> bool:
    """Take an empty folder away; one that a file system is mounted on stays."""
    if folder.is_mount():
        return False
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):  # mounted from the same file system
            raise
        return False
    return True


def _move(path: Path, target: Path) -> None:
    """Rename, or copy durably to another file system; what came stays, and goes with its folder."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if path.is_dir():
            shutil.copytree(path, target, copy_function=_copy)
            for folder in (target, *(one for one in target.rglob("*") if one.is_dir())):
                fsync_folder(folder)
        else:
            _copy(str(path), str(target))


def _copy(path: str, target: str) -> None:
    shutil.copyfile(path, target)
    with open(target, "rb") as written:  # noqa: PTH123 (as shutil hands it)
        os.fsync(written.fileno())
