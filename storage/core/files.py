"""Files of this machine: read with one clear error, written completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from closecast.storage.core.errors import BadFile, Damaged, HomeUnusable, reason_of

DRAFT = re.compile(r"\.[0-9a-f]{16}\.tmp")


def read_bytes(path: Path, *, limit: int = 2**30) -> bytes:
    """The whole file; `BadFile` if missing, a folder, not readable, empty, or larger than `limit` bytes."""
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
        raise BadFile(
            f"the file {path!s:.300} cannot be read: {reason_of(error)}; check its name and rights"
        ) from error
    if not data:
        raise BadFile(f"a file with content was needed, but {path} is empty; fetch it again")
    return data


def open_file(path: Path, flags: int = 0) -> BufferedReader:
    """A regular file, opened for reading; OSError for a pipe as well, whose end may never come."""
    flags |= os.O_NONBLOCK  # a pipe may have no writer
    irregular = OSError(errno.EINVAL, "it is not a regular file", str(path))
    if _is_device(path):
        raise irregular
    file = open(path, "rb", opener=lambda name, usual: os.open(name, usual | flags))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it became one just now
        file.close()
        raise irregular
    return file


def absolute_path(path: Path | str, folder: Path | str = "") -> Path:
    """The absolute path, with `~` as the user's folder; links in it stay, and nothing is read.

    A relative path starts in the `folder`, by default the working folder. `BadFile` for the `~` of a user
    that this machine does not have.
    """
    try:
        return Path(os.path.abspath(folder / Path(path).expanduser()))  # noqa: PTH100
    except RuntimeError as error:
        raise BadFile(
            f"the whole path is needed, not {str(path)!r:.200}: this machine knows no folder of that user"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` durably: after a crash there is the old file or the new one, never part of it.

    If it cannot be written, `HomeUnusable` is raised and no draft remains.
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


def remove(path: Path) -> None:
    """Remove a folder and all in it, a file or a link, or raise `HomeUnusable`; none there is no error."""
    try:
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise HomeUnusable(f"{path} cannot be removed: {reason_of(error)}; correct its rights") from error


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
                f"{path} is a link, and closecast follows no links inside the folders of a home: replace it"
                " with its target"
            )


def check_regular(*paths: Path) -> None:
    """Raise `Damaged` for a pipe, a socket or a device: code of others that opens one may wait for ever."""
    for path in paths:
        if _is_device(path):
            raise Damaged(f"{path} is not a regular file: restore it from a backup")


def _is_device(path: Path) -> bool:
    """Whether there is a pipe, a socket or a device."""
    return not (path.is_file() or path.is_dir()) and path.exists()


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
    """The SHA-256 of a file's content, in hex; `BadFile` if it is missing or not readable."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadFile(f"the file {path} cannot be read: {reason_of(error)}; check its name") from error


def unwritable(path: Path, error: OSError) -> HomeUnusable:
    """The error for a file or folder that cannot be written."""
    reason, remedy = reason_of(error), "make room, correct its rights, or choose"
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason, remedy = "it is a file or below one, and a folder is needed", "choose"
    return HomeUnusable(
        f"{path} cannot be written: {reason}; {remedy} another home with --home or CLOSECAST_HOME"
    )
