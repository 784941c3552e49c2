"""What is imported is declared, and nothing heavy is loaded where it is not needed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.helpers import PROJECT, modules_after

ROOMS = ("flows", "tasks", "storage")


def imported_packages(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, inside functions and for types, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def plain_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        plain_name(requirement)
        for requirements in (
            project["dependencies"],
            *(extras[name] for name in ("postgresql", "s3", "dask")),
        )
        for requirement in requirements
    }
    files = [
        *(PROJECT / "closecast").glob("*.py"),
        *(path for room in ROOMS for path in (PROJECT / room).rglob("*.py")),
    ]
    imported = {package for path in files for package in imported_packages(path)}
    distributions = packages_distributions()
    missing = {
        package
        for package in imported - {"closecast"} - sys.stdlib_module_names
        if not {plain_name(name) for name in distributions.get(package, ())} & declared
    }
    assert missing == set()
    used = {plain_name(name) for package in imported for name in distributions.get(package, ())}
    # FastAPI is Prefect's, within bounds; psycopg is the driver that an address names.
    assert declared - used <= {"fastapi", "psycopg"}


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        (
            "closecast",
            {"tensorflow", "keras", "mlflow", "prefect", "pandas", "pyarrow", "sqlalchemy", "scipy"},
        ),
        ("closecast.flows.settings", {"tensorflow", "keras", "mlflow", "prefect", "pandas"}),
        (
            "closecast.tasks.evaluation.scoring",  # a score that is not due does without the profiles
            {"tensorflow", "keras", "mlflow", "prefect", "scipy", "pydantic"},
        ),
        (
            "closecast.flows.daily",
            {"tensorflow", "keras", "mlflow", "sklearn", "matplotlib", "scipy", "jinja2"},
        ),
    ],
)
def test_heavy_packages_are_loaded_where_they_are_needed(module: str, unloaded: set[str]) -> None:
    assert unloaded & modules_after(f"import {module}") == set()
