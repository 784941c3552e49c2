"""Which code made a forecast, and on which machine."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from storage.core.home import PROJECT

ROOMS = ("flows", "tasks", "storage")


@functools.cache
def code_version(*packages: Path) -> str:
    """The release and a digest of every Python file in the rooms: `0.1.0+0123456789ab`.

    A digest rather than a commit, since it holds with uncommitted changes and without git.
    """
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((PROJECT / room).rglob("*.py")):
            digest.update(path.relative_to(PROJECT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{_release()}+{digest.hexdigest()[:12]}"


def git_commit() -> str | None:
    """The commit that the source tree stands on, None away from git; for lineage, not for keys."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--verify", "-q", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def processor() -> str:
    """The processor's own name where Linux tells it: another one may take other instructions."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = (line.partition(":") for line in lines)
        return next((value.strip() for name, _, value in named if name.strip() == "model name"), "")
    return platform.processor()


def _release() -> str:
    try:
        return version("closecast")
    except PackageNotFoundError:  # run from the source tree, not installed
        return "0.0.0"
