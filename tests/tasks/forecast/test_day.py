"""A day's steps together: what they read, and what they load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from storage.models.registry import Models
from storage.prices import price_store, queries
from storage.prices.database import Database
from tasks.core.forecast import Forecast
from tasks.evaluation.scoring import score_due
from tasks.forecast.publish import RunKey, find_forecast, publish_forecast
from tasks.prices.ingest import IngestRequest
from tasks.prices.sources import Market, ingest_prices
from tasks.report.page import write_page
from tasks.training.registration import load_model
from tasks.training.selection import select_model
from tests.calibrated import HORIZONS, LENIENT, MADE, Runs, champion_runs, day, stored_runs
from tests.helpers import BTC, NOW, modules_after


def run_day(runs: Runs, number: int) -> Forecast:
    """The steps of `daily_forecast`, in its order."""
    home, profile = runs.home, runs.profile
    request = IngestRequest(
        BTC, day(number), NOW, NOW.date(), profile.min_days, profile.consecutive_days, pool_products=()
    )
    prices = ingest_prices(home, Market(product_id=BTC), request, base_url="http://unused.invalid")
    history = prices.history
    forecast = find_forecast(home, RunKey.of_run(profile, history), profile.horizons)
    if forecast is None:
        score_due(home, history, profile, NOW)
        selection = select_model(home, profile, prices)
        model = load_model(Models(home), profile, BTC, selection.version)
        forecast = publish_forecast(home, profile, model, history, created_at=NOW, flow_run_id=None)
    write_page(home, forecast, history, day=NOW.date())
    return forecast


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the price database is opened, and a series read and digested."""
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str, label: str) -> None:
        honest = getattr(owner, name)

        def counted(*args: Any, **more: Any) -> Any:
            calls[label] += 1
            return honest(*args, **more)

        monkeypatch.setattr(owner, name, counted)

    count(Database, "__init__", "opened")
    count(queries, "read_newest", "read")
    for module in (price_store, queries):
        if hasattr(module, "digest"):
            count(module, "digest", "digested")
    return calls


ONCE = {"opened": 1, "read": 1, "digested": 1}


def test_each_day_reads_its_series_once(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, counts: Counter[str]
) -> None:
    runs, forecasts = stored_runs(tmp_path_factory, tmp_path / "home", **LENIENT), []
    for number in (MADE, MADE, MADE + 1, MADE + 30):  # one that refits, repeats, keeps, fine-tunes
        counts.clear()
        forecasts.append(run_day(runs, number))
        assert counts == ONCE
    assert forecasts[0].rows() == forecasts[1].rows()
    assert [forecast.model_version for forecast in forecasts[1:]] == ["1", "1", "2"]


def test_a_day_whose_model_is_kept_loads_no_training_libraries(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = champion_runs(tmp_path_factory, tmp_path / "home")
    program = (
        "from storage.core.home import Home\nfrom tests.calibrated import MADE, Runs, quick\n"
        "from tests.tasks.forecast.test_day import Path, run_day\n"
        f"run_day(Runs(Home(Path({str(runs.home.root)!r})), quick()), MADE + 1)"
    )
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & modules_after(program)
    forecast = find_forecast(runs.home, RunKey.of_run(runs.profile, runs.history(MADE + 1)), HORIZONS)
    assert forecast is not None
    assert forecast.model_version == "1"
