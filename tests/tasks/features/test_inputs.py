from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.tasks.features.expected_sigma import expected_sigmas
from closecast.tasks.features.inputs import (
    USUAL_MOVE,
    Columns,
    Inputs,
    InputSettings,
    columns_of,
    make_inputs,
    recent_sigma,
    training_rows,
    usable_rows,
    windows_at,
)
from closecast.tasks.features.volatility import garman_klass, log_returns
from closecast.tasks.features.windows import DAY
from tests.helpers import FIRST, made_up, without
from tests.markets import closes_only

HORIZONS = (1, 7, 30)
SETTINGS = InputSettings(lookback=5, level_days=30, horizons=HORIZONS)
ALL, CLOSES = Columns(ranges=True, volume=True), Columns(ranges=False, volume=False)
RANGES = ["open", "high", "low"]
# Indexes of the features in a window.
RETURN, SIZE, SCALE, SLOW, GARMAN_KLASS, PARKINSON, MEAN, EWMA, HAR_DAY, HAR_WEEK, HAR_MONTH = range(11)
LEVEL, VOLUME, SATURDAY, SUNDAY, MONDAY = range(11, 16)


def with_gap(frame: pd.DataFrame) -> pd.DataFrame:
    return without(frame, date(2019, 3, 20), date(2019, 3, 22))


def half_ranged(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[:50, [*RANGES, "volume"]] = np.nan
    return frame


def windows(frame: pd.DataFrame, rows: list[int], columns: Columns = ALL) -> np.ndarray:
    return windows_at(make_inputs(frame, SETTINGS, columns), np.array(rows, dtype=np.int64), SETTINGS)


def bits(inputs: Inputs, row: int) -> list[bytes]:
    """Everything that is known at the close of the row, also the targets whose day has come."""
    arrays = (inputs.days, inputs.position, inputs.sigma)
    calendar = (inputs.missing, inputs.moves, inputs.spreads, inputs.plain)
    known = inputs.position[row] + 1
    come = inputs.days[: row + 1, None] + DAY * np.array(HORIZONS) <= inputs.days[row]
    targets = np.where(come, inputs.targets[: row + 1], np.nan)
    parts = [*(array[: row + 1] for array in arrays), *(array[:known] for array in calendar), targets]
    return [part.tobytes() for part in parts]


@pytest.mark.parametrize("columns", [ALL, CLOSES])
@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, with_gap, half_ranged])
def test_later_rows_change_no_bit(change: Callable[[pd.DataFrame], pd.DataFrame], columns: Columns) -> None:
    frame = change(made_up(220))
    inputs = make_inputs(frame, SETTINGS, columns)
    usable = usable_rows(inputs, lookback=5)
    for row in (40, 77, 78, 85, 140, 181, len(frame) - 2):
        draw = np.random.default_rng(row)
        for garbage in (0.01, 1e6, draw.uniform(0.01, 1e6, len(frame) - row - 1)):
            changed = frame.copy()
            for name in [*RANGES, "close", "volume"]:
                changed.loc[row + 1 :, name] = garbage
            changed.loc[row + 2 :: 3, [*RANGES, "volume"]] = np.nan
            other = make_inputs(changed, SETTINGS, columns)
            assert bits(other, row) == bits(inputs, row)
            assert other.sigma[row + 1 :].tobytes() != inputs.sigma[row + 1 :].tobytes()
        until = make_inputs(frame.iloc[: row + 1], SETTINGS, columns)
        assert bits(until, row) == bits(inputs, row)
        assert np.isnan(until.targets[-1]).all()
        assert usable_rows(until, lookback=5).tolist() == usable[usable <= row].tolist()
        if row in usable:
            alone = windows(frame.iloc[: row + 1], [row], columns)
            assert alone[0].tobytes() == windows(frame, [row, 60], columns)[0].tobytes()


