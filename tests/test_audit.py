"""The audit of the locked packages: what is known fails, what could not be asked is said."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests import audit

FINE = {"name": "fine", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def answered(monkeypatch: pytest.MonkeyPatch, packages: list[dict[str, Any]] | None) -> None:
    monkeypatch.setattr(audit, "ask", lambda *_: packages)


def test_a_known_vulnerability_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(monkeypatch, [FINE, BAD, UNKNOWN])
    assert audit.main() == 1
    out = capsys.readouterr().out
    assert "2 of 3 packages looked up, 1 vulnerabilities" in out
    assert "bad 2: CVE-1, mended in ['3']" in out


def test_nothing_known_is_fine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answered(monkeypatch, [FINE])
    assert audit.main() == 0
    assert "1 of 1 packages looked up, 0 vulnerabilities" in capsys.readouterr().out


@pytest.mark.parametrize("packages", [None, [], [UNKNOWN]])
def test_an_audit_that_could_ask_nobody_says_so(
    packages: list[dict[str, Any]] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(monkeypatch, packages)
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("audit SKIPPED: no database")


def test_what_pip_audit_prints_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, 1, json.dumps({"dependencies": [BAD]}), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.ask("pypi", audit.PROJECT / "requirements.lock") == [BAD]


def test_a_crash_of_it_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "Traceback", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.ask("pypi", audit.PROJECT / "requirements.lock") is None
