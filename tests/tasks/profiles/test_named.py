"""Profiles by name: ours, installed ones, classes by their path, and the code that counts for each."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from closecast.storage.core.errors import BadSetting
from closecast.storage.core.provenance import code_version
from closecast.tasks.profiles import named
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.profiles.named import own_files, profile_named, profile_names
from tests.helpers import PROJECT, one_line

SOURCE = (
    "from closecast.tasks.core.settings import Frozen\n"
    "from closecast.tasks.profiles.base import BaseProfile\n"
    "class Settings(Frozen):\n    units: int = 8\n"
    "class Gru(BaseProfile):\n    name = 'gru'\n    Settings = Settings\n"
    "class Ours(Gru):\n    name = 'calibrated'\n"
    "class Odd(Gru):\n    name = 'GRU-1'\n"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `somebodys` with a module of profiles, and one whose import fails, in the current folder."""
    folder = tmp_path / "somebodys"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "models.py").write_text(SOURCE)
    (folder / "broken.py").write_text("1 / 0\n")
    (tmp_path / "single.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("somebodys", "somebodys.models", "somebodys.broken", "single"):
        sys.modules.pop(name, None)


def test_ours_by_name() -> None:
    assert isinstance(profile_named("article", {"epochs": 2}), ArticleProfile)
    assert isinstance(profile_named("calibrated"), CalibratedProfile)
    assert profile_names()[:2] == ["article", "calibrated"]


def test_a_class_by_its_path(package: Path) -> None:
    profile = profile_named("somebodys.models:Gru", {"units": 4})
    assert (profile.name, profile.settings.model_dump()) == ("gru", {"units": 4})
    assert profile.version.startswith("gru-")
    assert own_files(profile) == (package,)
    assert own_files(profile_named("single:Gru")) == (package.parent / "single.py",)
    assert own_files(profile_named("calibrated")) == ()


def test_an_installed_profile_by_its_entry_point(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = EntryPoints(
        EntryPoint(name, path, named.GROUP)
        for name, path in (("gru", "somebodys.models:Gru"), ("article", "somebodys.models:Gru"))
    )
    for module in (importlib.metadata, named):
        monkeypatch.setattr(module, "entry_points", lambda *, group: entries.select(group=group))
    assert profile_names() == ["article", "calibrated", "gru"]
    assert profile_named("gru").name == "gru"
    assert isinstance(profile_named("article"), ArticleProfile)  # ours come first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("calibratd", r"not 'calibratd' \(did you mean calibrated\?\); a class of your own is named as"),
        ("", "the profiles are article, calibrated"),
        ("../etc/passwd", "the profiles are"),
        ("os;system:x", "the profiles are"),
        ("no_such_package.models:Gru", "cannot be imported: ModuleNotFoundError"),
        ("somebodys.models:Lstm", "cannot be imported: AttributeError"),
        ("somebodys.broken:Gru", "cannot be imported: ZeroDivisionError"),
        ("somebodys.models:Ours", "needs a name of its own .* not 'calibrated'"),
        ("somebodys.models:Odd", "needs a name of its own .* not 'GRU-1'"),
        ("os:getcwd", "needs a name of its own .* not None"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_name_that_is_no_profile_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message, check=one_line):
        profile_named(name)


def test_the_code_version_is_of_the_code_that_decides_figures(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from closecast.storage.core import provenance

    copy = tmp_path / "copy"
    for room in ("tasks", "storage", "flows"):
        shutil.copytree(PROJECT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)

    def version(*files: Path) -> str:
        code_version.cache_clear()
        return code_version(*files)

    try:
        plain = version()
        assert version(package) != plain
        for file in ("tasks/report/page.py", "flows/daily.py", "tasks/evaluation/scoring.py"):
            with (copy / file).open("a") as stream:
                stream.write("# another word\n")
            assert version() == plain, file
        for file in ("features/inputs.py", "profiles/base.py", "forecast/publish.py", "core/quantiles.py"):
            before = version()
            with (copy / "tasks" / file).open("a") as stream:
                stream.write("# another figure\n")
            assert version() != before, file
        before = version(package)
        (package / "models.py").write_text(SOURCE + "# another figure\n")
        assert version(package) != before
    finally:
        code_version.cache_clear()


def test_only_the_profiles_room_asks_which_profile_it_is() -> None:
    """No `isinstance` on a profile and no comparison with a profile's name elsewhere."""
    classes, names = "(Article|Calibrated|Base)Profile", r"[\[({]?[\"'](article|calibrated)[\"']"
    asks = re.compile(rf"is(instance|subclass)\(.*{classes}|([!=]=| in) {names}")
    faults = [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for room in ("flows", "tasks", "storage")
        for path in sorted((PROJECT / room).rglob("*.py"))
        if not path.is_relative_to(PROJECT / "tasks" / "profiles")
        for line in path.read_text().splitlines()
        if asks.search(line)
    ]
    assert faults == []
