from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import date
from typing import Any

import pytest

from closecast.tasks.core.model import Lineage, TwinLineage

LINEAGE = Lineage(
    product_id="BTC-USD",
    profile="calibrated",
    data_version="BTC-USD@9:ab",
    settings_version="calibrated-1",
    recipe_version="12",
    code_version="0.1.0+34",
    training_kind="fine-tune",
    parent="3",
    series="csv@0",
    origin_day=date(2020, 1, 31),
    trained_through=date(2019, 8, 4),
    weights_sha256="cd" * 32,
    basis="pool",
    git_commit="ef" * 20,
    twin=TwinLineage(180, date(2019, 2, 5), "ab" * 32, 9, {"train": 7}),
    pooled_data_versions={"ETH-USD": "ETH-USD@9:ab"},
    not_pooled={"LTC-USD": "is not in the database"},
    columns_left_out=("volume",),
    gaps=((date(2019, 3, 20), date(2019, 3, 31)),),
    windows={"train": 9},
    metrics={"test_rmse": 0.1 + 0.2},
    libraries={"keras": "3"},
)


def test_lineage_survives_json() -> None:
    assert Lineage.from_json(json.loads(json.dumps(LINEAGE.to_json()))) == LINEAGE
    refit = replace(LINEAGE, parent=None, git_commit=None, gaps=(), columns_left_out=(), twin=None)
    assert Lineage.from_json(refit.to_json()) == refit


@pytest.mark.parametrize("name", [field.name for field in fields(Lineage)])
def test_a_missing_field_is_an_error(name: str) -> None:
    plain = LINEAGE.to_json()
    del plain[name]
    with pytest.raises(KeyError, match=name):
        Lineage.from_json(plain)


@pytest.mark.parametrize(
    "changed", [{"origin_day": "yesterday"}, {"gaps": 3}, {"origin_day": None}, {"twin": {"holdout_days": 1}}]
)
def test_a_field_of_another_kind_is_an_error(changed: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Lineage.from_json(LINEAGE.to_json() | changed)


def test_tags_are_text() -> None:
    tags = LINEAGE.tags()
    assert (tags["parent"], tags["pooled"], tags["origin_day"]) == ("3", "ETH-USD", "2020-01-31")
    assert (tags["twin_trained_through"], tags["twin_weights_sha256"]) == ("2019-02-05", "ab" * 32)
    assert all(type(value) is str for value in tags.values())
    refit = replace(LINEAGE, parent=None, git_commit=None, pooled_data_versions={}, twin=None).tags()
    assert (refit["parent"], refit["pooled"]) == ("none", "none")
    assert (refit["twin_trained_through"], refit["twin_weights_sha256"]) == ("none", "none")
    assert "git_commit" not in refit
