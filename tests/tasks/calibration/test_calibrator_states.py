"""The calibrator's chain of states: which outcomes each one has learned from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from closecast.storage.core.home import Home
from closecast.storage.tables.schemas import calibrator
from closecast.storage.tables.scores import Scores
from closecast.tasks.calibration.calibrator_states import CalibratorState, Chain, states_at
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.evaluation import scoring
from closecast.tasks.forecast.publish import chain_of
from tests.calibrated import (
    Runs,
    candles,
    close,
    day,
    forecast_by_hand,
    put_forecast,
    put_forecasts,
    quick,
    spread,
)
from tests.helpers import BTC, NOW, store, without

LATER = NOW + timedelta(days=1)
ZERO = np.zeros(len(LEVELS))
WARM = np.linspace(-0.1, 0.1, len(LEVELS))  # symmetric, as the tracker keeps them


def chain(**changed: Any) -> Chain:
    return chain_of(quick(**changed), BTC)


def begin(home: Home, number: int = 600, horizon: int = 1, **changed: Any) -> CalibratorState:
    return states_at(home, chain(**changed), day(number), {horizon: WARM}, NOW)[horizon]


def put(home: Home, *numbers: int, name: str = "p", horizon: int = 1) -> None:
    profile = quick()
    made = [forecast_by_hand(n, f"{name}{n}", profile=profile, horizon=horizon) for n in numbers]
    put_forecasts(home, made, profile)


def runs_from_600_to_605(folder: Path, *, missing: int | None = None) -> Runs:
    """Forecasts from these days and the chain that begins before them; a day's close may be missing."""
    home = Home(folder).prepare()
    store(home, without(candles(), day(missing), day(missing)) if missing else candles())
    begin(home)
    put(home, *range(600, 606))
    return Runs(home, quick())


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return runs_from_600_to_605(tmp_path / "home")


@pytest.fixture
def gapped(tmp_path: Path) -> Runs:
    return runs_from_600_to_605(tmp_path / "gapped", missing=602)


def rows(runs: Runs) -> list[dict[str, Any]]:
    """The states as they were added, oldest day first."""
    states = calibrator(runs.home).read().to_pylist()
    order = ("recipe_version", "horizon", "target_day", "revision")
    return sorted(states, key=lambda row: [row[name] for name in order])


def at(runs: Runs, number: int, horizon: int = 1, **changed: Any) -> CalibratorState:
    """The state that a forecast from that day is made with; it must be stored."""
    before = calibrator(runs.home).read().num_rows
    (state,) = states_at(runs.home, chain(**changed), day(number), {horizon: ZERO}, NOW).values()
    assert calibrator(runs.home).read().num_rows == before
    return state


def assert_learned(runs: Runs, number: int, *outcomes: int, horizon: int = 1, **changed: Any) -> None:
    """The state of a day has the offsets that follow by hand from the outcomes of these days."""
    offsets, step = WARM.copy(), runs.profile.tracker_step
    for outcome in outcomes:
        prices = spread(close(outcome - horizon))
        steps = [
            step * (level - (close(outcome) <= price)) for level, price in zip(LEVELS, prices, strict=True)
        ]
        for n, (up, down) in enumerate(zip(steps, steps[::-1], strict=True)):
            offsets[n] += (up - down) / 2
    found = at(runs, number, horizon, **changed).quantile_offsets
    np.testing.assert_allclose(found, offsets, rtol=0, atol=1e-15)


