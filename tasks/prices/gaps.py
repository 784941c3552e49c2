"""The missing days of a series, and whether a run may start from its origin."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from storage.core.errors import BadDay, NotEnoughHistory, StaleSeries

ONE_DAY = np.timedelta64(1, "D")


def find_gaps(days: pd.Series[pd.Timestamp]) -> list[tuple[date, date]]:
    """The first and last missing day of each gap between the first and the last of `days`.

    Args:
        days: datetime64 in any order; repeated days count once, NaT is ignored.
    """
    present = np.unique(days.dropna().to_numpy().astype("datetime64[D]"))
    gaps = np.flatnonzero(np.diff(present) > ONE_DAY)
    return [((present[gap] + ONE_DAY).item(), (present[gap + 1] - ONE_DAY).item()) for gap in gaps]


def require_origin(
    product_id: str,
    days: pd.Series[pd.Timestamp],
    origin: date | None,
    *,
    min_days: int = 1,
    consecutive_days: int = 1,
) -> date:
    """The origin of a run, which needs a close of that day and enough closes before it.

    Args:
        product_id: for the messages.
        days: datetime64, rising.
        origin: the last day that the run may know; the last of `days` when None.
        min_days: closes needed up to the origin.
        consecutive_days: days up to the origin that need to be without a gap.

    Raises:
        BadDay: the origin is before the first day.
        StaleSeries: the origin's day is missing.
        NotEnoughHistory: fewer than `min_days` closes up to the origin, or a gap in the newest ones.
    """
    if days.empty:
        raise StaleSeries(f"{product_id} has no closes at all: choose another source or a later --as-of")
    first, last = days.iloc[0].date(), days.iloc[-1].date()
    origin = origin or last
    if origin < first:
        raise BadDay(f"{product_id} begins on {first}, the origin is {origin}: choose a later --as-of")
    until = days[days <= pd.Timestamp(origin)]
    newest = until.iloc[-1].date()
    if newest != origin:
        raise StaleSeries(
            f"{product_id} has no close of {origin}, the newest before it is of {newest}:"
            f" no forecast is made from old prices; get that day, or choose --as-of {newest}"
        )
    if len(until) < min_days:
        raise NotEnoughHistory(
            f"the profile needs {min_days} days of closes up to {origin}, there are {len(until)}:"
            " import more history"
        )
    gaps = find_gaps(until)
    consecutive = (origin - gaps[-1][1]).days if gaps else len(until)
    if consecutive < consecutive_days:
        raise NotEnoughHistory(
            f"the forecast needs {consecutive_days} consecutive days up to {origin}, there are {consecutive}"
            f" since the gap that ends on {gaps[-1][1]}: choose a later --as-of"
        )
    return origin
