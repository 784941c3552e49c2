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

from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan, plan_backtest
from tasks.backtest.result import BacktestResult, finish_backtest, read_evaluation
from tasks.backtest.walk_forward import prepare_fold, walk_fold
from tasks.profiles.article import ArticleProfile
from tasks.profiles.base import Profile
from tasks.profiles.calibrated import CalibratedProfile
from tests.calibrated import LENIENT, candles, close, day, quick
from tests.engines import copy_home
from tests.helpers import BTC, NOW, SMALL, modules_after, store, without

START, END = 610, 621
# A refit, a fine-tuning and their gates within a dozen days.
SOON = {"refit_every_days": 8, "fine_tune_every_days": 3}


def plan(home: Home, profile: Profile, start: int = START, end: int = END) -> Plan:
    return plan_backtest(home, BTC, profile, start=day(start), end=day(end), moment=NOW)


def home_with(folder: Path, frame: pd.DataFrame) -> Home:
    home = Home(folder).prepare()
    store(home, frame)
    return home


def rows(home: Home, component: str = "calibrated") -> dict[date, dict[str, Any]]:
    """The rows of one component, by origin."""
    stored = backtests(home).read().to_pylist()
    by_day = {row["origin_day"]: row for row in stored if row["component"] == component}
    return dict(sorted(by_day.items()))


@functools.cache
def _tested(folder: Path) -> tuple[Home, Plan, BacktestResult]:
    home = home_with(folder / "walked", candles())
    tested = plan(home, quick(**SOON))
    for fold in reversed(range(len(tested.folds))):
        prepare_fold(home, tested, fold)
    return home, tested, finish_backtest(home, tested)


@pytest.fixture
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Plan, BacktestResult]:
    """Twelve origins, whose folds were prepared last first."""
    return _tested(tmp_path_factory.getbasetemp())


def test_every_component_has_a_row_per_origin(tested: tuple[Home, Plan, BacktestResult]) -> None:
    home, plan, result = tested
    names = ("calibrated", "lstm", "har_t", "garch_t", "ewma_t", "last_close_250")
    for name in names:
        own = rows(home, name)
        assert list(own) == [day(number) for number in range(START, END + 1)]
        for number, row in zip(range(START, END + 1), own.values(), strict=True):
            assert (row["last_close"], row["close"]) == (close(number), close(number + 1))
            assert (row["target_day"], row["horizon"]) == (day(number + 1), 1)
            assert row["quantiles"] == sorted(row["quantiles"])
    assert backtests(home).read().num_rows == 12 * len(names)
    # A fine-tuning on days 3, 6 and 11, a refit on day 8: each with its gate.
    assert len(plan.folds) == 2
    assert [gate.split(" ")[:2] for gate in result.gates] == [
        [str(day(START + days)), kind]
        for days, kind in ((3, "fine-tune"), (6, "fine-tune"), (8, "refit"), (11, "fine-tune"))
    ]


def test_quantiles_are_read_back_as_those_of_the_log_return(
    tested: tuple[Home, Plan, BacktestResult],
) -> None:
    home, plan, _ = tested
    evaluation = read_evaluation(home, BTC, plan.backtest_id, "calibrated")
    numbers = range(START, END + 1)
    assert evaluation.target_days == [day(number + 1) for number in numbers]
    assert evaluation.last_close.tolist() == [close(number) for number in numbers]
    assert evaluation.close.tolist() == [close(number + 1) for number in numbers]
    assert set(evaluation.quantiles) == {"calibrated", "lstm", "har_t", "garch_t", "ewma_t", "last_close_250"}
    for name, quantiles in evaluation.quantiles.items():
        prices = np.array([row["quantiles"] for row in rows(home, name).values()])
        np.testing.assert_allclose(np.exp(quantiles) * evaluation.last_close[:, None], prices, rtol=1e-14)


def test_walking_without_preparing_gives_the_same_bits(
    tested: tuple[Home, Plan, BacktestResult], tmp_path: Path
) -> None:
    home = home_with(tmp_path, candles())
    again = plan(home, quick(**SOON))
    assert again.backtest_id == tested[1].backtest_id
    assert finish_backtest(home, again) == tested[2]
    assert rows(home) == rows(tested[0])


def test_later_days_change_no_bit(tested: tuple[Home, Plan, BacktestResult], tmp_path: Path) -> None:
    frame = candles().copy()
    after = frame["day_utc"] > pd.Timestamp(day(616))
    figures = ["open", "high", "low", "close"]
    noise = np.random.default_rng(3).uniform(0.5, 2.0, int(after.sum()))
    frame.loc[after, figures] = frame.loc[after, figures].mul(noise, axis=0)
    frame.loc[after, "volume"] = 1e9
    home = home_with(tmp_path, frame)
    finish_backtest(home, plan(home, quick(**SOON)))
    for component in ("calibrated", "lstm", "har_t", "garch_t", "ewma_t", "last_close_250"):
        pairs = zip(rows(tested[0], component).values(), rows(home, component).values(), strict=True)
        same = [before["quantiles"] == now["quantiles"] for before, now in pairs]
        assert same == [True] * 7 + [False] * 5, component


def test_a_finished_backtest_is_read_and_not_made_again(
    tested: tuple[Home, Plan, BacktestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, plan, result = tested
    for name in ("fit", "fine_tune", "predict"):
        monkeypatch.setattr(CalibratedProfile, name, lambda *_, **__: pytest.fail("made again"))
    for fold in range(len(plan.folds)):
        prepare_fold(home, plan, fold)
        walk_fold(home, plan, fold)
    assert finish_backtest(home, plan) == result


@pytest.mark.parametrize("step", ["fit", "fine_tune", "predict"])
def test_an_interrupted_walk_is_completed_with_the_same_bits(
    tested: tuple[Home, Plan, BacktestResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    home = home_with(tmp_path, candles())
    again = plan(home, quick(**SOON))
    honest, calls = getattr(CalibratedProfile, step), iter(range(1000))

    def interrupted(*args: Any, **more: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return honest(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(CalibratedProfile, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            finish_backtest(home, again)
    assert finish_backtest(home, again) == tested[2]
    assert rows(home) == rows(tested[0])
    assert not list(BacktestCache(home, again.backtest_id).folder.glob(".draft-*"))


def test_walking_over_trained_models_loads_no_training_libraries(
    tested: tuple[Home, Plan, BacktestResult], tmp_path: Path
) -> None:
    """Gates and forecasts included."""
    home, stored = copy_home(tested[0].root, tmp_path / "home"), tested[1]
    shutil.rmtree(home.root / "backtests")
    for path in (home.folds / stored.backtest_id).glob("*.json"):
        path.unlink()
    program = (
        "from storage.core.home import Home\nfrom tests.calibrated import quick\n"
        "from tests.tasks.backtest.test_walk_forward import SOON, Path, finish_backtest, plan\n"
        f"home = Home(Path({str(home.root)!r}))\nfinish_backtest(home, plan(home, quick(**SOON)))"
    )
    assert not {"tensorflow", "keras", "mlflow", "sklearn"} & modules_after(program)
    assert rows(home) == rows(tested[0])


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
