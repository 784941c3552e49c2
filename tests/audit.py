"""Looks the locked packages up in a database of known vulnerabilities: PyPI's, else OSV's.

By hand: `python tests/audit.py`. It ends with 1 when a package is known to be vulnerable, and says so when no
database could be reached: an audit that looked nothing up has found nothing out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-image.lock", "requirements-test.lock")
SERVICES = ("pypi", "osv")
SECONDS = 300


def ask(service: str, lock: Path) -> list[dict[str, Any]]:
    """The packages of a lock file as pip-audit looked them up, none where it could not."""
    options = ["--require-hashes", "--disable-pip", "--progress-spinner=off", "--timeout=15", "--format=json"]
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        f"--vulnerability-service={service}",
        *options,
        "-r",
        str(lock),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []
    return packages


def main() -> int:
    for service in SERVICES:
        packages = {package["name"]: package for lock in LOCKS for package in ask(service, PROJECT / lock)}
        asked = [package for package in packages.values() if "skip_reason" not in package]
        lines = [
            f"{package['name']} {package['version']}: {one['id']}, fixed in {one['fix_versions'] or 'none'}"
            for package in asked
            for one in package.get("vulns", [])
        ]
        if asked:
            print(
                f"{service}: {len(asked)} of {len(packages)} packages looked up, {len(lines)} vulnerabilities"
            )
            print(*lines, sep="\n")
            return 1 if lines else 0
    print(f"audit SKIPPED: no database of vulnerabilities could be reached ({', '.join(SERVICES)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
