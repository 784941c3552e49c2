"""Forecasts around a price decision: those already made do not change, and all stay comparable."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from closecast.storage.prices.decisions import Decision
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.scores import Scores
from closecast.tasks.upkeep.reproduce import reproduce_forecast
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import Runs, champion_runs, close, day
from tests.helpers import BTC, NOW

ORIGIN, SPLIT, KNOWN = 650, 655, 660
FACTOR = 0.4


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "home")


def decide(runs: Runs, decision: Decision) -> None:
    with Prices(runs.home) as prices:
        prices.decide(BTC, decision, decided_at=NOW)


def test_a_split_changes_no_forecast_and_outcomes_keep_the_units_of_their_origin(runs: Runs) -> None:
    before = runs.publish(ORIGIN)
    runs.score(KNOWN - 1)
    keys = {number: runs.key(number) for number in (ORIGIN, KNOWN - 1, KNOWN)}
    decide(runs, Decision(day(SPLIT), "split", day(KNOWN), "user", FACTOR))
    assert {number for number, key in keys.items() if runs.key(number) != key} == {KNOWN}
    assert runs.publish(ORIGIN).first.prediction_id == before.first.prediction_id
    assert Predictions(runs.home).read().num_rows == len(before.horizons)

    after = runs.publish(KNOWN)
    assert after.last_close == close(KNOWN)
    assert np.log(after.first.point / after.last_close) < 0.2
    assert runs.score(KNOWN + 1) == 2  # of the day after; and the seven days across the split, again
    newest = Scores(runs.home).newest(BTC).to_pandas().set_index("prediction_id")["close"]
    ids = {one.horizon: one.prediction_id for one in before.horizons}
    assert newest[ids[1]] == close(ORIGIN + 1)
    assert newest[ids[3]] == close(ORIGIN + 3)
    assert newest[ids[7]] == close(ORIGIN + 7) / FACTOR
    assert newest[after.first.prediction_id] == close(KNOWN + 1)

    # Taken back, and decided again: the score before counts again, and has a row of its own.
    decide(runs, Decision(day(SPLIT), "accepted", day(KNOWN), "user"))
    assert runs.score(KNOWN + 1, NOW + timedelta(days=1)) == 1
    decide(runs, Decision(day(SPLIT), "split", day(KNOWN), "user", FACTOR))
    assert runs.score(KNOWN + 1, NOW + timedelta(days=2)) == 1
    newest = Scores(runs.home).newest(BTC).to_pandas().set_index("prediction_id")["close"]
    assert newest[ids[7]] == close(ORIGIN + 7) / FACTOR

    assert verify_home(runs.home).findings == []
    for forecast in (before, after):
        assert reproduce_forecast(runs.home, forecast.first.prediction_id).same


def test_a_rejected_day_is_no_close_of_later_origins(runs: Runs) -> None:
    before = runs.publish(ORIGIN)
    wrong = ORIGIN + 1
    decide(runs, Decision(day(wrong), "rejected", day(wrong), "user"))
    assert runs.history(wrong).origin == day(ORIGIN)
    assert runs.key(wrong) == runs.key(ORIGIN)  # no new close, no new rows
    assert runs.history(wrong + 1).close_of(day(wrong)) is None
    assert runs.score(wrong + 3) == 1  # three days ahead; the next day has no outcome
    assert Scores(runs.home).newest(BTC)["prediction_id"].to_pylist() == [before.horizons[1].prediction_id]
    assert verify_home(runs.home).findings == []
