"""Keys: the same parts the same key, other parts another, however they are written."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.profiles.article_refit import model_key
from tasks.profiles.calibrated_settings import Policy, Recipe

from flows.settings import Article
from tasks.forecast.publish import prediction_key

STEADY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
texts = st.text(alphabet='ab\n"\\,@:[]- ', max_size=6)
parts = st.fixed_dictionaries(
    {
        "product_id": texts,
        "origin": st.dates(date(2015, 1, 1), date(2015, 1, 4)),
        "profile": texts,
        "data_version": texts,
        "settings_version": texts,
        "code_version": texts,
    }
)


@STEADY
@given(parts, parts)
def test_forecasts_have_one_key_where_all_parts_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (prediction_key(**one) == prediction_key(**other)) == (one == other)
    assert prediction_key(**dict(reversed(one.items()))) == prediction_key(**one)


@STEADY
@given(parts, st.sampled_from(["product_id", "profile", "data_version", "settings_version", "code_version"]))
def test_any_part_that_differs_makes_another_forecast(one: dict[str, Any], name: str) -> None:
    assert prediction_key(**one | {name: one[name] + "x"}) != prediction_key(**one)
    assert prediction_key(**one | {"origin": one["origin"] + timedelta(days=1)}) != prediction_key(**one)


@STEADY
@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_no_two_lists_of_parts_run_into_one_model(one: list[str], other: list[str]) -> None:
    assert (model_key(*one) == model_key(*other)) == (one == other)


@pytest.mark.parametrize("name", sorted(Recipe.model_fields))
def test_each_field_of_the_recipe_counts_where_it_should(name: str) -> None:
    plain = Recipe()
    value = getattr(plain, name)
    other: Any = ("ETH-USD",) if isinstance(value, tuple) else value + (1 if isinstance(value, int) else 1e-3)
    try:
        changed = Recipe.model_validate({name: other})
    except ValueError:
        changed = Recipe.model_validate({name: value - 1e-3}) if isinstance(value, float) else None
    if changed is None:  # horizon has one value
        return
    assert changed.version != plain.version
    assert (changed.recipe_version == plain.recipe_version) == (name in Policy.model_fields)


@pytest.mark.parametrize("name", sorted(Article.model_fields))
def test_each_field_of_the_article_counts(name: str) -> None:
    value = getattr(Article(), name)
    others: list[Any] = [not value] if isinstance(value, bool) else ["tanh", "all"]
    if not isinstance(value, bool | str):
        others = [value + 1, value * 0.9]
    for other in others:
        try:
            changed = Article.model_validate({name: other})
        except ValueError:
            continue
        assert changed.version != Article().version


@STEADY
@given(st.permutations(sorted(Recipe.model_fields)))
def test_the_order_of_settings_does_not_count(names: list[str]) -> None:
    whole = Recipe().model_dump()
    assert Recipe.model_validate({name: whole[name] for name in names}).version == Recipe().version