def test_a_chain_begins_with_its_first_state(tmp_path: Path) -> None:
    runs = Runs(Home(tmp_path).prepare(), quick())
    store(runs.home, candles())
    put(runs.home, 600)
    assert runs.score(601) == 1
    assert rows(runs) == []
    first = begin(runs.home)
    assert at(runs, 600).calibrator_version == first.calibrator_version
    assert_learned(runs, 600)
    (row,) = rows(runs)
    assert (row["prediction_id"], row["previous_version"], row["revision"]) == (None, None, 0)
    assert begin(runs.home).calibrator_version == first.calibrator_version
    assert len(rows(runs)) == 1
    # Of another horizon, and for a forecast from an earlier day, there is no state yet.
    states = states_at(runs.home, chain(), day(601), {3: ZERO, 1: ZERO}, NOW)
    assert [(horizon, state.target_day) for horizon, state in states.items()] == [
        (3, day(601)),
        (1, day(600)),
    ]
    assert states_at(runs.home, chain(), day(599), {1: ZERO}, NOW)[1].target_day == day(599)
    assert [(row["horizon"], row["target_day"]) for row in rows(runs)] == [
        (1, day(599)),
        (1, day(600)),
        (3, day(601)),
    ]


def test_each_outcome_is_learned_once_in_the_order_of_days(runs: Runs) -> None:
    runs.score(601)
    assert_learned(runs, 601, 601)
    runs.score(604)
    states = rows(runs)
    assert [row["target_day"] for row in states] == [day(number) for number in range(600, 605)]
    assert [row["prediction_id"] for row in states] == [None, "p600", "p601", "p602", "p603"]
    versions = [row["calibrator_version"] for row in states]
    assert [row["previous_version"] for row in states[1:]] == versions[:-1]
    assert_learned(runs, 604, *range(601, 605))
    for number in (601, 603, 604, 604):
        assert runs.score(number, LATER) == 0
    assert rows(runs) == states


def test_an_outcome_over_several_days_is_learned_from_its_target_day_on(tmp_path: Path) -> None:
    """A chain has a branch for each horizon; a day is the target of a forecast of each."""
    runs = Runs(Home(tmp_path).prepare(), quick())
    store(runs.home, candles())
    for horizon in (1, 3, 7):
        begin(runs.home, horizon=horizon)
        put(runs.home, *range(600, 612), name=f"{horizon}-", horizon=horizon)
    for number in range(601, 613):
        runs.score(number)
        for horizon in (1, 3, 7):
            learned = range(600 + horizon, number + 1)
            assert_learned(runs, number, *learned, horizon=horizon)
            assert at(runs, number, horizon).target_day == day(max(600, number if learned else 600))
    stored = rows(runs)
    assert [len([row for row in stored if row["horizon"] == horizon]) for horizon in (1, 3, 7)] == [13, 11, 7]
    assert {row["prediction_id"] for row in stored if row["horizon"] == 3} == {
        None,
        *(f"3-{number}" for number in range(600, 610)),
    }
    # A branch learns nothing from the other horizons' outcomes.
    late = Runs(Home(tmp_path / "late").prepare(), quick())
    store(late.home, candles())
    begin(late.home, horizon=7)
    put(late.home, 600, 601)
    assert late.score(612) == 2
    assert [(row["horizon"], row["target_day"]) for row in rows(late)] == [(7, day(600))]


def test_day_by_day_and_at_once_give_the_same_bits(tmp_path: Path, runs: Runs) -> None:
    for number in range(601, 607):
        runs.score(number)
    other = runs_from_600_to_605(tmp_path / "other")
    other.score(606)
    assert rows(other) == rows(runs)


def test_states_after_the_origin_are_invisible(runs: Runs) -> None:
    runs.score(606)
    for number in range(600, 607):
        assert at(runs, number).target_day == day(number)
    assert at(runs, 700).target_day == day(606)
    assert_learned(runs, 602, 601, 602)