def test_inputs_of_closes_use_no_other_figure() -> None:
    """There are the return, its size, six sigmas, the level, and three weekdays."""
    frame = closes_only(made_up(220))
    window, inputs = windows(frame, [200], CLOSES)[0], make_inputs(frame, SETTINGS, CLOSES)
    assert window.shape == (5, 12)
    sigma = inputs.sigma[200, 0]
    assert window[:, RETURN] == pytest.approx(np.clip(log_returns(frame)[196:201] / sigma, -6, 6), rel=1e-5)
    ewma, *har = daily_sigmas(frame, 200)
    assert window[-1, [SCALE, 4, 5, 6, 7]] == pytest.approx(np.log([sigma, ewma, *har] / sigma), abs=1e-6)
    assert window[:, -3:].tolist() == windows(made_up(220), [200])[0][:, -3:].tolist()


def daily_sigmas(frame: pd.DataFrame, row: int) -> list[float]:
    """The sigmas per day among a row's inputs: EWMA's of the next day, HAR's of a day, a week and a month."""
    sigmas = expected_sigmas(frame, HORIZONS)
    return [sigmas.ewma[row, 0], *(sigmas.har[row] / np.sqrt(HORIZONS))]


def test_a_window_is_relative_to_the_sigma_of_its_origin() -> None:
    frame = made_up(220)
    inputs = make_inputs(frame, SETTINGS, ALL)
    window, scales = windows(frame, [200])[0], inputs.sigma[:, 0]
    sigma = scales[200]
    assert window.shape == (5, 16)
    assert sigma != scales[196]
    returns = log_returns(frame)[196:201]
    assert window[:, RETURN] == pytest.approx(returns / sigma, rel=1e-5)
    assert window[:, SIZE] == pytest.approx(np.log(np.abs(returns) / sigma + 0.1), rel=1e-5)
    assert window[:, SCALE] == pytest.approx(np.log(scales[196:201] / sigma), abs=1e-6)
    spread = np.maximum(np.sqrt(garman_klass(frame)[196:201]), 0.05 * scales[196:201])
    assert window[:, GARMAN_KLASS] == pytest.approx(np.log(spread / sigma), rel=1e-5)
    shown = np.log(np.array([daily_sigmas(frame, row) for row in range(196, 201)]) / sigma)
    assert window[:, [EWMA, HAR_DAY, HAR_WEEK, HAR_MONTH]] == pytest.approx(shown, abs=1e-5)
    level = np.log(recent_sigma(frame, SETTINGS, ranges=True))
    assert window[-1, LEVEL] == pytest.approx(level[200] - level[171:201].mean(), rel=1e-4)
    logs = np.log(frame["volume"].to_numpy())
    assert window[-1, VOLUME] == pytest.approx(logs[200] - logs[171:201].mean(), rel=1e-4)
    # The same days in the window of the next origin are relative to another sigma.
    later = windows(frame, [201])[0]
    assert later[:-1, RETURN] == pytest.approx(window[1:, RETURN] * sigma / scales[201], rel=1e-5)
    assert later[:-1, LEVEL:].tolist() == window[1:, LEVEL:].tolist()


def test_the_scale_is_the_geometric_mean_of_har_and_ewma() -> None:
    frame = with_gap(made_up(260))
    sigmas, inputs = expected_sigmas(frame, HORIZONS), make_inputs(frame, SETTINGS, ALL)
    recent = recent_sigma(frame, SETTINGS, ranges=True)
    for column, horizon in enumerate(HORIZONS):
        for row in range(len(frame)):
            har, ewma = sigmas.har[row, column], sigmas.ewma[row, column]
            before = np.isnan(har)  # the first fit
            expected = recent[row] * np.sqrt(horizon) if before else np.sqrt(har * ewma)
            assert inputs.sigma[row, column] == pytest.approx(expected, rel=1e-12)
        assert 120 < np.isnan(sigmas.har[:, column]).sum() < 200


