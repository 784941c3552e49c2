"""A home restored from the file that `closecast.storage.backup.backup` wrote."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from closecast.storage.backup.archive import DATABASES, FOLDERS, open_archive, unpack
from closecast.storage.backup.transfer import load_prices, load_registry, require_empty_databases
from closecast.storage.core.errors import BadSetting, HomeUnusable, reason_of
from closecast.storage.core.files import fsync_folder, remove
from closecast.storage.core.home import RESTORING, Home
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.locks.bucket_owner import prepare_home
from closecast.storage.locks.locks import tables_lock
from closecast.storage.prices.engine import database_engine
from closecast.storage.tables.checksums import CHECKSUMS, LOG
from closecast.storage.tables.schemas import TABLES

# What a new file system has in it, and nobody may remove.
NOT_OURS = "lost+found"
# The folders that a home with a bucket has there.
SHARED = (*TABLES, "models", "raw")


def restore(file: Path, home: Home) -> int:
    """Restore a backup into an empty home; returns the number of its files.

    Every file is checked against the backup's list before anything is put into the home. After a kill on
    the way nothing can run in the home until the restore is run again. Where the home's databases are in
    PostgreSQL the rows go there, where it has a bucket the tables, bundles and raw responses go there: this
    is how a home moves to them, and back.

    Raises:
        BadFile: it is not a backup, or it was changed.
        BadSetting: CLOSECAST_DATABASE_URL names a SQLite file elsewhere.
        HomeUnusable: the home, its database or its bucket is not empty, or cannot be written.
    """
    if database_engine(home).file not in (None, home.root / "prices.db"):
        raise BadSetting(
            "a backup's prices are restored to prices.db of the home: unset CLOSECAST_DATABASE_URL first"
        )
    with open_archive(file) as source:
        _require_empty(home)
        with tables_lock(prepare_home(home, restoring=True)):
            _require_empty(home)
            return _restore(source, file, home)


def _restore(source: BinaryIO, file: Path, home: Home) -> int:
    staging = home.root / f".restore-{secrets.token_hex(8)}"
    marker = home.root / RESTORING
    try:
        for unfinished in home.root.glob(".restore-*"):
            shutil.rmtree(unfinished)
        staging.mkdir()
        count = unpack(source, file, staging)
        marker.touch()
        fsync_folder(home.root)
        _move_out(staging, home)
        for name in DATABASES:
            _replace_file(home.root / name, staging / name)
        for name in FOLDERS:
            _replace_folder(home.root / name, staging / name)
        fsync_folder(home.root)
        marker.unlink()
        fsync_folder(home.root)
    except OSError as error:
        raise HomeUnusable(
            f"{home.root} cannot be written: {reason_of(error)}; make room, correct its rights, or"
            " choose another --home"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _require_empty(home: Home) -> None:
    """Check that the home is empty, and that its folders are distinct, because each is emptied."""
    paths = [home.root / name for name in (*DATABASES, *FOLDERS)]
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise HomeUnusable(f"{path} is a dangling link: create its target, or remove it")
    for path, other in itertools.permutations(paths, 2):
        if path.resolve().is_relative_to(other.resolve()):
            raise HomeUnusable(f"{path} and {other} lead to the same folder: give each its own")
    if (home.root / RESTORING).exists():
        return
    if database_engine(home).file is None:
        require_empty_databases(home)
    for name in SHARED if _has_bucket(home) else ():
        if (home.shared / name).is_dir():
            raise HomeUnusable(
                f"an empty prefix is needed, but there is {home.shared / name}: name another in"
                " CLOSECAST_STORAGE_URL"
            )
    for path in paths:
        if path.is_file() or (path.is_dir() and _children(path)):
            raise HomeUnusable(
                f"an empty home is needed, but there is {path}: move it away, or name another with --home"
            )


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != NOT_OURS]


def _move_out(staging: Path, home: Home) -> None:
    """Move what goes to a bucket or a server there; a second call does no harm.

    The prices come last: nothing refers to the rest before they are there.
    """
    if _has_bucket(home):
        for name in SHARED:
            _upload(staging / name, home.shared / name)
        for name in TABLES:
            shutil.rmtree(staging / name, ignore_errors=True)
    if database_engine(home).file is None:
        for name, load in (("mlflow.db", load_registry), ("prices.db", load_prices)):
            if (staging / name).is_file():
                load(staging, home)
                (staging / name).unlink()


def _has_bucket(home: Home) -> bool:
    return home.shared != LocalPath(home.root)


def _upload(folder: Path, target: Location) -> None:
    """Upload every file of a folder, the log of a table after its data, entry by entry."""
    files = sorted(LocalPath(folder).files(), key=lambda path: (LOG in path.relative_to(folder).parts, path))
    entries = [path.stem for path in files if path.parent == folder / LOG and path.stem.isdecimal()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name == CHECKSUMS:
            (target / name).add_lines(int(max(entries, default="0")), path.read_text().splitlines())
        else:
            (target / name).put(path.read_bytes())


def _replace_file(target: Path, source: Path) -> None:
    """Put a database in the place of one that an unfinished restore put there."""
    for path in (target, target.with_name(f"{target.name}-wal"), target.with_name(f"{target.name}-shm")):
        path.unlink(missing_ok=True)
    if source.exists():
        source.rename(target)


def _replace_folder(target: Path, source: Path) -> None:
    """Put what is in a folder in the place of what an unfinished restore put there.

    The folder itself stays: it may be a link to another disk, or mounted.
    """
    for path in _children(target) if target.is_dir() else []:
        remove(path)
    if not source.exists():
        return
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        # Renamed, or copied to another disk.
        shutil.move(path, target / path.name, copy_function=_copy_durably)
        moved = target / path.name
        for folder in (moved, *moved.rglob("*/")) if moved.is_dir() else ():
            fsync_folder(folder)
    fsync_folder(target)


def _copy_durably(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    with Path(target).open("rb") as file:
        os.fsync(file.fileno())
