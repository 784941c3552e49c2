"""Figures as people read them, tables as Markdown has them, and names as Prefect takes them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

UNKNOWN = "–"


def format_price(price: float | None, currency: str = "") -> str:
    """A price: to the cent, below 1 to six decimals, or more for five significant digits; then the currency."""
    if price is None:
        return UNKNOWN
    decimals = 2
    if 0.0 < abs(price) < 1.0:
        decimals = max(6, 4 - math.floor(math.log10(abs(price))))
    return f"{price:,.{decimals}f} {currency}".strip()


def format_figure(value: float | None, form: str) -> str:
    """A figure in that format, a dash where it is undefined."""
    return UNKNOWN if value is None else format(value, form)


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
