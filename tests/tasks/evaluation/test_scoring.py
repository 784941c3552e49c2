from __future__ import annotations

import itertools
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.core.home import Home
from storage.tables.scores import SCORES, Scores
from tasks.core.quantiles import INTERVAL_INDEXES, LEVELS
from tasks.evaluation import scoring as score_module
from tasks.evaluation.scoring import board_of, score_due
from tests.calibrated import Runs, candles, close, day, put_forecast, quick, spread
from tests.helpers import BTC, NOW, store, without

RECIPE = quick()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    home = Home(tmp_path / "home").prepare()
    store(home, candles())
    return Runs(home, RECIPE)


def due(runs: Runs, number: int, **more: Any) -> int:
    return score_due(runs.home, BTC, **{"data_version": runs.data(number), "moment": NOW} | more)


def scores(runs: Runs) -> dict[str, dict[str, Any]]:
    return {row["prediction_id"]: row for row in Scores(runs.home).newest(BTC).to_pylist()}


def crps_by_hand(came: float, quantiles: list[float]) -> float:
    edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(LEVELS)), 1.0]
    total = 0.0
    for n, (level, quantile) in enumerate(zip(LEVELS, quantiles, strict=True)):
        pinball = (level - (came < quantile)) * (came - quantile)
        total += 2 * pinball * (edges[n + 1] - edges[n])
    return total


def test_the_figures_by_hand(runs: Runs) -> None:
    row = put_forecast(runs.home, 500, "p", recipe=RECIPE, point=4321.0)
    assert due(runs, 501) == 1
    score = scores(runs)["p"]
    assert set(score) == set(SCORES.names)
    came, last = close(501), close(500)
    assert (score["product_id"], score["target_day"], score["close"]) == (BTC, day(501), came)
    assert score["error"] == 4321.0 - came
    assert score["naive_error"] == last - came
    moved = math.log(came / last)
    said = [math.log(usd / last) for usd in row["quantiles"]]
    assert score["crps"] == pytest.approx(crps_by_hand(moved, said), rel=1e-12)
    returns = np.diff(np.log(candles()["close"].to_numpy()[249:500]))
    assert len(returns) == 250
    naive = np.quantile(returns, LEVELS).tolist()
    assert score["naive_crps"] == pytest.approx(crps_by_hand(moved, naive), rel=0.02)
    for percent, (low, high) in INTERVAL_INDEXES.items():
        if percent != 90:
            inside = row["quantiles"][low] <= came <= row["quantiles"][high]
            assert score[f"hit_{percent}"] is inside
    assert score["pit"] == pytest.approx(float(np.interp(moved, said, LEVELS)))
    assert (score["data_version"], score["scored_at"]) == (runs.data(501), NOW)


@pytest.mark.parametrize("percent", [50, 80, 95])
@pytest.mark.parametrize("side", [0, 1])
def test_a_close_on_the_bound_is_inside(runs: Runs, percent: int, side: int) -> None:
    came, place = close(501), INTERVAL_INDEXES[percent][side]
    for name, said in [("on", came), ("off", float(np.nextafter(came, 0 if side else math.inf)))]:
        quantiles = [came + 10.0 * (n - place) for n in range(len(LEVELS))]
        quantiles[place] = said
        put_forecast(runs.home, 500, name, recipe=RECIPE, quantiles=quantiles)
    assert due(runs, 501) == 2
    assert scores(runs)["on"][f"hit_{percent}"] is True
    assert scores(runs)["off"][f"hit_{percent}"] is False


def test_the_least_step_outside_is_outside() -> None:
    """A logarithm would round many of them onto the bound."""
    row: dict[str, Any] = {"prediction_id": "p", "product_id": BTC, "target_day": day(1), "point": 1.0}
    for number in range(500, 600):
        last, came = close(number), close(number + 1)
        quantiles = [came + 10.0 * (n - INTERVAL_INDEXES[80][1]) for n in range(len(LEVELS))]
        for upper, inside in ((came, True), (float(np.nextafter(came, 0)), False)):
            quantiles[INTERVAL_INDEXES[80][1]] = upper
            said = score_module._score(row | {"last_close": last, "quantiles": quantiles}, came, None)
            assert said["covered_80"] is inside


