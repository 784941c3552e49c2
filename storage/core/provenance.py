"""Which code made a forecast, and on which machine."""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from storage.core.home import PROJECT

# The code that decides figures: no other change makes a revision or trains a model again.
DECIDING = (
    "tasks/features",
    "tasks/network",
    "tasks/profiles",
    "tasks/calibration",
    "tasks/forecast",
    "tasks/core/quantiles.py",
)


@functools.cache
def code_version(*packages: Path) -> str:
    """The release and a digest of the code that decides figures: `0.1.0+0123456789ab`.

    A digest rather than a commit, since it holds with uncommitted changes and without git. The `packages`,
    folders or files of a user's own profile, count as well.
    """
    digest = hashlib.sha256()
    for root in (*(PROJECT / name for name in DECIDING), *packages):
        base = PROJECT if root.is_relative_to(PROJECT) else root.parent
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(path.relative_to(base).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{_release()}+{digest.hexdigest()[:12]}"


def git_commit() -> str | None:
    """The commit of closecast's own repository, for lineage; None where its source lies in no such one."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or none with a commit
        return None
    # In a virtual environment the repository around it is somebody else's.
    folder, commit = done.stdout.splitlines()
    return commit if Path(folder).resolve() == PROJECT.resolve() else None


def processor() -> str:
    """The processor's model name where Linux reports it, for others may round otherwise."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        return name[1] if (name := re.search(r"^model name\s*:\s*(.*\S)", text, re.M)) else ""
    return platform.processor()


def _release() -> str:
    try:
        return version("closecast")
    except PackageNotFoundError:  # run from the source tree, not installed
        return "0.0.0"
