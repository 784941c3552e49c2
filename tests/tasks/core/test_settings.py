"""What is said of a setting that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from closecast.tasks.core.settings import ProductId, Share, as_bad_setting


class Settings(BaseModel):
    days: int = Field(7, ge=1, le=3650)
    horizons: tuple[int, ...] = (1, 7)
    share: Share = 0.5
    ratio: float = Field(1.0, gt=0, allow_inf_nan=False)
    shuffle: bool = False
    kind: Literal["train", "all"] = "all"
    source: Literal["csv"] | None = None
    product: ProductId = "BTC-USD"
    file: Path | None = None
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("needs an odd number")
        return value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("days", 0, "needs a whole number from 1 to 3,650, not 0"),
        ("days", "x", "needs a whole number from 1 to 3,650, not 'x'"),
        ("horizons", 7, "needs a list, such as [1, 7], in which each is a whole number, not 7"),
        ("horizons", [1, "x"], "needs a list, such as [1, 7], in which each is a whole number, not 'x'"),
        ("share", 1, "needs a number above 0 and below 1, not 1"),
        ("ratio", -1, "needs a number above 0, not -1"),
        ("ratio", float("inf"), "Input should be a finite number, not inf"),
        ("shuffle", 7, "needs true or false, not 7"),
        ("kind", "some", "needs train or all, not 'some'"),
        ("product", "btc", "needs a product id such as BTC-USD, not 'btc'"),
        ("file", 7, "needs a text, not 7"),
        ("odd", 2, "needs an odd number, not 2"),
    ],
)
def test_all_that_a_setting_may_be_is_told(field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({field: value})
    assert str(as_bad_setting(caught.value, Settings)) == f"setting {field}: {message}"
