"""The only "now": everything else is handed a day or a moment."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

# The exchange closes a candle a little after its end, and clocks differ by a little.
MARGIN = timedelta(minutes=5)


def now() -> datetime:
    """The current moment in UTC."""
    return datetime.now(UTC)


def last_complete_day(moment: datetime | None = None) -> date:
    """The newest UTC day that ended `MARGIN` ago: yesterday, except in the first minutes after midnight."""
    return ((moment or now()).astimezone(UTC) - MARGIN).date() - timedelta(days=1)
