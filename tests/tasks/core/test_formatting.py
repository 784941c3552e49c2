from __future__ import annotations

import pytest

from tasks.core.formatting import usd


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (8034.321, "8,034.32 USD"),
        (1.0, "1.00 USD"),
        (0.12345678, "0.123457 USD"),
        (0.0123456, "0.012346 USD"),
        (0.0012345678, "0.0012346 USD"),
        (0.00000673683, "0.0000067368 USD"),
        (0.0, "0.00 USD"),
        (1234567.891, "1,234,567.89 USD"),
    ],
)
def test_prices_keep_the_digits_that_count(price: float, text: str) -> None:
    assert usd(price) == text
