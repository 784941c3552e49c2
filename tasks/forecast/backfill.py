"""The days that no run made a forecast from: a machine was off, or a schedule paused."""

from __future__ import annotations

from datetime import date, timedelta

from storage.core.home import Home
from storage.tables.predictions import Predictions
from tasks.core.history import PriceHistory


def days_to_backfill(home: Home, history: PriceHistory, profile: str, *, limit: int) -> list[date]:
    """The days with a close between the newest forecast's origin and this one, oldest first.

    None where nothing was forecast before: a first run has missed nothing.

    Args:
        history: of the run; its origin is not among the days.
        profile: of the forecasts.
        limit: at most so many days back.
    """
    if limit < 1:
        return []
    rows = Predictions(home).between(history.product_id, profile=profile, columns=["origin_day"])
    earlier = [day for day in rows["origin_day"].unique().to_pylist() if day < history.origin]
    if not earlier:
        return []
    after = max(max(earlier), history.origin - timedelta(days=limit + 1))
    return [day for day in history.days.tolist() if after < day < history.origin]
