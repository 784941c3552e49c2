"""What the commands print, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.flows.cli.output import (
    print_backtest,
    print_forecasts,
    print_reproduction,
    print_scoreboard,
    print_upkeep,
    print_versions,
    with_home,
)
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.storage.upkeep.compaction import Compaction
from closecast.tasks.backtest.result import BacktestResult
from closecast.tasks.backtest.summary import Evaluation, summarise
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.evaluation.scoreboard import scoreboard
from closecast.tasks.upkeep.pruning import UnusedItem
from closecast.tasks.upkeep.reproduce import Comparison, Reproduction
from tests.calibrated import day, forecast_by_hand, quick, spread
from tests.tasks.evaluation.test_scoreboard import scores

UP_TO = date(2020, 2, 10)
FORECAST: Any = SimpleNamespace(product_id="BTC-USD", first=SimpleNamespace(target_day=date(2019, 10, 18)))
DIFFERENT = Reproduction(
    FORECAST,
    figures=(Comparison("point", (100.0,), (101.0,)), Comparison("lower_80", (90.0,), (90.0,))),
    weights=(),
    changed_versions={"keras": ("3.1", "3.2")},
)


def test_without_a_model_version_a_sentence_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    print_versions([], "table")
    assert capsys.readouterr().out.strip() == (
        "no model version: none has been trained yet, and a fallback, made by the baselines alone, has none"
    )
    print_versions([], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_a_reproduction_shows_each_difference_and_the_changed_versions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_reproduction(DIFFERENT, "ab12", as_json=False)
    printed = capsys.readouterr().out
    assert "BTC-USD, close of 2019-10-18: forecast ab12 made again" in " ".join(printed.split())
    lines = [line.split() for line in printed.splitlines()]
    assert ["point", "1", "differs", "by", "0.01"] in lines
    assert ["lower_80", "1", "the", "same", "bits"] in lines
    assert printed.endswith("keras: 3.1 then, 3.2 now\n")
    print_reproduction(DIFFERENT, "ab12", as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "prediction_id": "ab12",
        "same": False,
        "compared": [
            {"name": "point", "figures": 1, "same": False, "distance": 0.01},
            {"name": "lower_80", "figures": 1, "same": True, "distance": 0.0},
        ],
        "changed_versions": {"keras": {"then": "3.1", "now": "3.2"}},
    }


def fan() -> Forecast:
    made = forecast_by_hand(600, "tomorrow", profile=quick())
    wide = tuple(spread(made.last_close, sd=0.09))
    week = replace(made.first, prediction_id="week", horizon=7, target_day=day(607), quantiles=wide)
    return replace(made, horizons=(made.first, week))


def test_a_run_shows_the_next_day_in_full_and_the_fan_below(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    forecast = fan()
    Predictions(home).publish(forecast.rows())
    print_forecasts(home, ["tomorrow"], several=False, as_json=False)
    full, small = capsys.readouterr().out.split("BTC-USD: the next 7 days\n")
    assert f"close of {day(601)}" in full
    for label, text in forecast.summary():
        assert f"{label:12} {text}" in full
    header, rows = forecast.fan()
    printed = [" ".join(line.split()) for line in small.splitlines()]
    assert [" ".join(row) for row in (header, *rows)] == [
        line for line in printed if line[:4] in ("day ", "2020")
    ]
    assert printed[-2].startswith("Stored in ")


def test_a_run_as_json_is_the_next_day_with_all_horizons(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    point = forecast_by_hand(500, "point")
    for forecast in (fan(), point):
        Predictions(home).publish(forecast.rows())
    print_forecasts(home, ["tomorrow"], several=False, as_json=True)
    run = json.loads(capsys.readouterr().out)
    horizons = run.pop("horizons")
    assert run == horizons[0]
    assert [(row["prediction_id"], row["horizon"]) for row in horizons] == [("tomorrow", 1), ("week", 7)]
    stored = Predictions(home).find("week") or {}
    assert set(horizons[1]) == set(stored)
    assert horizons[1]["quantiles"] == stored["quantiles"]
    print_forecasts(home, ["point", "tomorrow"], several=True, as_json=True)
    assert [len(each["horizons"]) for each in json.loads(capsys.readouterr().out)] == [1, 2]
    print_forecasts(home, ["point"], several=False, as_json=False)
    assert "the next" not in capsys.readouterr().out


def put_fallback(home: Home, run: Forecast, horizon: int) -> None:
    """A fallback that was added to a run, later."""
    target = run.origin_day + timedelta(days=horizon)
    one = replace(run.first, prediction_id="added", horizon=horizon, target_day=target)
    later = run.created_at + timedelta(days=5)
    added = replace(run, basis="fallback", model_version=None, created_at=later, horizons=(one,))
    Predictions(home).publish(added.rows())


def test_the_forecast_asked_for_may_be_further_ahead(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Predictions(home).publish(fan().rows())
    put_fallback(home, fan(), 9)
    for prediction_id, ahead, model in (
        ("week", 7, "closecast.BTC-USD.calibrated version 1"),
        ("added", 9, "none: a fallback, made by the baselines alone"),
    ):
        print_forecasts(home, [prediction_id], several=False, as_json=False)
        printed = capsys.readouterr().out
        assert f"BTC-USD: close of {day(600 + ahead)}, {ahead} days ahead, from {day(600)}" in printed
        assert f"model        {model} " in printed
        assert f"{prediction_id}, revision 0" in printed
        # The run itself is what its model forecast.
        below = printed.split(f"BTC-USD: the 7 days after {day(600)}\n")[1]
        listed = [line.split()[1] for line in below.splitlines() if line.strip().startswith("2020-")]
        assert listed == ["1", "7"]


def test_each_row_as_json_has_its_own_basis(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Predictions(home).publish(fan().rows())
    put_fallback(home, fan(), 9)
    print_forecasts(home, ["added"], several=False, as_json=True)
    asked = json.loads(capsys.readouterr().out)
    first, week, added = asked.pop("horizons")
    assert asked == added
    assert [(row["horizon"], row["basis"], row["model_version"]) for row in (first, week, added)] == [
        (1, "model", "1"),
        (7, "model", "1"),
        (9, "fallback", None),
    ]
    assert first["created_at"] == week["created_at"] != added["created_at"]


def test_a_scoreboard_shows_its_spans_and_a_row_a_horizon(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.concat([scores(40, last=UP_TO), scores(34, last=UP_TO).assign(horizon=7)])
    print_scoreboard(scoreboard(rows), "BTC-USD", "calibrated", as_json=False)
    spans, horizons = capsys.readouterr().out.split("By horizon\n")
    assert "BTC-USD, calibrated, the next day: forecasts up to 2020-02-10\n" in spans
    assert "no alarm before 180 scored days, 40 so far" in spans
    assert [line.split()[:2] for line in horizons.splitlines()[3:5]] == [["1", "40"], ["7", "34"]]
    print_scoreboard(scoreboard(rows, horizon=7), "BTC-USD", "calibrated", as_json=False)
    assert "BTC-USD, calibrated, 7 days ahead: forecasts up to 2020-02-10\n" in capsys.readouterr().out
    print_scoreboard(scoreboard(scores(3)), "BTC-USD", "calibrated", as_json=False)
    assert "By horizon" not in capsys.readouterr().out
    print_scoreboard(scoreboard(rows, horizon=7), "BTC-USD", "calibrated", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["horizon"], printed["spans"][-1]["forecasts"]) == (7, 34)
    shares = {one["horizon"]: one["coverage"]["90"]["share"] for one in printed["horizons"]}
    assert shares == {1: 1, 7: 1}


def test_a_scoreboard_counts_fallbacks_apart(capsys: pytest.CaptureFixture[str]) -> None:
    further = [scores(1, last=UP_TO), scores(4).assign(horizon=9)]
    further = [one.assign(basis="fallback") for one in further]
    print_scoreboard(scoreboard(pd.concat([scores(40), *further])), "BTC-USD", "calibrated", as_json=False)
    models, fallbacks = capsys.readouterr().out.split("Fallbacks, by horizon\n")
    assert "By horizon" not in models
    assert [line.split()[:2] for line in fallbacks.splitlines()[3:5]] == [["1", "1"], ["9", "4"]]
    print_scoreboard(scoreboard(pd.concat(further), horizon=9), "BTC-USD", "calibrated", as_json=False)
    said, fallbacks = capsys.readouterr().out.split("Fallbacks, by horizon\n")
    assert said.startswith("BTC-USD, calibrated, 9 days ahead: only fallbacks have been scored so far")
    assert "alarm" not in said
    print_scoreboard(scoreboard(scores(0)), "BTC-USD", "calibrated", as_json=False)
    printed = capsys.readouterr().out
    assert printed == "BTC-USD, calibrated, the next day: no forecast has been scored yet\n"


def test_a_backtest_shows_one_horizon_in_full_and_a_row_each(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [date(2020, 1, 1) + timedelta(days=n) for n in range(5)]
    closes, quantiles = np.full(5, 100.0), np.log(np.array([spread(100.0)] * 5) / 100.0)
    evaluation = Evaluation(days, closes, closes, np.full(5, 0.03), closes, {"calibrated": quantiles})
    about: Any = {"model": "calibrated", "currency": "USD"}
    summaries = tuple(summarise(evaluation, closes, horizon=horizon, **about) for horizon in (1, 7))
    result = BacktestResult("ab12", summaries, ())
    for horizon, span in ((1, "2020-01-05\n"), (7, "2020-01-05, 7 days ahead\n")):
        print_backtest(home, "BTC-USD", result, horizon=horizon, as_json=False)
        printed = capsys.readouterr().out
        assert printed.startswith(f"BTC-USD: 5 days, 2020-01-01 to {span}")
        rows = printed.split("By horizon\n")[1].splitlines()[3:5]
        assert [row.split()[:2] for row in rows] == [["1", "5"], ["7", "5"]]
        print_backtest(home, "BTC-USD", result, horizon=horizon, as_json=True)
        facts = json.loads(capsys.readouterr().out)
        own = next(one for one in facts["horizons"] if one["horizon"] == horizon)
        assert own == {name: facts[name] for name in own}
        assert [one["horizon"] for one in facts["horizons"]] == [1, 7]
        assert facts["fallbacks"] == []
    fallbacks = tuple(summarise(evaluation, closes, horizon=h, fallback=True, **about) for h in (1, 9))
    print_backtest(home, "BTC-USD", replace(result, fallbacks=fallbacks), horizon=1, as_json=False)
    rows = capsys.readouterr().out.split("Fallbacks, by horizon\n")[1].splitlines()[3:5]
    assert [row.split()[:2] for row in rows] == [["1", "5"], ["9", "5"]]
    young = BacktestResult("ab12", (), (), fallbacks)
    print_backtest(home, "BTC-USD", young, horizon=1, as_json=False)
    assert "2020-01-05, only fallbacks, which the baselines made" in capsys.readouterr().out
    print_backtest(home, "BTC-USD", young, horizon=9, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["fallback"], facts["horizon"], facts["horizons"]) == (True, 9, [])
    assert [one["horizon"] for one in facts["fallbacks"]] == [1, 9]


def test_upkeep_lists_planned_and_done_work(capsys: pytest.CaptureFixture[str]) -> None:
    compacted, unused = [Compaction("scores", 7, 1, 3)], [UnusedItem("model version 4", Path("models"))]
    for dry_run, files, deleted in (
        (True, ["scores", "7"], "would delete model version 4"),
        (False, ["scores", "7", "1", "3"], "deleted model version 4"),
    ):
        print_upkeep(compacted, unused, prune=True, dry_run=dry_run, as_json=False)
        lines = capsys.readouterr().out.splitlines()
        assert files in [line.split() for line in lines]
        assert deleted in lines


def test_advised_commands_name_home_and_configuration_of_the_command_line() -> None:
    message = "there is none: make one with `closecast run --product ADA-USD`, or `closecast import`"
    assert with_home(message, ["closecast", "report"]) == message
    for words in (["closecast", "report", "--home", "/my homes/a"], ["closecast", "--home=/my homes/a"]):
        advice = with_home(message, words)
        assert "`closecast run --product ADA-USD --home '/my homes/a'`" in advice
        assert "`closecast import --home '/my homes/a'`" in advice
    advised = with_home("make one with `closecast run`", ["closecast", "score", "--config", "my own.toml"])
    assert advised == "make one with `closecast run --config 'my own.toml'`"
