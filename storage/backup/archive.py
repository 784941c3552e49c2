"""The archive of a backup: a tar file of a home's files, and last a list of their SHA-256 checksums.

An archive is not trusted: reading it takes no more memory, time and disk space than a real backup of its
size needs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from closecast.storage.core.errors import BadFile, HomeUnusable
from closecast.storage.core.location import Location
from closecast.storage.core.progress import report_progress
from closecast.storage.tables.schemas import TABLES

DATABASES = ("mlflow.db", "prices.db")
FOLDERS = (*TABLES, "models", "folds", "raw", "reports")
LIST = "closecast-backup.json"
FORMAT = 1
MAX_LIST_BYTES = 256_000_000
# A line of the list has at least 75 bytes: a SHA-256, a name, quotes, a colon, spaces, a comma, an end.
MAX_FILES = MAX_LIST_BYTES // 75
MAX_HEADER_BYTES = 2**16
MAX_PATH_BYTES, MAX_NAME_BYTES = 1024, 255
# A file takes up whole blocks of the disk.
BLOCK_BYTES = 4096
# Errors in an archive's content; any other `OSError` is the home's.
FAULTS = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError)


@dataclass
class ArchiveWriter:
    """A tar file that is being written, and the SHA-256 of each file in it."""

    tar: tarfile.TarFile
    checksums: dict[str, str] = field(default_factory=dict)

    def add_file(self, name: str, path: Location) -> str:
        """Add a file's bytes as they are now, but no link or pipe; returns their SHA-256."""
        with path.open_regular() as file:
            return self.add(name, file)

    def add_list(self) -> None:
        """Add the list of all files so far; it comes last."""
        content = {"format": FORMAT, "sha256": self.checksums}
        self.add(LIST, io.BytesIO(json.dumps(content, indent=1, sort_keys=True).encode()))

    def add(self, name: str, content: IO[bytes]) -> str:
        """Add these bytes under a name; returns their SHA-256."""
        if name not in self.checksums:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = content.seek(0, os.SEEK_END), 0o644
            content.seek(0)
            hashed = _Hashed(content)
            self.tar.addfile(entry, hashed)
            self.checksums[name] = hashed.sha256.hexdigest()
            report_progress("files", len(self.checksums))
        return self.checksums[name]


class _Hashed(io.RawIOBase):
    """A stream that takes the digest of the bytes that are read: a file may change between two readings."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._content.read(size)
        self.sha256.update(piece)
        return piece


def open_archive(file: Path) -> BinaryIO:
    """Open an archive for reading; refuses a pipe or a device, which may never end."""
    try:
        if file.is_file():
            return file.open("rb")
        kind = "a folder" if file.is_dir() else "a pipe or a device" if file.exists() else "no file"
    except OSError as error:
        raise BadFile(
            f"the backup {file!s:.300} cannot be read: {error.strerror}; check its name and rights"
        ) from error
    raise BadFile(f"a backup was needed, but {file!s:.300} is {kind}; name the file")


def unpack(source: BinaryIO, file: Path, staging: Path) -> int:
    """Unpack an archive into an empty folder, and check each file against the list; returns their number.

    `source` is the open archive, which is read twice, `file` its path for messages.

    Raises:
        BadFile: it is not a backup, or it was changed.
        HomeUnusable: the disk has too little room for it; nothing was written.
    """
    free = shutil.disk_usage(staging).free
    checksums = dict[str, str]()
    try:
        for _ in _entries(source, file, free):
            pass  # nothing is written before all of it is known to fit
        for tar, entry in _entries(source, file, free):
            checksums[entry.name] = _extract(tar, entry, staging / entry.name)
            report_progress("files", len(checksums))
        content: Any = json.loads((staging / LIST).read_bytes()) if LIST in checksums else None
        recorded = content.get("sha256") if isinstance(content, dict) else None
        if not isinstance(recorded, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it has no list of format {FORMAT}")
        del checksums[LIST]
        for name in sorted(checksums.keys() | recorded.keys()):
            if checksums.get(name) != recorded.get(name):
                raise ValueError(f"{name!r:.200} is not the file that was backed up")
    except FAULTS as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise BadFile(
            f"{file} is not a complete backup of this closecast ({reason}); use another one"
        ) from error
    return len(checksums)


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> str:
    """Write the bytes of an entry to a new file; returns their SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed = _Hashed(cast("IO[bytes]", tar.extractfile(entry)))
    with path.open("xb") as unpacked:
        shutil.copyfileobj(hashed, unpacked)
        unpacked.flush()
        os.fsync(unpacked.fileno())
    return hashed.sha256.hexdigest()


class _Reader:
    """The unpacked bytes of an archive, of which at most `budget` are read.

    tarfile takes the length of a header, and of a sparse file's map, from the archive.
    """

    def __init__(self, source: BinaryIO) -> None:
        source.seek(0)
        packed = source.read(2) == b"\x1f\x8b"
        source.seek(0)
        self._content = cast("BinaryIO", gzip.GzipFile(fileobj=source)) if packed else source
        self.seek, self.tell = self._content.seek, self._content.tell
        self.budget = MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.budget -= size
        if self.budget < 0:
            raise tarfile.ReadError("a header is too large")
        return self._content.read(size)


def _entries(source: BinaryIO, file: Path, free: int) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each entry of an archive, checked, and the open tar file to extract it from."""
    reader, names, folders, size = _Reader(source), set[str](), set[str](), 0
    with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:") as tar:
        while (entry := tar.next()) is not None:
            cast("Any", tar).members = []  # tarfile would keep every entry
            parents = {str(parent) for parent in PurePosixPath(entry.name).parents}
            overlaps = entry.name in names | folders or not names.isdisjoint(parents)
            if overlaps or not _belongs(entry) or len(names) > MAX_FILES:
                raise tarfile.ReadError(f"it holds {entry.name!r:.80}")
            names.add(entry.name)
            folders |= parents
            size += -(-max(entry.size, 1) // BLOCK_BYTES) * BLOCK_BYTES
            if size > free:
                raise HomeUnusable(
                    f"{file} unpacks to more than the {free:,} bytes that are free for it: make room, or"
                    " choose another --home"
                )
            reader.budget = entry.size + MAX_HEADER_BYTES
            yield tar, entry
            reader.budget = MAX_HEADER_BYTES


def _belongs(entry: tarfile.TarInfo) -> bool:
    """Whether a backup may hold the entry: the list, or a plain file where a home has one."""
    if not entry.isreg() or entry.issparse() or entry.size < 0:
        return False
    if entry.name == LIST:
        return entry.size <= MAX_LIST_BYTES
    path = PurePosixPath(entry.name)
    if str(path) != entry.name or ".." in path.parts or len(os.fsencode(path)) > MAX_PATH_BYTES:
        return False
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        return False
    return entry.name in DATABASES if len(path.parts) < 2 else path.parts[0] in FOLDERS
