from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble_io import ensemble_sha256, losses_json

from storage.core.errors import BadSetting, NotEnoughHistory
from tasks.core.quantiles import LEVELS
from tasks.features.inputs import Columns, make_inputs, usable_rows, windows_at
from tasks.network.trainer import Losses
from tasks.profiles.ensemble import (
    Ensemble,
    Trained,
    ensemble_quantiles,
    fine_tune_ensemble,
    fit_ensemble,
    held_out_days,
    require_days,
    trainer_for,
)
from tests.helpers import FIRST, PROJECT, made_up, without

RECIPE = Recipe(lookback=5, units=3, members=2, epochs=2, pool_products=())
NOTHING: Mapping[str, pd.DataFrame] = {}
# Rows that can be a target: half a month for the means, and a lookback.
WARM_UP = 19
# Of 600 days, the last row that gradients come from, and the last that is looked at.
LEARNED, SEEN = 239, 419


def day(row: int) -> date:
    return FIRST + timedelta(days=row)


def digest(trained: Trained) -> list[Any]:
    losses = [[one.training.tolist(), one.validation.tolist(), one.best_epoch] for one in trained.losses]
    return [ensemble_sha256(trained.ensemble), losses]


def said(ensemble: Ensemble, candles: pd.DataFrame, rows: list[int]) -> np.ndarray:
    inputs = make_inputs(candles, RECIPE.input_settings, ensemble.columns)
    return ensemble_quantiles(ensemble, inputs, np.array(rows, dtype=np.int64), RECIPE)


def moved(candles: pd.DataFrame, rows: slice) -> pd.DataFrame:
    """The candles with other prices in these rows."""
    other = candles.copy()
    noise = np.random.default_rng(9).uniform(0.5, 2.0, len(other.loc[rows]))
    for name in ("open", "high", "low", "close"):
        other.loc[rows, name] *= noise
    return other


def closes_only(candles: pd.DataFrame) -> pd.DataFrame:
    candles = candles.copy()
    candles.loc[:, ["open", "high", "low", "volume"]] = np.nan
    return candles


@functools.cache
def trained() -> Trained:
    return fit_ensemble(made_up(600), RECIPE, NOTHING)


def whole() -> list[Any]:
    """Everything from candles to quantiles, to the bit: floats survive JSON."""
    found = fit_ensemble(made_up(600), RECIPE, {"ETH-USD": made_up(300, seed=2)})
    return [digest(found), said(found.ensemble, made_up(600), [100, 599]).tolist()]


def test_the_newest_days_are_held_out_when_there_are_enough() -> None:
    assert [held_out_days(days, Recipe()) for days in (100, 400, 579, 580, 5000)] == [0, 0, 0, 180, 180]
    assert held_out_days(1000, Recipe(gate_days=365)) == 365
    assert held_out_days(764, Recipe(gate_days=365)) == 0


def test_what_is_learned_from_and_what_is_looked_at() -> None:
    found = trained()
    assert found.ensemble.trained_through == day(SEEN)
    assert found.fitted_through == day(LEARNED)
    assert found.windows == {"train": LEARNED - WARM_UP + 1, "validation": 180}
    assert found.left_out == {}
    assert found.ensemble.columns == Columns(ranges=True, volume=True)
    assert len(found.ensemble.members) == len(found.losses) == 2
    short = fit_ensemble(made_up(400), RECIPE, NOTHING)
    assert (short.ensemble.trained_through, short.fitted_through) == (day(399), day(219))
    assert short.windows == {"train": 219 - WARM_UP + 1, "validation": 180}


def test_the_days_held_out_move_no_bit() -> None:
    candles = made_up(600)
    expected = digest(trained())
    assert digest(fit_ensemble(moved(candles, slice(SEEN + 1, None)), RECIPE, NOTHING)) == expected
    assert digest(fit_ensemble(moved(candles, slice(SEEN, None)), RECIPE, NOTHING)) != expected


def test_the_validation_days_decide_on_stopping_alone() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 12, "patience": 3, "members": 1, "learning_rate": 0.05})
    (plain,) = fit_ensemble(made_up(600), recipe, NOTHING).losses
    (other,) = fit_ensemble(moved(made_up(600), slice(LEARNED + 1, None)), recipe, NOTHING).losses
    (learned,) = fit_ensemble(moved(made_up(600), slice(LEARNED, None)), recipe, NOTHING).losses
    shared = min(len(plain.training), len(other.training))
    assert other.training[:shared].tolist() == plain.training[:shared].tolist()
    assert other.validation[0] != plain.validation[0]
    assert learned.training[0] != plain.training[0]
    assert plain.best_epoch == int(plain.validation.argmin()) + 1 < len(plain.training)


