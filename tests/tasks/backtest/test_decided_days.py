"""A backtest knows what each of its origins knew about days that were decided about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from closecast.storage.core.home import Home
from closecast.storage.prices.decisions import Decision
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.schemas import backtests
from closecast.tasks.backtest.plan import Plan, plan_backtest
from closecast.tasks.backtest.result import finish_backtest
from closecast.tasks.core.quantiles import MEDIAN
from tests.calibrated import candles, close, day, quick
from tests.helpers import BTC, NOW, home_with

START, SPLIT, KNOWN, END = 610, 612, 616, 622
FACTOR = 0.25
Row = tuple[float, float, tuple[float, ...]]


def walked(home: Home) -> tuple[Plan, dict[tuple[int, int], Row]]:
    """The plan, and last close, outcome and quantiles of each origin and horizon, by number."""
    plan = plan_backtest(home, BTC, quick(), start=day(START), end=day(END), moment=NOW)
    finish_backtest(home, plan)
    rows = [row for row in backtests(home).read().to_pylist() if row["backtest_id"] == plan.backtest_id]
    return plan, {
        ((row["origin_day"] - day(0)).days, row["horizon"]): (
            *(row["last_close"], row["close"]),
            tuple(row["quantiles"]),
        )
        for row in rows
        if row["component"] == "calibrated"
    }


def decide(home: Home, decision: Decision) -> None:
    with Prices(home) as prices:
        prices.decide(BTC, decision, decided_at=NOW)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with(tmp_path / "home", candles().head(640))


def test_origins_before_a_decision_do_not_know_it(home: Home) -> None:
    plan, before = walked(home)
    assert (len(plan.folds), plan.decided) == (1, ())
    decide(home, Decision(day(SPLIT), "split", day(KNOWN), "user", FACTOR))
    split_plan, split = walked(home)
    assert (split_plan.folds, split_plan.decided) == ((day(START), day(KNOWN)), (day(KNOWN),))
    assert split_plan.backtest_id != plan.backtest_id
    assert split.keys() == before.keys()
    for (number, horizon), (last, outcome, quantiles) in split.items():
        assert last == close(number)
        across = number < SPLIT <= number + horizon
        assert outcome == (close(number + horizon) / FACTOR if across else close(number + horizon))
        if number < KNOWN:
            assert quantiles == before[number, horizon][2]


def test_errors_across_a_split_are_in_the_unit_of_the_last_day(home: Home) -> None:
    decide(home, Decision(day(SPLIT), "split", day(KNOWN), "user", FACTOR))
    plan, rows = walked(home)
    point = finish_backtest(home, plan).of(3).point
    errors = np.array([row[2][MEDIAN] - row[1] for (_, horizon), row in rows.items() if horizon == 3])
    is_old = np.array([number < SPLIT for number, horizon in rows if horizon == 3])
    assert 0 < is_old.sum() < len(is_old)
    errors[is_old] *= FACTOR
    assert point.mae == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    assert point.rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    past = FACTOR * np.array([close(number) for number in range(1, START)])
    assert point.mase == pytest.approx(point.mae / np.abs(past[3:] - past[:-3]).mean(), rel=1e-12)


def test_a_day_is_no_origin_before_it_is_known_and_an_outcome_then(home: Home) -> None:
    wrong = 614
    plan, before = walked(home)
    decide(home, Decision(day(wrong), "rejected", day(wrong), "user"))
    decide(home, Decision(day(wrong), "accepted", day(wrong + 1), "user"))
    again, known = walked(home)
    assert again.origins == plan.origins - 1
    assert {number for number, _ in before.keys() - known.keys()} == {wrong}
    for (number, horizon), row in known.items():
        # After it the tracker misses the day's own forecast.
        own = slice(None) if number < wrong else slice(2)
        assert row[own] == before[number, horizon][own]
