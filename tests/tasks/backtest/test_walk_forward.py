"""Folds prepared in any order and walked in theirs: the same bits, whatever happens on the way."""

from __future__ import annotations

import functools
import math
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.home import Home
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.storage.tables.schemas import backtests, calibrator
from closecast.tasks.backtest.plan import Plan, plan_backtest
from closecast.tasks.backtest.result import BacktestResult, evaluations_of, finish_backtest, read_rows
from closecast.tasks.backtest.walk_forward import WalkState, clear_cache, folds_left, prepare_fold
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.baselines import baselines_of
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import HORIZONS, LENIENT, candles, close, day, quick, stored_runs
from tests.engines import copy_home
from tests.helpers import BTC, NOW, SMALL, ending, home_with, interrupt, modules_after, without

START, END = 610, 621
# A refit, a fine-tuning and their gates within a dozen days.
SOON = {"refit_every_days": 8, "fine_tune_every_days": 3}
Tested = tuple[Home, Plan, BacktestResult]


def plan(home: Home, profile: Profile, start: int = START, end: int = END) -> Plan:
    return plan_backtest(home, BTC, profile, start=day(start), end=day(end), moment=NOW)


# Every component of every horizon.
NAMES = [(name, horizon) for horizon in HORIZONS for name in ("calibrated", "lstm", *baselines_of(horizon))]


def rows(home: Home, component: str = "calibrated", horizon: int = 1) -> dict[date, dict[str, Any]]:
    """The rows of one component and horizon, by origin."""
    stored = backtests(home).read().to_pylist()
    wanted = [row for row in stored if (row["component"], row["horizon"]) == (component, horizon)]
    return {row["origin_day"]: row for row in sorted(wanted, key=lambda row: row["origin_day"])}


def all_rows(home: Home) -> list[dict[date, dict[str, Any]]]:
    return [rows(home, *name) for name in NAMES]


@functools.cache
def _tested(folder: Path) -> Tested:
    home = home_with(folder / "walked", candles())
    tested = plan(home, quick(**SOON))
    for fold in reversed(range(len(tested.folds))):
        prepare_fold(home, tested, fold)
    return home, tested, finish_backtest(home, tested)


@pytest.fixture
def tested(tmp_path_factory: pytest.TempPathFactory) -> Tested:
    """Twelve origins, whose folds were prepared last first."""
    return _tested(tmp_path_factory.getbasetemp())


def test_every_component_has_a_row_per_origin_and_horizon(tested: Tested) -> None:
    home, plan, result = tested
    for name, horizon in NAMES:
        own = rows(home, name, horizon)
        assert list(own) == [day(number) for number in range(START, END + 1)]
        for number, row in zip(range(START, END + 1), own.values(), strict=True):
            assert (row["last_close"], row["close"]) == (close(number), close(number + horizon))
            assert (row["target_day"], row["horizon"]) == (day(number + horizon), horizon)
            assert row["quantiles"] == sorted(row["quantiles"])
    assert backtests(home).read().num_rows == 12 * len(NAMES)
    assert [summary.days for summary in result.summaries] == [12] * 3
    # A fine-tuning on days 3, 6 and 11, a refit on day 8: each with its gate.
    assert len(plan.folds) == 2
    assert [gate.split(" ")[:2] for gate in result.gates] == [
        [str(day(START + days)), kind]
        for days, kind in ((3, "fine-tune"), (6, "fine-tune"), (8, "refit"), (11, "fine-tune"))
    ]


def test_quantiles_are_read_back_as_those_of_the_log_return(tested: Tested) -> None:
    home, plan, _ = tested
    evaluations = evaluations_of(read_rows(home, BTC, plan.backtest_id), "calibrated")
    assert tuple(evaluations) == HORIZONS
    numbers = range(START, END + 1)
    for horizon, evaluation in evaluations.items():
        assert evaluation.target_days == [day(number + horizon) for number in numbers]
        assert evaluation.last_close.tolist() == [close(number) for number in numbers]
        assert evaluation.close.tolist() == [close(number + horizon) for number in numbers]
        assert set(evaluation.quantiles) == {"calibrated", "lstm", *baselines_of(horizon)}
        for name, quantiles in evaluation.quantiles.items():
            prices = np.array([row["quantiles"] for row in rows(home, name, horizon).values()])
            found = np.exp(quantiles) * evaluation.last_close[:, None]
            np.testing.assert_allclose(found, prices, rtol=1e-14)


