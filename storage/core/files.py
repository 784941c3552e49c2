"""Files, whole or not at all: bytes in, bytes out, and the exchange's answers by their hash."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import secrets
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from storage.core.errors import BadFile, BadInput, Damaged, HomeUnusable

if TYPE_CHECKING:
    from storage.core.home import Home
    from storage.core.s3_path import Location

SHA256 = re.compile(r"[0-9a-f]{64}")
DRAFT = re.compile(r"\.[0-9a-f]{16}\.tmp")


def read_bytes(path: Path, *, limit: int = 2**30) -> bytes:
    """The whole file, of at most `limit` bytes.

    Raises:
        BadFile: missing, a folder, not readable, empty, or larger than `limit`.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise BadFile(f"a file was needed, but {path} is a folder; name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise BadFile(f"a file was needed, but {path} is a pipe or a device; save it to a file first")
        if found.st_size > limit:
            raise BadFile(f"a file of at most {limit} bytes was needed, but {path} is larger; split it")
        with path.open("rb") as file:
            data = file.read(min(limit, found.st_size) + 1)
            if len(data) <= limit:
                data += file.read(limit + 1 - len(data))  # it may have grown since
    except FileNotFoundError as error:
        raise BadFile(f"a file was needed, but there is none at {path}; check its name") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadFile(
            f"the file {path!s:.300} cannot be read: {reason}; check its name and rights"
        ) from error
    if not data:
        raise BadFile(f"a file with content was needed, but {path} is empty; fetch it again")
    if len(data) > limit:
        raise BadFile(f"a file of at most {limit} bytes was needed, but {path} is larger; split it")
    return data


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path`, durably: after a crash there is the old file or the new one, never a part.

    Raises:
        HomeUnusable: the folder cannot be written (or the disk is full); nothing is left behind.
    """
    # Not tempfile: its files are readable by their owner alone, and would stay so.
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        # Where no draft could be made there is none to take away.
        with suppress(OSError):
            draft.unlink()
        raise _unwritable(path, error) from error
    fsync_folder(path.parent)


def old_drafts(folder: Path, before: float) -> list[Path]:
    """What `write_atomic` left of a process that was killed, in a folder and all below it.

    Args:
        folder: where to look.
        before: seconds since 1970; a younger draft may be somebody's at work.
    """
    found = (path for path in folder.rglob(".*.tmp") if DRAFT.fullmatch(path.name) and path.is_file())
    return sorted(path for path in found if path.lstat().st_mtime < before)


def check_no_links(*paths: Path) -> None:
    """Refuse a link where something of ours is made or taken away: it may lead out of the home.

    The home itself and its own folders may be links, as somebody makes them who has a bigger disk.

    Raises:
        HomeUnusable: one of the paths is a link.
    """
    for path in paths:
        if path.is_symlink():
            raise HomeUnusable(
                f"{path} is a link, and no link is followed below the folders of a home: put what it leads"
                " to in its place"
            )


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read, not what a link of that name leads to, and no pipe, which nobody may write to.

    Raises:
        HomeUnusable: it is a link, or no file.
        OSError: it cannot be opened.
    """
    check_no_links(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:  # it became one just now
            check_no_links(path)
        raise
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise HomeUnusable(f"a file was needed at {path}, but it is none: put the file in its place")
    return file


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        HomeUnusable: the folder cannot be opened or synced.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from error


def sha256_file(path: Location) -> str:
    """The SHA-256 of a file's content, in hex, read in pieces.

    Raises:
        BadFile: missing or not readable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadFile(f"the file {path} cannot be read: {error.strerror or error}; check its name") from error


def keep_raw(home: Home, payload: bytes) -> str:
    """Keep an answer as it came, compressed, under its hash; once, however often it comes.

    Where machines share a bucket it is kept there as well.

    Returns:
        The SHA-256 of the payload in hex.

    Raises:
        HomeUnusable: the home cannot be written, or a link lies in the way.
    """
    sha256 = hashlib.sha256(payload).hexdigest()
    path = _raw_path(home, sha256)
    check_no_links(path.parent, path)
    # Without the time in its header, the same answer makes the same file.
    content = gzip.compress(payload, mtime=0)
    if home.bucket is not None:
        (home.bucket / "raw" / sha256[:2] / path.name).create(content)
    if path.is_file():
        return sha256
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    write_atomic(path, content)
    fsync_folder(home.raw)
    return sha256


def read_raw(home: Home, sha256: str) -> bytes:
    """The answer with that hash, as it came.

    Raises:
        BadInput: not a SHA-256 in hex.
        Damaged: it is not there, or no longer what the hash says.
    """
    if not SHA256.fullmatch(sha256):
        raise BadInput(f"a SHA-256 is 64 hexadecimal digits, not {sha256!r:.80}")
    path: Location = _raw_path(home, sha256)
    if home.bucket is not None:  # what another machine has fetched is there alone
        path = home.bucket / "raw" / sha256[:2] / path.name
    try:
        payload = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(f"the raw answer {path} cannot be read: {error}; restore it from a backup") from error
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise Damaged(f"the raw answer {path} is not what its name says; restore it from a backup")
    return payload


def _raw_path(home: Home, sha256: str) -> Path:
    return home.raw / sha256[:2] / f"{sha256}.json.gz"


def _unwritable(path: Path, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"{path} cannot be written: {error.strerror or error};"
        " make room or rights, or choose another home with --home or CLOSECAST_HOME"
    )
