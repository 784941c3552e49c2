"""The exchange's rows → candles, and what cannot be read as one."""

from __future__ import annotations

import json
import math
from datetime import date, timedelta
from typing import Any

import pandas as pd

from storage.core.candle_schema import candle_frame, rejected_frame

DAY = 86400  # seconds
EPOCH = date(1970, 1, 1)
# What stands after the time in a row, in the exchange's order.
FIGURES = ("low", "high", "open", "close", "volume")


def read_rows(rows: list[Any], first: date, last: date) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows `[time, low, high, open, close, volume]` as a candle_frame, oldest first, and a rejected_frame.

    Rows of days outside the inclusive span are dropped. A row that cannot be read is rejected with its
    reason, and so is every row of a day that came with different figures; a row that came twice is kept once.
    `raw` is the row's JSON, its first 500 characters.
    """
    lowest, highest = (first - EPOCH).days, (last - EPOCH).days
    found: dict[int, dict[tuple[float, ...], Any]] = {}
    rejected: list[dict[str, object]] = []
    for row in rows:
        day = _day_number(row)
        if day is None:
            rejected.append(_rejected(None, row, "its time is not midnight UTC in whole seconds"))
        elif lowest <= day <= highest:
            figures, reason = _figures(row)
            if reason:
                rejected.append(_rejected(day, row, reason))
            else:
                found.setdefault(day, {}).setdefault(figures, row)
    candles: list[dict[str, object]] = []
    for day, versions in sorted(found.items()):
        if len(versions) == 1:
            (figures,) = versions
            moment = pd.Timestamp(day * DAY, unit="s")
            candles.append({"day_utc": moment} | dict(zip(FIGURES, figures, strict=True)))
        else:
            reason = f"the day came {len(versions)} times with different figures"
            rejected += [_rejected(day, row, reason) for row in versions.values()]
    return candle_frame(candles), rejected_frame(rejected)


def _day_number(row: Any) -> int | None:
    """Days since 1970 of a row, None where it does not begin with a whole day's time."""
    at: Any = row[0] if isinstance(row, list) and row else ""
    return int(at // DAY) if _number(at) is not None and at % DAY == 0 else None


def _figures(row: list[Any]) -> tuple[tuple[float, ...], str]:
    """The five figures after the time, or the reason why they cannot be read."""
    if len(row) != 6:
        return (), f"a candle has six values, this row {len(row)}"
    numbers = [_number(value) for value in row[1:]]
    bad = [name for name, number in zip(FIGURES, numbers, strict=True) if number is None]
    return tuple(n for n in numbers if n is not None), f"no finite number: {', '.join(bad)}" if bad else ""


def _number(value: Any) -> float | None:
    """A JSON number as a finite float64, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _rejected(day: int | None, row: Any, reason: str) -> dict[str, object]:
    iso = None if day is None else (EPOCH + timedelta(days=day)).isoformat()
    return {"day_utc": iso, "raw": json.dumps(row)[:500], "reason": reason}