def test_large_figures_are_clipped() -> None:
    frame = made_up(80)
    frame.loc[70:, [*RANGES, "close"]] *= 5.0
    frame.loc[72, "volume"] = 1e9
    inputs = make_inputs(frame, SETTINGS, ALL)
    assert inputs.targets[69, 0] == 8.0
    assert np.nanmax(np.abs(inputs.targets)) == 8.0
    window, size = windows(frame, [72])[0], inputs.moves[70] / inputs.sigma[72, 0]
    assert window[-1, VOLUME] == 3.0
    assert size > 6.0
    assert window[2, RETURN] == 6.0
    assert window[2, SIZE] == pytest.approx(np.log(size + 0.1), rel=1e-6)
    narrow = windows_at(inputs, np.array([72]), SETTINGS.model_copy(update={"return_clip": 0.5}))[0]
    assert np.abs(narrow[:, RETURN]).max() == 0.5
    assert narrow[:, SIZE].tobytes() == window[:, SIZE].tobytes()


def test_targets_are_the_return_over_each_horizon_in_its_sigmas() -> None:
    frame = with_gap(made_up(260))
    inputs = make_inputs(frame, SETTINGS, ALL)
    closes = dict(zip(frame["day_utc"].dt.date, frame["close"], strict=True))
    for row, day in enumerate(closes):
        for column, horizon in enumerate(HORIZONS):
            actual = closes.get(day + timedelta(days=horizon), np.nan)
            expected = np.clip((np.log(actual) - np.log(closes[day])) / inputs.sigma[row, column], -8, 8)
            assert inputs.targets[row, column] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    # Row 77, 2019-03-19, is the last day before the gap of three days; rows 71 to 73 lie a week before them.
    assert np.flatnonzero(np.isnan(inputs.targets[:, 0])).tolist() == [77, 256]
    assert np.flatnonzero(np.isnan(inputs.targets[:, 1])).tolist() == [71, 72, 73, *range(250, 257)]


@pytest.mark.parametrize("horizons", [(), (7,), (2, 3), (1, 1), (1, 7, 3), (0, 1), (1, 61), (1, 2.5)])
def test_horizons_rise_from_one(horizons: Any) -> None:
    with pytest.raises(ValueError, match="horizons"):
        InputSettings(horizons=horizons)
    assert InputSettings(horizons=(1, 60)).horizons == (1, 60)


def test_weekday_flags_are_those_of_the_target() -> None:
    frame = made_up(80)
    friday = 59  # 2019-03-01
    assert frame["day_utc"][friday].date() == date(2019, 3, 1)
    # Monday to Friday, as origins; the target of Friday is a Saturday.
    assert windows(frame, [friday])[0][:, SATURDAY].tolist() == [0, 0, 0, 0, 1]
    rows = windows(frame, [friday + 1, friday + 2, friday + 3])[:, -1, SATURDAY:]
    assert rows.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    # Before a gap the target is the next day by the calendar, not the next row.
    gap = without(frame, date(2019, 3, 2), date(2019, 3, 3))
    assert make_inputs(gap, SETTINGS, ALL).plain[friday, -3:].tolist() == [1, 0, 0]


def test_training_windows_have_no_gap_in_or_before_them() -> None:
    frame = made_up(120)
    first = int(usable_rows(make_inputs(frame, SETTINGS, ALL), lookback=5)[0])
    inputs = make_inputs(with_gap(frame), SETTINGS, ALL)
    assert usable_rows(inputs, lookback=5).tolist() == [*range(first, 117)]
    rows = training_rows(inputs, lookback=5)
    # The return of row 78 spans the gap, so the first complete window after it ends with row 83.
    assert rows.tolist() == [*range(first, 78), *range(83, 117)]
    for row in rows:
        assert (np.diff(inputs.days[row - 5 : row + 1]) == np.timedelta64(1, "D")).all()
    assert np.isfinite(windows_at(inputs, rows, SETTINGS)).all()


def test_if_most_windows_have_a_missing_day_all_are_trained_on() -> None:
    frame = made_up(280)
    sundays = frame[frame["day_utc"].dt.day_of_week != 6].reset_index(drop=True)
    inputs = make_inputs(sundays, SETTINGS, ALL)
    assert training_rows(inputs, lookback=14).tolist() == usable_rows(inputs, lookback=14).tolist()
    # A window of 5 days and the day before it: one weekday of seven has none.
    assert 0 < len(training_rows(inputs, lookback=1)) < len(usable_rows(inputs, lookback=1))


