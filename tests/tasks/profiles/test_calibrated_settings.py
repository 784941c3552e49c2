from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError
from tasks.profiles.calibrated_settings import Policy, Recipe

OTHERWISE: dict[str, Any] = {"horizon": 1, "pool_products": ("SOL-USD",)}


def changed(field: str) -> Recipe:
    """The recipe with that field alone set otherwise."""
    value = getattr(Recipe(), field)
    if field in OTHERWISE:
        return Recipe(**{field: OTHERWISE[field]})
    for other in (value * 2, value / 2, value + 1):
        try:
            return Recipe(**{field: other})
        except ValidationError:
            continue
    raise AssertionError(field)


@pytest.mark.parametrize("field", Recipe.model_fields)
def test_every_field_says_what_it_is(field: str) -> None:
    text = Recipe.model_fields[field].description
    assert text
    assert len(text) > 10


@pytest.mark.parametrize("field", sorted(set(Recipe.model_fields) - {"horizon"}))
def test_the_policy_makes_no_other_model(field: str) -> None:
    plain, other = Recipe(), changed(field)
    assert other.version != plain.version
    assert (other.recipe_version == plain.recipe_version) is (field in Policy.model_fields)


def test_the_versions_are_the_same_for_the_same_figures() -> None:
    assert Recipe().version == Recipe(units=32).version
    assert Recipe().recipe_version == Recipe(refit_every_days=7).recipe_version
    assert re.fullmatch(r"calibrated-[0-9a-f]{16}", Recipe().version)
    assert re.fullmatch(r"[0-9a-f]{16}", Recipe().recipe_version)
    stored = Recipe(units=4, pool_products=()).model_dump(mode="json")
    assert Recipe.model_validate(stored) == Recipe(units=4, pool_products=())


def test_the_measured_recipe_is_the_default() -> None:
    recipe = Recipe()
    assert (recipe.scale_decay, recipe.scale_low, recipe.scale_high, recipe.scale_days) == (0.8, 0.02, 16, 60)
    assert (recipe.lookback, recipe.units, recipe.dropout, recipe.head_sd) == (20, 32, 0.1, 0.02)
    assert (recipe.learning_rate, recipe.clip_norm, recipe.batch_size, recipe.epochs) == (0.002, 1, 128, 60)
    assert (recipe.validation_days, recipe.patience, recipe.min_delta) == (180, 8, 1e-5)
    assert (recipe.fine_tune_epochs, recipe.fine_tune_learning_rate, recipe.tracker_step) == (2, 5e-4, 0.002)
    assert (recipe.refit_every_days, recipe.fine_tune_every_days, recipe.max_model_age_days) == (90, 30, 180)
    assert (recipe.gate_ratio_180, recipe.gate_ratio_365, recipe.min_days) == (1.02, 1.01, 400)
    assert 3 <= recipe.members <= 5


@pytest.mark.parametrize(
    "fields",
    [
        {"unit": 32},
        {"units": 0},
        {"members": 26},
        {"horizon": 2},
        {"scale_decay": 1.0},
        {"scale_high": 1.0},
        {"tracker_step": -0.1},
        {"har_share": 1.1},
        {"learning_rate": float("nan")},
        {"target_clip": float("inf")},
        {"pool_products": ("btc-usd",)},
        {"pool_products": ("BTC/USD",)},
        {"pool_products": ("BTC-USD\n",)},
        {"pool_products": "BTC-USD"},
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe(**fields)


def test_nothing_changes_afterwards() -> None:
    with pytest.raises(ValidationError):
        Recipe().units = 3  # type: ignore[misc]
