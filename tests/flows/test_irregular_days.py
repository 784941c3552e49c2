"""Days without trades: a forecast on each of them, by the last close."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from closecast.flows.daily import daily_forecast
from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.reports import Reports
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import components
from closecast.storage.tables.scores import Scores
from closecast.tasks.prices.sources import Market
from closecast.tasks.upkeep.reproduce import reproduce_forecast
from closecast.tasks.upkeep.verify import verify_home
from tests.exchange import Exchange
from tests.flows.conftest import DAY, LAST, artifacts_of
from tests.helpers import without

RESUMED = LAST + 10 * DAY
MARKET = Market(product_id="BTC-USD", source="coinbase")
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def still(walk: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    """80 days, of which nine in a row have no trade; the clock is at 00:20 of the day after a day."""
    candles: pd.DataFrame = without(walk(RESUMED, days=80), LAST + DAY, RESUMED - DAY)
    with Exchange({"BTC-USD": candles}, rate=1000, burst=1000) as served:
        monkeypatch.setenv("CLOSECAST_COINBASE_URL", served.url)
        monkeypatch.setattr("closecast.tasks.prices.ingest_coinbase.FIRST_DAY", LAST - 69 * DAY)
        monkeypatch.setattr("closecast.flows.clock.now", lambda: served.now)
        yield served


def run_after(served: Exchange, day: date, home: Path) -> dict[str, Any]:
    """The row of the run in the night after a day."""
    served.clock = datetime.combine(day + DAY, datetime.min.time(), UTC) + timedelta(minutes=20)
    row = Predictions(Home(home)).find(daily_forecast(MARKET, home=str(home)))
    assert row is not None
    assert Reports(Home(home)).summary("BTC-USD", "calibrated")["target_day"] == str(row["target_day"])
    return row


def artifact(home: Path, name: str, row: dict[str, Any]) -> str:
    """What the run of a row shows under that name."""
    return str(artifacts_of(row["flow_run_id"])[f"{name}-btc-usd-calibrated-{Home(home).label}"].data)


def test_each_day_without_a_trade_has_a_forecast_from_the_last_close(still: Exchange, tmp_path: Path) -> None:
    fan = run_after(still, LAST, tmp_path)
    last_close = fan["last_close"]
    assert (fan["origin_day"], fan["horizon"], fan["basis"]) == (LAST, 1, "fallback")
    assert "and there are 70: the baselines forecast" in artifact(tmp_path, "forecast", fan)
    assert "fallback" in artifact(tmp_path, "forecasts", fan)
    stored = Predictions(Home(tmp_path)).between().to_pylist()
    # A week ahead is a row of the same fan, eight days ahead is one row more, once.
    for days, rows in ((6, 0), (7, 1), (7, 1), (9, 2)):
        row = run_after(still, LAST + days * DAY, tmp_path)
        assert (row["origin_day"], row["horizon"], row["last_close"]) == (LAST, days + 1, last_close)
        assert row["target_day"] == LAST + (days + 1) * DAY
        assert len(Predictions(Home(tmp_path)).between()) == len(stored) + rows
    head = f"# BTC-USD: close of {row['target_day']}, 10 days ahead, from {LAST}"
    assert head in artifact(tmp_path, "forecast", row)
    assert Models(Home(tmp_path)).versions() == []
    widths = {
        one["horizon"]: one["upper_80"] - one["lower_80"]
        for one in Predictions(Home(tmp_path)).between().to_pylist()
    }
    assert [widths[horizon] for horizon in sorted(widths)] == sorted(widths.values())
    assert Scores(Home(tmp_path)).read().num_rows == 0
    # When trading goes on, the forecasts of that day are scored, each under its own horizon.
    resumed = run_after(still, RESUMED, tmp_path)
    assert (resumed["origin_day"], resumed["horizon"], resumed["basis"]) == (RESUMED, 1, "fallback")
    scored = Scores(Home(tmp_path)).read().to_pylist()
    assert [(one["horizon"], one["target_day"]) for one in scored] == [(10, RESUMED)]
    assert scored[0]["crps"] > 0
    assert verify_home(Home(tmp_path)).findings == []
    for one in Predictions(Home(tmp_path)).between().to_pylist():
        assert reproduce_forecast(Home(tmp_path), one["prediction_id"]).same
        parts = components(Home(tmp_path)).read().to_pylist()
        assert any(part["prediction_id"] == one["prediction_id"] for part in parts)
