"""Scaled series to windows: what the network sees, and what it should have said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from storage.core.errors import NotEnoughHistory
from tasks.core.types import Floats

DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Windows:
    """Inputs (samples, lookback, 1), targets (samples, horizon), rows of the first targets (samples,)."""

    inputs: Floats
    targets: Floats
    target_rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.inputs)


def make_windows(scaled: Floats, *, lookback: int, horizon: int) -> Windows:
    """Cut every (lookback → horizon) pair from one consecutive series.

    Args:
        scaled: shape (days,), unitless, oldest first.
        lookback: days that a window shows.
        horizon: days that follow it as targets.

    Returns:
        Windows with days - lookback - horizon + 1 samples.

    Raises:
        NotEnoughHistory: fewer than lookback + horizon days.
    """
    span = lookback + horizon
    if len(scaled) < span:
        raise NotEnoughHistory(
            f"a window of {lookback} days and a target {horizon} ahead need {span} consecutive days,"
            f" found {len(scaled)}: import more history"
        )
    cut = sliding_window_view(np.asarray(scaled, dtype=np.float64), span)
    rows = np.arange(len(cut), dtype=np.int64) + lookback
    return Windows(cut[:, :lookback, None].copy(), cut[:, lookback:].copy(), rows)


def consecutive_runs(days: pd.Series) -> Iterator[slice]:
    """Slices of consecutive days: the series between its gaps, oldest first."""
    steps = np.diff(days.to_numpy(dtype="datetime64[D]"))
    edges = [0, *(np.flatnonzero(steps != DAY) + 1).tolist(), len(days)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield slice(start, stop)


def make_windows_between_gaps(days: pd.Series, scaled: Floats, *, lookback: int, horizon: int) -> Windows:
    """`make_windows` over each consecutive run of days, joined: no window spans a gap.

    Args:
        days: shape (days,), datetime64, strictly rising.
        scaled: shape (days,), the figures of those days.
        lookback: days that a window shows.
        horizon: days that follow it as targets.

    Raises:
        NotEnoughHistory: no run is as long as lookback + horizon days.
    """
    runs = list(consecutive_runs(days))
    parts = [
        (run.start, make_windows(scaled[run], lookback=lookback, horizon=horizon))
        for run in runs
        if run.stop - run.start >= lookback + horizon
    ]
    if not parts:  # let the plain cut of the longest run say what is missing
        longest = max(runs, key=lambda run: run.stop - run.start, default=slice(0, 0))
        return make_windows(scaled[longest], lookback=lookback, horizon=horizon)
    return Windows(
        np.concatenate([part.inputs for _, part in parts]),
        np.concatenate([part.targets for _, part in parts]),
        np.concatenate([part.target_rows + start for start, part in parts]),
    )


def newest_window(days: pd.Series, figures: Floats, *, lookback: int) -> Floats:
    """The last `lookback` figures, shape (lookback,), which must stand on consecutive days.

    Raises:
        NotEnoughHistory: fewer than lookback days since the start or the newest gap.
    """
    if days.empty:
        raise NotEnoughHistory(
            f"the forecast's input needs {lookback} consecutive days up to its origin, found none:"
            " import prices first"
        )
    *_, newest = consecutive_runs(days)
    found = newest.stop - newest.start
    if found < lookback:
        since = pd.Timestamp(days.iloc[newest.start]).date()
        raise NotEnoughHistory(
            f"the forecast's input needs {lookback} consecutive days up to its origin, found {found}"
            f" since {since}: fill the gap before {since} or choose a later --as-of"
        )
    return np.asarray(figures[-lookback:], dtype=np.float64)
