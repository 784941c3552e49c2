from __future__ import annotations

import pytest

from closecast.tasks.core.formatting import (
    artifact_key,
    format_figure,
    format_price,
    format_share,
    html_table,
    markdown_table,
    price_decimals,
)


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (8034.321, "8,034.32 EUR"),
        (1.0, "1.00 EUR"),
        (0.12345678, "0.123457 EUR"),
        (0.0123456, "0.012346 EUR"),
        (0.0012345678, "0.0012346 EUR"),
        (0.00000673683, "0.0000067368 EUR"),
        (1.23456e-10, "0.00000000012346 EUR"),
        (0.0, "0.00 EUR"),
        (1234567.891, "1,234,567.89 EUR"),
        (None, "–"),
    ],
)
def test_prices_keep_five_significant_digits(price: float | None, text: str) -> None:
    assert format_price(price, "EUR") == text


@pytest.mark.parametrize(
    ("prices", "decimals"),
    [
        *(((), 2), ((100.0, 200.0), 2), ((1.001, 1.002), 4), ((5.0, 5.0), 2), ((0.0,), 2)),
        ((1.0, 1.0 + 1e-15), 14),  # a float holds no more
        ((1.23456e-10,), 14),
        ((1e-8, 1.01e-8), 12),
        ((float("nan"), 3.0), 2),
        ((2e15, 3e15), 2),
    ],
)
def test_decimals_tell_prices_apart(prices: tuple[float, ...], decimals: int) -> None:
    assert price_decimals(*prices) == decimals


def test_figures_shares_tables_and_keys() -> None:
    assert (format_figure(1.256, ".2f"), format_figure(None, ".2f")) == ("1.26", "–")
    assert (format_share(0.8345), format_share(None)) == ("83.5 %", "–")
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert artifact_key("Backtest", "BTC-USD", "my_model") == "backtest-btc-usd-my-model"


def test_a_table_in_html_escapes_every_text() -> None:
    table = html_table("<b>", ["a & b"], [["<script>"]], "x > y")
    assert table == (
        "<table><caption>&lt;b&gt;</caption><thead><tr><th>a &amp; b</th></tr></thead>"
        "<tbody><tr><td>&lt;script&gt;</td></tr></tbody></table><p>x &gt; y</p>"
    )
    assert "<p>" not in html_table("", [], [])
