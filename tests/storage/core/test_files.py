"""Files are read with one clear error, and written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from closecast.storage.core import files
from closecast.storage.core.errors import BadFile, HomeUnusable
from tests.helpers import one_line


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.csv", "there is none"),
        ("folder", "is a folder"),
        ("empty.csv", "is empty"),
        ("large.csv", "at most 10 bytes"),
        ("pipe", "pipe or a device"),
        ("/dev/zero", "pipe or a device"),
        ("loop", "cannot be read"),
        ("large.csv/under", "cannot be read"),
        ("n" * 300, "cannot be read"),
        ("nul\0", "cannot be read"),
    ],
)
def test_anything_but_a_file_of_that_size_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.csv").touch()
    (tmp_path / "large.csv").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BadFile, match=words, check=one_line):
        files.read_bytes(tmp_path / name, limit=10)


def test_a_file_is_written_and_replaced_with_ordinary_rights(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert names(tmp_path) == ["report.html"]


def test_a_failed_write_keeps_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    files.write_atomic(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HomeUnusable, match="No space left on device", check=one_line):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["report.html"]


@pytest.mark.parametrize("where", ["none/f", "file/f", "folder"])
def test_writing_where_no_file_can_be_raises_home_unusable(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(HomeUnusable, match="cannot be written", check=one_line):
        files.write_atomic(tmp_path / where, b"x")
    assert names(tmp_path) == ["file", "folder"]
