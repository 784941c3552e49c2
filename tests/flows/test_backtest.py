"""The backtest and the daily run: the same bits, independent of later prices, whole after an interruption."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType
from prefect.settings import PREFECT_API_URL

from closecast.flows.actions import score_forecasts
from closecast.flows.backtest import rolling_backtest
from closecast.flows.daily import daily_forecast
from closecast.storage.core.errors import WorkerLost
from closecast.storage.core.home import Home
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import backtests, calibrator, components
from closecast.storage.tables.scores import Scores
from closecast.tasks.prices.sources import Market
from closecast.tasks.profiles.baselines import baselines_of
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.profiles.named import profile_named
from tests.calibrated import LENIENT
from tests.helpers import BTC, FIRST, PROJECT, home_with, made_up
from tests.processes import process_for
from tests.waiting import wait_for

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

DAYS = 700
START = FIRST + timedelta(days=609)
ORIGINS, DAILY = 6, 5
HORIZONS = (1, 3)
# Small networks, and a policy that has a refit, a fine-tuning and their gates within some days.
SMALL: dict[str, Any] = {
    "units": 3,
    "members": 2,
    "epochs": 2,
    "horizons": HORIZONS,
    "refit_every_days": 4,
    "fine_tune_every_days": 2,
    "pool_products": (),
}


def backtest(home: Home, days: int = ORIGINS, *, workers: int = 1, **changed: Any) -> Any:
    end = START + timedelta(days=days - 1)
    settings = {**SMALL, **changed}
    return rolling_backtest(BTC, "calibrated", settings, START, end, str(home.root), workers=workers)


# Every component of every horizon.
NAMES = [(name, horizon) for horizon in HORIZONS for name in ("calibrated", "lstm", *baselines_of(horizon))]
FIGURES = ("target_day", "sigma", "last_close", "close", "point", "quantiles", "model", "fold")


def rows_of(home: Home, backtest_id: str) -> dict[tuple[str, int, date], dict[str, Any]]:
    """Every stored figure, by component, horizon and origin."""
    rows = backtests(home).read(ds.field("backtest_id") == backtest_id).to_pylist()
    return {
        (row["component"], row["horizon"], row["origin_day"]): {name: row[name] for name in FIGURES}
        for row in rows
    }


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Any]:
    """A home with a backtest."""
    home = home_with(tmp_path_factory.mktemp("tested"), made_up(DAYS))
    return home, backtest(home)


def test_the_daily_run_and_the_backtest_make_the_same_bits(tested: tuple[Home, Any], tmp_path: Path) -> None:
    original, result = tested
    origins = [START + timedelta(days=n) for n in range(ORIGINS)]
    home = home_with(tmp_path / "days", made_up(DAYS))
    market = Market(product_id=BTC, source="csv")
    for origin in origins[:DAILY]:
        daily_forecast(market, "calibrated", SMALL, origin, str(home.root))
    parts = {
        (row["component"], row["horizon"], row["target_day"] - timedelta(days=row["horizon"])): row
        for row in components(home).read().to_pylist()
    }
    expected = rows_of(original, result.backtest_id)
    assert expected.keys() == {(*name, origin) for name in NAMES for origin in origins}
    for horizon in HORIZONS:
        stored = Predictions(home).between(BTC, horizon=horizon).to_pylist()
        forecasts = {row["origin_day"]: row for row in stored}
        assert sorted(forecasts) == origins[:DAILY]
        for origin, row in forecasts.items():
            for name in ("quantiles", "point", "last_close", "target_day"):
                assert row[name] == expected["calibrated", horizon, origin][name], (origin, horizon, name)
            for component in ("lstm", *baselines_of(horizon)):
                key = component, horizon, origin
                assert parts[key]["quantiles"] == expected[key]["quantiles"], key
    # The first state of each horizon, and one after each outcome.
    assert calibrator(home).read().num_rows == sum(1 + DAILY - horizon for horizon in HORIZONS)
    forecasts = {row["origin_day"]: row for row in Predictions(home).between(BTC, horizon=1).to_pylist()}
    # A refit on days 0 and 4, and a fine-tuning on day 2.
    assert [row["model_version"] for row in forecasts.values()] == list("11223")
    assert len(result.gates) == 2

    tables = (calibrator(home), components(home), Scores(home), Predictions(home))
    before = [table.read().num_rows for table in tables]
    last = max(forecasts)
    again = daily_forecast(market, "calibrated", SMALL, last, str(home.root))
    assert again == forecasts[last]["prediction_id"]
    score_forecasts(home, BTC, "calibrated", lambda: profile_named("calibrated", SMALL))
    score_forecasts(home, BTC, "calibrated", lambda: profile_named("calibrated", SMALL))
    # The closes after the last origin are stored, too: they score the forecasts that waited for one, once.
    added = sum(HORIZONS)
    assert [table.read().num_rows for table in tables] == [
        *(before[0] + added, before[1], before[2] + added, before[3])
    ]


@pytest.mark.engines
def test_a_backtest_whose_worker_is_killed_continues(tested: tuple[Home, Any], tmp_path: Path) -> None:
    home = home_with(tmp_path / "killed", made_up(DAYS))
    folder = home.folds / tested[1].backtest_id

    def kill_one() -> None:
        wait_for(lambda: list(folder.glob("refit-*/manifest.json")), pause=0.005)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(WorkerLost, match="continues where it stopped"):
        backtest(home, workers=2)
    killer.join()
    assert not (folder / "fold-1.json").exists()
    again = backtest(home)
    assert again == tested[1]
    assert rows_of(home, again.backtest_id) == rows_of(tested[0], again.backtest_id)
    assert not list(folder.glob(".draft-*"))


def test_a_finished_backtest_is_read_again(tested: tuple[Home, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    home, result = tested
    before = backtests(home).read().num_rows

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained or predicted again")

    for name in ("fit", "fine_tune", "predict"):
        monkeypatch.setattr(CalibratedProfile, name, fail)
    monkeypatch.setattr("closecast.flows.workers._Processes", fail)
    assert backtest(home, workers=2) == result
    assert backtests(home).read().num_rows == before == ORIGINS * len(NAMES)


def test_worker_processes_continue_a_killed_backtest_with_the_same_bits(
    tested: tuple[Home, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_with(tmp_path / "killed", made_up(DAYS))
    folder = home.folds / tested[1].backtest_id
    first = folder / f"refit-{START}" / "manifest.json"
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    process = process_for(backtest, home)
    process.start()
    wait_for(lambda: first.exists() or process.exitcode is not None, pause=0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"
    assert not (folder / "summary.json").exists()
    assert not (folder / "fold-0.json").exists()
    written = first.stat().st_mtime_ns
    script = (
        "import sys; from tests.flows.test_backtest import *\n"
        "if __name__ == '__main__':\n"
        f"    backtest(Home(Path({str(home.root)!r})), workers=2)\n"
        "    heavy = {'tensorflow', 'arch', 'scipy.stats'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True, timeout=120)
    assert first.stat().st_mtime_ns == written
    assert backtest(home) == tested[1]
    assert rows_of(home, tested[1].backtest_id) == rows_of(tested[0], tested[1].backtest_id)
    assert backtests(home).read().num_rows == ORIGINS * len(NAMES)


def test_progress_and_summary_are_artifacts(tested: tuple[Home, Any]) -> None:
    with get_client(sync_client=True) as client:
        progress, text = (
            client.read_artifacts(artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=[kind])))
            for kind in ("progress", "markdown")
        )
    assert 100.0 in {float(str(artifact.data)) for artifact in progress}
    key = f"backtest-btc-usd-calibrated-{tested[0].label}"
    summaries = [str(artifact.data) for artifact in text if artifact.key == key]
    assert summaries
    for word in ("CRPS", "garch_weekday_t", "Coverage", "PIT", "MASE"):
        assert all(word in summary for summary in summaries)


@pytest.mark.engines
def test_a_long_chain_of_fine_tunings_has_short_file_names(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home", made_up(DAYS))
    result = backtest(home, 9, refit_every_days=365, fine_tune_every_days=1, **LENIENT)
    made = rows_of(home, result.backtest_id)
    assert len({row["model"] for (component, *_), row in made.items() if component == "lstm"}) == 9
    folders = BacktestCache(home, result.backtest_id).folder
    assert max(len(path.name) for path in folders.rglob("*")) < 120
