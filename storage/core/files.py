"""Files of this machine: read with one clear error, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from storage.core.errors import BadFile, HomeUnusable

DRAFT = re.compile(r"\.[0-9a-f]{16}\.tmp")


def read_bytes(path: Path, *, limit: int = 2**30) -> bytes:
    """The whole file, of at most `limit` bytes.

    Raises:
        BadFile: missing, a folder, not readable, empty, or larger than `limit`.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadFile(f"a file was needed, but {path} is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise BadFile(f"a file was needed, but {path} is a pipe or a device; save it to a file first")
        if status.st_size > limit:
            raise BadFile(f"a file of at most {limit} bytes was needed, but {path} is larger; split it")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadFile(f"a file was needed, but there is none at {path}; check its name") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadFile(
            f"the file {path!s:.300} cannot be read: {reason}; check its name and rights"
        ) from error
    if not data:
        raise BadFile(f"a file with content was needed, but {path} is empty; fetch it again")
    return data


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` durably: after a crash there is the old file or the new one, never a part.

    Where it cannot be written, `HomeUnusable` is raised and no draft remains.
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
        with suppress(OSError):
            draft.unlink()
        raise unwritable(path, error) from error
    fsync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, or raise `HomeUnusable`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def check_writable(folder: Path) -> None:
    """Make a folder and write a file into it, or raise OSError; `os.access` is true on read-only mounts."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def old_drafts(folder: Path, before: float) -> list[Path]:
    """The drafts below a folder that were last written before that time, in seconds since 1970."""
    drafts = (path for path in folder.rglob(".*.tmp") if DRAFT.fullmatch(path.name) and path.is_file())
    return sorted(path for path in drafts if path.lstat().st_mtime < before)


def check_no_links(*paths: Path) -> None:
    """Raise `HomeUnusable` for a link where closecast writes or deletes: it may lead out of the home.

    The home itself and its own folders may be links, to a bigger disk for instance.
    """
    for path in paths:
        if path.is_symlink():
            raise HomeUnusable(
                f"{path} is a link, and no link is followed below the folders of a home: replace it by"
                " what it leads to"
            )


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable, or raise `HomeUnusable`."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hex; `BadFile` where it is missing or not readable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadFile(f"the file {path} cannot be read: {error.strerror or error}; check its name") from error


def unwritable(path: Path, error: OSError) -> HomeUnusable:
    """The error for a file or folder that cannot be written."""
    return HomeUnusable(
        f"{path} cannot be written: {error.strerror or error};"
        " make room or rights, or choose another home with --home or CLOSECAST_HOME"
    )
