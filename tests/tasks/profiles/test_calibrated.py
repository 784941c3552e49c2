"""Profile `calibrated`: its settings and versions, the mixture with baselines, the first offsets."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.errors import BadSetting
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS, MEDIAN
from closecast.tasks.features.inputs import Columns, make_inputs
from closecast.tasks.network.architectures import calibrated_network
from closecast.tasks.profiles import calibrated
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.base import BaseProfile, FittedModel, Predicted, Training
from closecast.tasks.profiles.baselines import baseline_quantiles, baselines_of
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.profiles.ensemble import Ensemble, TrainedEnsemble, ensemble_quantiles
from tests.helpers import BTC, FIRST, made_up, one_line, without
from tests.tasks.features.walks import with_noise_after

HORIZONS = (1, 3, 7)
SMALL: dict[str, Any] = {"lookback": 5, "units": 3, "members": 2, "horizons": HORIZONS, "pool_products": ()}
PROFILE = CalibratedProfile(SMALL | {"tracker_step": 0.01, "min_days": 100})
ALONE = CalibratedProfile(PROFILE.settings.model_copy(update={"baseline_share": 0.0}))


# Settings


@pytest.mark.parametrize("profile", [CalibratedProfile, ArticleProfile])
def test_each_setting_is_described(profile: type[BaseProfile]) -> None:
    assert all(len(field.description or "") >= 10 for field in profile.Settings.model_fields.values())


@pytest.mark.parametrize(
    ("changed", "same_recipe"),
    [
        ({"units": 33}, False),
        ({"horizons": (1, 7)}, False),
        ({"tracker_step": 0.001}, False),
        ({"pool_products": ("SOL-USD",)}, False),
        ({"refit_every_days": 91}, True),  # the policy makes no other model
        ({"gate_ratio_180": 1.5}, True),
    ],
)
def test_all_settings_but_the_policy_change_the_recipe_version(
    changed: dict[str, Any], same_recipe: bool
) -> None:
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
        ({"unit": 32}, r"profile calibrated has no setting 'unit' \(did you mean units\?\)$"),
        ({"horizon": 7}, r"no setting 'horizon' \(did you mean horizons\?\)$"),
        ({"zzz": 7}, "no setting 'zzz'; it has refit_every_days, fine_tune_every_days, "),
        ({"units": 0}, "setting units: needs a whole number from 1 to 4,096, not 0$"),
        ({"horizons": 7}, r"setting horizons: needs a list, such as \[1, .*, not 7$"),
        ({"horizons": (7, 1)}, "needs horizons that rise from 1"),
        ({"horizons": (1, 400)}, "horizons"),
        ({"sigma_decay": 1.0}, "sigma_decay"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"target_clip": float("inf")}, "target_clip"),
        ({"pool_products": ("BTC/USD",)}, "pool_products"),
        ({"pool_products": ("BTC-USD\n",)}, "pool_products"),
        ({"pool_products": "BTC-USD"}, "pool_products"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message, check=one_line):
        CalibratedProfile(fields)


# The forecast


@functools.cache
def ensemble() -> Ensemble:
    """Two untrained networks, whose quantiles in sigmas are nearly those of a standard t."""
    shape: dict[str, Any] = {
        "lookback": 5,
        "features": 16,
        "horizons": 3,
        "units": 3,
        "dropout": 0.1,
        "head_sd": 0.02,
    }
    members = tuple(calibrated_network(seed=n, **shape).get_weights() for n in (1, 2))
    return Ensemble(Columns(ranges=True, volume=True), members)


def predicted(candles: pd.DataFrame, *rows: int, profile: CalibratedProfile = PROFILE, **more: Any) -> Any:
    model = FittedModel(ensemble(), FIRST)
    return profile.predict(model, candles, np.array(rows, dtype=np.int64), **more)


def test_half_is_the_network_and_half_the_mean_of_three_baselines() -> None:
    candles, rows = made_up(420), np.array([300, 301, 419])
    inputs = make_inputs(candles, PROFILE.settings, ensemble().columns)
    own = ensemble_quantiles(ensemble(), inputs, rows, PROFILE.settings)
    baselines = baseline_quantiles(candles, rows, horizons=HORIZONS)
    result = predicted(candles, *rows)
    quarter = CalibratedProfile(PROFILE.settings.model_copy(update={"baseline_share": 0.25}))
    other, alone = (predicted(candles, *rows, profile=profile) for profile in (quarter, ALONE))
    assert list(result) == list(HORIZONS)
    for column, (horizon, one) in enumerate(result.items()):
        network, beside = own[:, column], baselines[horizon]
        assert list(one.components) == ["lstm", *baselines_of(horizon)]
        assert one.components["lstm"].tobytes() == network.tobytes()
        for name in baselines_of(horizon):
            assert one.components[name].tobytes() == beside[name].tobytes()
        mean = (beside["ewma_weekday_t"] + beside["garch_weekday_t"] + beside["har_120_t"]) / 3
        np.testing.assert_allclose(one.quantiles, (network + mean) / 2, rtol=1e-12)
        np.testing.assert_allclose(other[horizon].quantiles, 0.75 * network + 0.25 * mean, rtol=1e-12)
        assert alone[horizon].quantiles.tobytes() == network.tobytes()
        assert one.sigma.tolist() == inputs.sigma[rows, column].tolist()


def test_with_networks_of_the_pool_the_ewma_of_returns_replaces_that_of_ranges() -> None:
    tails = {name: dict.fromkeys(HORIZONS, (1.1, 5.0)) for name in ("ewma_t", "ewma_weekday_t", "har_120_t")}
    model = FittedModel(replace(ensemble(), tails=tails), FIRST)
    for horizon, one in PROFILE.predict(model, made_up(420), np.array([300, 419])).items():
        assert list(one.components) == ["lstm", "ewma_t", *baselines_of(horizon)]
        of = one.components
        mean = (of["ewma_t"] + of["garch_weekday_t"] + of["har_120_t"]) / 3
        np.testing.assert_allclose(one.quantiles, (of["lstm"] + mean) / 2, rtol=1e-12)


def test_a_fallback_is_half_the_ewma_of_returns_before_the_days_of_a_model() -> None:
    candles, rows = made_up(420), np.array([60, 150, 398, 399, 419])
    profile = CalibratedProfile({"horizons": HORIZONS})  # of 400 days
    for horizon, one in profile.fallback(candles, rows, (*HORIZONS, 9)).items():
        assert set(one.components) == {"ewma_t", *baselines_of(horizon)}
        of = one.components
        young = of["ewma_t"] / 2 + of["last_close_250"] / 4 + of["har_120_t"] / 4
        mean = (of["ewma_weekday_t"] + of["garch_weekday_t"] + of["har_120_t"]) / 3
        np.testing.assert_allclose(one.quantiles, [*young[:3], *mean[3:]], rtol=1e-12)
        # Until they have their returns, the others forecast as it.
        assert of["har_120_t"][0].tolist() == of["ewma_t"][0].tolist() != of["ewma_weekday_t"][0].tolist()


def test_the_model_alone_needs_no_baseline() -> None:
    alone = predicted(made_up(420), 100, components=False)
    assert [list(one.components) for one in alone.values()] == [["lstm"]] * 3
    for nothing in predicted(made_up(60)).values():
        assert (nothing.quantiles.shape, nothing.sigma.shape) == ((0, 23), (0,))


def figures(predicted: dict[int, Predicted], n: int) -> dict[tuple[int, str], bytes]:
    """Every figure that a prediction has for one origin."""
    arrays = {
        (horizon, name): array
        for horizon, one in predicted.items()
        for name, array in {"all": one.quantiles, "sigma": one.sigma, **one.components}.items()
    }
    return {
        name: np.ascontiguousarray(array[n]).tobytes() for name, array in arrays.items() if array is not None
    }


@pytest.mark.parametrize(
    "candles",
    [made_up(420), without(made_up(440), date(2019, 9, 20), date(2019, 10, 9))],
    ids=["whole", "gap"],
)
def test_a_row_depends_on_no_later_day_and_survives_json(candles: pd.DataFrame) -> None:
    rows = [261, 333, 390]
    together = predicted(candles, *rows)
    again = {horizon: Predicted.from_json(one.to_json()) for horizon, one in together.items()}
    for n, row in enumerate(rows):
        expected = figures(together, n)
        assert len(expected) == 3 * 3 + 4 + 8 + 8
        assert figures(again, n) == expected
        garbage = with_noise_after(candles, row)
        gapped = garbage.drop(index=range(row + 2, len(garbage), 3)).reset_index(drop=True)
        for frame in (garbage, gapped, candles.iloc[: row + 1]):
            assert figures(predicted(frame, row), 0) == expected


# The first quantile offsets


def first_offsets(
    candles: pd.DataFrame, fitted_through: int, profile: CalibratedProfile = PROFILE
) -> dict[int, np.ndarray]:
    """The first offsets of a model whose networks were fitted to the days up to that row."""
    trained = TrainedEnsemble(ensemble(), FIRST + timedelta(days=fitted_through), Training())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "fit_ensemble", lambda *_: trained)
        offsets = profile.fit(PriceHistory(BTC, candles, "BTC-USD@1:ab", "csv@0"), {}).quantile_offsets
    assert offsets is not None
    return dict(offsets)


def outcomes_learned(offsets: dict[int, np.ndarray]) -> list[int]:
    """How many outcomes, fewer than 100, the offsets of each horizon have learned.

    Each outcome moves the ends of an interval outwards by half its nominal coverage in steps, and inwards by
    half a step if it lies inside. So for the right number of outcomes, how many were inside is a whole number
    for every interval.
    """
    nominal = 1.0 - 2.0 * np.array(LEVELS)[:MEDIAN]
    found = []
    for own in offsets.values():
        assert own.tolist() == (-own[::-1]).tolist()
        outwards = 2.0 * own[::-1][:MEDIAN] / PROFILE.tracker_step
        inside = [n * nominal - outwards for n in range(100)]
        whole = [n for n, of in enumerate(inside) if np.abs(of - np.round(of)).max() < 1e-6]
        found += [n for n in whole if inside[n].min() > -0.5 and inside[n].max() < n + 0.5]
    return found


@pytest.mark.parametrize(
    ("days", "fitted_through", "outcomes"),
    [
        (420, 400, [19, 17, 13]),  # the targets of 400 to 418, but not that of 419, which is forecast next
        (410, 400, [9, 7, 3]),
        (300, 200, [49, 47, 43]),  # no baseline for the first of them: 250 returns are before row 250
        (420, 419, [0, 0, 0]),
        (200, 150, [0, 0, 0]),
    ],
)
def test_the_first_offsets_learn_the_days_that_the_networks_were_not_fitted_to(
    days: int, fitted_through: int, outcomes: list[int]
) -> None:
    offsets = first_offsets(made_up(days), fitted_through)
    assert list(offsets) == list(HORIZONS)
    assert outcomes_learned(offsets) == outcomes
    for own, count in zip(offsets.values(), outcomes, strict=True):
        assert count or own.tolist() == [0.0] * 23


def test_the_first_offsets_count_calendar_days_around_gaps() -> None:
    missing = FIRST + timedelta(days=407)
    # The origins 400 to 405 and 413 to 418 have a whole window and a next day. Row 407 is missing: it is the
    # outcome of 404 over three days and of 400 over seven.
    learned = outcomes_learned(first_offsets(without(made_up(420), missing, missing), 400))
    assert learned == [6 + 6, 5 + 4, 5 + 0]
    early = without(made_up(420), date(2019, 3, 1), date(2019, 3, 20))
    assert outcomes_learned(first_offsets(early, 400)) == [19, 17, 13]
