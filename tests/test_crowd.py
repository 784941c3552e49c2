"""Many processes in one home at once; `tests/soak/crowd.py` is the long form, with ten different days."""

from __future__ import annotations

from pathlib import Path

import pytest

from closecast.storage.core.home import Home
from tests.helpers import BTC
from tests.soak import crowd

pytestmark = [pytest.mark.timeout(600), pytest.mark.engines]


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, prefect_server: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)


def test_many_at_once(tmp_path: Path) -> None:
    """Ten begin the first day of a new home at once; then three days at once, and imports during a run."""
    csvs, home = crowd.files(tmp_path, [BTC, "NEW-USD"]), Home(tmp_path / "home")
    crowd.same_day(home, csvs[BTC], 10)
    crowd.whole(home)
    crowd.different_days(home, csvs[BTC], 3)
    crowd.import_during_a_run(home, csvs[BTC], csvs["NEW-USD"], "NEW-USD")
    assert crowd.queries_during_compaction(home, 3) > 0
    crowd.whole(home)
