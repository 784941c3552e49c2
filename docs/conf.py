"""Sphinx's settings for `make docs`. Neither building nor reading the pages fetches anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "docs")]

import pictures  # noqa: E402 (beside this file)

project = "closecast"
copyright = "the closecast authors, Apache-2.0"  # noqa: A001 (Sphinx's name)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "closecast"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
pygments_style = "friendly"
pygments_dark_style = "monokai"


def commands() -> str:
    """The page of every command and option, by Typer."""
    typer = [
        sys.executable,
        "-m",
        "typer",
        "closecast.flows.cli.commands",
        "utils",
        "docs",
        "--name",
        "closecast",
    ]
    return subprocess.run(typer, cwd=PROJECT, capture_output=True, text=True, check=True).stdout  # noqa: S603


def limits(field: FieldInfo) -> str:
    """The limits of a field's value."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = ((sign, getattr(rule, name, None)) for rule in field.metadata for name, sign in signs.items())
    return ", ".join(f"{sign} {value}" for sign, value in bounds if value is not None)


def rows(model: type[BaseModel]) -> Iterator[str]:
    """A table row for each setting."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = ", ".join(map(str, default)) if isinstance(default, tuple | list) else default
        yield f"| `{name}` | `{shown}` | {limits(field)} | {field.description or ''} |"


def settings() -> str:
    """The page of every setting of the profiles and of a market."""
    from closecast.tasks.prices.sources import Market
    from closecast.tasks.profiles.named import OURS, profile_class

    models: Iterable[tuple[str, type[BaseModel]]] = (
        *((f"Profile `{name}`", profile_class(name).Settings) for name in reversed(OURS)),
        ("Market, a parameter of the flow `daily-forecast`", Market),
    )
    parts = ["# Settings", "`closecast run --set NAME=VALUE`; in a deployment `settings` and `market`."]
    for title, model in models:
        head = "| setting | default | limits | |\n|---|---|---|---|"
        parts += [f"## {title}", "\n".join((head, *rows(model)))]
    return "\n\n".join(parts) + "\n"


def generate(_app: Any) -> None:
    """Draw the pictures and write the pages that are generated from the code."""
    pictures.draw()
    folder = PROJECT / "docs" / "reference" / "_generated"
    folder.mkdir(exist_ok=True)
    for name, text in {"commands.md": commands(), "settings.md": settings()}.items():
        (folder / name).write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("builder-inited", generate, priority=1)
