"""Which code made a forecast, and on which machine."""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from closecast.storage.core.home import PACKAGE, checkout

# The code that decides figures: no other change makes a revision or trains a model again.
DECIDING = (
    "tasks/features",
    "tasks/network",
    "tasks/profiles",
    "tasks/calibration",
    "tasks/forecast",
    "tasks/core/quantiles.py",
)

# What tells one generation of processors from another in /proc/cpuinfo, on x86-64 and on arm64.
IDENTITY = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")


@functools.cache
def code_version(*packages: Path) -> str:
    """The release and a digest of the code that decides figures: `0.1.0+0123456789ab`.

    A digest, not a commit, because it also works with uncommitted changes and without git. The `packages`,
    folders or files of a user's own profile, count as well.
    """
    digest = hashlib.sha256()
    for root in (*(PACKAGE / name for name in DECIDING), *packages):
        base = PACKAGE if root.is_relative_to(PACKAGE) else root.parent
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(path.relative_to(base).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{_release()}+{digest.hexdigest()[:12]}"


def git_commit() -> str | None:
    """The commit of closecast's own repository, for lineage; None if it does not run from a checkout."""
    source = checkout()
    if source is None:
        return None
    command = ["git", "-C", str(source), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or none with a commit
        return None
    # Source that was copied into another repository is not what its commit names.
    folder, commit = done.stdout.splitlines()
    return commit if Path(folder).resolve() == source else None


def library_version(name: str) -> str:
    """The version of an installed package; `tensorflow-cpu` counts as TensorFlow: it gives the same bits."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name != "tensorflow":
            raise
        return version("tensorflow-cpu")


def processor() -> str:
    """The processor, for another may round otherwise: `AMD EPYC, cpu family 25, model 1, stepping 1, avx2`.

    The name alone is too coarse: two generations are called `AMD EPYC`. Libraries choose their instructions
    by the widest vectors, which a virtual machine may hide.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    # The first processor's; names of fields differ between x86-64 and arm64.
    fields = dict(reversed(re.findall(r"^([^:\n]*\S)\s*: *(.*\S)", text, re.M)))
    named = (f"{name} {fields[name]}" for name in IDENTITY if name in fields)
    flags = fields.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags), None)
    return ", ".join(filter(None, [fields.get("model name"), *named, widest]))


def _release() -> str:
    try:
        return version("closecast")
    except PackageNotFoundError:  # run from the source tree, not installed
        return "0.0.0"
