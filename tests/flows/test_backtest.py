"""The backtest beside the day: the same bits, blind to what comes later, and whole after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from flows.scoring import score_forecasts
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType
from prefect.task_runners import ProcessPoolTaskRunner

from flows.backtest import rolling_backtest
from flows.daily import daily_forecast
from flows.settings import Market, profile_named
from storage.core.errors import BadDay, BadSetting, NotEnoughHistory
from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.predictions import Predictions
from storage.tables.schemas import backtests, calibrator, components
from storage.tables.scores import Scores
from tasks.backtest import walk_forward as steps
from tests.calibrated import LENIENT
from tests.helpers import FIRST, made_up, store

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

BTC = "BTC-USD"
DAYS = 700
START = FIRST + timedelta(days=609)
DAILY = 9
# Small networks, and a policy that has a refit, a fine-tuning and their gates within a dozen days.
SMALL: dict[str, Any] = {
    "units": 3,
    "members": 2,
    "epochs": 2,
    "refit_every_days": 8,
    "fine_tune_every_days": 3,
    "pool_products": (),
}


def home_with(root: Path, frame: pd.DataFrame) -> Home:
    home = Home(root).prepare()
    store(home, frame)
    return home


def backtest(home: Home, days: int, **changed: Any) -> Any:
    end = START + timedelta(days=days - 1)
    return rolling_backtest(BTC, "calibrated", {**SMALL, **changed}, START, end, str(home.root))


def rows_of(home: Home, backtest_id: str, method: str) -> dict[date, dict[str, Any]]:
    wanted = (ds.field("backtest_id") == backtest_id) & (ds.field("component") == method)
    return {row["origin_day"]: row for row in backtests(home).read(wanted).to_pylist()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Any]:
    """A home with twelve origins tested."""
    home = home_with(tmp_path_factory.mktemp("made"), made_up(DAYS))
    return home, backtest(home, 12)


def test_a_day_and_the_backtest_say_the_same_bits(made: tuple[Home, Any], tmp_path: Path) -> None:
    tested, verdict = made
    said = rows_of(tested, verdict.backtest_id, "calibrated")
    assert sorted(said) == [START + timedelta(days=n) for n in range(12)]
    home = home_with(tmp_path / "days", made_up(DAYS))
    market = Market(product_id=BTC, source="csv")
    for origin in sorted(said)[:DAILY]:
        daily_forecast(market, "calibrated", SMALL, origin, str(home.root))
    found = {row["origin_day"]: row for row in Predictions(home).between(BTC).to_pylist()}
    assert sorted(found) == sorted(said)[:DAILY]
    for origin, row in found.items():
        assert row["quantiles"] == said[origin]["quantiles"], origin
        assert row["point"] == said[origin]["point"]
        assert row["last_close"] == said[origin]["last_close"]
    beside = components(home).read().to_pylist()
    for method in ("lstm", "har_t", "garch_t", "ewma_t", "last_close_250"):
        tested_rows = rows_of(tested, verdict.backtest_id, method)
        for row in (row for row in beside if row["component"] == method):
            origin = row["target_day"] - timedelta(days=1)
            assert row["quantiles"] == tested_rows[origin]["quantiles"], (method, origin)
    # The first state, and one after each outcome.
    assert calibrator(home).read().num_rows == DAILY
    # A refit at first and on day 8, fine-tunings on days 3 and 6, and in the backtest on day 11.
    assert [row["model_version"] for row in found.values()] == list("111222334")
    assert len(verdict.gates) == 4

    tables = (calibrator(home), components(home), Scores(home), Predictions(home))
    before = [table.read().num_rows for table in tables]
    last = max(found)
    again = daily_forecast(market, "calibrated", SMALL, last, str(home.root))
    assert again == found[last]["prediction_id"]
    score_forecasts(home, BTC, profile_named("calibrated", SMALL))
    score_forecasts(home, BTC, profile_named("calibrated", SMALL))
    # The closes after the last origin are stored as well: they score its forecast, once.
    assert [table.read().num_rows for table in tables] == [before[0] + 1, before[1], before[2] + 1, before[3]]


def test_what_comes_later_moves_not_one_bit(made: tuple[Home, Any], tmp_path: Path) -> None:
    tested, verdict = made
    frame = made_up(DAYS)
    after = frame["day_utc"] > pd.Timestamp(START + timedelta(days=6))
    names = ["open", "high", "low", "close"]
    factors = np.random.default_rng(3).uniform(0.5, 2.0, int(after.sum()))
    frame.loc[after, names] = frame.loc[after, names].mul(factors, axis=0)
    frame.loc[after, "volume"] = 1e9
    home = home_with(tmp_path / "garbage", frame)
    garbage = backtest(home, 12)
    for method in ("calibrated", "lstm", "har_t", "garch_t", "ewma_t", "last_close_250"):
        before, now = (
            rows_of(*where, method) for where in ((tested, verdict.backtest_id), (home, garbage.backtest_id))
        )
        same = [before[day]["quantiles"] == now[day]["quantiles"] for day in sorted(before)]
        assert same[:7] == [True] * 7, method
        assert same[7:] == [False] * 5, method


@pytest.mark.engines
def test_other_task_runners_give_the_same_bits(made: tuple[Home, Any], tmp_path: Path) -> None:
    tested, verdict = made
    home = home_with(tmp_path / "pool", made_up(DAYS))
    pool: Any = ProcessPoolTaskRunner(max_workers=2)
    end = START + timedelta(days=11)
    flow = rolling_backtest.with_options(task_runner=pool)
    again = flow(BTC, "calibrated", SMALL, START, end, str(home.root))
    assert again.backtest_id == verdict.backtest_id
    before, now = (rows_of(where, verdict.backtest_id, "calibrated") for where in (tested, home))
    assert [row["quantiles"] for row in before.values()] == [row["quantiles"] for row in now.values()]
    assert again.summary == verdict.summary


def test_a_finished_one_is_read_and_not_made_again(
    made: tuple[Home, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, verdict = made
    before = backtests(home).read().num_rows

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    for name in ("fit_ensemble", "fine_tune_ensemble", "say"):
        monkeypatch.setattr(steps, name, never)
    assert backtest(home, 12) == verdict
    assert backtests(home).read().num_rows == before == 12 * 6


def test_a_killed_one_goes_on_where_it_was(made: tuple[Home, Any], tmp_path: Path) -> None:
    tested, verdict = made
    home = home_with(tmp_path / "killed", made_up(DAYS))
    end = START + timedelta(days=11)
    settings = ", ".join(f"{name}={value!r}" for name, value in SMALL.items())
    script = (
        "from datetime import date\nfrom flows.backtest import rolling_backtest\n"
        f"rolling_backtest({BTC!r}, 'calibrated', dict({settings}),"
        f" date.fromisoformat('{START}'), date.fromisoformat('{end}'), {str(home.root)!r})\n"
    )
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], env=environment, stderr=subprocess.PIPE
    )
    folder = home.folds / verdict.backtest_id
    first = folder / f"refit-{START}" / "manifest.json"
    patience = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert not (folder / "summary.json").exists()
    stood = first.stat().st_mtime_ns
    again = backtest(home, 12)
    assert first.stat().st_mtime_ns == stood
    assert again.summary == verdict.summary
    before, now = (rows_of(where, verdict.backtest_id, "calibrated") for where in (tested, home))
    assert [row["quantiles"] for row in before.values()] == [row["quantiles"] for row in now.values()]
    assert backtests(home).read().num_rows == 12 * 6


def test_progress_and_summary_are_shown(made: tuple[Home, Any]) -> None:
    with get_client(sync_client=True) as client:
        progress, text = (
            client.read_artifacts(artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=[kind])))
            for kind in ("progress", "markdown")
        )
    assert 100.0 in {float(str(artifact.data)) for artifact in progress}
    shown = [str(one.data) for one in text if one.key == "backtest-btc-usd-calibrated"]
    assert shown
    for word in ("CRPS", "garch_t", "Coverage", "PIT", "MASE"):
        assert all(word in one for one in shown)


def test_a_hole_in_the_span_is_gone_around(tmp_path: Path) -> None:
    frame = made_up(DAYS)
    gap = frame["day_utc"].between(pd.Timestamp(START), pd.Timestamp(START + timedelta(days=1)))
    home = home_with(tmp_path, frame[~gap].reset_index(drop=True))
    verdict = backtest(home, 30)
    # The window's 20 days, the day before them, and the two of the gap.
    first = START + timedelta(days=22)
    assert min(rows_of(home, verdict.backtest_id, "calibrated")) == first
    assert verdict.summary.days == 8


@pytest.mark.engines
def test_a_long_chain_of_fine_tunings_has_names_that_files_may_have(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home", made_up(DAYS))
    verdict = backtest(home, 9, refit_every_days=365, fine_tune_every_days=1, **LENIENT)
    assert len({row["model"] for row in rows_of(home, verdict.backtest_id, "lstm").values()}) == 9
    folders = BacktestCache(home, verdict.backtest_id).folder
    assert max(len(path.name) for path in folders.rglob("*")) < 120


def test_what_cannot_be_tested_is_refused(tmp_path: Path) -> None:
    home = home_with(tmp_path, made_up(500))
    last = FIRST + timedelta(days=499)
    where = str(home.root)
    with pytest.raises(BadSetting, match="gives a point"):
        rolling_backtest(BTC, "article", None, START, START, where)
    with pytest.raises(BadDay, match=f"the last origin with an outcome is {last - timedelta(days=1)}"):
        rolling_backtest(BTC, "calibrated", SMALL, last, last, where)
    with pytest.raises(BadDay, match="a backtest needs a start"):
        rolling_backtest(BTC, "calibrated", SMALL, last - timedelta(days=1), last - timedelta(days=2), where)
    early = FIRST + timedelta(days=398)
    with pytest.raises(NotEnoughHistory, match=r"need 400 days of closes, found 399 .* --start"):
        rolling_backtest(BTC, "calibrated", SMALL, early, last - timedelta(days=1), where)
    with pytest.raises(NotEnoughHistory, match="ADA-USD has no closes"):
        rolling_backtest("ADA-USD", "calibrated", SMALL, None, None, where)
