"""Scores: their figures by hand, and which forecasts are due."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from closecast.storage.core.home import Home
from closecast.storage.core.intervals import INTERVALS
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import SCORES, components
from closecast.storage.tables.scores import Scores
from closecast.tasks.core.forecast import Basis
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS
from closecast.tasks.evaluation import scoring
from closecast.tasks.evaluation.scoring import UNKNOWN_OF_A_POINT, read_scoreboard, score_due
from closecast.tasks.forecast.publish import component_rows
from closecast.tasks.profiles.article import ArticleProfile
from tests.calibrated import Runs, candles, close, day, forecast_by_hand, put_forecast, put_forecasts, quick
from tests.helpers import BTC, NOW, store, without

PROFILE = quick()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    home = Home(tmp_path / "home").prepare()
    store(home, candles())
    return Runs(home, PROFILE)


def scores(runs: Runs) -> dict[str, dict[str, Any]]:
    return {row["prediction_id"]: row for row in Scores(runs.home).newest(BTC).to_pylist()}


def crps_by_hand(actual: float, quantiles: list[float]) -> float:
    edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(LEVELS)), 1.0]
    total = 0.0
    for n, (level, quantile) in enumerate(zip(LEVELS, quantiles, strict=True)):
        pinball = (level - (actual < quantile)) * (actual - quantile)
        total += 2 * pinball * (edges[n + 1] - edges[n])
    return total


def test_the_figures_of_a_score_by_hand(runs: Runs) -> None:
    row = put_forecast(runs.home, 500, "p", profile=PROFILE, point=4321.0)
    assert runs.score(501) == 1
    score = scores(runs)["p"]
    assert set(score) == set(SCORES.arrow.names)
    actual, last = close(501), close(500)
    assert (score["product_id"], score["target_day"], score["close"]) == (BTC, day(501), actual)
    assert score["error"] == 4321.0 - actual
    assert score["naive_error"] == last - actual
    outcome = math.log(actual / last)
    quantiles = [math.log(price / last) for price in row["quantiles"]]
    assert score["crps"] == pytest.approx(crps_by_hand(outcome, quantiles), rel=1e-12)
    for percent in INTERVALS:
        low, high = INTERVAL_INDEXES[percent]
        inside = row["quantiles"][low] <= actual <= row["quantiles"][high]
        assert score[f"covered_{percent}"] is inside
    assert score["pit"] == pytest.approx(float(np.interp(outcome, quantiles, LEVELS)))
    assert (score["data_version"], score["scored_at"]) == (runs.data(501), NOW)


def test_a_close_on_the_bound_is_covered_and_the_next_float_is_not(runs: Runs) -> None:
    """In prices: a logarithm would round many of them onto the bound."""
    cases = itertools.product(INTERVALS, (0, 1), ("on", "off"), range(10))
    made = []
    for number, (percent, side, bound, _) in enumerate(cases, 500):
        index, actual = INTERVAL_INDEXES[percent][side], close(number + 1)
        quantiles = [actual + 10.0 * (n - index) for n in range(len(LEVELS))]
        if bound == "off":
            quantiles[index] = float(np.nextafter(actual, 0 if side else math.inf))
        name = f"{percent} {bound} {side} {number}"
        made.append(forecast_by_hand(number, name, profile=PROFILE, quantiles=quantiles))
    put_forecasts(runs.home, made, PROFILE)
    assert runs.score(500 + len(made)) == len(made) == 120
    for prediction_id, score in scores(runs).items():
        covered, bound, *_ = prediction_id.split()
        assert score[f"covered_{covered}"] is (bound == "on"), prediction_id


def test_the_components_are_scored_with_the_forecast(runs: Runs) -> None:
    """Each of them, those of the same forecast alone, and again with a restated close."""
    made = forecast_by_hand(500, "p", profile=PROFILE)
    wide = tuple(100.0 * n + 3000.0 for n in range(len(LEVELS)))
    parts = {**made.first.components, "har_120_t": wide}
    forecast = replace(made, horizons=(replace(made.first, components=parts),))
    components(runs.home).add(component_rows(PROFILE, forecast))
    Predictions(runs.home).publish(forecast.rows())
    put_forecast(runs.home, 500, "revision", profile=PROFILE)
    runs.score(501)
    runs.restate(501, close(501) + 100.0)
    runs.score(501, NOW + timedelta(days=1))
    stored = Scores(runs.home).between().to_pylist()
    assert [row["component_names"] for row in stored if row["prediction_id"] == "revision"] == [["lstm"]] * 2
    both = [row for row in stored if row["prediction_id"] == "p"]
    for row, actual in zip(both, (close(501), close(501) + 100.0), strict=True):
        outcome = math.log(actual / close(500))
        expected = [
            crps_by_hand(outcome, [math.log(price / close(500)) for price in parts[name]])
            for name in ("har_120_t", "lstm")
        ]
        assert row["component_names"] == ["har_120_t", "lstm"]
        assert row["component_crps"] == pytest.approx(expected, rel=1e-12)
        assert row["component_crps"][1] == pytest.approx(row["crps"], rel=1e-12)
    best: Any = read_scoreboard(runs.home, BTC, PROFILE.name, ()).all_days.best_baseline
    assert (best.component, best.days) == ("har_120_t", 1)
    assert best.ratio == pytest.approx(both[1]["crps"] / both[1]["component_crps"][0])


def put_run(runs: Runs, number: int, **names: int) -> None:
    """Store a run whose forecasts are so many days ahead, by the names of their ids."""
    made = forecast_by_hand(number, "", profile=PROFILE)
    first = made.first
    naive = {"last_close_250": tuple(0.9 * price for price in first.quantiles or ())}
    rows = [
        replace(
            first, prediction_id=name, horizon=horizon, target_day=day(number + horizon), components=naive
        )
        for name, horizon in names.items()
    ]
    forecast = replace(made, horizons=tuple(rows))
    components(runs.home).add(component_rows(PROFILE, forecast))
    Predictions(runs.home).publish(forecast.rows())


def test_each_horizon_is_scored_when_its_own_day_has_come(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no baseline is made again that is among the components."""
    monkeypatch.setattr(scoring, "baseline_quantiles", lambda *_, **__: pytest.fail("it is stored"))
    put_run(runs, 500, tomorrow=1, week=7)
    assert runs.score(506) == 1
    assert set(scores(runs)) == {"tomorrow"}
    assert runs.score(507) == 1
    for name, horizon in (("tomorrow", 1), ("week", 7)):
        score = scores(runs)[name]
        assert (score["horizon"], score["target_day"]) == (horizon, day(500 + horizon))
        assert score["naive_error"] == close(500) - close(500 + horizon)
        assert score["naive_crps"] == score["component_crps"][0]
    board = read_scoreboard(runs.home, BTC, PROFILE.name, ())
    assert [(one.horizon, one.forecasts) for one in board.horizons] == [(1, 1), (7, 1)]
    assert read_scoreboard(runs.home, BTC, PROFILE.name, (), horizon=7).last == day(507)


