"""`closecast init`: the files of a project that only installs closecast."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from closecast.flows.project import make_project
from closecast.storage.core.errors import BadFile, HomeUnusable
from tests.helpers import PROJECT, one_line


def test_a_project_has_the_deployments_the_settings_and_a_unit(tmp_path: Path) -> None:
    folder = tmp_path / "my forecasts"
    files = make_project(folder)
    assert [path.name for path in files] == ["prefect.yaml", ".env.example", "closecast-worker.service"]
    assert sorted(folder.iterdir()) == sorted(files)
    assert files[0].read_bytes() == (PROJECT / "prefect.yaml").read_bytes()
    settings = dict(
        shlex.split(line)[0].split("=", 1)
        for line in files[1].read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert settings["CLOSECAST_HOME"] == str(folder / "data")
    unit = files[2].read_text()
    assert f"WorkingDirectory={folder}\nEnvironmentFile={folder}/.env\n" in unit
    assert f'ExecStart="{sys.executable}" -m prefect --no-prompt worker start' in unit
    assert "{" not in unit


@pytest.mark.parametrize("name", ["prefect.yaml", ".env.example", "closecast-worker.service"])
def test_no_file_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadFile, match=rf"{name} would be overwritten, so nothing was written: "):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ['a"b', "a$b", "a%b", "a\nb"])
def test_a_path_that_would_be_read_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFile, match="is needed, not", check=one_line):
        make_project(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeUnusable):
        make_project(tmp_path / "file" / "project")
    with pytest.raises(BadFile, match="is a file: name another"):
        make_project(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
