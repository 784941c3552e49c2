"""The ensemble: what each training uses, the same bits everywhere, bundles that load to the last bit."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from closecast.storage.core.errors import Damaged, NotEnoughHistory
from closecast.storage.models.bundles import Bundle, Draft
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.features.inputs import Columns, make_inputs, training_rows, windows_at
from closecast.tasks.network.architectures import arrays_sha256
from closecast.tasks.network.forward import forward, student_t_parameters
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.profiles.ensemble import (
    Ensemble,
    TrainedEnsemble,
    _examples,
    ensemble_quantiles,
    fine_tune_ensemble,
    fit_ensemble,
)
from tests.helpers import BTC, FIRST, PROJECT, made_up, without
from tests.markets import closes_only

HORIZONS = (1, 3, 7)
PROFILE = CalibratedProfile(
    {"lookback": 5, "units": 3, "members": 2, "epochs": 2, "horizons": HORIZONS, "pool_products": ()}
)
SETTINGS = PROFILE.settings
# The first rows, which are no target: the trailing means need half a month, and then there is a window.
WARM_UP = 19
# Of 600 days, the last row of the targets that are trained on, and the last row that training uses.
FITTED, TRAINED = 239, 419


def day(row: int) -> date:
    return FIRST + timedelta(days=row)


def history(candles: pd.DataFrame, product_id: str = BTC) -> PriceHistory:
    return PriceHistory(product_id, candles, f"{product_id}@1:ab", "csv@0")


def fit(
    candles: pd.DataFrame | None = None,
    pool: dict[str, pd.DataFrame] | None = None,
    *,
    through: int = TRAINED,
    exactly: int | None = None,
    **changed: Any,
) -> TrainedEnsemble:
    pooled = {product: history(frame, product) for product, frame in (pool or {}).items()}
    frame = made_up(600) if candles is None else candles
    return fit_ensemble(history(frame), pooled, SETTINGS.model_copy(update=changed), day(through), exactly)


def fine_tune(candles: pd.DataFrame, pool: dict[str, pd.DataFrame] | None = None, **changed: Any) -> Any:
    pooled = {product: history(frame, product) for product, frame in (pool or {}).items()}
    settings = SETTINGS.model_copy(update=changed)
    return fine_tune_ensemble(trained().ensemble, history(candles), pooled, settings, day(449))


@functools.cache
def trained() -> TrainedEnsemble:
    return fit()


def weights(one: TrainedEnsemble) -> str:
    return arrays_sha256([array for member in one.ensemble.members for array in member])


def digest(one: TrainedEnsemble) -> list[Any]:
    losses = [
        [part.training.tolist(), part.validation.tolist(), part.best_epoch] for part in one.training.losses
    ]
    return [weights(one), losses]


def quantiles(ensemble: Ensemble, candles: pd.DataFrame, rows: list[int]) -> Any:
    inputs = make_inputs(candles, SETTINGS, ensemble.columns)
    return ensemble_quantiles(ensemble, inputs, np.array(rows, dtype=np.int64), SETTINGS)


def moved(candles: pd.DataFrame, first: int) -> pd.DataFrame:
    """The candles with other prices from a row on."""
    other = candles.copy()
    noise = np.random.default_rng(9).uniform(0.5, 2.0, len(other.loc[first:]))
    for name in ("open", "high", "low", "close"):
        other.loc[first:, name] *= noise
    return other


def from_candles_to_quantiles() -> list[Any]:
    """To the bit: floats survive JSON."""
    one = fit(pool={"ETH-USD": made_up(300, seed=2)})
    return [digest(one), quantiles(one.ensemble, made_up(600), [100, 599]).tolist()]


# Training


def test_training_uses_no_held_out_day() -> None:
    one = trained()
    assert one.fitted_through == day(FITTED)
    # 180 origins and the six before them, whose outcomes over seven days are days of validation.
    assert one.training.windows == {"train": FITTED - WARM_UP + 1, "validation": 186}
    assert (one.training.not_pooled, one.training.columns_left_out) == ({}, ())
    assert one.ensemble.columns == Columns(ranges=True, volume=True)
    assert len(one.ensemble.members) == len(one.training.losses) == 2
    first, second = one.training.losses
    assert first.training.tolist() != second.training.tolist()
    expected = digest(one)
    assert digest(fit(moved(made_up(600), TRAINED + 1))) == expected
    assert digest(fit(moved(made_up(600), TRAINED))) != expected


@pytest.mark.parametrize("after", [None, 239])
@pytest.mark.parametrize(
    "frame", [made_up(600), without(made_up(600), day(230), day(236))], ids=["whole", "gap"]
)
def test_examples_have_exactly_the_outcomes_of_a_span(frame: pd.DataFrame, after: int | None) -> None:
    """Row by row and horizon by horizon; a target beyond the last day is unknown."""
    columns = Columns(ranges=True, volume=True)
    inputs = make_inputs(frame, SETTINGS, columns)
    first = None if after is None else day(after)
    windows, targets = _examples(inputs, SETTINGS, first, day(TRAINED))
    number, days = 0, frame["day_utc"].dt.date.tolist()
    for row in training_rows(inputs, lookback=5):
        known = [
            days[row] + timedelta(days=horizon) in days
            and day(after or 0) < days[row] + timedelta(days=horizon) <= day(TRAINED)
            for horizon in HORIZONS
        ]
        if any(known):
            assert np.isfinite(targets[number]).tolist() == known, days[row]
            assert targets[number, known].tolist() == inputs.targets[row, known].tolist()
            assert windows[number].tobytes() == windows_at(inputs, np.array([row]), SETTINGS).tobytes()
            number += 1
    assert number == len(windows) == len(targets)
    assert np.isnan(targets[-1]).tolist() == [False, True, True]


def test_given_epochs_are_trained_exactly_and_on_all_days() -> None:
    one = fit(exactly=3)
    assert one.fitted_through == day(TRAINED)
    assert one.training.windows == {"train": TRAINED - WARM_UP + 1}
    assert [len(losses.training) for losses in one.training.losses] == [3, 3]
    assert all(np.isnan(losses.validation).all() for losses in one.training.losses)
    assert weights(fit(exactly=3, patience=1, validation_days=30)) == weights(one)
    fitted = PROFILE.fit(history(made_up(600)), {}, holdout_days=180, epochs=3)
    assert (fitted.trained_through, fitted.state.columns) == (day(TRAINED), one.ensemble.columns)
    assert arrays_sha256([array for member in PROFILE.weights(fitted) for array in member]) == weights(one)


def test_validation_days_decide_only_when_to_stop() -> None:
    changed: dict[str, Any] = {"epochs": 12, "patience": 3, "members": 1, "learning_rate": 0.2}
    plain, other, learned = (
        fit(frame, **changed).training.losses[0]
        for frame in (made_up(600), moved(made_up(600), FITTED + 1), moved(made_up(600), FITTED))
    )
    shared = min(len(plain.training), len(other.training))
    assert other.training[:shared].tolist() == plain.training[:shared].tolist()
    assert other.validation[0] != plain.validation[0]
    assert learned.training[0] != plain.training[0]
    assert plain.best_epoch == int(plain.validation.argmin()) + 1 < len(plain.training)


def test_two_threads_and_a_fresh_process_train_the_same_bits() -> None:
    expected = digest(trained())
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: digest(fit()), range(2))) == [expected, expected]
    assert weights(fit(seed=1)) != expected[0]
    program = (
        "import json\nfrom tests.tasks.profiles.test_ensemble import from_candles_to_quantiles\n"
        "print(json.dumps(from_candles_to_quantiles()))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, text=True)
    assert json.loads(done.stdout) == from_candles_to_quantiles()
    assert done.stderr == ""


def test_pooled_windows_end_with_the_training_windows() -> None:
    pool = {"ETH-USD": made_up(600, seed=2), "LTC-USD": made_up(120, seed=3)}
    one = fit(pool=pool)
    assert one.training.windows == {
        "train": FITTED - WARM_UP + 1,
        "validation": 186,
        "pooled ETH-USD": FITTED - WARM_UP + 1,
        "pooled LTC-USD": 120 - WARM_UP,
    }
    assert weights(one) != weights(trained())
    assert digest(fit(pool=pool | {"ETH-USD": moved(pool["ETH-USD"], FITTED + 1)})) == digest(one)
    assert digest(fit(pool=pool | {"ETH-USD": moved(pool["ETH-USD"], FITTED)})) != digest(one)


def test_products_that_cannot_be_pooled_are_left_out_with_the_reason() -> None:
    pool = {
        "A-USD": closes_only(made_up(300)),
        "B-USD": made_up(300, seed=5).assign(volume=0.0),
        "C-USD": made_up(100, day(FITTED - 10), seed=4),
        "D-USD": made_up(0),
    }
    one = fit(pool=pool)
    assert one.training.not_pooled == {
        "A-USD": "has no ranges (open, high, low) and no volume",
        "B-USD": "has no volume",
        "C-USD": f"has no window up to {day(FITTED)}",
        "D-USD": "has no ranges (open, high, low) and no volume",
    }
    assert digest(one) == digest(trained())


def test_a_product_of_closes_alone_pools_other_products_without_their_volume() -> None:
    pool = made_up(300, seed=2)
    one = fit(closes_only(made_up(600)), {"ETH-USD": pool})
    assert one.ensemble.columns == Columns(ranges=False, volume=False)
    assert len(one.training.columns_left_out) == 2
    # Without its range the first day has no variance, so everything begins a day later.
    assert one.training.windows["pooled ETH-USD"] == one.training.windows["train"] == FITTED - WARM_UP
    assert one.ensemble.members[0][0].shape[0] == 12
    other = pool.assign(volume=np.nan)
    assert digest(fit(closes_only(made_up(600)), {"ETH-USD": other})) == digest(one)


def test_a_short_or_gapped_series_is_refused() -> None:
    model = FittedModel(trained().ensemble, day(TRAINED))
    with pytest.raises(NotEnoughHistory, match="needs 400 days of closes, found 399"):
        PROFILE.fit(history(made_up(399)), {})
    with pytest.raises(NotEnoughHistory, match="found 300"):
        PROFILE.fine_tune(model, history(made_up(300)), {})
    every_second = made_up(900).iloc[::2].reset_index(drop=True)
    with pytest.raises(NotEnoughHistory, match=r"100 windows of 5 days .* found 0 and 0 up to"):
        fit(every_second, through=719)
    early = without(made_up(800), day(445), day(605))  # 440 to 619 are there to validate
    with pytest.raises(NotEnoughHistory, match="and 30 to validate, found "):
        fit(early, through=619)


def test_fine_tuning_moves_the_weights_a_little() -> None:
    pool = {"ETH-USD": made_up(600, seed=2)}
    one = fine_tune(made_up(630), pool)
    assert one.fitted_through == day(449)
    windows = 449 - WARM_UP + 1
    assert one.training.windows == {"train": windows, "pooled ETH-USD": windows}
    steps = 2 * -(-2 * windows // SETTINGS.batch_size)
    for before, after in zip(trained().ensemble.members, one.ensemble.members, strict=True):
        distance = max(np.abs(a - b).max() for a, b in zip(before, after, strict=True))
        assert 0 < distance < 2 * steps * SETTINGS.fine_tune_learning_rate  # Adam's steps are that long
    assert [len(losses.training) for losses in one.training.losses] == [2, 2]
    assert all(np.isnan(losses.validation).all() for losses in one.training.losses)
    assert weights(fine_tune(made_up(630), pool)) == weights(one)


def test_fine_tuning_looks_at_no_held_out_day() -> None:
    plain, unseen, seen = (
        weights(fine_tune(frame))
        for frame in (made_up(630), moved(made_up(630), 450), moved(made_up(630), 449))
    )
    assert plain == unseen != seen
    assert plain != weights(trained())


# Forecasts


def test_the_members_quantiles_are_averaged() -> None:
    candles, ensemble = made_up(600), trained().ensemble
    rows = [100, 250, 599]
    averaged = quantiles(ensemble, candles, rows)
    alone = [quantiles(replace(ensemble, members=(one,)), candles, rows) for one in ensemble.members]
    np.testing.assert_allclose(averaged, (alone[0] + alone[1]) / 2, rtol=1e-14)
    assert averaged.shape == (3, 3, 23)
    assert (np.diff(averaged, axis=2) > 0).all()
    # Each is its head's Student t, in the origin's sigma.
    inputs = make_inputs(candles, SETTINGS, ensemble.columns)
    windows = windows_at(inputs, np.array(rows), SETTINGS)
    outputs = forward(ensemble.members[1], windows)
    parameters = np.array(student_t_parameters(outputs, mean_scale=0.1, min_dof=2.1))
    for head in range(len(HORIZONS)):
        mean, sigma, dof = parameters[:, 2, head]
        expected = stats.t.ppf(LEVELS, dof, mean, sigma * np.sqrt((dof - 2) / dof))
        np.testing.assert_allclose(alone[1][2, head], expected * inputs.sigma[599, head], rtol=1e-9)
    assert quantiles(ensemble, candles, []).shape == (0, 3, 23)


# Bundles


def saved(folder: Path, model: FittedModel) -> Bundle:
    folder.mkdir()
    draft = Draft(folder)
    PROFILE.save(model, draft)
    return Bundle(draft.folder, draft.seal())


@pytest.mark.parametrize("columns", [True, False])
def test_a_bundle_loads_to_the_last_bit(tmp_path: Path, columns: bool) -> None:
    frame = made_up(600) if columns else closes_only(made_up(600))
    ensemble = fit(frame, exactly=1).ensemble
    bundle = saved(tmp_path / "bundle", FittedModel(ensemble, day(TRAINED)))
    assert sorted(bundle.manifest) == ["ensemble.json", "member-1.weights.h5", "member-2.weights.h5"]
    loaded = PROFILE.load(bundle)
    assert loaded.columns == ensemble.columns
    for before, after in zip(ensemble.members, loaded.members, strict=True):
        assert arrays_sha256(before) == arrays_sha256(after)
    assert quantiles(loaded, frame, [60, 99]).tobytes() == quantiles(ensemble, frame, [60, 99]).tobytes()


def test_a_missing_or_foreign_file_is_damage(tmp_path: Path) -> None:
    model = FittedModel(trained().ensemble, day(TRAINED))
    bundle, other = saved(tmp_path / "one", model), saved(tmp_path / "other", model)
    first = bundle.folder / "member-1.weights.h5"
    first.put((other.folder / "member-2.weights.h5").read_bytes())
    with pytest.raises(Damaged):
        PROFILE.load(bundle)
    first.unlink()
    with pytest.raises(Damaged):
        PROFILE.load(bundle)
    wider = CalibratedProfile({"units": 4, "members": 2, "horizons": HORIZONS})
    with pytest.raises(Damaged, match=r"float32 weights layers/lstm/cell/vars/0 of the shape \(16, 16\)"):
        wider.load(other)
    further = CalibratedProfile({"units": 3, "members": 2, "horizons": (1, 3, 7, 14)})
    with pytest.raises(Damaged, match=r"float32 weights layers/dense/vars/0 of the shape \(3, 12\)"):
        further.load(other)