def test_a_close_beyond_every_quantile(runs: Runs) -> None:
    came = close(501)
    put_forecast(runs.home, 500, "above", recipe=RECIPE, quantiles=spread(came * 0.5, sd=0.01))
    put_forecast(runs.home, 500, "below", recipe=RECIPE, quantiles=spread(came * 2.0, sd=0.01))
    due(runs, 501)
    found = scores(runs)
    assert (found["above"]["pit"], found["below"]["pit"]) == (0.995, 0.005)
    assert not any(found[name][f"hit_{percent}"] for name in found for percent in (50, 80, 95))


def test_a_point_has_no_distribution_to_score(runs: Runs) -> None:
    put_forecast(runs.home, 500, "point", point=4000.0)
    due(runs, 501)
    score = scores(runs)["point"]
    assert score["error"] == 4000.0 - close(501)
    assert score["naive_crps"] > 0
    assert [score[name] for name in ("crps", "covered_50", "covered_80", "covered_95", "pit")] == [None] * 5


def test_too_little_past_for_the_naive_forecast(runs: Runs) -> None:
    for number in (250, 251):  # with 249 and 250 returns behind it
        put_forecast(runs.home, number, f"p{number}", recipe=RECIPE)
    assert due(runs, 300) == 2
    found = scores(runs)
    assert found["p250"]["naive_crps"] is None
    assert found["p250"]["crps"] > 0
    assert found["p251"]["naive_crps"] > 0


def test_nothing_due_adds_nothing(runs: Runs) -> None:
    assert due(runs, 501) == 0
    assert Scores(runs.home).read().num_rows == 0
    put_forecast(runs.home, 500, "p", recipe=RECIPE)
    assert due(runs, 500) == 0
    assert due(runs, 501) == 1
    assert due(runs, 501, moment=NOW + timedelta(days=1)) == 0
    assert due(runs, 502) == 0
    assert Scores(runs.home).read().num_rows == 1


def test_what_comes_after_the_origin_is_not_scored(runs: Runs) -> None:
    for number in (500, 501, 502):
        put_forecast(runs.home, number, f"p{number}", recipe=RECIPE)
    assert due(runs, 501) == 1
    assert set(scores(runs)) == {"p500"}
    assert due(runs, 503) == 2


def test_a_restated_close_adds_a_row_and_changes_none(runs: Runs) -> None:
    put_forecast(runs.home, 500, "p", recipe=RECIPE)
    put_forecast(runs.home, 501, "next", recipe=RECIPE)
    due(runs, 502)
    before = Scores(runs.home).read().to_pylist()
    restated = close(501) + 100.0
    runs.restate(501, restated)
    later = NOW + timedelta(days=1)
    assert due(runs, 502, moment=later) == 1  # the forecast made on the restated day is of another close
    after = Scores(runs.home).read(BTC).to_pylist()
    assert [row for row in after if row["scored_at"] == NOW] == before
    (new,) = (row for row in after if row["scored_at"] == later)
    assert (new["prediction_id"], new["close"]) == ("p", restated)
    assert new["data_version"] == runs.data(502) != before[0]["data_version"]
    assert new["naive_error"] == close(500) - restated
    assert due(runs, 502, moment=later) == 0
    assert due(runs, 503, moment=later) == 0
    assert scores(runs)["p"] == new


def test_a_missing_close_is_waited_for(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    store(home, without(candles(), day(501), day(501)))
    runs = Runs(home, RECIPE)
    put_forecast(home, 500, "p", recipe=RECIPE)
    assert due(runs, 503) == 0
    runs.restate(501, 4000.0)
    assert due(runs, 503) == 1
    assert scores(runs)["p"]["close"] == 4000.0


def test_the_board_is_of_published_forecasts(runs: Runs) -> None:
    put_forecast(runs.home, 500, "first", recipe=RECIPE)
    put_forecast(runs.home, 500, "revision", recipe=RECIPE)
    put_forecast(runs.home, 500, "article")
    due(runs, 501)
    assert len(scores(runs)) == 3
    boards = [board_of(runs.home, BTC, profile) for profile in ("calibrated", "article")]
    assert [board.spans[-1].forecasts for board in boards] == [1, 1]


def test_the_article_has_no_tracker(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("there is no tracker to advance")

    monkeypatch.setattr(score_module, "advance_tracker", never)
    put_forecast(runs.home, 500, "p")
    given: dict[str, Any] = {"data_version": runs.data(501), "settings": None, "moment": NOW}
    assert score_module.score_and_track(runs.home, BTC, **given) == 1
