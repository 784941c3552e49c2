"""A home as one file, taken while runs go on.

What refers is copied before what it refers to: the tables as they were at one moment, then the registry and
its bundles, then the prices. So a run that goes on meanwhile can only add what nothing in the copy needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import sqlite3
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from storage.backup.transfer import dump_prices, dump_registry, sqlite_home
from storage.core.errors import BadFile, Damaged, HomeUnusable
from storage.core.files import check_no_links, fsync_folder
from storage.core.home import Home
from storage.core.location import LocalPath, Location
from storage.core.progress import report_progress
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import tables_lock
from storage.models.bundles import MANIFEST
from storage.models.registry import Models
from storage.tables.checksums import CHECKSUMS, LOG, read_checksums
from storage.tables.schemas import TABLES
from storage.tables.snapshot import snapshot
from storage.upkeep.file_integrity import data_files

if TYPE_CHECKING:
    from deltalake import DeltaTable

DATABASES = ("mlflow.db", "prices.db")
TOPS = (*TABLES, *DATABASES, "models", "folds", "raw", "reports")
LIST = "closecast-backup.json"
FORM = 1


@dataclass
class _Archive:
    """A tar file in the making, and the SHA-256 of what is in it."""

    tar: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)

    def add_file(self, name: str, path: Location) -> str:
        """Put a file's bytes as they are now under a name; returns their SHA-256.

        Raises:
            HomeUnusable: it is a link, or no file.
        """
        with path.open_regular() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return self.add(name, file, size)

    def add_bytes(self, name: str, content: bytes) -> str:
        """Put these bytes under a name; returns their SHA-256."""
        return self.add(name, io.BytesIO(content), len(content))

    def add(self, name: str, content: IO[bytes], size: int) -> str:
        """Put so many bytes of a stream under a name."""
        if name in self.sums:
            return self.sums[name]
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o644
        counted = _Counted(content)
        self.tar.addfile(entry, counted)
        self.sums[name] = counted.digest.hexdigest()
        report_progress("files", len(self.sums))
        return self.sums[name]


class _Counted(io.RawIOBase):
    """Reads a stream, and takes the digest of what was read."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._content.read(size)
        self.digest.update(piece)
        return piece


def back_up(home: Home, file: Path, *, wait_seconds: float = 900.0) -> int:
    """Write a consistent copy of a home to one tar file, and return how many files are in it.

    Everything but logs and locks; compressed where the name ends in `.gz` or `.tgz`. Runs go on meanwhile,
    compaction and pruning wait. What lies in PostgreSQL is in it as SQLite files, what lies in a bucket as
    the files of a home, so that it can be brought back to either.

    Raises:
        BadFile: there is a file of that name.
        HomeUnusable: the file cannot be written, or a link lies below the folders of the home.
        HomeBusy: somebody tidies the home for too long.
        Damaged: something is missing that the home needs.
    """
    if file.exists():
        raise BadFile(f"a new file is needed for the backup, but there is one at {file}: name another")
    mode: Literal["x", "x:gz"] = "x:gz" if file.name.endswith((".gz", ".tgz")) else "x"
    draft = file.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with tables_lock(prepare_home(home), wait_seconds=wait_seconds):
            with tarfile.open(draft, mode, format=tarfile.PAX_FORMAT) as tar:
                archive = _Archive(tar)
                with tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as folder:
                    _fill(archive, home, Path(folder))
                count = len(archive.sums)
                archive.add_bytes(LIST, _list_of(archive.sums))
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.rename(file)
            fsync_folder(file.parent)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise HomeUnusable(
            f"the backup {file} cannot be written: {reason}; make room, or name another"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return count


def _list_of(sums: dict[str, str]) -> bytes:
    return json.dumps({"form": FORM, "sha256": sums}, indent=1, sort_keys=True).encode()


def _fill(archive: _Archive, home: Home, scratch: Path) -> None:
    for name, table in zip(TABLES, snapshot([home.table(name) for name in TABLES]), strict=True):
        if table is not None:
            _add_table(archive, home.table(name), table)
    _add_registry(archive, home, scratch)
    _add_folder(archive, home.folds, home.root)
    _add_prices(archive, home, scratch)
    # After the prices: each candle's answer was kept before the candle.
    if home.is_shared:
        for path in home.raw.files():
            archive.add_file(path.relative_to(home.shared).as_posix(), path)
    else:
        _add_folder(archive, home.root / "raw", home.root)
    _add_folder(archive, home.reports, home.root)


def _add_prices(archive: _Archive, home: Home, scratch: Path) -> None:
    if copy := dump_prices(home, scratch):
        archive.add_file("prices.db", LocalPath(copy))


def _add_table(archive: _Archive, folder: Location, table: DeltaTable) -> None:
    """A table as it was when it was opened: the log up to there, and the data files that count then."""
    name = folder.name
    folder = folder.resolve()  # as Delta names its files
    folder.check_no_links(deep=True)
    newest, recorded, lines = table.version(), read_checksums(folder), dict[str, str]()
    log = [path for path in (folder / LOG).files() if path.is_file() and _up_to(path, newest)]
    for path in (*data_files(folder, table), *log):
        short = _short(path, folder)
        try:
            now = archive.add_file(f"{name}/{short}", path)
        except FileNotFoundError as error:
            raise Damaged(f"{path} is missing, its table names it: `closecast verify` tells more") from error
        if path.name != "_last_checkpoint":
            # What was recorded, so that a copy of something changed is found out as the original is.
            lines[short] = recorded.get(short, now)
    text = "".join(f"{sha256}  {short}\n" for short, sha256 in lines.items())
    archive.add_bytes(f"{name}/{CHECKSUMS}", text.encode())


def _short(path: Location, folder: Location) -> str:
    """A file's path in its table."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError as error:
        raise Damaged(
            f"the table {folder} names {path}, which is not in it: restore it from a backup"
        ) from error


def _up_to(path: Location, newest: int) -> bool:
    if path.name == "_last_checkpoint":
        return int(json.loads(path.read_bytes())["version"]) <= newest
    number = path.name.partition(".")[0]
    return number.isdecimal() and int(number) <= newest and path.suffix in (".json", ".parquet")


def _add_registry(archive: _Archive, home: Home, folder: Path) -> None:
    """The registry as it is now, and the bundles that it names: each was there before it was named."""
    copied = dump_registry(home, folder)
    if copied is None:
        return
    archive.add_file("mlflow.db", LocalPath(copied))
    for version in Models(sqlite_home(copied.parent)).versions():
        bundle = home.models / version.name / version.bundle
        check_no_links(bundle.parent, bundle)
        if home.is_shared:
            Models(home).open(version)  # brings what this home does not have
        if not (bundle / MANIFEST).is_file():
            raise Damaged(f"{bundle} is missing, the registry names it: `closecast verify` tells more")
        check_no_links(*bundle.rglob("*"))  # left out, it would be missing
        _add_folder(archive, bundle, home.root)


def _add_folder(archive: _Archive, folder: Path, root: Path) -> None:
    """Every file below a folder but drafts, links and what goes away meanwhile."""
    for path in sorted(folder.rglob("*")):
        short = path.relative_to(root)
        if path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in short.parts):
            with contextlib.suppress(FileNotFoundError):
                archive.add_file(short.as_posix(), LocalPath(path))
