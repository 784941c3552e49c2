"""Windows of a series, each with the target that follows it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from closecast.storage.core.errors import NotEnoughHistory
from closecast.tasks.core.types import Floats, Rows

DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Windows:
    """Inputs (samples, lookback, 1), targets (samples, 1) of the next day, rows of the targets (samples,)."""

    inputs: Floats
    targets: Floats
    target_rows: Rows

    def __len__(self) -> int:
        return len(self.inputs)


def consecutive_runs(days: pd.Series) -> Iterator[slice]:
    """Slices of consecutive days, between the gaps of the series, oldest first."""
    steps = np.diff(days.to_numpy(dtype="datetime64[D]"))
    edges = [0, *(np.flatnonzero(steps != DAY) + 1).tolist(), len(days)]
    return (slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start)


def make_windows(scaled: Floats, *, lookback: int, days: pd.Series | None = None) -> Windows:
    """Every window of `lookback` values (days,), with the value after it as its target.

    Args:
        days: of the values; no window spans a gap in them. By default all values count as consecutive.

    Raises:
        NotEnoughHistory: there is no window.
    """
    span = lookback + 1
    runs = [slice(0, len(scaled))] if days is None else list(consecutive_runs(days))
    starts = [np.arange(run.start, run.stop - lookback) for run in runs if run.stop - run.start >= span]
    if not starts:
        longest = max((run.stop - run.start for run in runs), default=0)
        raise NotEnoughHistory(
            f"a window (lookback {lookback}) and the day after it need {span} consecutive days,"
            f" found {longest}: import more history"
        )
    rows = np.concatenate(starts)
    spans = np.asarray(scaled, dtype=np.float64)[rows[:, None] + np.arange(span)]
    return Windows(spans[:, :lookback, None].copy(), spans[:, lookback:].copy(), rows + lookback)


def newest_window(days: pd.Series, figures: Floats, *, lookback: int) -> Floats:
    """The last `lookback` figures, shape (lookback,), which must be of consecutive days.

    Raises:
        NotEnoughHistory: fewer than `lookback` days since the start or the newest gap.
    """
    if days.empty:
        raise NotEnoughHistory(
            "the forecast's input needs closes up to its origin, found none: import prices first"
        )
    *_, newest = consecutive_runs(days)
    length = newest.stop - newest.start
    if length < lookback:
        since = pd.Timestamp(days.iloc[newest.start]).date()
        raise NotEnoughHistory(
            f"the forecast's input needs {lookback} consecutive days up to its origin, found {length}"
            f" since {since}: fill the gap before {since} or choose a later --as-of"
        )
    return np.asarray(figures[-lookback:], dtype=np.float64)
