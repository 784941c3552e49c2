"""A home brought back from the file that `storage.backup` wrote."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from storage.backup import FORM, LIST, TOPS
from storage.errors import BadFile, BadSetting, HomeUnusable
from storage.files import fsync_folder, sha256_file
from storage.home import RESTORING, Home
from storage.locks import tables_lock
from storage.moving import move_out, refuse_used
from storage.progress import tell


def restore(file: Path, home: Home) -> int:
    """Bring a backup back into a home that holds nothing yet; returns how many files came.

    Every file is checked against the backup's list before anything is moved into its place. Killed on the
    way, nothing can run in the home until the same is done again. Where the home's databases are in
    PostgreSQL, the rows come there, where it has a bucket, the tables, bundles and answers: this is how a
    home moves to them, and back.

    Raises:
        BadFile: it is no backup, or it was changed.
        BadSetting: CLOSECAST_DATABASE_URL names a SQLite file elsewhere.
        HomeUnusable: the home, its database or its bucket holds something, or cannot be written.
    """
    if home.database_url is not None and not home.on_postgresql:
        raise BadSetting(
            "a backup's prices come back as prices.db of the home: unset CLOSECAST_DATABASE_URL first"
        )
    _refuse_full(home)
    with tables_lock(home.prepare(restoring=True)):
        _refuse_full(home)
        staging = home.root / f".restore-{secrets.token_hex(8)}"
        try:
            for left in home.root.glob(".restore-*"):
                shutil.rmtree(left)
            staging.mkdir()
            count = _unpacked(file, staging)
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


def _refuse_full(home: Home) -> None:
    if (home.root / RESTORING).exists():
        return
    refuse_used(home)
    for name in TOPS:
        path = home.root / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise HomeUnusable(
                f"an empty home is needed, but there is {path}: move it away, or name another with --home"
            )


def _unpacked(file: Path, staging: Path) -> int:
    """Unpack into a folder of its own, and compare with the list; returns the number of files."""
    sums: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:*") as tar:
            listed: bytes | None = None
            for entry in tar:
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is None or listed is not None:
                    raise BadFile(f"{file} is no backup of closecast: it holds {entry.name!r:.80}")
                if entry.name == LIST:
                    listed = content.read()
                else:
                    sums[entry.name] = _put(staging, entry.name, content, file)
                    tell("files", len(sums))
        recorded = json.loads(listed or b"{}")
        if recorded.get("form") != FORM or not isinstance(recorded.get("sha256"), dict):
            raise BadFile(f"{file} is no backup of this closecast: it has no list of form {FORM}")
    except FileNotFoundError as error:
        raise BadFile(f"a backup was needed, but there is no file at {file}; check its name") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise BadFile(f"{file} is no whole backup of closecast ({reason}): take another one") from error
    wrong = sorted(name for name, _ in sums.items() ^ recorded["sha256"].items())
    if wrong:
        raise BadFile(
            f"{file} was changed or cut short: {wrong[0]} is not what was backed up; take another one"
        )
    return len(sums)


def _put(staging: Path, name: str, content: IO[bytes], file: Path) -> str:
    """One file of a backup, under a name that lies in one of the home's own places; its SHA-256."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] not in TOPS or ".." in parts or "\0" in name:
        raise BadFile(f"{file} is no backup of closecast: it holds {name!r:.80}")
    path = staging.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as written:
        shutil.copyfileobj(content, written, 2**20)
        written.flush()
        os.fsync(written.fileno())
    return sha256_file(path)


def _replace(place: Path, came: Path) -> None:
    """Put a part of the backup into its place, where nothing is but what a restore cut short has left."""
    if place.is_dir():
        shutil.rmtree(place)
    for left in (place, place.with_name(f"{place.name}-wal"), place.with_name(f"{place.name}-shm")):
        left.unlink(missing_ok=True)
    if came.exists():
        came.rename(place)
