from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.context import SettingsContext
from prefect.settings import Profile, Settings

from closecast.storage.core.home import Home, default_root
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.evaluation.scoreboard import scoreboard
from closecast.tasks.network.epoch import listening, report_epoch
from closecast.tasks.prices.ingest import IngestedPrices
from closecast.tasks.report import side_calls
from closecast.tasks.report.events import run_url
from closecast.tasks.report.prefect_artifacts import (
    TrainingProgress,
    _figures,
    forecast_markdown,
    newest_forecasts,
    products_markdown,
    training_progress,
)
from closecast.tasks.report.side_calls import Progress
from tests.calibrated import MADE, champion_runs, close, forecast_by_hand, quick
from tests.helpers import BTC, made_up, without
from tests.tasks.evaluation.test_scoreboard import scores

DEFAULT_HOME = Home(default_root())
NOTHING_SCORED = scoreboard(scores(0))
GAPS = [(date(2019, 3, 20), date(2019, 3, 31)), (date(2019, 5, 1), date(2019, 5, 1))]


def prices(*gaps: tuple[date, date]) -> IngestedPrices:
    candles = made_up(400)
    for gap in gaps:
        candles = without(candles, *gap)
    history = PriceHistory(BTC, candles, "v", "coinbase@0")
    return IngestedPrices(history, history.origin, new_days=3, restated_days=2, quarantined=1)


