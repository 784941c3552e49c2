"""Runs killed anywhere are completed by the next one; `tests/soak/killing.py` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.chain import Soak

KILLS = 7


@pytest.mark.timeout(600)
def test_killed_runs_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    lines: list[str] = []
    soak = Soak(tmp_path, kills=KILLS, seed=7, say=lines.append, a_day=(4, 5))
    try:
        tally = soak.run()
    finally:
        soak.close()
    assert tally.problems == [], "\n".join(lines)
    assert len(tally.hit) == KILLS
    kinds = {kill.kind for kill, _ in tally.hit}
    assert kinds == {"at a place", "at a moment"}
    # The kills are spread over the steps of the flow.
    assert len({last.partition(": ")[0] for _, last in tally.hit}) >= 4
    assert tally.recovered >= 2
