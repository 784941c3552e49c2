"""Figures as people read them, tables as Markdown has them, and names as Prefect takes them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

UNKNOWN = "–"


def format_price(price: float | None, currency: str = "", decimals: int | None = None) -> str:
    """A price with its currency: by default as many decimals as `price_decimals` gives it."""
    if price is None:
        return UNKNOWN
    return f"{price:,.{price_decimals(price) if decimals is None else decimals}f} {currency}".strip()


def price_decimals(*prices: float) -> int:
    """Decimals that show each price and tell all of them apart, at most 12.

    Two from 1 on; below 1 six, or more for five significant digits; more where prices are close together, so
    that the narrowest distance shows two digits.
    """
    decimals = [2]
    decimals += [max(6, 4 - math.floor(math.log10(abs(price)))) for price in prices if 0.0 < abs(price) < 1.0]
    distances = [high - low for low, high in itertools.pairwise(sorted(set(prices)))]
    if distances:
        decimals.append(1 - math.floor(math.log10(min(distances))))
    return min(max(decimals), 12)


def format_figure(value: float | None, form: str) -> str:
    """A figure in that format, a dash where it is undefined."""
    return UNKNOWN if value is None else format(value, form)


def format_p_value(p_value: float | None) -> str:
    """A p value to two digits, a dash where it is undefined."""
    return "< 1e-15" if p_value is not None and p_value < 1e-15 else format_figure(p_value, ".2g")


def format_share(share: float | None) -> str:
    """A share in percent, a dash where it is undefined."""
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells without markup."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def artifact_key(*parts: str) -> str:
    """A name for a Prefect artifact, which takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
