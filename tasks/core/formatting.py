"""Figures as text for people, Markdown tables, and names that Prefect accepts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

UNKNOWN = "–"


def count(number: int, noun: str) -> str:
    """As `1 day` or `1,200 days`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_price(price: float | None, currency: str = "", decimals: int | None = None) -> str:
    """A price with its currency: by default as many decimals as `price_decimals` gives it."""
    if price is None:
        return UNKNOWN
    return f"{price:,.{price_decimals(price) if decimals is None else decimals}f} {currency}".strip()


def price_decimals(*prices: float) -> int:
    """Decimals that show each price and tell all of them apart.

    Two from 1 on; below 1 six, or more for five significant digits; more if prices are close together, so
    that the narrowest distance shows two digits. At most 15 significant digits of the largest price, which a
    float holds.
    """
    sizes = [abs(price) for price in prices if price and math.isfinite(price)]
    if not sizes:
        return 2
    needed = max(2, distance_decimals(*prices))
    needed = max(needed, *(max(6, 4 - _magnitude(size)) if size < 1.0 else 2 for size in sizes))
    return min(needed, max(2, 14 - _magnitude(max(sizes))))


def distance_decimals(*figures: float) -> int:
    """Decimals with which the narrowest distance between two of the figures shows two digits; 0 without."""
    known = sorted({figure for figure in figures if math.isfinite(figure)})
    distances = [high - low for low, high in itertools.pairwise(known)]
    return max(0, 1 - _magnitude(min(distances))) if distances else 0


def _magnitude(size: float) -> int:
    return math.floor(math.log10(size))


def format_figure(value: float | None, form: str) -> str:
    """A figure in that format, a dash if it is undefined."""
    return UNKNOWN if value is None else format(value, form)


def format_p_value(p_value: float | None) -> str:
    """A p value to two digits, a dash if it is undefined."""
    return "< 1e-15" if p_value is not None and p_value < 1e-15 else format_figure(p_value, ".2g")


def format_share(share: float | None) -> str:
    """A share in percent, a dash if it is undefined."""
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells without markup."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def finite(value: Any) -> Any:
    """The value; None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table of plain texts as a notebook shows it, with a title above and a note below."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    below = f"<p>{escape(note)}</p>" if note else ""
    head = f"<caption>{escape(title)}</caption><thead>{line('th', header)}</thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>{below}"


def artifact_key(*parts: str) -> str:
    """A name for a Prefect artifact, which takes lower-case letters, digits and dashes only.

    The last part is the home's label, which keeps the artifacts of homes apart.
    """
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
