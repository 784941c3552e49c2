from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.core.home import Home
from storage.tables.schemas import calibrator
from storage.tables.scores import Scores
from tasks.calibration.calibrator_states import State, first_state, state_at
from tasks.core.quantiles import LEVELS
from tasks.evaluation import scoring as score
from tests.calibrated import Runs, candles, close, day, put_forecast, quick, spread
from tests.helpers import BTC, NOW, store, without

RECIPE = quick()
LATER = NOW + timedelta(days=1)
WARM = np.linspace(-0.1, 0.1, len(LEVELS))


def begin(home: Home, number: int = 600, **changed: Any) -> State:
    recipe = quick(**changed)
    return first_state(home, BTC, recipe, day(number), WARM, NOW)


def forecasts(home: Home, *numbers: int, name: str = "p", **changed: Any) -> None:
    for number in numbers:
        put_forecast(home, number, f"{name}{number}", recipe=quick(**changed))


def home_of(place: Path, frame: Any = None) -> Runs:
    home = Home(place).prepare()
    store(home, candles() if frame is None else frame)
    return Runs(home, RECIPE)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Forecasts from day 600 on, and the chain that begins there."""
    made = home_of(tmp_path / "home")
    begin(made.home)
    forecasts(made.home, *range(600, 606))
    return made


def rows(runs: Runs) -> list[dict[str, Any]]:
    """The states as they were added, oldest first."""
    found = calibrator(runs.home).read().to_pylist()
    return sorted(found, key=lambda row: (row["recipe_version"], row["target_day"], row["revision"]))


def after(*numbers: int, start: Any = WARM) -> Any:
    """The quantile_offsets after the outcomes of those days, by hand."""
    quantile_offsets = np.array(start)
    for number in numbers:
        for n, (level, usd) in enumerate(zip(LEVELS, spread(close(number - 1)), strict=True)):
            quantile_offsets[n] += RECIPE.tracker_step * (level - (close(number) <= usd))
    return quantile_offsets


def at(runs: Runs, number: int, **changed: Any) -> State:
    state = state_at(runs.home, BTC, quick(**changed), day(number))
    assert state
    return state


def test_there_is_no_state_before_the_first(tmp_path: Path) -> None:
    runs = home_of(tmp_path)
    assert state_at(runs.home, BTC, RECIPE, day(999)) is None
    forecasts(runs.home, 600)
    assert runs.score(601) == 1
    assert rows(runs) == []
    first = begin(runs.home)
    assert state_at(runs.home, BTC, RECIPE, day(599)) is None
    assert at(runs, 600).calibrator_version == first.calibrator_version
    np.testing.assert_array_equal(first.quantile_offsets, WARM)
    (row,) = rows(runs)
    assert (row["prediction_id"], row["previous_version"], row["revision"]) == (None, None, 0)
    assert begin(runs.home).calibrator_version == first.calibrator_version
    assert len(rows(runs)) == 1


def test_each_outcome_once_in_the_order_of_days(runs: Runs) -> None:
    runs.score(601)
    np.testing.assert_allclose(at(runs, 601).quantile_offsets, after(601), rtol=0, atol=1e-15)
    runs.score(604)
    made = rows(runs)
    assert [row["target_day"] for row in made] == [day(number) for number in range(600, 605)]
    assert [row["prediction_id"] for row in made] == [None, "p600", "p601", "p602", "p603"]
    assert [row["previous_version"] for row in made[1:]] == [row["calibrator_version"] for row in made[:-1]]
    np.testing.assert_allclose(at(runs, 604).quantile_offsets, after(601, 602, 603, 604), rtol=0, atol=1e-15)
    for number in (601, 603, 604, 604):
        assert runs.score(number, LATER) == 0
    assert rows(runs) == made


def test_day_by_day_and_at_once_give_the_same_bits(tmp_path: Path, runs: Runs) -> None:
    for number in range(601, 607):
        runs.score(number)
    other = home_of(tmp_path / "other")
    begin(other.home)
    forecasts(other.home, *range(600, 606))
    other.score(606)
    assert rows(other) == rows(runs)


def test_what_comes_after_the_origin_is_invisible(runs: Runs) -> None:
    runs.score(606)
    for number in range(600, 607):
        assert at(runs, number).target_day == day(number)
    assert at(runs, 700).target_day == day(606)
    np.testing.assert_allclose(at(runs, 602).quantile_offsets, after(601, 602), rtol=0, atol=1e-15)


def test_a_late_outcome_makes_the_later_states_anew(tmp_path: Path) -> None:
    runs = home_of(tmp_path, without(candles(), day(602), day(602)))
    begin(runs.home)
    forecasts(runs.home, *range(600, 606))
    runs.score(604)
    before = rows(runs)
    np.testing.assert_allclose(at(runs, 604).quantile_offsets, after(601, 603, 604), rtol=0, atol=1e-15)
    runs.restate(602, close(602))
    runs.score(605, LATER)
    made = rows(runs)
    assert [row for row in made if row["created_at"] == NOW] == before
    new = [row for row in made if row["created_at"] == LATER]
    assert [(row["target_day"], row["revision"]) for row in new] == [
        (day(602), 0),
        (day(603), 1),
        (day(604), 1),
        (day(605), 0),
    ]
    np.testing.assert_allclose(at(runs, 605).quantile_offsets, after(*range(601, 606)), rtol=0, atol=1e-15)
    np.testing.assert_allclose(at(runs, 603).quantile_offsets, after(601, 602, 603), rtol=0, atol=1e-15)
    chain = [before[1], *new]
    assert [row["previous_version"] for row in new] == [row["calibrator_version"] for row in chain[:-1]]
    assert len({row["calibrator_version"] for row in made}) == len(made)
    runs.score(605, LATER)
    assert rows(runs) == made


def test_a_late_outcome_that_a_run_on_a_past_day_takes_in(tmp_path: Path) -> None:
    """That run may not touch the states after its origin; the next run of today makes them whole."""
    runs = home_of(tmp_path, without(candles(), day(602), day(602)))
    begin(runs.home)
    forecasts(runs.home, *range(600, 606))
    runs.score(605)
    runs.restate(602, close(602))
    runs.score(603, LATER)
    np.testing.assert_allclose(at(runs, 603).quantile_offsets, after(601, 602, 603), rtol=0, atol=1e-15)
    runs.score(605, LATER)
    np.testing.assert_allclose(at(runs, 605).quantile_offsets, after(*range(601, 606)), rtol=0, atol=1e-15)
    made = rows(runs)
    runs.score(606, LATER)
    assert len(rows(runs)) == len(made) + 1
    np.testing.assert_allclose(at(runs, 606).quantile_offsets, after(*range(601, 607)), rtol=0, atol=1e-15)


def test_a_restated_close_does_not_rewind(runs: Runs) -> None:
    runs.score(603)
    made = rows(runs)
    runs.restate(602, close(602) * 2)
    assert runs.score(603, LATER) == 1  # a score row, and no state
    assert rows(runs) == made
    runs.score(604, LATER)
    assert len(rows(runs)) == len(made) + 1
    np.testing.assert_allclose(at(runs, 604).quantile_offsets, after(*range(601, 605)), rtol=0, atol=1e-15)


def test_states_made_anew_keep_the_close_that_was_known_first(tmp_path: Path) -> None:
    runs = home_of(tmp_path, without(candles(), day(602), day(602)))
    begin(runs.home)
    forecasts(runs.home, *range(600, 605))
    runs.score(604)
    runs.restate(603, close(603) * 2)
    runs.restate(602, close(602))
    runs.score(604, LATER)
    assert Scores(runs.home).read().num_rows == 5  # four forecasts, one of them twice
    np.testing.assert_allclose(at(runs, 604).quantile_offsets, after(*range(601, 605)), rtol=0, atol=1e-15)


def test_a_second_forecast_of_a_day_teaches_nothing(runs: Runs) -> None:
    runs.score(602)
    made = rows(runs)
    quantiles = spread(close(601) * 2)
    put_forecast(runs.home, 601, "again", recipe=RECIPE, quantiles=quantiles)
    assert runs.score(602, LATER) == 1
    assert rows(runs) == made


def test_killed_between_the_scores_and_the_tracker(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score, "advance_tracker", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.score(603)
    assert Scores(runs.home).read().num_rows == 3
    assert len(rows(runs)) == 1
    assert runs.score(603) == 0
    np.testing.assert_allclose(at(runs, 603).quantile_offsets, after(601, 602, 603), rtol=0, atol=1e-15)


def test_two_recipes_do_not_mix(runs: Runs) -> None:
    other = runs.told(seed=7)
    begin(runs.home, seed=7)
    runs.score(602)
    assert at(runs, 602).target_day == day(602)
    assert at(runs, 602, seed=7).target_day == day(600)
    forecasts(runs.home, 602, 603, name="other", seed=7)  # beside those of the first chain: revisions
    other.score(604)
    np.testing.assert_allclose(at(runs, 604, seed=7).quantile_offsets, after(603, 604), rtol=0, atol=1e-15)
    assert at(runs, 604).target_day == day(602)
    runs.score(604)
    np.testing.assert_allclose(at(runs, 604).quantile_offsets, after(*range(601, 605)), rtol=0, atol=1e-15)
    np.testing.assert_allclose(at(runs, 604, seed=7).quantile_offsets, after(603, 604), rtol=0, atol=1e-15)


def test_the_policy_is_not_part_of_the_chain(runs: Runs) -> None:
    runs.score(602)
    assert at(runs, 602, refit_every_days=7).calibrator_version == at(runs, 602).calibrator_version


def test_a_run_on_a_day_before_the_chain_moves_nothing_after_it(runs: Runs) -> None:
    runs.score(603)
    made = rows(runs)
    begin(runs.home, 550)
    forecasts(runs.home, 550, 599)
    assert runs.score(603, LATER) == 2
    new = [row for row in rows(runs) if row not in made]
    assert [(row["target_day"], row["revision"]) for row in new] == [(day(550), 0), (day(551), 0)]
    assert [row for row in rows(runs) if row not in new] == made
    np.testing.assert_allclose(at(runs, 560).quantile_offsets, after(551), rtol=0, atol=1e-15)
    np.testing.assert_allclose(at(runs, 603).quantile_offsets, after(601, 602, 603), rtol=0, atol=1e-15)
    assert runs.score(603, LATER) == 0
    assert len(rows(runs)) == len(made) + 2