def test_outcomes_that_are_not_known_yet_have_no_row(tmp_path: Path) -> None:
    """The last origin is the day before the last close; an outcome may lie in a gap, too."""
    home = home_with(tmp_path, without(candles().head(625), day(613), day(613)))
    tested = plan(home, quick(), 610, 624)
    finish_backtest(home, tested)
    for horizon in HORIZONS:  # those a horizon before the missing day have none
        numbers = [n for n in range(610, 626 - horizon) if 613 not in (n, n + horizon)]
        assert list(rows(home, horizon=horizon)) == [day(number) for number in numbers]
    short = home_with(tmp_path / "short", candles().head(615))
    finish_backtest(short, plan(short, quick(), 610, 614))
    for horizon, last in zip(HORIZONS, (614, 612, None), strict=True):
        expected = [] if last is None else [day(number) for number in range(610, last + 1)]
        assert list(rows(short, horizon=horizon)) == expected


def test_days_before_the_first_model_are_fallbacks_apart(tmp_path: Path) -> None:
    home = home_with(tmp_path, candles().head(420))
    result = finish_backtest(home, plan(home, quick(), 396, 403))
    assert [(one.days, one.fallback) for one in result.every] == [(4, False)] * 3 + [(4, True)] * 3
    assert (result.summary, result.of(7)) == (result.summaries[0], result.summaries[2])
    basis = [row["basis"] for row in rows(home).values()]
    assert basis == ["fallback"] * 4 + ["model"] * 4  # from the 400th close on
    assert {row["model"] for row in list(rows(home).values())[:4]} == {"fallback"}
    assert set(result.fallbacks[0].against) == {"ewma_t", *baselines_of(1)}
    young = home_with(tmp_path / "young", candles().head(80))
    alone = finish_backtest(young, plan(young, quick(), 60, 70))
    assert (alone.summaries, alone.summary.days, alone.summary.fallback) == ((), 11, True)


def test_later_days_change_no_bit(tested: Tested, tmp_path: Path) -> None:
    frame = candles().copy()
    after = frame["day_utc"] > pd.Timestamp(day(616))
    figures = ["open", "high", "low", "close"]
    noise = np.random.default_rng(3).uniform(0.5, 2.0, int(after.sum()))
    frame.loc[after, figures] = frame.loc[after, figures].mul(noise, axis=0)
    frame.loc[after, "volume"] = 1e9
    home = home_with(tmp_path, frame)
    finish_backtest(home, plan(home, quick(**SOON)))
    for name in NAMES:
        pairs = zip(rows(tested[0], *name).values(), rows(home, *name).values(), strict=True)
        same = [before["quantiles"] == now["quantiles"] for before, now in pairs]
        assert same == [True] * 7 + [False] * 5, name


