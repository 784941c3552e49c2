"""Figures as people read them, and names as Prefect takes them."""

from __future__ import annotations

import re


def usd(price: float) -> str:
    """A price in USD: to the cent, and below one USD to six digits that count."""
    return f"{price:,.2f} USD" if price >= 1.0 else f"{price:.6g} USD"


def artifact_key(*parts: str) -> str:
    """Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
