"""An archive that no backup wrote is refused in one line that names it, and costs no memory, time or room."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from closecast.storage.backup.archive import LIST
from closecast.storage.backup.restore import restore
from closecast.storage.core.errors import BadFile, HomeUnusable
from closecast.storage.core.home import Home

Entry = tuple[str, bytes] | tuple[str, bytes, dict[str, Any]]


def listed(**checksums: Any) -> bytes:
    return json.dumps({"format": 1, "sha256": checksums}).encode()


def pack(path: Path, *entries: Entry) -> Path:
    """An archive with those entries: name, content, and fields of the header."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name, content, *fields in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            header: dict[str, Any] = dict(*fields)
            for field, value in header.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(content))
    return path


def sparse(name: str, size: int) -> Entry:
    """An empty file of that size, in a few bytes."""
    fields = {"major": "1", "minor": "0", "name": name, "realsize": str(size)}
    content = f"1\n{size}\n0\n".encode().ljust(512, b"\0")
    return name, content, {"pax_headers": {f"GNU.sparse.{field}": value for field, value in fields.items()}}


def link(kind: bytes, target: str = "") -> Entry:
    return "models/evil", b"", {"type": kind, "linkname": target}


def refusal(tmp_path: Path, file: Path, error_type: type[Exception] = BadFile) -> str:
    """The line in which the archive is refused; nothing remains of it."""
    home = Home(tmp_path / "again")
    with pytest.raises(error_type) as error:
        restore(file, home)
    assert str(error.value).isprintable()
    assert file.name in str(error.value)
    assert not [path for path in home.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not list(tmp_path.rglob("evil"))
    return str(error.value)


HOSTILE: dict[str, list[Entry]] = {
    "a sparse file": [sparse("raw/a", 3 * 2**30)],
    "a sparse list": [sparse(LIST, 6 * 2**30)],
    "two files of one name": [("raw/a", b"1"), ("raw/a", b"1")],
    "two lists": [(LIST, listed())],
    "a file as a folder": [("raw/a", b"1"), ("raw/a/b", b"1")],
    "a folder as a file": [("raw/a/b", b"1"), ("raw/a", b"1")],
    "another path to the same file": [("raw/./a", b"1")],
    "a folder of the home as a file": [("raw", b"1")],
    "a database as a folder": [("prices.db/a", b"1")],
    "no name": [(".", b"1")],
    "a long name": [("raw/" + "a" * 256, b"1")],
    "a large header": [("raw/a", b"1", {"pax_headers": {"comment": "a" * 2**20}})],
    "a file that is not listed": [("models/evil", b"1")],
    "a path out of the home": [("../evil", b"1")],
    "a path out of a folder": [("models/../../evil", b"1")],
    "an absolute path": [("/tmp/evil", b"1")],  # noqa: S108
    "a folder that is not backed up": [("logs/evil", b"1")],
    "a symbolic link": [link(tarfile.SYMTYPE, "/etc")],
    "a hard link": [link(tarfile.LNKTYPE, "/etc/passwd")],
    "a pipe": [link(tarfile.FIFOTYPE)],
    "a device": [link(tarfile.CHRTYPE)],
}
BAD_LISTS: dict[str, list[Entry]] = {
    "no list": [("raw/a", b"1")],
    "a nested list": [(LIST, b'{"format": 1, "sha256": ' + b"[" * 200_000)],
    "a list of another type": [(LIST, b"[]")],
    "a list of another format": [(LIST, b'{"format": 2, "sha256": {}}')],
    "checksums of another type": [("raw/a", b"1"), (LIST, listed(**{"raw/a": {}}))],
    "a list that is a number": [(LIST, b"1" * 5000)],
}
ARCHIVES = {kind: [*entries, (LIST, listed())] for kind, entries in HOSTILE.items()} | BAD_LISTS


@pytest.mark.parametrize("kind", ARCHIVES)
def test_hostile_archives_are_refused_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is not a complete backup" in refusal(tmp_path, pack(tmp_path / "b.tar.gz", *ARCHIVES[kind]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def overwrite(content: bytes) -> bytes:
    return content[: len(content) // 2] + b"\xff" * 40 + content[len(content) // 2 + 40 :]


@pytest.mark.parametrize(
    "damage",
    [
        overwrite,
        lambda content: content[:-200],
        lambda content: lzma.compress(gzip.decompress(content)),
        lambda _: b"\x1f\x8b" + b"\0" * 99,
        lambda _: gzip.compress(b"no tar"),
        lambda _: b"",
        lambda _: b"[core]\n" * 999,
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = pack(tmp_path / "b.tar.gz", ("raw/a", os.urandom(9000)), (LIST, listed()))
    file.write_bytes(damage(file.read_bytes()))
    assert "is not a complete backup" in refusal(tmp_path, file)


def test_an_archive_that_does_not_fit_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"raw/{number}" for number in range(20)]
    checksums = dict.fromkeys(names, hashlib.sha256(b"1").hexdigest())
    file = pack(tmp_path / "b.tar.gz", *((name, b"1") for name in names), (LIST, listed(**checksums)))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 4096))
        patch.setattr(tarfile.TarFile, "extractfile", lambda *_, **__: pytest.fail("written"))
        assert "make room" in refusal(tmp_path, file, HomeUnusable)
    assert restore(file, Home(tmp_path / "again")) == 20


def test_a_file_larger_than_the_disk_is_refused_by_its_header(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("raw/a")
    entry.size = 2**60
    (tmp_path / "b.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "bytes that are free" in refusal(tmp_path, tmp_path / "b.tar", HomeUnusable)


@pytest.mark.timeout(30)
def test_a_path_that_is_no_file_is_refused_before_a_home_is_made(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    kinds = {"pipe": "a pipe or a device", "folder": "a folder", "/dev/zero": "a pipe or a device"}
    for name, kind in {**kinds, "none": "no file"}.items():
        with pytest.raises(BadFile, match=rf"{name} is {kind}; name the file"):
            restore(tmp_path / name, Home(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