def test_a_missing_day_has_its_expected_values() -> None:
    frame = made_up(120)
    gap = without(frame, *frame["day_utc"].dt.date[[100, 101]])
    inputs = make_inputs(gap, SETTINGS, ALL)
    assert inputs.missing.tolist() == [row in (100, 101) for row in range(120)]
    row = 100  # of the day after the gap
    assert inputs.position[row] == 102
    before, *missing, after = windows_at(inputs, np.array([row]), SETTINGS)[0][-4:]
    sigma = inputs.sigma[row, 0]
    three_days = np.log(frame["close"][102] / frame["close"][99])
    assert after[RETURN] == pytest.approx(three_days / np.sqrt(3) / sigma, rel=1e-5)
    for day in missing:
        assert day[RETURN] == 0.0
        assert day[SIZE] == pytest.approx(np.log(USUAL_MOVE + 0.1), rel=1e-6)
        assert day[VOLUME] == 0.0
        carried = [SCALE, SLOW, MEAN, EWMA, HAR_DAY, HAR_WEEK, HAR_MONTH, LEVEL]
        assert day[carried].tolist() == before[carried].tolist()
        assert day[[GARMAN_KLASS, PARKINSON]].tolist() == [before[MEAN]] * 2
    flags = windows_at(make_inputs(frame, SETTINGS, ALL), np.array([102]), SETTINGS)[0][-4:, -3:]
    assert np.stack([before, *missing, after])[:, -3:].tolist() == flags.tolist()


@pytest.mark.parametrize(("days", "usable"), [(60, 42), (19, 1), (18, 0), (4, 0)])
def test_the_first_days_are_not_usable(days: int, usable: int) -> None:
    """The level's mean needs half a month, and a window five such days: row 18 is the first."""
    rows = usable_rows(make_inputs(made_up(days), SETTINGS, ALL), lookback=5)
    assert rows.tolist() == list(range(18, 18 + usable))


def test_a_column_is_used_when_nine_tenths_of_the_days_have_it() -> None:
    frame = made_up(100)
    assert columns_of(frame, share=0.9) == ALL
    assert ALL.left_out == ()
    assert columns_of(closes_only(frame), share=0.9) == CLOSES
    assert CLOSES.left_out == ("ranges (open, high, low)", "volume")
    enough, fewer = frame.copy(), frame.copy()
    enough.loc[:9, "low"] = fewer.loc[:10, "low"] = np.nan
    assert columns_of(enough, share=0.9) == ALL
    assert columns_of(fewer, share=0.9) == Columns(ranges=False, volume=True)
    enough.loc[:9, "volume"] = fewer.loc[:10, "volume"] = 0.0
    assert columns_of(enough, share=0.9).volume
    assert not columns_of(fewer, share=0.9).volume


def test_an_unknown_volume_counts_as_the_usual_one() -> None:
    frame = made_up(80)
    frame.loc[[69, 70, 71], "volume"] = [0.0, np.nan, 1e-9]
    window = windows(frame, [72])[0]
    assert window[1:4, VOLUME].tolist() == [0.0, 0.0, -3.0]
    assert window[4, VOLUME] != 0.0
    inputs = make_inputs(frame.assign(volume=np.nan), SETTINGS, ALL)
    assert (inputs.plain[:, 1] == 0).all()
    assert 72 in usable_rows(inputs, lookback=5)


def test_a_frozen_price_gives_finite_windows() -> None:
    frame = made_up(80)
    frame.loc[40:, [*RANGES, "close"]] = 4000.0
    frame.loc[:, "day_utc"] = pd.date_range(FIRST, periods=80, unit="s")
    inputs = make_inputs(frame, SETTINGS, ALL)
    rows = usable_rows(inputs, lookback=5)
    assert rows[-1] == 79
    assert np.isfinite(windows_at(inputs, rows, SETTINGS)).all()
