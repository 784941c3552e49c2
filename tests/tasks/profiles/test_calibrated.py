"""Profile `calibrated`: its settings and versions, its mixture with HAR, its first quantile offsets."""

from __future__ import annotations

import functools
import re
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.core.errors import BadSetting, NotEnoughHistory
from tasks.core.history import PriceHistory
from tasks.core.quantiles import LEVELS
from tasks.features.inputs import Columns, make_inputs
from tasks.network.architectures import calibrated_network
from tasks.profiles import calibrated
from tasks.profiles.article import ArticleProfile
from tasks.profiles.base import BaseProfile, FittedModel, Predicted, Training
from tasks.profiles.baselines import BASELINES, MIN_RETURNS, baseline_quantiles
from tasks.profiles.calibrated import MIXED_WITH, CalibratedProfile
from tasks.profiles.ensemble import Ensemble, TrainedEnsemble, ensemble_quantiles
from tests.helpers import BTC, FIRST, made_up, without

PROFILE = CalibratedProfile(
    {"lookback": 5, "units": 3, "members": 2, "pool_products": (), "tracker_step": 0.01, "min_days": 100}
)
ALONE = CalibratedProfile(PROFILE.settings.model_copy(update={"har_share": 0.0}))


# Settings


@pytest.mark.parametrize("profile", [CalibratedProfile, ArticleProfile])
def test_each_setting_is_described(profile: type[BaseProfile]) -> None:
    assert all(len(field.description or "") >= 10 for field in profile.Settings.model_fields.values())


@pytest.mark.parametrize(
    ("changed", "same_recipe"),
    [
        ({"units": 33}, False),
        ({"tracker_step": 0.001}, False),
        ({"pool_products": ("SOL-USD",)}, False),
        ({"refit_every_days": 91}, True),  # the policy makes no other model
        ({"gate_ratio_180": 1.5}, True),
    ],
)
def test_settings_count_in_the_versions(changed: dict[str, Any], same_recipe: bool) -> None:
    plain, other = CalibratedProfile(), CalibratedProfile(changed)
    assert other.version != plain.version
    assert (other.recipe_version == plain.recipe_version) is same_recipe


def test_versions_are_digests_of_the_values() -> None:
    plain = CalibratedProfile()
    assert CalibratedProfile({"units": 32}).version == plain.version
    assert re.fullmatch(r"calibrated-[0-9a-f]{16}", plain.version)
    assert re.fullmatch(r"[0-9a-f]{16}", plain.recipe_version)
    stored = CalibratedProfile({"units": 4, "pool_products": ()}).settings.model_dump(mode="json")
    backwards = dict(reversed(stored.items()))
    assert CalibratedProfile(backwards).version == CalibratedProfile(stored).version
    with pytest.raises(ValueError, match="frozen"):
        plain.settings.units = 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"unit": 32},
            r"profile calibrated has no setting 'unit' \(did you mean units\?\); it has refit_every_days, ",
        ),
        ({"units": 0}, "setting units: .*, not 0"),
        ({"sigma_decay": 1.0}, "sigma_decay"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"target_clip": float("inf")}, "target_clip"),
        ({"pool_products": ("BTC/USD",)}, "pool_products"),
        ({"pool_products": ("BTC-USD\n",)}, "pool_products"),
        ({"pool_products": "BTC-USD"}, "pool_products"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message) as caught:
        CalibratedProfile(fields)
    assert "\n" not in str(caught.value)


# The forecast


@functools.cache
def ensemble() -> Ensemble:
    """Two untrained networks, whose quantiles are nearly those of N(0, 1) in sigmas."""
    shape: dict[str, Any] = {"lookback": 5, "features": 11, "units": 3, "dropout": 0.1, "head_sd": 0.02}
    members = tuple(calibrated_network(seed=n, **shape).get_weights() for n in (1, 2))
    return Ensemble(Columns(ranges=True, volume=True), members)


def predicted(candles: pd.DataFrame, *rows: int, profile: CalibratedProfile = PROFILE, **more: Any) -> Any:
    model = FittedModel(ensemble(), FIRST)
    return profile.predict(model, candles, np.array(rows, dtype=np.int64), **more)[1]


