"""Several products in one run: the same origin for all, and a failed product does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from closecast.flows import clock
from closecast.storage.core.errors import ProductsFailed

log = logging.getLogger("closecast.daily")


def common_origin(source: str | None, origin: date | None) -> date | None:
    """The origin; for the exchange the last complete day by default, the same even if midnight passes."""
    return clock.last_complete_day() if origin is None and source == "coinbase" else origin


def results_and_reasons(
    work: str, calls: Mapping[str, Sequence[Callable[[], Any]]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The result of each product's last call, or the reason why one of its calls failed."""
    results, reasons = {}, {}
    for number, (name, steps) in enumerate(calls.items(), start=1):
        try:
            results[name] = [step() for step in steps][-1]
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}"
        log.info("%s: %s %d of %d", name, work if name in results else f"no {work}", number, len(calls))
    return results, reasons


def require_all(made: dict[str, str], reasons: dict[str, str]) -> list[str]:
    """The forecasts' ids by product; `ProductsFailed` if some have none, for these reasons."""
    if reasons:
        raise ProductsFailed(describe_failures("have no forecast", made, reasons), list(made.values()))
    return list(made.values())


def describe_failures(failed: str, results: Mapping[str, object], reasons: Mapping[str, str]) -> str:
    """How many of the products failed, whether others are done, and each failed one's reason, in one line."""
    listed = "; ".join(f"{product}: {reason}" for product, reason in reasons.items())
    others = ", all others are done" if results else ""
    return f"{len(reasons)} of {len(results) + len(reasons)} products {failed}{others}: {listed}"
