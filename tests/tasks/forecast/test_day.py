"""A day's steps together: what they read, and what they load."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.prices import price_store, queries
from closecast.storage.prices.database import Database
from closecast.storage.tables.delta import Table
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator, components
from closecast.storage.tables.scores import Scores
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.evaluation.scoring import score_due
from closecast.tasks.forecast.publish import RunKey, find_forecast, publish_forecast
from closecast.tasks.prices.ingest import IngestRequest
from closecast.tasks.prices.sources import Market, ingest_prices
from closecast.tasks.report.page import write_page
from closecast.tasks.training.registration import load_model
from closecast.tasks.training.selection import select_model
from tests.calibrated import HORIZONS, LENIENT, MADE, Runs, champion_runs, day, quick, stored_runs
from tests.engines import copy_home
from tests.helpers import BTC, NOW, ending, interrupt, modules_after
from tests.lived import DAYS, lived_runs, made_lived


def run_day(runs: Runs, number: int) -> Forecast:
    """The steps of `daily_forecast`, in its order."""
    home, profile = runs.home, runs.profile
    request = IngestRequest(BTC, day(number), NOW, NOW.date(), profile.min_fallback_days)
    prices = ingest_prices(home, Market(product_id=BTC), request, base_url="http://unused.invalid")
    history = prices.history
    forecast = find_forecast(home, RunKey.of_run(profile, history), profile.horizons)
    if forecast is None:
        score_due(home, history, profile, NOW)
        selection = select_model(home, profile, prices)
        model = load_model(Models(home), profile, BTC, selection.version)
        forecast = publish_forecast(home, profile, model, history, created_at=NOW, flow_run_id=None)
    write_page(home, forecast, history, day=NOW.date(), as_of=prices.as_of)
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
    count(queries, "read_recorded", "read")
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
        "from closecast.storage.core.home import Home\nfrom tests.calibrated import MADE, Runs, quick\n"
        "from tests.tasks.forecast.test_day import Path, run_day\n"
        f"run_day(Runs(Home(Path({str(runs.home.root)!r})), quick()), MADE + 1)"
    )
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & modules_after(program)
    forecast = find_forecast(runs.home, RunKey.of_run(runs.profile, runs.history(MADE + 1)), HORIZONS)
    assert forecast is not None
    assert forecast.model_version == "1"


# Its commits


def contents(home: Home) -> dict[str, list[dict[str, Any]]]:
    """All rows of the tables, in an order of their own."""
    tables = (Predictions(home), components(home), calibrator(home), Scores(home))
    names = ("prediction_id", "component", "horizon", "calibrator_version", "target_day")
    stored = {table.folder.name: table.read().to_pylist() for table in tables}
    return {
        name: sorted(rows, key=lambda row: [str(row.get(column)) for column in names])
        for name, rows in stored.items()
    }


COMMITS = ("scores", "calibrator", "components", "predictions")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("commit", range(len(COMMITS)), ids=COMMITS)
def test_a_day_interrupted_between_its_commits_is_completed(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    commit: int,
    after: bool,
) -> None:
    """Outcomes of two horizons are due, and three are forecast: no row is lost or doubled."""
    expected, last = undisturbed(tmp_path_factory.getbasetemp())
    runs = lived_runs(tmp_path_factory, tmp_path / "home")
    before = contents(runs.home)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "insert", ending(Table.insert, interrupt, call=commit + 1, after=after))
        with pytest.raises(KeyboardInterrupt):
            run_day(runs, MADE + DAYS)
    found = contents(runs.home)
    for number, name in enumerate(COMMITS):  # a commit adds all of its table's rows or none
        assert found[name] == (expected if number < commit + after else before)[name]
    for _ in range(2):
        assert run_day(runs, MADE + DAYS).rows() == last
        assert contents(runs.home) == expected


@functools.cache
def undisturbed(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The tables after that day, and its forecast's rows."""
    runs = Runs(copy_home(made_lived(folder), folder / "undisturbed day"), quick(**LENIENT))
    forecast = run_day(runs, MADE + DAYS)
    return contents(runs.home), forecast.rows()
