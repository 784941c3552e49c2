"""Both engines of `Location` promise the same; `--storage s3` runs this on the other one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from closecast.storage.core.errors import BadFile, BadSetting, Damaged, HomeUnusable
from closecast.storage.core.home import Home, choose_location
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.core.s3_path import S3Path
from tests.helpers import deny


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Home(tmp_path).shared / "here"


def test_the_engine_is_chosen_by_the_storage_url(tmp_path: Path) -> None:
    assert choose_location(tmp_path, None) == LocalPath(tmp_path)
    assert choose_location(tmp_path, "s3://bucket/prefix") == S3Path("bucket", "prefix")
    assert Home(tmp_path, storage_url="s3://bucket").table("scores") == S3Path("bucket", "scores")
    with pytest.raises(BadSetting, match="CLOSECAST_STORAGE_URL"):
        choose_location(tmp_path, "file:///tmp")


def test_files_are_put_created_listed_and_deleted(location: Location) -> None:
    path = location / "deep" / "er" / "a"
    assert not path.is_file()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    with pytest.raises(BadFile):
        path.sha256()
    assert path.create(b"one")
    assert not path.create(b"two")
    assert path.read_bytes() == b"one"
    path.put(b"three")
    with path.open_regular() as file:
        assert file.read() == b"three"
    assert path.sha256() == "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f"
    (location / "b").put(b"")
    assert location.files() == [location / "b", path]
    assert location.files(after="b") == [path]
    assert location.folder_names() == ["deep"]
    assert location.is_dir()
    assert path.is_file()
    path.unlink()
    assert location.files() == [location / "b"]


def test_a_folder_that_may_not_be_read_is_an_error_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalPath(tmp_path)
    (folder / "raw").mkdir()
    (folder / "raw" / "a").touch()
    deny(monkeypatch, folder / "raw")
    for names in (folder.files, (folder / "raw").files, (folder / "raw").folder_names):
        with pytest.raises(PermissionError, match="raw"):
            names()
    assert not (folder / "nowhere").files() + (folder / "nowhere" / "raw").files()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_pipe_or_socket_is_no_file_to_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = LocalPath(tmp_path / kind)
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(kind)
    assert path.parent.files() == [path]
    with pytest.raises(OSError, match="not a regular file"):
        path.read_bytes()
    with pytest.raises(BadFile, match="not a regular file"):
        path.sha256()
    with pytest.raises(HomeUnusable, match="a regular file was needed"):
        path.open_regular()
    for checked in (path, path.parent):
        with pytest.raises(Damaged, match="is not a regular file: restore it from a backup"):
            checked.check_regular()


def test_a_list_that_grows(location: Location) -> None:
    lines = location / "list"
    (location / "other").put(b"")
    assert [line for line in lines.read_lines() if line] == []
    for number in range(3):
        lines.add_lines(number, [f"{number} a", f"{number} b"])
    lines.add_lines(2, ["2 c"])
    expected = ["0 a", "0 b", "1 a", "1 b", "2 a", "2 b", "2 c"]
    assert [line for line in lines.read_lines() if line] == expected
    assert {"2 a", "2 b", "2 c"} <= set(lines.read_lines(after=1))
    lines.rewrite_lines(lambda lines: [line for line in lines if line.endswith("a")])
    lines.add_lines(2, ["2 d"])  # after a rewrite, too, nothing is lost
    assert [line for line in lines.read_lines() if line] == ["0 a", "1 a", "2 a", "2 d"]


@pytest.mark.folder
def test_links_are_refused(location: Location, tmp_path: Path) -> None:
    (tmp_path / "here" / "deep").mkdir(parents=True)
    location.check_no_links(deep=True)
    (tmp_path / "here" / "deep" / "link").symlink_to(tmp_path)
    location.check_no_links()
    with pytest.raises(HomeUnusable, match="is a link"):
        location.check_no_links(deep=True)
    (tmp_path / "here" / "link").symlink_to(tmp_path)
    with pytest.raises(HomeUnusable, match="is a link"):
        location.check_no_links()
    with pytest.raises(HomeUnusable, match="is a link"):
        (location / "link").create(b"")
    assert location.folder_names() == ["deep"]
