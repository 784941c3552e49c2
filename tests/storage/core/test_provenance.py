from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from storage.core import provenance as code


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small source tree in the place of the project's own."""
    for room in code.ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f'"""{room}."""\n')
    monkeypatch.setattr(code, "PROJECT", tmp_path)
    code.code_version.cache_clear()
    yield tmp_path
    code.code_version.cache_clear()


def now() -> str:
    code.code_version.cache_clear()
    return code.code_version()


def test_the_version_has_its_form_and_stays(tree: Path) -> None:
    first = now()
    assert re.fullmatch(r"[0-9.]+\+[0-9a-f]{12}", first)
    assert now() == first


def test_every_change_to_a_python_file_shows(tree: Path) -> None:
    seen = {now()}
    (tree / "tasks" / "fit.py").write_text("x = 1\n")
    seen.add(now())
    (tree / "tasks" / "fit.py").write_text("x = 2\n")
    seen.add(now())
    (tree / "tasks" / "fit.py").rename(tree / "tasks" / "fitted.py")
    seen.add(now())
    (tree / "flows" / "deep").mkdir()
    (tree / "flows" / "deep" / "more.py").write_text("")
    seen.add(now())
    (tree / "storage" / "__init__.py").unlink()
    seen.add(now())
    assert len(seen) == 6


def test_what_is_no_code_does_not_show(tree: Path) -> None:
    first = now()
    (tree / "tasks" / "__pycache__").mkdir()
    (tree / "tasks" / "__pycache__" / "fit.cpython-311.pyc").write_bytes(b"\0")
    (tree / "tests").mkdir()
    (tree / "tests" / "test_it.py").write_text("")
    (tree / "README.md").write_text("")
    assert now() == first


def test_the_same_code_elsewhere_has_the_same_version(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = now()
    other = tmp_path_factory.mktemp("other") / "clone"
    shutil.copytree(tree, other)
    monkeypatch.setattr(code, "PROJECT", other)
    assert now() == first


def test_a_tree_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(code, "version", absent)
    assert now().startswith("0.0.0+")


def test_the_commit_where_there_is_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tree.parent))
    assert code.git_commit() is None
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert code.git_commit() is None  # no commit yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", code.git_commit() or "")
    monkeypatch.setenv("PATH", "")
    assert code.git_commit() is None  # no git
