from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pandas as pd
import pytest

from storage.core.home import Home
from storage.tables.predictions import Predictions
from tasks.core.history import PriceHistory
from tasks.evaluation.scoreboard import COLUMNS, Scoreboard, scoreboard
from tasks.network.epoch import listening, report_epoch
from tasks.prices.ingest import IngestedPrices
from tasks.report import prefect_artifacts
from tasks.report.prefect_artifacts import (
    COVERAGE_ALARM,
    MAX_FORECASTS,
    STALE_MODEL,
    TrainingProgress,
    forecast_markdown,
    newest_forecasts,
    products_markdown,
    raise_alarms,
    training_progress,
)
from tests.calibrated import close, forecast_by_hand, quick
from tests.helpers import BTC, made_up, without

NOTHING_SCORED = scoreboard(pd.DataFrame(columns=COLUMNS))
GAPS = [(date(2019, 3, 20), date(2019, 3, 31)), (date(2019, 5, 1), date(2019, 5, 1))]


def prices(*gaps: tuple[date, date]) -> IngestedPrices:
    candles = made_up(400)
    for gap in gaps:
        candles = without(candles, *gap)
    history = PriceHistory(BTC, candles, "v", "coinbase@0")
    return IngestedPrices(history, new_days=3, restated_days=2, quarantined=1)


def missed_board() -> Scoreboard:
    days = [date(2020, 1, 1) + timedelta(days=n) for n in range(180)]
    figures: dict[str, Any] = {
        "horizon": 1,
        "pit": 0.999,
        "error": 1.0,
        "naive_error": 1.0,
        "crps": 0.02,
        "naive_crps": 0.02,
    }
    figures |= {"component_names": ["har_120_t"], "component_crps": [0.025]}
    covered = {"covered_50": False, "covered_80": False, "covered_95": False}
    return scoreboard(pd.DataFrame([{"target_day": day, **figures, **covered} for day in days]))


def test_markdown_of_a_point_has_the_summary_and_the_data() -> None:
    forecast = forecast_by_hand(400, "id-0", point=8100.5)
    text = forecast_markdown(forecast, prices(), NOTHING_SCORED)
    assert text.startswith(f"# BTC-USD: close of {forecast.first.target_day}\n")
    for label, value in forecast.summary():
        assert f"| {label} | {value} |" in text
    assert "8,100.50 USD (" in text
    assert f"{close(400):,.2f} USD on 2020-02-04 (the naive forecast)" in text
    assert "article: a point without intervals" in text
    assert (
        "Closes from coinbase: 400 days, 2019-01-01 to 2020-02-04; 3 new, 2 restated, 1 quarantined." in text
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == 3 for line in table)
    for word in ("Gap", "Warning", "Alarm", "Scoreboard", "Component", "next days"):
        assert word not in text


def test_markdown_shows_intervals_components_warnings_and_alarms() -> None:
    forecast = forecast_by_hand(400, "id-0", profile=quick(), quantiles=[7900.0 + 10 * n for n in range(23)])
    text = forecast_markdown(forecast, prices(), missed_board(), "an old model")
    assert "| 80 % | 7,930.00 USD to 8,090.00 USD |" in text
    assert "a point without intervals" not in text
    assert "| lstm | 8,010.00 USD | 7,930.00 USD to 8,090.00 USD |" in text
    assert "**Warning:** an old model" in text
    assert "next days" not in text
    for percent in (80, 95):
        assert text.count(f"**Alarm:** the {percent} % interval covered 0.0 %") == 1
    assert "## Scoreboard" in text
    assert "| 0.8000 (har_120_t, p –) |" in text


def test_markdown_shows_the_next_days() -> None:
    single = forecast_by_hand(400, "id-0", profile=quick())
    later = replace(single.first, horizon=7, target_day=single.origin_day + timedelta(days=7), point=8123.5)
    text = forecast_markdown(replace(single, horizons=(single.first, later)), prices(), NOTHING_SCORED)
    assert "## The next days\n\n| day | days ahead | median, USD | 80 % | 95 % |" in text
    low, high = later.interval(80) or (0.0, 0.0)
    assert f"| 2020-02-11 | 7 | 8,123.50 | {low:,.2f} to {high:,.2f} |" in text


def test_markdown_is_in_the_quote_currency_and_names_every_gap() -> None:
    forecast = replace(forecast_by_hand(400, "id-0", point=0.25), product_id="DOGE-EUR", last_close=0.2)
    text = forecast_markdown(forecast, prices(*GAPS), NOTHING_SCORED)
    assert "\nGap: 2019-03-20 to 2019-03-31, days missing: 12." in text
    assert "\nGap: 2019-05-01 to 2019-05-01, days missing: 1." in text
    assert "0.250000 EUR (+25.00% on the last close)" in text
    assert "USD" not in text.replace("BTC-USD", "")


