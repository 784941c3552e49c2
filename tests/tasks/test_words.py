from __future__ import annotations

import pytest

from tasks.words import usd


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (8034.321, "8,034.32 USD"),
        (1.0, "1.00 USD"),
        (0.12345678, "0.123457 USD"),
        (0.0000123456789, "1.23457e-05 USD"),
    ],
)
def test_prices_keep_the_digits_that_count(price: float, text: str) -> None:
    assert usd(price) == text
