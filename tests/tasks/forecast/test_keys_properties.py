"""Keys: equal parts have equal keys, any other part another key."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.tasks.forecast.publish import RunKey
from closecast.tasks.training.registration import model_key

STEADY = settings(max_examples=150, derandomize=True, database=None)
texts = st.text(alphabet='ab\n"\\,@:[]- ', max_size=6)
days = st.dates(date(2015, 1, 1), date(2015, 1, 4))
keys = st.builds(RunKey, texts, days, texts, texts, texts, texts)


@STEADY
@given(keys, keys, st.integers(1, 3), st.integers(1, 3))
def test_prediction_ids_are_equal_where_all_parts_are(
    one: RunKey, other: RunKey, horizon: int, other_horizon: int
) -> None:
    ids = one.prediction_id(horizon), other.prediction_id(other_horizon)
    assert (ids[0] == ids[1]) == ((one, horizon) == (other, other_horizon))
    assert len(ids[0]) == 32


@pytest.mark.parametrize("name", [field.name for field in fields(RunKey)])
@STEADY
@given(key=keys)
def test_each_part_changes_the_prediction_id(name: str, key: RunKey) -> None:
    value = getattr(key, name)
    other: Any = value + timedelta(days=1) if isinstance(value, date) else value + "x"
    assert replace(key, **{name: other}).prediction_id(1) != key.prediction_id(1)


@STEADY
@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_model_keys_are_equal_where_all_parts_are(one: list[str], other: list[str]) -> None:
    assert (model_key(*one) == model_key(*other)) == (one == other)
