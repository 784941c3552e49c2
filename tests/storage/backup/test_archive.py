"""What no backup holds is refused in a line that names the archive, and costs no memory, time or room."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.backup import archive
from storage.backup.backup import LIST
from storage.backup.restore import restore
from storage.core.errors import BadFile, HomeUnusable
from storage.core.home import Home

Entry = tuple[str, bytes] | tuple[str, bytes, dict[str, str]]


def listed(**sums: Any) -> bytes:
    return json.dumps({"form": 1, "sha256": sums}).encode()


def tar(place: Path, *entries: Entry) -> Path:
    with tarfile.open(place, "w:gz", format=tarfile.PAX_FORMAT) as file:
        for name, content, *headers in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = dict(*headers)
            file.addfile(member, io.BytesIO(content))
    return place


def sparse(name: str, size: int) -> Entry:
    """An empty file of that size, in a few bytes."""
    words = {"major": "1", "minor": "0", "name": name, "realsize": str(size)}
    content = f"1\n{size}\n0\n".encode().ljust(512, b"\0")
    return name, content, {f"GNU.sparse.{word}": value for word, value in words.items()}


def refused(tmp_path: Path, file: Path, what: type[Exception] = BadFile) -> str:
    """The line in which the archive is refused; nothing is left of it."""
    home = Home(tmp_path / "again")
    with pytest.raises(what) as error:
        restore(file, home)
    assert str(error.value).isprintable()
    assert file.name in str(error.value)
    assert not [path for path in home.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return str(error.value)


NESTED = b'{"form": 1, "sha256": ' + b"[" * 200_000
ODD: dict[str, list[Entry]] = {
    "sparse": [sparse("raw/a", 3 * 2**30), (LIST, listed())],
    "sparse list": [sparse(LIST, 6 * 2**30)],
    "two of a name": [("raw/a", b"1"), ("raw/a", b"1"), (LIST, listed())],
    "two lists": [(LIST, listed()), (LIST, listed())],
    "a file as a folder": [("raw/a", b"1"), ("raw/a/b", b"1"), (LIST, listed())],
    "a folder as a file": [("raw/a/b", b"1"), ("raw/a", b"1"), (LIST, listed())],
    "another way to the same": [("raw/./a", b"1"), (LIST, listed())],
    "a folder of the home as a file": [("raw", b"1"), (LIST, listed())],
    "a database as a folder": [("prices.db/a", b"1"), (LIST, listed())],
    "no name": [(".", b"1"), (LIST, listed())],
    "a long name": [("raw/" + "a" * 256, b"1"), (LIST, listed())],
    "a large header": [("raw/a", b"1", {"comment": "a" * 2**20}), (LIST, listed())],
    "no list": [("raw/a", b"1")],
    "a nested list": [(LIST, NESTED)],
    "a list of another form": [(LIST, b"[]")],
    "sums that are none": [("raw/a", b"1"), (LIST, listed(**{"raw/a": {}}))],
    "a number": [(LIST, b"1" * 5000)],
}


@pytest.mark.parametrize("kind", ODD)
def test_what_no_backup_holds_is_refused(tmp_path: Path, kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "backup" in refused(tmp_path, tar(tmp_path / "b.tar.gz", *ODD[kind]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def broken(content: bytes) -> bytes:
    return content[: len(content) // 2] + b"\xff" * 40 + content[len(content) // 2 + 40 :]


@pytest.mark.parametrize(
    "spoil", [broken, lambda content: content[:-200], lambda _: b"\x1f\x8b" + b"\0" * 99]
)
def test_a_spoilt_archive_is_named(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    file = tar(tmp_path / "b.tar.gz", ("raw/a", os.urandom(9000)), (LIST, listed()))
    file.write_bytes(spoil(file.read_bytes()))
    assert "backup of" in refused(tmp_path, file)


def test_what_backup_does_not_write_is_not_unpacked(tmp_path: Path) -> None:
    for mode in ("w:xz", "w:bz2"):
        with tarfile.open(tmp_path / "b.tar", mode) as file:
            file.addfile(tarfile.TarInfo("raw/a"), io.BytesIO())
        assert "is no whole backup" in refused(tmp_path, tmp_path / "b.tar")


def test_what_does_not_fit_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"raw/{number}" for number in range(20)]
    sums = dict.fromkeys(names, hashlib.sha256(b"1").hexdigest())
    file = tar(tmp_path / "b.tar.gz", *((name, b"1") for name in names), (LIST, listed(**sums)))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 4096))
        patch.setattr(archive, "_put", lambda *_: pytest.fail("written"))
        assert "make room" in refused(tmp_path, file, HomeUnusable)
    assert restore(file, Home(tmp_path / "again")) == 20


def test_a_file_larger_than_the_disk_is_refused_by_its_header(tmp_path: Path) -> None:
    member = tarfile.TarInfo("raw/a")
    member.size = 2**60
    (tmp_path / "b.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "bytes that are free" in refused(tmp_path, tmp_path / "b.tar", HomeUnusable)


@pytest.mark.timeout(30)
def test_what_is_no_file_is_refused_before_a_home_is_made(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    kinds = {"pipe": "a pipe or a device", "folder": "a folder", "/dev/zero": "a pipe or a device"}
    for name, kind in kinds.items():
        with pytest.raises(BadFile, match=rf"{name} is {kind}; name the file"):
            restore(tmp_path / name, Home(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_a_short_header_of_gzip_is_no_plain_tar(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(gzip.compress(b"no tar"))
    assert "is no whole backup" in refused(tmp_path, tmp_path / "b.tar")