def test_the_same_again_to_the_last_bit_also_beside_another() -> None:
    expected = digest(trained())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: digest(fit_ensemble(made_up(600), RECIPE, NOTHING)), range(2)))
    assert found == [expected, expected]
    other = digest(fit_ensemble(made_up(600), RECIPE.model_copy(update={"seed": 1}), NOTHING))
    assert other[0] != expected[0]
    first, second = trained().losses
    assert first.training.tolist() != second.training.tolist()


def test_the_same_in_a_fresh_process() -> None:
    program = (
        "import json, sys; sys.path[:0] = ['.', 'tests/tasks']\n"
        "from test_ensemble import whole\n"
        "print(json.dumps(whole()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=PROJECT, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == whole()
    assert done.stderr == ""


def test_a_forecast_alone_traces_no_training() -> None:
    ensemble, recipe = trained().ensemble, RECIPE.model_copy(update={"dropout": 0.3})
    inputs = make_inputs(made_up(600), recipe.input_settings, ensemble.columns)
    found = ensemble_quantiles(ensemble, inputs, np.array([599], dtype=np.int64), recipe)
    assert found.tobytes() == said(ensemble, made_up(600), [599]).tobytes()
    forecasts, trains = trainer_for(recipe, 11), trainer_for(RECIPE, 11)
    for trainer, expected in ((forecasts, (0, 0, 1)), (trains, (1, 1, 1))):
        loops = (trainer._epoch, trainer._mean_loss, trainer._predict)
        assert tuple(min(loop.experimental_get_tracing_count(), 1) for loop in loops) == expected


def test_pooled_windows_join_up_to_the_end_of_training() -> None:
    pool = made_up(600, seed=2)
    found = fit_ensemble(made_up(600), RECIPE, {"ETH-USD": pool, "LTC-USD": made_up(120, seed=3)})
    assert found.windows == {
        "train": LEARNED - WARM_UP + 1,
        "validation": 180,
        "pooled ETH-USD": LEARNED - WARM_UP + 1,
        "pooled LTC-USD": 120 - WARM_UP,
    }
    assert digest(found)[0] != digest(trained())[0]
    again = {"ETH-USD": moved(pool, slice(LEARNED + 1, None)), "LTC-USD": made_up(120, seed=3)}
    assert digest(fit_ensemble(made_up(600), RECIPE, again)) == digest(found)
    again["ETH-USD"] = moved(pool, slice(LEARNED, None))
    assert digest(fit_ensemble(made_up(600), RECIPE, again)) != digest(found)


def test_a_product_that_cannot_be_pooled_is_left_out_with_its_reason() -> None:
    late = made_up(100, day(LEARNED - 10), seed=4)
    no_volume = made_up(300, seed=5).assign(volume=0.0)
    pools = {
        "A-USD": closes_only(made_up(300)),
        "B-USD": no_volume,
        "C-USD": late,
        "D-USD": made_up(0),
    }
    found = fit_ensemble(made_up(600), RECIPE, pools)
    assert found.left_out == {
        "A-USD": "has no ranges (open, high, low) and no volume",
        "B-USD": "has no volume",
        "C-USD": f"has no window up to {day(LEARNED)}",
        "D-USD": "has no ranges (open, high, low) and no volume",
    }
    assert digest(found) == digest(trained())


def test_with_closes_alone_products_with_ranges_are_pooled_by_their_closes() -> None:
    pool = made_up(300, seed=2)
    found = fit_ensemble(closes_only(made_up(600)), RECIPE, {"ETH-USD": pool})
    assert found.ensemble.columns == Columns(ranges=False, volume=False)
    # The first day has no scale without its range: all begins a day later.
    assert found.windows["pooled ETH-USD"] == found.windows["train"] == LEARNED - WARM_UP
    assert found.ensemble.members[0][0].shape[0] == 7
    same = fit_ensemble(closes_only(made_up(600)), RECIPE, {"ETH-USD": closes_only(pool)})
    assert digest(same) == digest(found)


def test_a_short_series_is_refused() -> None:
    with pytest.raises(NotEnoughHistory, match="need 400 days of closes, found 399"):
        fit_ensemble(made_up(399), RECIPE, NOTHING)
    require_days(made_up(400), RECIPE)


def test_a_series_full_of_holes_is_refused() -> None:
    gappy = made_up(900)[lambda frame: frame.index % 2 == 0].reset_index(drop=True)
    with pytest.raises(NotEnoughHistory, match=r"100 consecutive windows of 5 days .* found 0 and 0 up to"):
        fit_ensemble(gappy, RECIPE, NOTHING)
    early = without(made_up(800), day(445), day(605))  # 440 to 619 are there to validate
    with pytest.raises(NotEnoughHistory, match="and 30 to validate, found "):
        fit_ensemble(early, RECIPE, NOTHING)


@pytest.mark.parametrize("more", [{}, {"epochs": 1, "batch_size": 10_000}])
def test_a_training_that_blows_up_is_refused(more: dict[str, Any]) -> None:
    wild = RECIPE.model_copy(update={"learning_rate": 1e6, **more})
    with pytest.raises(BadSetting, match=r"epoch 1 with a learning_rate of 1e\+06: choose a smaller one"):
        fit_ensemble(made_up(600), wild, NOTHING)


def test_fine_tuning_moves_the_weights_a_little() -> None:
    before, candles = trained().ensemble, made_up(630)
    found = fine_tune_ensemble(before, candles, RECIPE, {"ETH-USD": made_up(600, seed=2)})
    assert found.ensemble.trained_through == found.fitted_through == day(629 - 180)
    windows = 629 - 180 - WARM_UP + 1
    assert found.windows == {"train": windows, "pooled ETH-USD": windows}
    steps = 2 * -(-2 * windows // RECIPE.batch_size)
    for one, other in zip(before.members, found.ensemble.members, strict=True):
        away = max(np.abs(a - b).max() for a, b in zip(one, other, strict=True))
        assert 0 < away < 2 * steps * RECIPE.fine_tune_learning_rate  # Adam's steps are that long
    assert [len(losses.training) for losses in found.losses] == [2, 2]
    assert all(np.isnan(losses.validation).all() for losses in found.losses)
    again = fine_tune_ensemble(before, candles, RECIPE, {"ETH-USD": made_up(600, seed=2)})
    assert ensemble_sha256(again.ensemble) == ensemble_sha256(found.ensemble)


def test_fine_tuning_looks_at_no_day_held_out() -> None:
    before, candles = trained().ensemble, made_up(630)
    plain, unseen, seen = (
        ensemble_sha256(fine_tune_ensemble(before, frame, RECIPE, NOTHING).ensemble)
        for frame in (candles, moved(candles, slice(450, None)), moved(candles, slice(449, None)))
    )
    assert plain == unseen != seen
    assert plain != ensemble_sha256(before)


def test_fine_tuning_that_blows_up_is_refused() -> None:
    wild = RECIPE.model_copy(update={"fine_tune_learning_rate": 1e6})
    with pytest.raises(BadSetting, match="choose a smaller one"):
        fine_tune_ensemble(trained().ensemble, made_up(600), wild, NOTHING)


def test_fine_tuning_needs_the_days_as_well() -> None:
    with pytest.raises(NotEnoughHistory, match="found 300"):
        fine_tune_ensemble(trained().ensemble, made_up(300), RECIPE, NOTHING)


def test_the_members_quantiles_are_averaged() -> None:
    candles, ensemble = made_up(600), trained().ensemble
    rows = [100, 250, 599]
    found = said(ensemble, candles, rows)
    alone = [said(Ensemble(ensemble.columns, (one,), day(0)), candles, rows) for one in ensemble.members]
    np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2, rtol=1e-14)
    assert found.shape == (3, 23)
    assert (np.diff(found, axis=1) > 0).all()
    # Each is its head's Student t, in the origin's scale.
    inputs = make_inputs(candles, RECIPE.input_settings, ensemble.columns)
    shown = windows_at(inputs, np.array(rows), RECIPE.input_settings)
    mean, sigma, dof = trainer_for(RECIPE, 11).predict(ensemble.members[1], shown)[2]
    expected = stats.t.ppf(LEVELS, dof, mean, sigma * np.sqrt((dof - 2) / dof))
    np.testing.assert_allclose(alone[1][2], expected * inputs.sigma[599], rtol=1e-9)


def test_a_forecast_is_the_same_alone_among_others_and_before_garbage() -> None:
    candles, ensemble = made_up(600), trained().ensemble
    rows = usable_rows(make_inputs(candles, RECIPE.input_settings, ensemble.columns), lookback=5)[
        ::7
    ].tolist()
    together = said(ensemble, candles, rows)
    for n in (0, 3, len(rows) // 2, len(rows) - 1):
        row = rows[n]
        assert said(ensemble, candles, [row])[0].tobytes() == together[n].tobytes()
        assert said(ensemble, candles.iloc[: row + 1], [row])[0].tobytes() == together[n].tobytes()
        later = moved(candles, slice(row + 1, None))
        assert said(ensemble, later, rows[: n + 1])[n].tobytes() == together[n].tobytes()
    assert said(ensemble, candles, []).shape == (0, 23)


def test_losses_as_plain_figures() -> None:
    losses = Losses(np.array([1.5, 1.25]), np.array([np.inf, 1.0]), 2)
    silent = Losses(np.array([1.5]), np.array([np.nan]), 1)
    assert losses_json((losses, silent)) == [
        {"loss": [1.5, 1.25], "val_loss": [None, 1.0], "best_epoch": 2},
        {"loss": [1.5], "val_loss": [None], "best_epoch": 1},
    ]
