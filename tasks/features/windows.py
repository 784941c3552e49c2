"""Cuts a series into windows: inputs and the targets that follow them, never across a gap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from storage.core.errors import NotEnoughHistory
from tasks.core.types import Floats, Rows

DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Windows:
    """Inputs (samples, lookback, 1), targets (samples, horizon), rows of the first targets (samples,)."""

    inputs: Floats
    targets: Floats
    target_rows: Rows

    def __len__(self) -> int:
        return len(self.inputs)


def make_windows(scaled: Floats, *, lookback: int, horizon: int) -> Windows:
    """Every window of `lookback` days with the `horizon` days after it, from consecutive days (days,).

    Raises:
        NotEnoughHistory: fewer than lookback + horizon days.
    """
    span = lookback + horizon
    if len(scaled) < span:
        raise NotEnoughHistory(
            f"a window of {lookback} days and a target {horizon} ahead need {span} consecutive days,"
            f" found {len(scaled)}: import more history"
        )
    spans = sliding_window_view(np.asarray(scaled, dtype=np.float64), span)
    rows = np.arange(len(spans), dtype=np.int64) + lookback
    return Windows(spans[:, :lookback, None].copy(), spans[:, lookback:].copy(), rows)


def consecutive_runs(days: pd.Series) -> Iterator[slice]:
    """Slices of consecutive days, between the gaps of the series, oldest first."""
    steps = np.diff(days.to_numpy(dtype="datetime64[D]"))
    edges = [0, *(np.flatnonzero(steps != DAY) + 1).tolist(), len(days)]
    return (slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start)


def make_windows_between_gaps(days: pd.Series, scaled: Floats, *, lookback: int, horizon: int) -> Windows:
    """`make_windows` over each run of consecutive days, concatenated: no window spans a gap.

    Raises:
        NotEnoughHistory: no run is as long as lookback + horizon days.
    """
    runs = list(consecutive_runs(days))
    long_runs = [run for run in runs if run.stop - run.start >= lookback + horizon]
    if not long_runs:  # the longest run raises the error that states the missing days
        longest = max(runs, key=lambda run: run.stop - run.start, default=slice(0, 0))
        return make_windows(scaled[longest], lookback=lookback, horizon=horizon)
    parts = [make_windows(scaled[run], lookback=lookback, horizon=horizon) for run in long_runs]
    return Windows(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.target_rows + run.start for part, run in zip(parts, long_runs, strict=True)]),
    )


def newest_window(days: pd.Series, figures: Floats, *, lookback: int) -> Floats:
    """The last `lookback` figures, shape (lookback,), which must be of consecutive days.

    Raises:
        NotEnoughHistory: fewer than lookback days since the start or the newest gap.
    """
    if days.empty:
        raise NotEnoughHistory(
            f"the forecast's input needs {lookback} consecutive days up to its origin, found none:"
            " import prices first"
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
