"""What a backup's archive holds, read with care.

Whoever made it, it gets no more memory, time and room than a backup of its size needs.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from storage.backup.backup import DATABASES, FORM, LIST, TOPS
from storage.core.errors import BadFile, HomeUnusable
from storage.core.files import sha256_file
from storage.core.progress import report_progress

LIST_BYTES = 256_000_000
# Of the list: two spaces, two quoted texts, a colon and a space, a comma and the end of the line.
LINE_BYTES = 75
# What one file takes up at least, and in steps of what it takes up more.
BLOCK_BYTES = 4096
HEADER_BYTES = 2**16
PATH_BYTES, NAME_BYTES = 1024, 255
GZIP = b"\x1f\x8b"


def open_archive(file: Path) -> BinaryIO:
    """The archive to read; a pipe or a device, which may never end, is none.

    Raises:
        BadFile: it is no file, or cannot be read.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadFile(
            f"a backup was needed, but there is no file at {file!s:.300}; check its name"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadFile(
            f"the backup {file!s:.300} cannot be read: {reason}; check its name and rights"
        ) from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise BadFile(f"a file that `closecast backup` wrote was needed, but {file} is {kind}; name the file")
    return os.fdopen(handle, "rb")


class _Archive:
    """The bytes of an archive, unpacked; no more are read than whoever reads was allowed."""

    def __init__(self, source: BinaryIO, file: Path) -> None:
        source.seek(0)
        packed = source.read(len(GZIP)) == GZIP
        source.seek(0)
        self._content = cast("BinaryIO", gzip.GzipFile(fileobj=source)) if packed else source
        self._file = file
        self.allowed = HEADER_BYTES

    def read(self, size: int) -> bytes:
        # tarfile takes the length of a header, and of a sparse file's map, from the archive.
        if size > self.allowed:
            raise BadFile(f"{self._file} is no backup of closecast: a header in it is too large")
        self.allowed -= size
        with _told(self._file):
            return self._content.read(size)

    def seek(self, place: int) -> int:
        with _told(self._file):
            return self._content.seek(place)

    def tell(self) -> int:
        return self._content.tell()


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Say of what cannot be read that it is the archive, not the home."""
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0].rstrip(":")
        raise BadFile(f"{file} is no whole backup of closecast ({reason}): take another one") from error


def _entries(source: BinaryIO, file: Path, free: int) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file of a backup, the list as the last of them, within `free` bytes.

    Raises:
        BadFile: it holds what no backup holds.
        HomeUnusable: it is larger than `free`.
    """
    archive, names, taken = _Archive(source, file), set[str](), 0
    with _told(file):
        tar = tarfile.open(fileobj=cast("IO[bytes]", archive), mode="r:")  # noqa: SIM115 (nothing to close)
    while (entry := _next(tar, archive, file)) is not None:
        if LIST in names or entry.name in names or not _is_ours(entry):
            raise BadFile(f"{file} is no backup of closecast: it holds {entry.name!r:.80}")
        if len(names) > LIST_BYTES // LINE_BYTES:
            raise BadFile(f"{file} is no backup of closecast: it holds more files than its list can name")
        names.add(entry.name)
        taken += -(-max(entry.size, 1) // BLOCK_BYTES) * BLOCK_BYTES
        if taken > free:
            raise HomeUnusable(
                f"{file} unpacks to more than the {free:,} bytes that are free for it: make room, or choose"
                " another --home"
            )
        archive.allowed = entry.size + HEADER_BYTES
        content = tar.extractfile(entry)
        assert content is not None  # noqa: S101 (a regular file)
        yield entry.name, content


def _next(tar: tarfile.TarFile, archive: _Archive, file: Path) -> tarfile.TarInfo | None:
    archive.allowed = HEADER_BYTES
    cast("Any", tar).members.clear()  # it would keep them all
    with _told(file):
        return tar.next()


def _is_ours(entry: tarfile.TarInfo) -> bool:
    """Whether a backup may hold that: a plain file, in one of the home's own places, or the list."""
    name = entry.name
    if not entry.isreg() or entry.issparse() or entry.size < 0:
        return False
    if name == LIST:
        return entry.size <= LIST_BYTES
    parts = name.split("/")
    if {"", ".", ".."}.intersection(parts) or "\0" in name or len(os.fsencode(name)) > PATH_BYTES:
        return False
    if max(len(os.fsencode(part)) for part in parts) > NAME_BYTES:
        return False
    return name in DATABASES if len(parts) == 1 else parts[0] in TOPS and parts[0] not in DATABASES


def unpack(source: BinaryIO, file: Path, staging: Path) -> int:
    """Unpack into a folder of its own, and compare with the list; returns the number of files.

    Raises:
        BadFile: it is no backup, or it was changed.
        HomeUnusable: the folder's disk has too little room for it; nothing was written.
        OSError: the folder cannot be written.
    """
    free = shutil.disk_usage(staging).free
    for _ in _entries(source, file, free):
        pass  # nothing is written of what would not fit
    sums = dict[str, str]()
    recorded: dict[str, str] | None = None
    for name, content in _entries(source, file, free):
        if name == LIST:
            recorded = _recorded(content, file)
        else:
            sums[name] = _put(staging / name, content, file)
            report_progress("files", len(sums))
    if recorded is None:
        raise _no_list(file)
    wrong = sorted(name for name, _ in sums.items() ^ recorded.items())
    if wrong:
        raise BadFile(
            f"{file} was changed or cut short: {wrong[0]!r:.200} is not what was backed up; take another one"
        )
    return len(sums)


def _recorded(content: IO[bytes], file: Path) -> dict[str, str]:
    """The list of what is in the backup: the SHA-256 of each file by its name."""
    with _told(file):
        found: Any = json.loads(content.read())
    sums = found.get("sha256") if isinstance(found, dict) and found.get("form") == FORM else None
    if not isinstance(sums, dict) or not all(isinstance(sha256, str) for sha256 in sums.values()):
        raise _no_list(file)
    return sums


def _no_list(file: Path) -> BadFile:
    return BadFile(f"{file} is no backup of this closecast: it has no list of form {FORM}")


def _put(path: Path, content: IO[bytes], file: Path) -> str:
    """One file of a backup in its place; its SHA-256."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadFile(
            f"{file} is no backup of closecast: two files in it have one place, {path.name!r:.80}"
        ) from error
    with written:
        try:
            shutil.copyfileobj(content, written, 2**20)
        except tarfile.TarError as error:
            raise BadFile(f"{file} is no whole backup of closecast ({error}): take another one") from error
        written.flush()
        os.fsync(written.fileno())
    return sha256_file(path)
