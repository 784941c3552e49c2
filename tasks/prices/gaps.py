"""The missing days of a series."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

ONE_DAY = np.timedelta64(1, "D")


def find_gaps(days: pd.Series[pd.Timestamp]) -> list[tuple[date, date]]:
    """The first and last missing day of each gap between the first and the last of `days`.

    Args:
        days: datetime64 in any order; repeated days count once, NaT is ignored.
    """
    present = np.unique(days.dropna().to_numpy().astype("datetime64[D]"))
    gaps = np.flatnonzero(np.diff(present) > ONE_DAY)
    return [((present[gap] + ONE_DAY).item(), (present[gap + 1] - ONE_DAY).item()) for gap in gaps]
