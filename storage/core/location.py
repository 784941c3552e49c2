# ruff: noqa: D102 (the methods of an engine are documented in the protocol)
"""Where tables, bundles and responses lie: a folder or a prefix of a bucket, behind one protocol.

`Home.shared` chooses between `LocalPath` and `S3Path`; no other module asks which one it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path, PosixPath, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self
from urllib.parse import unquote, urlsplit

from storage.core.errors import HomeUnusable
from storage.core.files import (
    check_no_links,
    fsync_folder,
    make_folder,
    open_regular,
    sha256_file,
    write_atomic,
)

if TYPE_CHECKING:
    from pyarrow import fs


class Location(Protocol):
    """What closecast needs of `pathlib.Path`, under the same names, and what differs between the engines.

    Raises (whatever asks a server):
        HomeUnusable: it cannot be reached, or refuses.
    """

    @property
    def name(self) -> str:
        """The part after the last slash."""

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""

    @property
    def parent(self) -> Self:
        """The folder or prefix above."""

    def __truediv__(self, name: str, /) -> Self: ...

    def relative_to(self, other: Self, /) -> PurePosixPath:
        """The path from `other` on."""

    def is_file(self) -> bool:
        """Whether there is a file or object of this very name."""

    def is_dir(self) -> bool:
        """Whether it is a folder, or a prefix that something lies below."""

    def folder_names(self) -> list[str]:
        """The names of the folders directly below; links are not followed."""

    def files(self, *, after: str | None = None) -> list[Self]:
        """Every file below, sorted; with `after` only those whose path from here sorts later."""

    def read_bytes(self) -> bytes:
        """The content; `FileNotFoundError` where there is none."""

    def open_regular(self) -> BinaryIO:
        """The content as a stream; `HomeUnusable` for a link or a pipe, `FileNotFoundError` for nothing."""

    def sha256(self) -> str:
        """The SHA-256 of the content, in hex.

        Raises:
            BadFile: missing or not readable.
        """

    def put(self, content: bytes) -> None:
        """Write the content durably, whole or not at all, in place of an older one."""

    def create(self, content: bytes) -> bool:
        """Write the content unless there is something; whether it was written."""

    def unlink(self) -> None:
        """Delete the file or object."""

    def check_no_links(self, *, deep: bool = False) -> None:
        """Refuse links directly below, or anywhere below.

        Raises:
            HomeUnusable: there is one.
        """

    def check_reachable(self) -> None:
        """Ask the server for a sign of life; a folder is always reachable."""

    def resolve(self) -> Self:
        """The same location as Delta names it: links followed."""

    def located(self, uri: str) -> Self:
        """The location of a data file that Delta names by its address."""

    @property
    def storage_options(self) -> dict[str, str] | None:
        """Delta's options for this engine."""

    def arrow_filesystem(self) -> fs.FileSystem | None:
        """The file system by which PyArrow reads below, None for the one that Delta brings."""

    def sync(self, paths: Iterable[Location]) -> None:
        """Make these files, their names and this location durable, in that order."""

    def read_lines(self, *, after: int = -1) -> list[str]:
        """The lines of a list that grows, all of them or at least those of additions above `after`."""

    def add_lines(self, number: int, lines: list[str]) -> None:
        """Add lines to a list that grows, durably; the same number again replaces or repeats them."""

    def rewrite_lines(self, change: Callable[[list[str]], list[str]]) -> None:
        """Replace the lines of a list that grows by what `change` makes of them."""


class LocalPath(PosixPath):
    """A folder or file of this machine's disk."""

    def folder_names(self) -> list[str]:
        return [path.name for path in self.glob("*") if path.is_dir() and not path.is_symlink()]

    def files(self, *, after: str | None = None) -> list[Self]:
        paths = sorted(path for path in self.rglob("*") if path.is_file())
        return paths if after is None else [path for path in paths if path > self / after]

    def open_regular(self) -> BinaryIO:
        return open_regular(self)

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

    def check_reachable(self) -> None: ...

    def located(self, uri: str) -> Self:
        """A path that climbs out of its folder stays quoted, and names no file."""
        path = urlsplit(uri).path if "://" in uri else uri
        return type(self)(path if ".." in Path(unquote(path)).parts else unquote(path))

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
        try:
            return self.read_bytes().decode(errors="replace").split("\n")
        except FileNotFoundError:
            return []

    def add_lines(self, number: int, lines: list[str]) -> None:  # noqa: ARG002 (as above)
        try:
            # Unbuffered and at the file's end, so that two processes at once do not mix their lines.
            with self.open("ab+", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                cut = end and file.read(1) != b"\n"  # by a crash in the middle of a line
                file.write((("\n" if cut else "") + "".join(f"{line}\n" for line in lines)).encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise HomeUnusable(
                f"{self} cannot be written: {error.strerror or error}; make room, or choose another --home"
            ) from error
        if not end:
            fsync_folder(self.parent)

    def rewrite_lines(self, change: Callable[[list[str]], list[str]]) -> None:
        """Lines that another process adds meanwhile may be lost."""
        self.put("".join(f"{line}\n" for line in change(self.read_lines())).encode())