def test_a_late_outcome_rebuilds_the_later_states_as_revisions(gapped: Runs) -> None:
    gapped.score(604)
    before = rows(gapped)
    assert_learned(gapped, 604, 601, 603, 604)
    gapped.restate(602, close(602))
    gapped.score(605, LATER)
    states = rows(gapped)
    assert [row for row in states if row["created_at"] == NOW] == before
    new = [row for row in states if row["created_at"] == LATER]
    assert [(row["target_day"], row["revision"]) for row in new] == [
        (day(602), 0),
        (day(603), 1),
        (day(604), 1),
        (day(605), 0),
    ]
    assert_learned(gapped, 605, *range(601, 606))
    assert_learned(gapped, 603, 601, 602, 603)
    versions = [row["calibrator_version"] for row in (before[1], *new)]
    assert [row["previous_version"] for row in new] == versions[:-1]
    assert len({row["calibrator_version"] for row in states}) == len(states)
    gapped.score(605, LATER)
    assert rows(gapped) == states


def test_a_late_outcome_learned_on_a_past_day_reaches_the_later_states(gapped: Runs) -> None:
    """That run may not touch the states after its origin; the next run of today rebuilds them."""
    gapped.score(605)
    gapped.restate(602, close(602))
    gapped.score(603, LATER)
    assert_learned(gapped, 603, 601, 602, 603)
    gapped.score(605, LATER)
    assert_learned(gapped, 605, *range(601, 606))
    count = len(rows(gapped))
    gapped.score(606, LATER)
    assert len(rows(gapped)) == count + 1
    assert_learned(gapped, 606, *range(601, 607))


def test_a_restated_close_changes_no_state(runs: Runs) -> None:
    runs.score(603)
    states = rows(runs)
    runs.restate(602, close(602) * 2)
    assert runs.score(603, LATER) == 1  # a score row, and no state
    assert rows(runs) == states
    runs.score(604, LATER)
    assert len(rows(runs)) == len(states) + 1
    assert_learned(runs, 604, *range(601, 605))


def test_rebuilt_states_keep_the_close_that_was_known_first(gapped: Runs) -> None:
    gapped.score(604)
    gapped.restate(603, close(603) * 2)
    gapped.restate(602, close(602))
    gapped.score(604, LATER)
    assert Scores(gapped.home).read().num_rows == 5  # four forecasts, one of them twice
    assert_learned(gapped, 604, *range(601, 605))


def test_a_second_forecast_of_a_day_is_not_learned_from(runs: Runs) -> None:
    runs.score(602)
    states = rows(runs)
    put_forecast(runs.home, 601, "again", profile=quick(), quantiles=spread(close(601) * 2))
    assert runs.score(602, LATER) == 1
    assert rows(runs) == states


def test_a_run_killed_between_scores_and_states_is_completed(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "advance_states", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.score(603)
    assert Scores(runs.home).read().num_rows == 3
    assert len(rows(runs)) == 1
    assert runs.score(603) == 0
    assert_learned(runs, 603, 601, 602, 603)


def test_chains_of_two_recipes_do_not_mix(runs: Runs) -> None:
    other = runs.with_settings(seed=7)
    begin(runs.home, seed=7)
    runs.score(602)
    assert at(runs, 602).target_day == day(602)
    assert at(runs, 602, seed=7).target_day == day(600)
    for number in (602, 603):  # beside those of the first chain: revisions
        put_forecast(runs.home, number, f"other{number}", profile=other.profile)
    other.score(604)
    assert_learned(runs, 604, 603, 604, seed=7)
    assert at(runs, 604).target_day == day(602)
    runs.score(604)
    assert_learned(runs, 604, *range(601, 605))
    assert_learned(runs, 604, 603, 604, seed=7)


def test_a_run_before_the_chain_changes_no_later_state(runs: Runs) -> None:
    runs.score(603)
    before = rows(runs)
    begin(runs.home, 550)
    put(runs.home, 550, 599)
    assert runs.score(603, LATER) == 2
    new = [row for row in rows(runs) if row not in before]
    assert [(row["target_day"], row["revision"]) for row in new] == [(day(550), 0), (day(551), 0)]
    assert [row for row in rows(runs) if row not in new] == before
    assert_learned(runs, 560, 551)
    assert_learned(runs, 603, 601, 602, 603)
    assert runs.score(603, LATER) == 0
    assert len(rows(runs)) == len(before) + 2
