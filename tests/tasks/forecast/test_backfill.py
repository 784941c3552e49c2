"""Which days a run after an outage makes forecasts from."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from storage.core.home import Home
from tasks.core.history import PriceHistory
from tasks.forecast.publish import days_to_backfill
from tests.calibrated import candles, day, put_forecast, quick
from tests.helpers import BTC, without


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path).prepare()
    for number in (600, 601, 610):
        put_forecast(home, number, f"{number}".ljust(32, "0"), profile=quick())
    return home


def days(
    home: Home, origin: int, limit: int, profile: str = "calibrated", product_id: str = BTC
) -> list[date]:
    frame = without(candles(), day(613), day(613))
    history = PriceHistory(product_id, frame, "BTC-USD@1:ab", "csv@0").until(day(origin))
    return days_to_backfill(home, history, profile, limit=limit)


@pytest.mark.parametrize(
    ("origin", "limit", "numbers"),
    [
        (620, 30, [611, 612, *range(614, 620)]),  # day 613 has no close
        (620, 3, range(617, 620)),
        (620, 0, ()),
        (611, 30, ()),
        (605, 30, range(602, 605)),  # counted from the newest forecast before the origin
        (600, 30, ()),
        (590, 30, ()),
    ],
)
def test_days_between_the_newest_forecast_and_the_origin(
    home: Home, origin: int, limit: int, numbers: range
) -> None:
    assert days(home, origin, limit) == [day(number) for number in numbers]


def test_each_profile_and_product_is_counted_alone(home: Home) -> None:
    assert days(home, 620, 30, "article") == days(home, 620, 30, product_id="ETH-USD") == []
    put_forecast(home, 615, "a" * 32)
    assert days(home, 617, 30, "article") == [day(616)]
