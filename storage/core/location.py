# ruff: noqa: D102 (the protocol documents the methods)
"""Where tables, bundles and responses are: a folder or a prefix of a bucket, behind one protocol.

`Home.shared` chooses between `LocalPath` and `S3Path`; no other module asks which one it has.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PosixPath, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self
from urllib.parse import unquote, urlsplit

from closecast.storage.core.errors import HomeUnusable
from closecast.storage.core.files import (
    check_no_links,
    check_regular,
    fsync_folder,
    make_folder,
    open_file,
    sha256_file,
    unwritable,
    write_atomic,
)

if TYPE_CHECKING:
    from pyarrow import fs


class Location(Protocol):
    """The methods of `pathlib.Path` that closecast needs, and those that differ between the engines.

    Methods that use a server raise `HomeUnusable` if it cannot be reached, or refuses.
    """

    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def parent(self) -> Self: ...
    def __truediv__(self, name: str, /) -> Self: ...
    def relative_to(self, other: Self, /) -> PurePosixPath: ...
    def resolve(self) -> Self: ...  # as Delta names it: links followed
    def is_file(self) -> bool: ...
    def is_symlink(self) -> bool: ...
    def is_dir(self) -> bool: ...  # a folder, or a prefix that something lies below
    def unlink(self) -> None: ...
    def read_bytes(self) -> bytes: ...  # FileNotFoundError where there is nothing
    def open_regular(self) -> BinaryIO: ...  # the same as a stream; HomeUnusable for a link or a pipe
    def sha256(self) -> str: ...  # of the content, in hex; BadFile where it cannot be read
    def put(self, content: bytes) -> None: ...  # durably, whole or not at all, in place of an older one
    def create(self, content: bytes) -> bool: ...  # the same unless there is something; whether it did
    def folder_names(self) -> list[str]: ...  # directly below, without links
    # Below, sorted, from a name on: no links, but pipes and devices, which the methods here refuse to open.
    def files(self, *, after: str | None = None) -> list[Self]: ...
    def names_beside(self, folder: str) -> list[str]: ...  # in it; none in a bucket, where it takes a request
    def located(self, uri: str) -> Self: ...  # the file of Delta's address; ValueError where it leads out
    def check_no_links(self, *, deep: bool = False) -> None: ...  # HomeUnusable for a link (directly) below
    def check_regular(self) -> None: ...  # Damaged for a pipe, a socket or a device, here or directly below
    def check_reachable(self) -> None: ...
    def claim(self, identity: Callable[[], str], address: str) -> None: ...  # for one price database
    def bundle_name(self, key: str, manifest_sha256: str) -> str: ...  # of a model's folder
    def artifact_uri(self, name: str) -> str: ...  # of what lies below, for MLflow, also after a move
    def sync(self, paths: Iterable[Location]) -> None: ...  # make them and their names durable, in order
    @property
    def storage_options(self) -> dict[str, str] | None: ...  # of Delta
    def arrow_filesystem(self) -> fs.FileSystem | None: ...  # below this; None for the one of Delta

    # A list of lines that grows, by numbered additions; the same number again may repeat its lines.
    def add_lines(self, number: int, lines: list[str]) -> None: ...
    def read_lines(self, *, after: int = -1) -> list[str]: ...  # at least those of additions above `after`
    def rewrite_lines(self, change: Callable[[list[str]], list[str]]) -> None: ...


class LocalPath(PosixPath):
    """A folder or file of this machine's disk."""

    def folder_names(self) -> list[str]:
        _, folders, _ = next(self._walked(), ("", [], []))
        return [name for name in folders if not (self / name).is_symlink()]

    def files(self, *, after: str | None = None) -> list[Self]:
        found = (type(self)(folder, name) for folder, _, names in self._walked() for name in names)
        paths = sorted(path for path in found if not path.is_symlink())
        return paths if after is None else [path for path in paths if path > self / after]

    def names_beside(self, folder: str) -> list[str]:
        with contextlib.suppress(OSError):  # one that may not be read stops no commit
            return os.listdir(self.parent / folder)  # noqa: PTH208 (a log has thousands)
        return []

    def _walked(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """The folders from this one on; `glob` would pass over one that may not be read, as if empty."""

        def give_up(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        return os.walk(self, onerror=give_up)

    def read_bytes(self) -> bytes:
        with open_file(self) as file:
            return file.read()

    def open_regular(self) -> BinaryIO:
        check_no_links(self)
        try:
            return open_file(self, os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ELOOP:  # it became a link just now
                check_no_links(self)
            if error.errno == errno.EINVAL:
                raise HomeUnusable(
                    f"a regular file was needed at {self}, but it is not one: restore the file"
                ) from error
            raise

    def sha256(self) -> str:
        return sha256_file(self)

    def put(self, content: bytes) -> None:
        make_folder(self.parent)
        write_atomic(self, content)

    def create(self, content: bytes) -> bool:
        check_no_links(self.parent, self)
        if self.is_file():
            return False
        self.put(content)
        fsync_folder(self.parent.parent)
        return True

    def check_no_links(self, *, deep: bool = False) -> None:
        check_no_links(*(self.rglob("*") if deep else self.glob("*")))

    def check_regular(self) -> None:
        check_regular(self)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self) as entries:
            # A log has thousands of plain files, which need no further look.
            others = [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]
            check_regular(*(self / name for name in others))

    def check_reachable(self) -> None: ...

    def claim(self, identity: Callable[[], str], address: str) -> None: ...

    def bundle_name(self, key: str, manifest_sha256: str) -> str:  # noqa: ARG002 (the same key, the same folder)
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def artifact_uri(self, name: str) -> str:
        return f"closecast:/{name}"  # below the folder of the registry, by `flows.mlflow_plugin`

    def located(self, uri: str) -> Self:
        path = type(self)(unquote(urlsplit(uri).path if "://" in uri else uri))
        if ".." in path.parts:
            raise ValueError(path)
        return path

    @property
    def storage_options(self) -> None: ...

    def arrow_filesystem(self) -> fs.FileSystem:
        # Not Delta's, which is written in Python: a thread of Arrow that still holds it when the
        # interpreter ends aborts the process.
        from pyarrow import fs

        return fs.SubTreeFileSystem(str(self), fs.LocalFileSystem())

    def sync(self, paths: Iterable[Location]) -> None:
        for path in map(Path, map(str, paths)):
            with path.open("rb") as written:
                os.fsync(written.fileno())
            fsync_folder(path.parent)
        fsync_folder(self)

    def read_lines(self, *, after: int = -1) -> list[str]:  # noqa: ARG002 (one file has them all)
        return self.read_bytes().decode(errors="replace").split("\n") if self.is_file() else []

    def add_lines(self, number: int, lines: list[str]) -> None:  # noqa: ARG002 (as above)
        try:
            # Unbuffered and at the file's end, so that two processes at once do not mix their lines.
            with self.open("ab+", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                cut = end and file.read(1) != b"\n"  # by a crash in the middle of a line
                file.write((("\n" if cut else "") + "".join(f"{line}\n" for line in lines)).encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self, error) from error
        if not end:
            fsync_folder(self.parent)

    def rewrite_lines(self, change: Callable[[list[str]], list[str]]) -> None:
        """Lines that another process adds meanwhile may be lost."""
        self.put("".join(f"{line}\n" for line in change(self.read_lines())).encode())