def test_half_is_the_network_and_half_is_har() -> None:
    candles, rows = made_up(420), np.array([300, 301, 419])
    inputs = make_inputs(candles, PROFILE.settings, ensemble().columns)
    own = ensemble_quantiles(ensemble(), inputs, rows, PROFILE.settings)
    har = baseline_quantiles(candles, rows, components=(MIXED_WITH,))[MIXED_WITH]
    result = predicted(candles, *rows)
    assert list(result.components) == ["lstm", *BASELINES]
    assert result.components["lstm"].tobytes() == own.tobytes()
    assert result.components[MIXED_WITH].tobytes() == har.tobytes()
    np.testing.assert_allclose(result.quantiles, (own + har) / 2, rtol=1e-14)
    assert result.sigma.tolist() == inputs.sigma[rows].tolist()
    quarter = CalibratedProfile(PROFILE.settings.model_copy(update={"har_share": 0.25}))
    np.testing.assert_allclose(predicted(candles, *rows, profile=quarter).quantiles, 0.75 * own + 0.25 * har)
    assert predicted(candles, *rows, profile=ALONE).quantiles.tobytes() == own.tobytes()


def test_the_model_alone_needs_no_baseline() -> None:
    """Row 100 has too few returns behind it for one."""
    alone = predicted(made_up(420), 100, components=False)
    assert list(alone.components) == ["lstm"]
    with pytest.raises(NotEnoughHistory):
        predicted(made_up(420), 100)
    nothing = predicted(made_up(60))
    assert (nothing.quantiles.shape, nothing.sigma.shape) == ((0, 23), (0,))


def test_a_row_depends_on_no_later_day_and_survives_json() -> None:
    candles, rows = made_up(420), [280, 333, 390]
    together = predicted(candles, *rows)
    again = Predicted.from_json(together.to_json())
    assert again.quantiles is not None
    assert again.quantiles.tobytes() == together.quantiles.tobytes()
    assert list(again.components) == list(together.components)
    for n, row in enumerate(rows):
        garbage = candles.copy()
        noise = np.random.default_rng(n).uniform(0.01, 1e6, len(candles) - row - 1)
        for name in ("open", "high", "low", "close", "volume"):
            garbage.loc[row + 1 :, name] = noise
        for frame in (garbage, candles.iloc[: row + 1]):
            alone = predicted(frame, row)
            assert alone.quantiles[0].tobytes() == together.quantiles[n].tobytes()
            assert alone.sigma[0].tobytes() == together.sigma[n].tobytes()


# The first quantile offsets


def first_offsets(
    candles: pd.DataFrame, fitted_through: int, profile: CalibratedProfile = PROFILE
) -> np.ndarray:
    """The offsets of a fit whose gradients come from the days up to that row."""
    trained = TrainedEnsemble(ensemble(), FIRST + timedelta(days=fitted_through), Training())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "fit_ensemble", lambda *_: trained)
        offsets = profile.fit(PriceHistory(BTC, candles, "BTC-USD@1:ab", "csv@0"), {}).quantile_offsets
    assert offsets is not None
    return offsets


def outcomes_learned(offsets: np.ndarray) -> list[int]:
    """How many outcomes these offsets can be of: with each a level rises by itself, less its share below."""
    risen = offsets / PROFILE.tracker_step
    below = [n * np.array(LEVELS) - risen for n in range(200)]
    return [n for n, of in enumerate(below) if np.abs(of - np.round(of)).max() < 1e-6 and of.max() <= n + 0.5]


@pytest.mark.parametrize(
    ("days", "fitted_through", "outcomes"),
    [
        (420, 400, 19),  # the targets of 401 to 419, the origin that is forecast from next
        (410, 400, 9),
        (300, 200, 299 - MIN_RETURNS),  # HAR has no forecast for the first of them
        (420, 419, 0),
        (200, 150, 0),
    ],
)
def test_the_first_offsets_learn_the_days_after_the_gradients(
    days: int, fitted_through: int, outcomes: int
) -> None:
    offsets = first_offsets(made_up(days), fitted_through)
    assert outcomes_learned(offsets) == [outcomes]
    if not outcomes:
        assert offsets.tolist() == [0.0] * 23


def test_the_newest_outcome_counts_as_one_step() -> None:
    crashed = made_up(420)
    crashed.loc[419, ["open", "high", "low", "close"]] /= 3.0
    step = first_offsets(crashed, 400) - first_offsets(made_up(420).iloc[:419], 400)
    np.testing.assert_allclose(step, PROFILE.tracker_step * (np.array(LEVELS) - 1.0), atol=1e-12)


def test_the_first_offsets_count_calendar_days_around_gaps() -> None:
    missing = FIRST + timedelta(days=407)
    # Neither its own outcome nor those of the origins whose windows have its return: 407 to 412.
    assert outcomes_learned(first_offsets(without(made_up(420), missing, missing), 400)) == [19 - 1 - 6]
    early = without(made_up(420), date(2019, 3, 1), date(2019, 3, 20))
    assert outcomes_learned(first_offsets(early, 400)) == [19]
