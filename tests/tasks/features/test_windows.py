from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closecast.storage.core.errors import NotEnoughHistory
from closecast.tasks.features.windows import (
    Windows,
    consecutive_runs,
    make_windows,
    newest_window,
)
from tests.helpers import FIRST

lookbacks = st.integers(1, 6)
Series = tuple[pd.Series, np.ndarray]


@st.composite
def series_with_gaps(draw: st.DrawFn) -> Series:
    """Rising days with gaps, and for each its number since FIRST."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 12]), max_size=60))
    numbers = np.cumsum([0, *steps])
    days = pd.Series([pd.Timestamp(FIRST + timedelta(days=int(n))) for n in numbers], dtype="datetime64[s]")
    return days, numbers.astype(np.float64)


def windows_or_none(days: pd.Series | None, figures: np.ndarray, lookback: int) -> Windows | None:
    try:
        return make_windows(figures, lookback=lookback, days=days)
    except NotEnoughHistory:
        return None


def test_the_windows_of_a_short_series_by_hand() -> None:
    figures: Any = np.arange(4, dtype=np.float32)
    windows = make_windows(figures, lookback=2)
    assert windows.inputs[..., 0].tolist() == [[0, 1], [1, 2]]
    assert windows.targets.tolist() == [[2], [3]]
    assert windows.target_rows.tolist() == [2, 3]
    assert (windows.inputs.shape, len(windows)) == ((2, 2, 1), 2)
    assert windows.inputs.dtype == windows.targets.dtype == np.float64
    figures[:] = -1  # windows are copies
    windows.inputs[0, 1, 0] = 99
    assert windows.inputs[1].tolist() == [[1], [2]]


@given(series_with_gaps(), lookbacks)
def test_no_window_spans_a_gap_and_none_is_missing(series: Series, lookback: int) -> None:
    days, numbers = series
    runs = list(consecutive_runs(days))
    assert [row for run in runs for row in range(run.start, run.stop)] == list(range(len(days)))
    count = sum(max(run.stop - run.start - lookback, 0) for run in runs)
    windows = windows_or_none(days, numbers, lookback)
    assert (0 if windows is None else len(windows)) == count
    if windows is not None:
        # The figures are day numbers: neighbors differ by one day in every row of every window.
        whole = np.concatenate([windows.inputs[..., 0], windows.targets], axis=1)
        assert (np.diff(whole, axis=1) == 1).all()
        assert (numbers[windows.target_rows] == windows.targets[:, 0]).all()
        assert (np.diff(windows.target_rows) > 0).all()
    bridged = windows_or_none(None, numbers, lookback)
    assert (0 if bridged is None else len(bridged)) == max(len(days) - lookback, 0)


@given(series_with_gaps(), lookbacks, st.data())
def test_later_rows_never_change_earlier_windows(series: Series, lookback: int, data: st.DataObject) -> None:
    days, figures = series
    origin = data.draw(st.integers(0, len(days) - 1))
    changed, keep = figures.copy(), data.draw(st.integers(origin + 1, len(days)))
    changed[origin + 1 :] = -7.0

    def up_to_origin(windows: Windows | None) -> list[list[list[float]]]:
        if windows is None:
            return []
        rows = windows.target_rows <= origin
        return [windows.inputs[rows].tolist(), windows.targets[rows].tolist()] if rows.any() else []

    before = up_to_origin(windows_or_none(days, figures, lookback))
    assert before == up_to_origin(windows_or_none(days[:keep], changed[:keep], lookback))


@given(series_with_gaps(), lookbacks)
def test_the_newest_window_is_of_consecutive_days(series: Series, lookback: int) -> None:
    days, numbers = series
    last = int(numbers[-1])
    consecutive = last - max((n for n in range(last) if n not in numbers), default=-1)
    if consecutive < lookback:
        message = f"needs {lookback} consecutive days .* found {consecutive} "
        with pytest.raises(NotEnoughHistory, match=message):
            newest_window(days, numbers, lookback=lookback)
        return
    window = newest_window(days, numbers, lookback=lookback)
    assert window.tolist() == list(range(last - lookback + 1, last + 1))


def test_errors_name_the_days_needed_and_found() -> None:
    days = pd.Series(pd.to_datetime(["2019-01-01", "2019-01-02", "2019-01-03", "2019-01-05", "2019-01-06"]))
    with pytest.raises(NotEnoughHistory, match="need 6 consecutive days, found 3:"):
        make_windows(np.arange(5.0), lookback=5, days=days)
    with pytest.raises(NotEnoughHistory, match="found 2 since 2019-01-05"):
        newest_window(days, np.arange(5.0), lookback=5)
    none = pd.Series([], dtype="datetime64[s]")
    assert list(consecutive_runs(none)) == []
    with pytest.raises(NotEnoughHistory, match="found 0"):
        make_windows(np.array([]), lookback=5, days=none)
    with pytest.raises(NotEnoughHistory, match=r"found none: import prices first$"):
        newest_window(none, np.array([]), lookback=5)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_days_of_any_resolution(unit: Any) -> None:
    days = pd.Series(pd.date_range("2019-01-01", periods=8)).dt.as_unit(unit)
    assert list(consecutive_runs(days)) == [slice(0, 8)]
    assert len(make_windows(np.arange(8.0), lookback=5, days=days)) == 3