CLOUD = "https://api.prefect.cloud/api/accounts/a/workspaces/w"


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"API_URL": "http://host:4200/api"}, "http://host:4200/runs/flow-run/7"),
        ({"API_URL": "http://me:secret@host/api"}, "http://host/runs/flow-run/7"),
        ({"API_URL": "http://host/api", "UI_URL": "https://other/ui"}, "https://other/ui/runs/flow-run/7"),
        ({"API_URL": CLOUD}, "https://app.prefect.cloud/account/a/workspace/w/runs/flow-run/7"),
        # A command's own server has no UI, and a run without a server no address.
        ({"API_URL": "http://127.0.0.1:4200/api", "SERVER_UI_ENABLED": "false"}, None),
        ({}, None),
    ],
)
def test_the_address_of_a_run_is_prefects_own(
    settings: dict[str, str], address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_URL", "UI_URL", "SERVER_UI_ENABLED"):
        monkeypatch.delenv(f"PREFECT_{name}", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name, value in settings.items():
        monkeypatch.setenv(f"PREFECT_{name}", value)
    with SettingsContext(profile=Profile(name="none", settings={}), settings=Settings()):
        assert run_url() is None  # outside of a run
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "7")
        assert run_url() == address


def test_a_models_figures_are_shown_on_the_day_that_trained_it(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    runs = champion_runs(tmp_path_factory, tmp_path / "home")
    for number, names in ((MADE, ["losses"]), (MADE + 1, [])):
        assert [*_figures(runs.home, forecast_by_hand(number, "id", profile=runs.profile))] == names


def test_markdown_of_a_point_has_the_summary_and_the_data() -> None:
    forecast = forecast_by_hand(400, "id-0", point=8100.5)
    text = forecast_markdown(forecast, forecast, prices(), NOTHING_SCORED)
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
    text = forecast_markdown(forecast, forecast, prices(), scoreboard(scores(180)), "an old model")
    assert "| 80 % | 7,930.00 USD to 8,090.00 USD |" in text
    assert "a point without intervals" not in text
    assert "| lstm | 8,010.00 USD | 7,930.00 USD to 8,090.00 USD |" in text
    assert "**Warning:** an old model" in text
    assert "next days" not in text
    for percent in (80, 95):
        assert text.count(f"**Alarm:** the {percent} % interval covered 0.0 %") == 1
    assert "## Scoreboard" in text
    assert "| 0.9000 (har_120_t, p –) |" in text


def test_markdown_is_of_the_day_asked_for_and_shows_the_next_days_of_its_run() -> None:
    single = forecast_by_hand(400, "id-0", profile=quick())
    third = replace(single.first, horizon=3, target_day=single.origin_day + timedelta(days=3), point=8123.5)
    run = replace(single, horizons=(single.first, third))
    text = forecast_markdown(single, run, prices(), NOTHING_SCORED)
    assert "## The next days\n\n| day | days ahead | median, USD | 80 % | 95 % |" in text
    low, high = third.interval(80) or (0.0, 0.0)
    assert f"| 2020-02-07 | 3 | 8,123.50 | {low:,.2f} to {high:,.2f} |" in text
    asked = run.only(3)
    assert asked is not None
    text = forecast_markdown(asked, run, prices(), NOTHING_SCORED)
    assert text.startswith(
        f"# BTC-USD: close of {third.target_day}, 3 days ahead, from {single.origin_day}\n"
    )
    assert "| forecast | 8,123.50 USD" in text
    assert f"## Component forecasts of {third.target_day}" in text
    assert text.split("## The next days")[1].count("| 2020-02-") == 2


def test_markdown_of_a_fallback_says_that_there_was_no_model() -> None:
    made = forecast_by_hand(80, "id-0", profile=quick())
    fallback = replace(made, basis="fallback", model_version=None)
    board = scoreboard(scores(1).assign(basis="fallback"))
    text = forecast_markdown(
        fallback, fallback, prices(), board, "a model needs 400 closes, and there are 80"
    )
    assert "| model | none: a fallback, made by the baselines alone |" in text
    assert "**Warning:** a model needs 400 closes, and there are 80" in text
    assert "### Fallbacks, by horizon" in text
    assert "None" not in text


def test_markdown_is_in_the_quote_currency_and_names_every_gap() -> None:
    forecast = replace(forecast_by_hand(400, "id-0", point=0.25), product_id="DOGE-EUR", last_close=0.2)
    text = forecast_markdown(forecast, forecast, prices(*GAPS), NOTHING_SCORED)
    assert "\nGap: 2019-03-20 to 2019-03-31, days missing: 12." in text
    assert "\nGap: 2019-05-01 to 2019-05-01, days missing: 1." in text
    assert "0.250000 EUR (+25.00% on the last close)" in text
    assert "USD" not in text.replace("BTC-USD", "")


def test_newest_forecasts_come_first(home: Home) -> None:
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
        **dict.fromkeys(("lower_80", "upper_80", "lower_95", "upper_95"), ""),
        "last_close": close(2),
        "quote_currency": "USD",
        "revision": 1,
        "basis": "model",
        "model_version": "1",
        "prediction_id": "revised",
    }
    fallback = replace(forecast_by_hand(4, "fallback"), basis="fallback", model_version=None)
    Predictions(home).publish(fallback.rows())
    newest = newest_forecasts(home, BTC, "article")[0]
    assert (newest["basis"], newest["model_version"]) == ("fallback", "")
    (row,) = newest_forecasts(home, BTC, quick().name)
    ends = others[1].first.interval(80)
    assert (row["lower_80"], row["upper_80"]) == ends
    assert list(row)[:4] == ["target_day", "lower_80", "point", "upper_80"]


def test_products_have_a_forecast_or_a_reason() -> None:
    point = forecast_by_hand(400, "id-0", point=8100.5)
    euro = replace(forecast_by_hand(400, "id-1", profile=quick()), product_id="ETH-EUR")
    text = products_markdown([point, euro], {"LTC-USD": "NotEnoughHistory: too few days"})
    assert "| BTC-USD | 2020-02-05 | 8,100.50 USD (" in text
    assert "| a point without intervals |" in text
    assert re.search(r"\| ETH-EUR \| 2020-02-05 \| [\d,.]+ EUR \(.*\) \| [\d,.]+ EUR to [\d,.]+ EUR \|", text)
    assert "- **LTC-USD** has no forecast: NotEnoughHistory: too few days" in text
    far = replace(forecast_by_hand(400, "id-2", horizon=2), basis="fallback", model_version=None)
    assert "| BTC-USD | 2020-02-06, 2 days ahead, from 2020-02-04 (fallback) |" in products_markdown(
        [far], {}
    )
    assert products_markdown([], {"LTC-USD": "x"}) == "- **LTC-USD** has no forecast: x"


# The progress of a training


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Prefect receives: the key and the description, then each percentage."""
    calls: list[Any] = []

    def side_call(_: str, call: Any) -> bool:
        progress: Progress = call.__self__
        calls.extend([] if calls else [progress._key, progress._description])
        calls.append(progress._percent)
        return True

    monkeypatch.setattr(side_calls, "side_call", side_call)
    monkeypatch.setattr(side_calls, "EVERY_SECONDS", 0.0)
    return calls


def training(networks: int) -> Any:
    return listening(TrainingProgress(Progress("training", "a training"), networks))


def test_members_have_equal_shares_and_early_stopping_completes_one(received: list[Any]) -> None:
    with training(2):
        assert received == []  # most days train nothing
        for member, epoch in (("a", 1), ("b", 5), ("a", 10), ("b", 6), ("b", 10)):
            report_epoch(member, epoch, 10)
    assert received[2:] == pytest.approx([5.0, 30.0, 75.0, 80.0, 100.0])


def test_a_member_trains_twice_in_a_training_with_a_twin(received: list[Any]) -> None:
    with training_progress(DEFAULT_HOME, BTC, quick(members=2)):
        for epochs in (4, 2):  # the twin, then the model itself, for as many epochs as were best
            for epoch in range(1, epochs + 1):
                for member in ("member 1", "member 2"):
                    report_epoch(member, epoch, epochs)
    assert received[:2] == ["training-btc-usd", "BTC-USD: training, networks: 4"]
    assert received[2:] == pytest.approx([6.25, 12.5, 18.75, 25, 31.25, 37.5, 43.75, 50, 62.5, 75, 87.5, 100])


@pytest.mark.parametrize("trained", [True, False])
def test_progress_ends_at_100_without_a_twin_and_does_not_begin_without_a_training(
    received: list[Any], trained: bool
) -> None:
    with training_progress(DEFAULT_HOME, BTC, quick()):
        if trained:
            report_epoch("member 1", 1, 2)
            report_epoch("member 1", 2, 2)
    assert received[2:] == ([25.0, 50.0, 100.0] if trained else [])


def test_a_training_that_fails_does_not_end_at_100(received: list[Any]) -> None:
    def fail() -> None:
        with training_progress(DEFAULT_HOME, BTC, quick()):
            report_epoch("member 1", 1, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert received[2:] == [25.0]


def test_the_first_and_the_last_epoch_are_sent_at_once(
    received: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_calls, "EVERY_SECONDS", 3600.0)
    monkeypatch.setattr("time.monotonic", lambda: 7200.0)
    with training(1):
        for epoch in range(1, 1001):
            report_epoch("", epoch, 1000)
    assert received[2:] == pytest.approx([0.1, 100.0])
