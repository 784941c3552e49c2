"""Figures as people read them, and names as Prefect takes them."""

from __future__ import annotations

import math
import re


def usd(price: float) -> str:
    """A price in USD: to the cent, below one USD to six decimals, or more for five digits that count."""
    if not 0.0 < abs(price) < 1.0:
        return f"{price:,.2f} USD"
    return f"{price:.{max(6, 4 - math.floor(math.log10(abs(price))))}f} USD"


def artifact_key(*parts: str) -> str:
    """Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
