"""The missing days of a series, and lines about them."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

ONE_DAY = np.timedelta64(1, "D")
SHOWN_GAPS = 5
MIN_STEPS, MOST = 3, 0.8  # of the steps between days, for closes that are not daily


def find_gaps(days: pd.Series[pd.Timestamp]) -> list[tuple[date, date]]:
    """The first and last missing day of each gap between the first and the last of `days`.

    Args:
        days: datetime64 in any order; repeated days count once, NaT is ignored.
    """
    present = _present(days)
    gaps = np.flatnonzero(np.diff(present) > ONE_DAY)
    return [((present[gap] + ONE_DAY).item(), (present[gap + 1] - ONE_DAY).item()) for gap in gaps]


def describe_gaps(days: pd.Series[pd.Timestamp]) -> list[str]:
    """The gaps in lines for a person: one for closes that are not daily, else the newest five and a count."""
    if name := spacing(days):
        return [f"{name} closes, {len(days)} of them; forecasts are made of daily closes"]
    gaps = find_gaps(days)
    lines = [
        f"gap on {start}" if start == end else f"gap from {start} to {end}, {(end - start).days + 1} days"
        for start, end in gaps[-SHOWN_GAPS:]
    ]
    if len(gaps) > SHOWN_GAPS:
        lines.append(f"{len(gaps)} gaps in all, {sum((end - start).days + 1 for start, end in gaps)} days")
    return lines


def spacing(days: pd.Series[pd.Timestamp]) -> str | None:
    """`weekly`, `monthly` or `business-day` if most days are that far apart; None for daily closes."""
    present = _present(days)
    steps = np.diff(present).astype(int)
    if len(steps) < MIN_STEPS:
        return None
    for name, shortest, longest in (("weekly", 7, 7), ("monthly", 28, 31)):
        if np.mean((steps >= shortest) & (steps <= longest)) > MOST:
            return name
    on_weekdays = (pd.DatetimeIndex(present).day_of_week < 5).all()
    return "business-day" if on_weekdays and (steps == 3).sum() > 1 else None


def _present(days: pd.Series[pd.Timestamp]) -> NDArray[np.datetime64]:
    """The days in order, each once, datetime64[D]."""
    return np.unique(days.dropna().to_numpy().astype("datetime64[D]"))
