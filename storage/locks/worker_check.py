"""The check of a worker on another machine before it is given work."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from closecast.storage.core.errors import HomeUnusable, reason_of
from closecast.storage.core.home import Home
from closecast.storage.core.provenance import code_version, library_version

# The packages that decide the bits of a forecast.
DECISIVE = ("tensorflow", "keras", "numpy", "scipy", "pandas", "arch")


class WorkerCheck(TypedDict):
    """The machine of a process, the versions that decide its figures, and whether it sees the home."""

    host: str
    versions: dict[str, str]
    home: bool


@contextlib.contextmanager
def check_file(home: Home) -> Iterator[str]:
    """The path of a file that only workers with access to the home can see, while the block lasts.

    `HomeUnusable` if it cannot be written.
    """
    try:
        file = tempfile.NamedTemporaryFile(dir=home.locks, prefix="worker-check-")  # noqa: SIM115
    except OSError as error:
        raise HomeUnusable(f"{home.locks} cannot be written: {reason_of(error)}") from error
    with file:
        yield file.name


def check_worker(file: str) -> WorkerCheck:
    """Describe this process; `file` is the path that `check_file` gave."""
    versions = {"closecast": code_version(), **{name: library_version(name) for name in DECISIVE}}
    return {"host": platform.node(), "versions": versions, "home": Path(file).is_file()}