def test_the_days_and_the_walk_learn_the_same_offsets(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Day by day through the calibrator's table, and in one walk: forecasts and offsets of each horizon."""
    keep = {"refit_every_days": 3650, "fine_tune_every_days": 0}
    runs = stored_runs(tmp_path_factory, tmp_path / "days", **keep)
    end = START + max(HORIZONS)
    forecasts = {number: runs.live(number) for number in range(START, end + 1)}
    walk = stored_runs(tmp_path_factory, tmp_path / "walk", **keep)
    tested = plan(walk.home, walk.profile, end=end)
    finish_backtest(walk.home, tested)
    for number, forecast in forecasts.items():
        for one in forecast.horizons:
            stored = rows(walk.home, horizon=one.horizon)[day(number)]
            assert list(one.quantiles or ()) == stored["quantiles"], (number, one.horizon)
    state = WalkState.model_validate(BacktestCache(walk.home, tested.backtest_id).read("fold-0"))
    # The walk has learned up to its last origin, as the day of that origin has.
    newest: dict[int, Any] = {}
    for row in sorted(calibrator(runs.home).read().to_pylist(), key=lambda row: row["target_day"]):
        newest[row["horizon"]] = row
    assert state.offsets is not None
    for horizon in HORIZONS:
        assert newest[horizon]["target_day"] == day(end)
        assert newest[horizon]["quantile_offsets"] == list(state.offsets[horizon])
    first = runs.model().fitted.quantile_offsets
    assert first
    for horizon in HORIZONS:
        assert first[horizon].tolist() != list(state.offsets[horizon])


def test_an_interrupted_walk_is_completed_with_the_same_bits(
    tested: Tested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times interrupted, and without a fold that was prepared."""
    home = home_with(tmp_path, candles())
    again = plan(home, quick(**SOON))
    assert again.backtest_id == tested[1].backtest_id
    for step in ("fit", "predict", "fine_tune"):
        with monkeypatch.context() as patch:
            method = getattr(CalibratedProfile, step)
            patch.setattr(CalibratedProfile, step, ending(method, interrupt, call=2))
            with pytest.raises(KeyboardInterrupt):
                finish_backtest(home, again)
    assert finish_backtest(home, again) == tested[2]
    assert all_rows(home) == all_rows(tested[0])
    assert not list(BacktestCache(home, again.backtest_id).folder.glob(".draft-*"))


@pytest.mark.parametrize("pattern", ["fold-0.json", "predicted-*.json", "refit-*/*.h5", "refit-*/*/*"])
def test_changed_files_are_made_again_with_the_same_bits(
    tested: Tested, tmp_path: Path, pattern: str
) -> None:
    home, stored = copy_home(tested[0].root, tmp_path / "home"), tested[1]
    cache = BacktestCache(home, stored.backtest_id)
    changed = next(path for path in sorted(cache.folder.glob(pattern)) if path.is_file())
    changed.write_bytes(changed.read_bytes().replace(b"1", b"2"))
    clear_cache(home, stored)
    assert folds_left(home, stored) == [0, 1]
    assert finish_backtest(home, stored) == tested[2]
    assert all_rows(home) == all_rows(tested[0])
    assert [findings for _, _, findings in cache.check() if findings] == []


def test_folds_whose_rows_are_lost_are_walked_again(
    tested: Tested, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, stored = copy_home(tested[0].root, tmp_path / "home"), tested[1]
    clear_cache(home, stored)
    assert (folds_left(home, stored), caplog.text) == ([], "")
    shutil.rmtree(home.root / "backtests")
    clear_cache(home, stored)
    assert folds_left(home, stored) == [0, 1]
    assert "rows of this backtest are missing" in caplog.text
    assert finish_backtest(home, stored) == tested[2]
    assert all_rows(home) == all_rows(tested[0])
    assert verify_home(home).findings == []
    shutil.rmtree(home.folds)
    lost = home.folds / stored.backtest_id
    assert verify_home(home).findings == [f"{lost} is missing, the models of a backtest that has rows"]


def test_walking_over_trained_models_loads_no_training_libraries(tested: Tested, tmp_path: Path) -> None:
    """Gates and forecasts included."""
    home, stored = copy_home(tested[0].root, tmp_path / "home"), tested[1]
    shutil.rmtree(home.root / "backtests")
    for path in (home.folds / stored.backtest_id).glob("*.json"):
        path.unlink()
    program = (
        "from closecast.storage.core.home import Home\nfrom tests.calibrated import quick\n"
        "from tests.tasks.backtest.test_walk_forward import SOON, Path, finish_backtest, plan\n"
        f"home = Home(Path({str(home.root)!r}))\nfinish_backtest(home, plan(home, quick(**SOON)))"
    )
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & modules_after(program)
    assert all_rows(home) == all_rows(tested[0])


@pytest.mark.parametrize("ratio", [9.0, 0.01])
def test_a_refused_refit_leaves_the_champion(tmp_path: Path, ratio: float) -> None:
    home = home_with(tmp_path, candles())
    gates = dict.fromkeys(LENIENT, ratio)
    settings = {"refit_every_days": 8, "fine_tune_every_days": 0, **gates}
    result = finish_backtest(home, plan(home, quick(**settings)))
    (gate,) = result.gates
    assert ("refit passed" if ratio > 1 else "refit refused") in gate
    models = [row["model"] for row in rows(home, "lstm").values()]
    later = f"refit-{day(START + 8)}" if ratio > 1 else f"refit-{day(START)}"
    assert models == [f"refit-{day(START)}"] * 8 + [later] * 4


def test_a_point_profile_walks_without_gates_and_intervals(tmp_path: Path) -> None:
    home = home_with(tmp_path, without(candles().head(64), day(21), day(22)))
    profile = ArticleProfile(SMALL | {"epochs": 1})
    tested = plan(home, profile, 60, 62)
    for fold in range(len(tested.folds)):
        prepare_fold(home, tested, fold)
    result = finish_backtest(home, tested)
    stored = rows(home, "article")
    assert list(stored) == [day(number) for number in (60, 61, 62)]
    assert [row["model"] for row in stored.values()] == [f"refit-{day(number)}" for number in (60, 61, 62)]
    assert {(row["quantiles"], row["sigma"], row["quantile_levels"]) for row in stored.values()} == {
        (None, None, None)
    }
    assert (result.gates, result.summary.coverage) == ((), ())
    errors = np.array([row["point"] - row["close"] for row in stored.values()])
    point = result.summary.point
    assert point.rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    # Its scale are the daily changes before the start, none of them across the gap.
    closes = [math.nan if number in (21, 22) else close(number) for number in range(1, 60)]
    assert point.mase == pytest.approx(point.mae / np.nanmean(np.abs(np.diff(closes))))
    assert finish_backtest(home, tested) == result
