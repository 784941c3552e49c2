from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.distribution import MIXED_WITH, first_quantile_offsets, say

from storage.core.errors import NotEnoughHistory
from tasks.core.quantiles import LEVELS
from tasks.features.inputs import Columns, make_inputs
from tasks.network.architectures import calibrated_network
from tasks.profiles.baselines import MIN_RETURNS, baseline_quantiles
from tasks.profiles.ensemble import Ensemble, Trained, ensemble_quantiles
from tests.helpers import FIRST, made_up, without

RECIPE = Recipe(lookback=5, units=3, members=2, pool_products=(), tracker_step=0.01)
ALONE = RECIPE.model_copy(update={"har_share": 0.0})
SHAPE: dict[str, Any] = {"lookback": 5, "features": 11, "units": 3, "dropout": 0.1, "head_sd": 0.02}
HAR = (MIXED_WITH,)


def ensemble() -> Ensemble:
    """Two networks at their start, which say near N(0, 1) in scales."""
    members = tuple(calibrated_network(seed=n, **SHAPE).get_weights() for n in (1, 2))
    return Ensemble(Columns(ranges=True, volume=True), members, FIRST)


def fitted_through(row: int) -> Trained:
    return Trained(ensemble(), FIRST + timedelta(days=row), (), {})


def rows(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


def days_learned(quantile_offsets: np.ndarray) -> list[int]:
    """Which numbers of outcomes these can be of: each time a level rises by itself, less its hits."""
    risen = quantile_offsets / RECIPE.tracker_step
    hits = [n * np.array(LEVELS) - risen for n in range(200)]
    return [n for n, of in enumerate(hits) if np.abs(of - np.round(of)).max() < 1e-6 and of.max() <= n + 0.5]


def test_half_is_the_network_s_and_half_is_har_s() -> None:
    candles, at = made_up(420), rows(300, 301, 419)
    said = say(ensemble(), candles, at, RECIPE, methods=HAR)
    inputs = make_inputs(candles, RECIPE.input_settings, ensemble().columns)
    own = ensemble_quantiles(ensemble(), inputs, at, RECIPE)
    har = baseline_quantiles(candles, at, components=HAR)[MIXED_WITH]
    assert said.own.tobytes() == own.tobytes()
    assert said.baselines[MIXED_WITH].tobytes() == har.tobytes()
    np.testing.assert_allclose(said.mixed, (own + har) / 2, rtol=1e-14)
    assert said.scales.tolist() == inputs.sigma[at].tolist()
    quarter = RECIPE.model_copy(update={"har_share": 0.25})
    mixed = say(ensemble(), candles, at, quarter, methods=HAR).mixed
    np.testing.assert_allclose(mixed, 0.75 * own + 0.25 * har, rtol=1e-14)


def test_without_a_share_har_is_not_asked() -> None:
    candles, at = made_up(420), rows(100, 300)
    said = say(ensemble(), candles, at, ALONE, methods=())
    assert said.baselines == {}
    assert said.mixed.tobytes() == said.own.tobytes()
    # Row 100 has too few returns behind it for a baseline.
    with pytest.raises(NotEnoughHistory):
        say(ensemble(), candles, at, RECIPE, methods=HAR)


def test_no_origins_no_forecasts() -> None:
    said = say(ensemble(), made_up(60), rows(), RECIPE)
    assert said.own.shape == said.mixed.shape == (0, 23)
    assert said.scales.shape == (0,)


def test_nothing_after_an_origin_counts() -> None:
    candles, at = made_up(420), rows(280, 333, 390)
    together = say(ensemble(), candles, at, RECIPE, methods=HAR)
    for n, row in enumerate(at.tolist()):
        garbage = candles.copy()
        noise = np.random.default_rng(n).uniform(0.01, 1e6, len(candles) - row - 1)
        for name in ("open", "high", "low", "close", "volume"):
            garbage.loc[row + 1 :, name] = noise
        for frame in (garbage, candles.iloc[: row + 1]):
            alone = say(ensemble(), frame, rows(row), RECIPE, methods=HAR)
            assert alone.mixed[0].tobytes() == together.mixed[n].tobytes()
            assert alone.scales[0].tobytes() == together.scales[n].tobytes()


def test_the_tracker_begins_with_the_days_not_learned_from() -> None:
    candles = made_up(420)
    quantile_offsets = first_quantile_offsets(fitted_through(400), candles, RECIPE)
    assert quantile_offsets.shape == (23,)
    # The targets of 401 to 419, the last of which is the origin that is forecast from next.
    assert days_learned(quantile_offsets) == [19]
    assert days_learned(first_quantile_offsets(fitted_through(390), candles, RECIPE)) == [29]
    assert days_learned(first_quantile_offsets(fitted_through(400), candles.iloc[:410], RECIPE)) == [9]


def test_the_days_learned_from_count_only_by_what_is_forecast_from_them() -> None:
    candles = made_up(420)
    quantile_offsets = first_quantile_offsets(fitted_through(400), candles, RECIPE)
    crashed = candles.copy()
    crashed.loc[419, ["open", "high", "low", "close"]] /= 3.0
    found = first_quantile_offsets(fitted_through(400), crashed, RECIPE)
    before = first_quantile_offsets(fitted_through(400), candles.iloc[:419], RECIPE)
    np.testing.assert_allclose(found - before, RECIPE.tracker_step * (np.array(LEVELS) - 1.0), atol=1e-12)
    assert found.tobytes() != quantile_offsets.tobytes()


def test_a_day_that_is_missing_teaches_nothing() -> None:
    gone = FIRST + timedelta(days=407)
    candles = without(made_up(420), gone, gone)
    # Neither its own outcome nor those of the origins whose windows have its return: 407 to 412.
    assert days_learned(first_quantile_offsets(fitted_through(400), candles, RECIPE)) == [19 - 1 - 6]


def test_har_s_first_days_are_passed_over_only_where_it_is_mixed_in() -> None:
    candles = made_up(300)
    assert days_learned(first_quantile_offsets(fitted_through(200), candles, RECIPE)) == [299 - MIN_RETURNS]
    assert days_learned(first_quantile_offsets(fitted_through(200), candles, ALONE)) == [99]


def test_nothing_to_learn_from_is_no_correction() -> None:
    for candles, row in ((made_up(420), 419), (made_up(200), 150)):
        found = first_quantile_offsets(fitted_through(row), candles, RECIPE)
        assert found.tolist() == [0.0] * 23


def test_days_are_those_of_the_calendar() -> None:
    """A gap before the days learned through does not move where the tracker begins."""
    candles: pd.DataFrame = without(made_up(420), date(2019, 3, 1), date(2019, 3, 20))
    assert days_learned(first_quantile_offsets(fitted_through(400), candles, RECIPE)) == [19]
