"""Several products in one run: the same origin for all, and one's failure stops none of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from flows import clock
from storage.core.errors import ProductsFailed

log = logging.getLogger("closecast.daily")


def common_origin(source: str | None, origin: date | None) -> date | None:
    """The origin, or the last complete day for the exchange: the same also when midnight passes meanwhile."""
    return clock.last_complete_day() if origin is None and source == "coinbase" else origin


def results_and_reasons(
    work: str, calls: Mapping[str, Sequence[Callable[[], Any]]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The result of each product's last call, and the reason where one of its calls failed."""
    results, reasons = {}, {}
    for number, (name, steps) in enumerate(calls.items(), start=1):
        try:
            results[name] = [step() for step in steps][-1]
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}"
        log.info("%s: %s %d of %d", name, work, number, len(calls))
    return results, reasons


def require_all(made: dict[str, str], reasons: dict[str, str]) -> list[str]:
    """The forecasts' ids, by product, where every product has one.

    Raises:
        ProductsFailed: some have none, for these reasons.
    """
    if reasons:
        failed = "; ".join(f"{product}: {reason}" for product, reason in reasons.items())
        raise ProductsFailed(
            f"{len(reasons)} of {len(made) + len(reasons)} products have no forecast, all others are done:"
            f" {failed}",
            list(made.values()),
        )
    return list(made.values())
