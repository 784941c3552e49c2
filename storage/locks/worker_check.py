"""What a worker on another machine tells of itself before it is given work."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from storage.core.errors import HomeUnusable
from storage.core.home import Home
from storage.core.provenance import code_version

# What decides the bits of a forecast.
DECISIVE = ("tensorflow", "keras", "numpy", "scipy", "pandas", "arch")


class WorkerCheck(TypedDict):
    """The machine of a process, the versions that decide its figures, and whether it sees the home."""

    host: str
    versions: dict[str, str]
    home: bool


@contextlib.contextmanager
def marked(home: Home) -> Iterator[str]:
    """A file that only those find who see the same home, for as long as this lasts; yields its path.

    Raises:
        HomeUnusable: it cannot be written.
    """
    try:
        mark = tempfile.NamedTemporaryFile(dir=home.locks, prefix="seen-")  # noqa: SIM115
    except OSError as error:
        raise HomeUnusable(f"{home.locks} cannot be written: {error.strerror or error}") from error
    with mark:
        yield mark.name


def check_worker(mark: str) -> WorkerCheck:
    """Tell of this process.

    Args:
        mark: the path that `marked` gave.
    """
    versions = {"closecast": code_version(), **{name: version(name) for name in DECISIVE}}
    return {"host": platform.node(), "versions": versions, "home": Path(mark).is_file()}
