from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from closecast.storage.core import provenance
from closecast.storage.core.home import PACKAGE


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small source tree instead of the project's own."""
    root = tmp_path / "tree"
    for name in ("features", "network", "profiles", "calibration", "forecast", "report", "core"):
        (root / "tasks" / name).mkdir(parents=True)
        (root / "tasks" / name / "__init__.py").write_text(f'"""{name}."""\n')
    (root / "tasks" / "core" / "quantiles.py").write_text("LEVELS = ()\n")
    monkeypatch.setattr(provenance, "PACKAGE", root)
    monkeypatch.setattr(provenance, "checkout", lambda: root)
    provenance.code_version.cache_clear()
    yield root
    provenance.code_version.cache_clear()


def version(*packages: Path) -> str:
    provenance.code_version.cache_clear()
    return provenance.code_version(*packages)


def test_the_code_version_covers_existing_files() -> None:
    assert all((PACKAGE / name).exists() for name in provenance.DECIDING)


def test_each_change_of_code_that_decides_figures_is_another_version(tree: Path) -> None:
    tasks, versions = tree / "tasks", {version()}
    for name in ("features", "network", "profiles", "calibration", "forecast"):
        (tasks / name / "__init__.py").write_text("x = 1\n")
        versions.add(version())
    (tasks / "core" / "quantiles.py").write_text("LEVELS = (0.5,)\n")
    versions.add(version())
    (tasks / "features" / "deep").mkdir()
    (tasks / "features" / "deep" / "more.py").write_text("")
    versions.add(version())
    (tasks / "features" / "deep" / "more.py").rename(tasks / "features" / "moved.py")
    versions.add(version())
    (tasks / "network" / "__init__.py").unlink()
    versions.add(version())
    assert len(versions) == 10


def test_other_files_are_no_part_of_the_version(tree: Path) -> None:
    first = version()
    assert re.fullmatch(r"[0-9.]+\+[0-9a-f]{12}", first)
    for path in (
        "tasks/report/page.py",
        "tasks/core/formatting.py",
        "flows/daily.py",
        "storage/core/home.py",
        "tests/test_it.py",
        "README.md",
        "tasks/features/notes.md",
        "tasks/features/__pycache__/inputs.cpython-311.pyc",
    ):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text("another word\n")
        assert version() == first


def test_a_users_own_profile_is_part_of_the_version(tree: Path, tmp_path: Path) -> None:
    package, module = tmp_path / "mine", tmp_path / "gru.py"
    package.mkdir()
    (package / "gru.py").write_text("units = 4\n")
    module.write_text("units = 4\n")
    versions = {version(), version(package), version(module), version(package, module)}
    (package / "gru.py").write_text("units = 8\n")
    module.write_text("units = 8\n")
    assert len(versions | {version(package), version(module)}) == 6


def test_the_same_code_elsewhere_has_the_same_version(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "gru.py").write_text("units = 4\n")
    first = version(tmp_path / "mine")
    shutil.copytree(tree, tmp_path / "other" / "clone")
    shutil.copytree(tmp_path / "mine", tmp_path / "other" / "mine")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "other" / "clone")
    assert version(tmp_path / "other" / "mine") == first


def commit(folder: Path) -> str:
    git = ["git", "-C", str(folder)]
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, *identity, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_the_own_repository(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tree.parent))
    assert provenance.git_commit() is None
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    assert provenance.git_commit() is None  # no commit yet
    expected = commit(tree)
    assert provenance.git_commit() == expected
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None  # no git


def test_a_repository_around_the_source_is_not_named(tree: Path, tmp_path: Path) -> None:
    """As in a virtual environment inside another project."""
    commit(tmp_path)
    assert provenance.git_commit() is None
    expected = commit(tree)
    assert provenance.git_commit() == expected


MILAN = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu sse4_2 avx avx2
power management:

"""
NEOVERSE = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd0c

"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MILAN, "AMD EPYC, cpu family 25, model 1, stepping 1, avx2"),
        (MILAN + MILAN.replace(": 1\n", ": 17\n"), "AMD EPYC, cpu family 25, model 1, stepping 1, avx2"),
        (MILAN.replace("\t: 1\n", "\t: 17\n", 1), "AMD EPYC, cpu family 25, model 17, stepping 1, avx2"),
        (MILAN.replace("avx2", "avx2 avx512f"), "AMD EPYC, cpu family 25, model 1, stepping 1, avx512f"),
        (NEOVERSE, "CPU implementer 0x41, CPU part 0xd0c"),
        ("", ""),
    ],
)
def test_processors_that_may_round_differently_have_different_names(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, **options: text)
    assert provenance.processor() == expected


def test_tensorflow_without_graphics_cards_counts_as_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if name != "tensorflow-cpu":
            raise PackageNotFoundError(name)
        return "2.21.0"

    monkeypatch.setattr(provenance, "version", installed)
    assert provenance.library_version("tensorflow") == "2.21.0"
    with pytest.raises(PackageNotFoundError, match="keras"):
        provenance.library_version("keras")