@pytest.mark.parametrize(("number", "horizon"), [(500, 1), (500, 7), (80, 1)])
def test_the_naive_crps_is_of_the_newest_250_returns_over_the_horizon(
    runs: Runs, number: int, horizon: int
) -> None:
    put_forecast(runs.home, number, "p", profile=PROFILE, horizon=horizon)
    runs.score(number + horizon)
    logs = np.log(candles()["close"].to_numpy()[:number])
    naive = np.quantile((logs[horizon:] - logs[:-horizon])[-250:], LEVELS).tolist()
    expected = crps_by_hand(math.log(close(number + horizon) / close(number)), naive)
    assert scores(runs)["p"]["naive_crps"] == pytest.approx(expected, rel=1e-9)


def test_a_point_has_errors_and_the_naive_crps_only(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "advance_states", lambda *_: pytest.fail("a point has no calibrator"))
    put_forecast(runs.home, 500, "point", point=4000.0)
    assert score_due(runs.home, runs.history(501), ArticleProfile(), NOW) == 1
    score = scores(runs)["point"]
    assert score["error"] == 4000.0 - close(501)
    assert score["naive_crps"] > 0
    assert {name for name, figure in score.items() if figure is None} == set(UNKNOWN_OF_A_POINT)


def test_the_scoreboard_knows_from_the_forecasts_which_are_fallbacks(runs: Runs) -> None:
    ways: list[tuple[int, Basis]] = [(500, "model"), (501, "fallback"), (502, "pool")]
    for number, basis in ways:
        made = forecast_by_hand(number, f"p{number}", profile=PROFILE)
        version = None if basis == "fallback" else "1"
        Predictions(runs.home).publish(replace(made, basis=basis, model_version=version).rows())
    runs.score(503)
    board = read_scoreboard(runs.home, BTC, PROFILE.name, ())
    assert [(one.horizon, one.forecasts) for one in board.horizons] == [(1, 2)]
    assert [(one.horizon, one.forecasts) for one in board.fallbacks] == [(1, 1)]


def test_each_forecast_is_scored_once_when_its_day_has_come(runs: Runs) -> None:
    assert runs.score(501) == 0
    for number in (500, 501, 502):
        put_forecast(runs.home, number, f"p{number}", profile=PROFILE)
    assert runs.score(500) == 0
    assert runs.score(501) == 1
    assert set(scores(runs)) == {"p500"}
    assert runs.score(501, NOW + timedelta(days=1)) == 0
    assert runs.score(503) == 2
    assert Scores(runs.home).read().num_rows == 3


def test_a_restated_close_adds_a_row_and_changes_none(runs: Runs) -> None:
    put_forecast(runs.home, 500, "p", profile=PROFILE)
    put_forecast(runs.home, 501, "next", profile=PROFILE)
    runs.score(502)
    before = Scores(runs.home).between().to_pylist()
    restated = close(501) + 100.0
    runs.restate(501, restated)
    later: datetime = NOW + timedelta(days=1)
    assert runs.score(502, later) == 1  # the forecast from the restated day is about another close
    after = Scores(runs.home).between(BTC).to_pylist()
    assert [row for row in after if row["scored_at"] == NOW] == before
    (new,) = (row for row in after if row["scored_at"] == later)
    assert (new["prediction_id"], new["close"]) == ("p", restated)
    assert new["data_version"] == runs.data(502) != before[0]["data_version"]
    assert new["naive_error"] == close(500) - restated
    assert runs.score(502, later) == 0
    assert runs.score(503, later) == 0
    assert scores(runs)["p"] == new


def test_a_forecast_waits_for_a_missing_close(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    store(home, without(candles(), day(501), day(501)))
    runs = Runs(home, PROFILE)
    put_forecast(home, 500, "p", profile=PROFILE)
    assert runs.score(503) == 0
    runs.restate(501, 4000.0)
    assert runs.score(503) == 1
    assert scores(runs)["p"]["close"] == 4000.0


def test_the_scoreboard_is_of_published_forecasts(runs: Runs) -> None:
    put_forecast(runs.home, 500, "first", profile=PROFILE)
    put_forecast(runs.home, 500, "revision", profile=PROFILE)
    put_forecast(runs.home, 500, "article")
    runs.score(501)
    assert len(scores(runs)) == 3
    boards = [read_scoreboard(runs.home, BTC, profile, ()) for profile in ("calibrated", "article")]
    assert [board.spans[-1].forecasts for board in boards] == [1, 1]
