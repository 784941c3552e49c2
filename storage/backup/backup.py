"""A home written to one file, while runs work.

What refers is copied before what it refers to: the tables as they were at one moment, then the registry and
its bundles, then the prices. So a run at the same time only adds what nothing in the copy needs.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import sqlite3
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from closecast.storage.backup.archive import ArchiveWriter
from closecast.storage.backup.transfer import dump_prices, dump_registry, sqlite_home
from closecast.storage.core.errors import BadFile, Damaged, HomeUnusable, reason_of
from closecast.storage.core.files import check_no_links, fsync_folder
from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.locks.bucket_owner import prepare_home
from closecast.storage.locks.locks import tables_lock
from closecast.storage.models.bundles import MANIFEST, fetch_bundle
from closecast.storage.models.registry import Models
from closecast.storage.tables.checksums import CHECKSUMS, LOG, read_checksums
from closecast.storage.tables.delta import snapshot
from closecast.storage.tables.opening import data_files
from closecast.storage.tables.schemas import TABLES

if TYPE_CHECKING:
    from deltalake import DeltaTable

FULL = (errno.ENOSPC, errno.EDQUOT)


def back_up(home: Home, file: Path, *, wait_seconds: float = 900.0) -> int:
    """Write a consistent copy of a home to one tar file; returns the number of files in it.

    The copy holds everything but logs and locks, compressed where the name ends in `.gz` or `.tgz`. Runs go
    on meanwhile; compaction and pruning wait. What is in PostgreSQL becomes SQLite files, what is in a bucket
    becomes files, so that a backup can be restored to either.

    Raises:
        BadFile: there is a file of that name, or no folder for it.
        HomeUnusable: the file cannot be written, or a link lies below the folders of the home.
        HomeBusy: another process compacts or prunes the home for too long.
        Damaged: a file is missing that the home needs.
    """
    mode: Literal["x", "x:gz"] = "x:gz" if file.name.endswith((".gz", ".tgz")) else "x"
    draft = file.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if file.exists():
            raise BadFile(f"a new file is needed for the backup, but {file} exists: name another")
        if not file.parent.is_dir():
            raise BadFile(
                f"the backup needs a folder, and there is none at {file.parent}: make it, or name another"
            )
        with tables_lock(prepare_home(home), wait_seconds=wait_seconds):
            with tarfile.open(draft, mode, format=tarfile.PAX_FORMAT) as tar:
                archive = ArchiveWriter(tar)
                with tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as folder:
                    _add_home(archive, home, Path(folder))
                count = len(archive.checksums)
                archive.add_list()
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.rename(file)
            fsync_folder(file.parent)
    except (OSError, sqlite3.Error) as error:
        reason = reason_of(error)
        source = str(getattr(error, "filename", None))
        if Path(source).is_relative_to(home.root):
            reason = f"{source}: {reason}"
        remedy = "make room" if getattr(error, "errno", None) in FULL else "correct what stops it"
        raise HomeUnusable(
            f"the backup {file} cannot be written: {reason}; {remedy}, or name another"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return count


def _add_home(archive: ArchiveWriter, home: Home, scratch: Path) -> None:
    locations = [home.table(name) for name in TABLES]
    for location, table in zip(locations, snapshot(locations), strict=True):
        if table is not None:
            _add_table(archive, location, table)
    _add_registry(archive, home, scratch)
    _add_folder(archive, LocalPath(home.folds), home.root)
    if prices := dump_prices(home, scratch):
        archive.add_file(prices.name, LocalPath(prices))
    # After the prices: a raw response is stored before its candles.
    _add_folder(archive, home.raw, home.shared)
    _add_folder(archive, LocalPath(home.reports), home.root)


def _add_table(archive: ArchiveWriter, location: Location, table: DeltaTable) -> None:
    """Add a table as it was when it was opened: its log up to then, and the data files it had then."""
    folder = location.resolve()  # as Delta names its files
    folder.check_no_links(deep=True)
    (recorded, _), lines = read_checksums(folder), list[str]()
    log = [path for path in (folder / LOG).files() if _is_logged(path, table.version())]
    for path in (*data_files(folder, table), *log):
        short = path.relative_to(folder).as_posix()
        try:
            sha256 = archive.add_file(f"{location.name}/{short}", path)
        except FileNotFoundError as error:
            raise Damaged(f"{path} is missing, but its table names it: run `closecast verify`") from error
        if path.name != "_last_checkpoint":
            # As recorded: a file that was changed is detected in the copy as in the original.
            lines.append(f"{recorded.get(short, sha256)}  {short}\n")
    archive.add(f"{location.name}/{CHECKSUMS}", io.BytesIO("".join(lines).encode()))


def _is_logged(path: Location, version: int) -> bool:
    """Whether a file of a table's log belongs to it up to a version."""
    if not path.is_file():
        return False
    if path.name == "_last_checkpoint":
        return int(json.loads(path.read_bytes())["version"]) <= version
    number = path.name.partition(".")[0]
    return number.isdecimal() and int(number) <= version and path.suffix in (".json", ".parquet")


def _add_registry(archive: ArchiveWriter, home: Home, scratch: Path) -> None:
    """Add the registry as it is now, then the bundles that it names: each is there before it is named."""
    registry = dump_registry(home, scratch)
    if registry is None:
        return
    archive.add_file(registry.name, LocalPath(registry))
    for version in Models(sqlite_home(scratch)).versions():
        bundle = home.models / version.name / version.bundle
        check_no_links(bundle.parent, bundle)
        fetch_bundle(home, version.name, version.bundle, version.manifest_sha256)
        if not (bundle / MANIFEST).is_file():
            raise Damaged(f"{bundle} is missing, but the registry names it: run `closecast verify`")
        check_no_links(*bundle.rglob("*"))  # `_add_folder` would leave a link out
        _add_folder(archive, LocalPath(bundle), home.root)


def _add_folder(archive: ArchiveWriter, folder: Location, root: Any) -> None:
    """Add every file below a folder, except drafts, links and files that are deleted meanwhile."""
    for path in folder.files():
        short = path.relative_to(root)
        if not any(part.startswith(".") for part in short.parts):
            with contextlib.suppress(FileNotFoundError):
                archive.add_file(short.as_posix(), path)