def test_newest_forecasts_come_first(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    assert newest_forecasts(home, BTC, "article") == []
    others = [
        replace(forecast_by_hand(9, "eth"), product_id="ETH-USD"),
        forecast_by_hand(8, "c", profile=quick()),
    ]
    for forecast in [*(forecast_by_hand(n, f"id-{n}", point=8100.5) for n in (3, 1, 2)), *others]:
        Predictions(home).publish(forecast.rows())
    Predictions(home).publish(forecast_by_hand(2, "revised", point=8100.5).rows())
    rows = newest_forecasts(home, BTC, "article")
    assert [row["prediction_id"] for row in rows] == ["id-3", "revised", "id-2", "id-1"]
    assert rows[1] == {
        "target_day": "2019-01-03",
        "point": 8100.5,
        "last_close": close(2),
        "revision": 1,
        "model_version": "1",
        "prediction_id": "revised",
    }
    assert MAX_FORECASTS == 30


def test_products_have_a_forecast_or_a_reason() -> None:
    point = forecast_by_hand(400, "id-0", point=8100.5)
    euro = replace(forecast_by_hand(400, "id-1", profile=quick()), product_id="ETH-EUR")
    text = products_markdown([point, euro], {"LTC-USD": "NotEnoughHistory: too few days"})
    assert "| BTC-USD | 2020-02-05 | 8,100.50 USD (" in text
    assert "| a point without intervals |" in text
    assert re.search(r"\| ETH-EUR \| 2020-02-05 \| [\d,.]+ EUR \(.*\) \| [\d,.]+ EUR to [\d,.]+ EUR \|", text)
    assert "- **LTC-USD** has no forecast: NotEnoughHistory: too few days" in text
    assert products_markdown([], {"LTC-USD": "x"}) == "- **LTC-USD** has no forecast: x"


@pytest.mark.parametrize("age_warning", [None, "version 1 is old"])
def test_each_alarm_is_an_event_about_its_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, age_warning: str | None
) -> None:
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(prefect_artifacts, "emit_event", lambda **event: emitted.append(event))
    alarms = ["the 80 % interval covered little", "the 95 % as well"]
    raise_alarms(forecast_by_hand(365, "ab"), alarms, age_warning)
    stale = [STALE_MODEL] if age_warning else []
    assert [event["event"] for event in emitted] == [COVERAGE_ALARM, COVERAGE_ALARM, *stale]
    assert {event["resource"]["prefect.resource.id"] for event in emitted} == {"closecast.BTC-USD.article"}
    assert emitted[0]["payload"] == {
        "message": "BTC-USD: the 80 % interval covered little",
        "target_day": "2020-01-01",
        "product_id": "BTC-USD",
        "profile": "article",
        "model_version": "1",
        "prediction_id": "ab",
    }
    # The age of the model is logged where it is noticed.
    assert caplog.messages == [f"BTC-USD: {alarm}" for alarm in alarms]


# The progress of a training


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Prefect receives: the key and the description, then each percentage."""
    calls: list[Any] = []
    artifact_id = uuid4()

    def create(percent: float, *, key: str, description: str) -> Any:
        calls.extend([key, description, percent])
        return artifact_id

    def update(updated: Any, percent: float) -> None:
        assert updated == artifact_id
        calls.append(percent)

    monkeypatch.setattr(prefect_artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(prefect_artifacts, "update_progress_artifact", update)
    monkeypatch.setattr(prefect_artifacts, "EVERY_SECONDS", 0.0)
    return calls


def test_members_have_equal_shares_and_early_stopping_completes_one(received: list[Any]) -> None:
    with listening(TrainingProgress(BTC, 2)):
        assert received == []  # most days train nothing
        for member, epoch in (("a", 1), ("b", 5), ("a", 10), ("b", 6), ("b", 10)):
            report_epoch(member, epoch, 10)
    assert received[:2] == ["training-btc-usd", "BTC-USD: training, networks: 2"]
    assert received[2:] == pytest.approx([5.0, 30.0, 75.0, 80.0, 100.0])


def test_a_member_trains_twice_in_a_training_with_a_twin(received: list[Any]) -> None:
    with training_progress(BTC, quick(members=2)):
        for epochs in (4, 2):  # the twin, then the model itself, for as many epochs as were best
            for epoch in range(1, epochs + 1):
                for member in ("member 1", "member 2"):
                    report_epoch(member, epoch, epochs)
    assert received[2:] == pytest.approx([6.25, 12.5, 18.75, 25, 31.25, 37.5, 43.75, 50, 62.5, 75, 87.5, 100])


@pytest.mark.parametrize("trained", [True, False])
def test_progress_ends_at_100_without_a_twin_and_does_not_begin_without_a_training(
    received: list[Any], trained: bool
) -> None:
    with training_progress(BTC, quick()):
        if trained:
            report_epoch("member 1", 1, 2)
            report_epoch("member 1", 2, 2)
    assert received[2:] == ([25.0, 50.0, 100.0] if trained else [])


def test_a_training_that_fails_does_not_end_at_100(received: list[Any]) -> None:
    def fail() -> None:
        with training_progress(BTC, quick()):
            report_epoch("member 1", 1, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert received[2:] == [25.0]


def test_the_first_and_the_last_epoch_are_sent_at_once(
    received: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_artifacts, "EVERY_SECONDS", 3600.0)
    monkeypatch.setattr("time.monotonic", lambda: 7200.0)
    with listening(TrainingProgress(BTC, 1)):
        for epoch in range(1, 1001):
            report_epoch("", epoch, 1000)
    assert received[2:] == pytest.approx([0.1, 100.0])


def test_an_unreachable_server_does_not_end_the_training(
    received: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = []

    def refuse(*_: object) -> None:
        requests.append(1)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(prefect_artifacts, "update_progress_artifact", refuse)
    with listening(TrainingProgress(BTC, 1)):
        for epoch in range(1, 6):
            report_epoch("", epoch, 5)
    assert requests == [1]
    assert caplog.messages == ["BTC-USD: the progress of training can no longer be shown"]
