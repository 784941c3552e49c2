"""The audit of the locked packages: a known vulnerability fails, and an audit that asked nobody says so."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests import audit

FINE = {"name": "fine", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not in the database"}


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        (
            [FINE, BAD, UNKNOWN],
            1,
            "2 of 3 packages looked up, 1 vulnerabilities\nbad 2: CVE-1, fixed in ['3']\n",
        ),
        ([FINE], 0, "1 of 1 packages looked up, 0 vulnerabilities\n"),
        ([UNKNOWN], 0, "audit SKIPPED: no database"),
        (None, 0, "audit SKIPPED: no database"),
    ],
    ids=["vulnerable", "fine", "unknown", "crashed"],
)
def test_an_audit_fails_on_a_known_vulnerability_and_says_when_nothing_was_looked_up(
    packages: list[dict[str, Any]] | None,
    code: int,
    lines: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command
        out = json.dumps({"dependencies": packages}) if packages is not None else "Traceback"
        return subprocess.CompletedProcess(command, 1, out, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == code
    assert lines in capsys.readouterr().out
