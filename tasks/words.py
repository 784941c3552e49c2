"""Figures as people read them."""

from __future__ import annotations


def usd(price: float) -> str:
    """A price in USD: to the cent, and below one USD to six digits that count."""
    return f"{price:,.2f} USD" if price >= 1.0 else f"{price:.6g} USD"
