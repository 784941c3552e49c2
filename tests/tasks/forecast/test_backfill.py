"""Which days a run after an outage makes up for."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.core.home import Home
from tasks.forecast.backfill import missed_days
from tests.calibrated import Runs, day, put_forecast, quick, stored_runs
from tests.helpers import BTC


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Home:
    runs: Runs = stored_runs(tmp_path_factory, tmp_path / "home")
    for number in (600, 601, 610):
        put_forecast(runs.home, number, f"{number}".ljust(32, "0"), recipe=quick())
    return runs.home


@pytest.mark.parametrize(
    ("origin", "most", "numbers"),
    [
        (620, 30, range(611, 620)),
        (620, 3, range(617, 620)),
        (620, 0, ()),
        (611, 30, ()),
        # Days before are of no concern: somebody looks back from there.
        (605, 30, range(602, 605)),
        (600, 30, ()),
        (590, 30, ()),
    ],
)
def test_the_days_since_the_newest_forecast_before(
    home: Home, origin: int, most: int, numbers: range
) -> None:
    found = missed_days(home, BTC, "calibrated", origin=day(origin), most=most)
    assert found == [day(number) for number in numbers]


def test_each_profile_and_product_misses_its_own(home: Home) -> None:
    assert missed_days(home, BTC, "article", origin=day(620), most=30) == []
    assert missed_days(home, "ETH-USD", "calibrated", origin=day(620), most=30) == []
    put_forecast(home, 615, "a" * 32)
    assert missed_days(home, BTC, "article", origin=day(617), most=30) == [day(616)]
