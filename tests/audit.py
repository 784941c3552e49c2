"""Looks the locked packages up in a database of known vulnerabilities: PyPI's, else OSV's.

By hand: `python tests/audit.py`. It ends with 1 when a package is known to be vulnerable, and says so when no
database could be reached: an audit that looked nothing up has found nothing out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-test.lock")
SERVICES = ("pypi", "osv")
SECONDS = 300


def ask(service: str, lock: Path) -> list[dict[str, Any]] | None:
    """What pip-audit says of each package of a lock file, None where it could not ask."""
    words = ["--require-hashes", "--disable-pip", "--progress-spinner=off", "--timeout=15", "--format=json"]
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        f"--vulnerability-service={service}",
        *words,
        "-r",
        str(lock),
    ]
    try:
        done = subprocess.run(
            [*command, "-r", str(lock)], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return found


def report(packages: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
    """A line for each known vulnerability, and how many packages were looked up."""
    known = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {one['id']}, mended in {one['fix_versions'] or 'none'}"
        for package in known
        for one in package.get("vulns", [])
    ]
    return lines, len(known)


def main() -> int:
    """Audit both lock files."""
    for service in SERVICES:
        answers = [ask(service, PROJECT / lock) for lock in LOCKS]
        packages = {package["name"]: package for answer in answers for package in answer or ()}
        lines, known = report(list(packages.values()))
        if known:
            print(f"{service}: {known} of {len(packages)} packages looked up, {len(lines)} vulnerabilities")
            print(*lines, sep="\n")
            return 1 if lines else 0
    print(f"audit SKIPPED: no database of vulnerabilities could be reached ({', '.join(SERVICES)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
