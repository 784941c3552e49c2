from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pytest
from tasks.profiles.calibrated_settings import Recipe

from tasks.features.inputs import Columns, Inputs, columns_of, make_inputs, usable_rows, windows_at
from tasks.features.volatility import garman_klass, log_returns, scale
from tests.helpers import FIRST, made_up, without

RECIPE = Recipe(lookback=5, level_days=30, pool_products=())
ALL, CLOSES = Columns(ranges=True, volume=True), Columns(ranges=False, volume=False)
RANGES = ["open", "high", "low"]
# Places of the features in a window.
RETURN, SIZE, SLOW, WITHIN, WIDE, MEAN, LEVEL, VOLUME, SATURDAY, SUNDAY, MONDAY = range(11)


def closes_only(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[:, [*RANGES, "volume"]] = np.nan
    return frame


def holed(frame: pd.DataFrame) -> pd.DataFrame:
    return without(frame, date(2019, 3, 20), date(2019, 3, 22))


def half_ranged(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[:50, [*RANGES, "volume"]] = np.nan
    return frame


def shown(frame: pd.DataFrame, rows: list[int], columns: Columns = ALL) -> np.ndarray:
    inputs = make_inputs(frame, RECIPE, columns)
    return windows_at(
        inputs, np.array(rows, dtype=np.int64), lookback=RECIPE.lookback, return_clip=RECIPE.return_clip
    )


def parts(inputs: Inputs, row: int) -> list[bytes]:
    """Everything that is known at the close of the row, to the bit."""
    arrays = (inputs.days, inputs.returns, inputs.spreads, inputs.plain, inputs.scale)
    return [*(array[: row + 1].tobytes() for array in arrays), inputs.targets[:row].tobytes()]


@pytest.mark.parametrize("columns", [ALL, CLOSES])
@pytest.mark.parametrize("change", [pd.DataFrame.copy, closes_only, holed, half_ranged])
def test_later_rows_change_no_bit(change: Callable[[pd.DataFrame], pd.DataFrame], columns: Columns) -> None:
    frame = change(made_up(150))
    inputs = make_inputs(frame, RECIPE, columns)
    for row in (40, 76, 77, 78, 85, 120, len(frame) - 2):
        draw = np.random.default_rng(row)
        for garbage in (0.01, 1e6, draw.uniform(0.01, 1e6, len(frame) - row - 1)):
            later = frame.copy()
            for name in [*RANGES, "close", "volume"]:
                later.loc[row + 1 :, name] = garbage
            later.loc[row + 2 :: 3, [*RANGES, "volume"]] = np.nan
            found = make_inputs(later, RECIPE, columns)
            assert parts(found, row) == parts(inputs, row)
            assert found.scale[row + 1 :].tobytes() != inputs.scale[row + 1 :].tobytes()
        until = make_inputs(frame.iloc[: row + 1], RECIPE, columns)
        assert parts(until, row) == parts(inputs, row)
        assert np.isnan(until.targets[-1])
        usable = usable_rows(inputs, lookback=5)
        assert usable_rows(until, lookback=5).tolist() == usable[usable <= row].tolist()
        if row in usable:
            alone, among = shown(frame.iloc[: row + 1], [row], columns), shown(frame, [row, 60], columns)
            assert alone[0].tobytes() == among[0].tobytes()


def test_the_shapes() -> None:
    frame = made_up(80)
    assert shown(frame, [60, 61]).shape == (2, 5, 11)
    assert shown(frame, [60]).dtype == np.float32
    assert shown(frame, [60], CLOSES).shape == (1, 5, 7)
    assert shown(frame, [60], Columns(ranges=True, volume=False)).shape == (1, 5, 10)
    assert shown(frame, [60], Columns(ranges=False, volume=True)).shape == (1, 5, 8)
    assert shown(frame, []).shape == (0, 5, 11)


def test_with_closes_alone_it_is_the_same_network_s_closes() -> None:
    """What is left are the return, its size, the slow variance, the level, and the weekdays."""
    frame = made_up(80)
    few = shown(frame, [70], CLOSES)[0]
    assert few.tobytes() == shown(closes_only(frame), [70], CLOSES)[0].tobytes()
    sigma = scale(frame, decay=0.8, low=0.02, high=16.0, days=60, ranges=False)[70]
    returns = log_returns(frame)[66:71] / sigma
    assert few[:, 0] == pytest.approx(np.clip(returns, -6, 6), rel=1e-5)
    assert few[:, -3:].tolist() == shown(frame, [70])[0][:, -3:].tolist()


def test_everything_is_over_the_origin_s_own_scale() -> None:
    frame = made_up(80)
    inputs = make_inputs(frame, RECIPE, ALL)
    window, own = shown(frame, [70])[0], inputs.scale[70]
    assert inputs.scale[70] != inputs.scale[66]
    returns = log_returns(frame)[66:71]
    assert window[:, RETURN] == pytest.approx(returns / own, rel=1e-5)
    assert window[:, SIZE] == pytest.approx(np.log(np.abs(returns) / own + 0.1), rel=1e-5)
    within = np.maximum(np.sqrt(garman_klass(frame)[66:71]), 0.05 * inputs.scale[66:71])
    assert window[:, WITHIN] == pytest.approx(np.log(within / own), rel=1e-5)
    level = np.log(inputs.scale)
    assert window[-1, LEVEL] == pytest.approx(level[70] - level[41:71].mean(), rel=1e-4)
    logs = np.log(frame["volume"].to_numpy())
    assert window[-1, VOLUME] == pytest.approx(logs[70] - logs[41:71].mean(), rel=1e-4)
    # The same days seen from another origin are over another scale.
    later = shown(frame, [71])[0]
    assert later[:-1, RETURN] == pytest.approx(window[1:, RETURN] * own / inputs.scale[71], rel=1e-5)
    assert later[:-1, LEVEL:].tolist() == window[1:, LEVEL:].tolist()


def test_a_price_in_other_units_looks_the_same() -> None:
    frame = made_up(80)
    other = frame.copy()
    other[[*RANGES, "close", "volume"]] *= 1000.0
    np.testing.assert_allclose(shown(other, [60, 70]), shown(frame, [60, 70]), atol=1e-4)


def test_large_figures_are_clipped() -> None:
    frame = made_up(80)
    frame.loc[70:, [*RANGES, "close"]] *= 5.0
    frame.loc[72, "volume"] = 1e9
    inputs = make_inputs(frame, RECIPE, ALL)
    assert inputs.targets[69] == 8.0
    assert np.nanmax(np.abs(inputs.targets)) == 8.0
    window = shown(frame, [72])[0]
    assert window[-1, VOLUME] == 3.0
    assert inputs.returns[70] / inputs.scale[72] > 20.0
    assert window[2, RETURN] == 6.0
    assert window[2, SIZE] == pytest.approx(np.log(inputs.returns[70] / inputs.scale[72] + 0.1), rel=1e-6)
    narrow = windows_at(inputs, np.array([72]), lookback=5, return_clip=0.5)[0]
    assert np.abs(narrow[:, RETURN]).max() == 0.5
    assert narrow[:, SIZE].tobytes() == window[:, SIZE].tobytes()


def test_targets_are_the_next_return_over_today_s_scale() -> None:
    frame = holed(made_up(120))
    inputs = make_inputs(frame, RECIPE, ALL)
    returns = log_returns(frame)
    # 2019-03-19, row 77, is the last day before the gap, and has no day after it.
    assert np.flatnonzero(np.isnan(inputs.targets)).tolist() == [77, 116]
    known = np.isfinite(inputs.targets)
    expected = np.clip(returns[1:] / inputs.scale[:-1], -8, 8)
    assert inputs.targets[known].tolist() == expected[known[:-1]].tolist()


def test_the_flags_are_of_the_target_s_weekday() -> None:
    frame = made_up(80)
    friday = 59 + 1  # 2019-03-01 is a Friday, and row 59 of days from 2019-01-01 on
    assert frame["day_utc"][friday - 1].date() == date(2019, 3, 1)
    window = shown(frame, [friday - 1])[0]
    # Monday to Friday, as origins; the target of Friday is a Saturday.
    assert window[:, SATURDAY].tolist() == [0, 0, 0, 0, 1]
    rows = shown(frame, [friday, friday + 1, friday + 2])[:, -1, SATURDAY:]
    assert rows.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    # Of a day before a gap it is the day after by the calendar, not the next one that is there.
    gap = without(frame, date(2019, 3, 2), date(2019, 3, 3))
    inputs = make_inputs(gap, RECIPE, ALL)
    assert inputs.plain[friday - 1, -3:].tolist() == [1, 0, 0]


def test_no_window_spans_a_hole_or_has_a_return_across_it() -> None:
    frame = made_up(120)
    first = int(usable_rows(make_inputs(frame, RECIPE, ALL), lookback=5)[0])
    inputs = make_inputs(holed(frame), RECIPE, ALL)
    rows = usable_rows(inputs, lookback=5)
    # Row 78 is the first after the gap: its return spans it, so the first whole window ends with row 83.
    assert rows.tolist() == [*range(first, 78), *range(83, 117)]
    days = inputs.days
    for row in rows:
        span = days[row - 5 : row + 1]  # with the close that the first return is on
        assert (np.diff(span) == np.timedelta64(1, "D")).all()
    seen = windows_at(inputs, rows, lookback=5, return_clip=6.0)
    assert np.isfinite(seen).all()


def test_the_first_days_are_not_usable() -> None:
    inputs = make_inputs(made_up(60), RECIPE, ALL)
    # Half a month of the level's mean, from the first day's scale on, and then a lookback.
    assert usable_rows(inputs, lookback=5)[0] == 14 + 4
    assert not len(usable_rows(make_inputs(made_up(4), RECIPE, ALL), lookback=5))
    assert not len(usable_rows(make_inputs(made_up(18), RECIPE, ALL), lookback=5))
    assert len(usable_rows(make_inputs(made_up(19), RECIPE, ALL), lookback=5)) == 1


def test_which_inputs_the_candles_can_give() -> None:
    frame = made_up(100)
    assert columns_of(frame) == ALL
    assert ALL.left_out == ()
    assert columns_of(closes_only(frame)) == CLOSES
    assert CLOSES.left_out == ("ranges (open, high, low)", "volume")
    nine_tenths, fewer = frame.copy(), frame.copy()
    nine_tenths.loc[:9, "low"] = np.nan
    fewer.loc[:10, "low"] = np.nan
    assert columns_of(nine_tenths).ranges
    assert columns_of(fewer) == Columns(ranges=False, volume=True)
    nine_tenths.loc[:9, "volume"] = 0.0
    fewer.loc[:10, "volume"] = 0.0
    assert columns_of(nine_tenths).volume
    assert not columns_of(fewer).volume


def test_an_unknown_volume_is_an_ordinary_one() -> None:
    frame = made_up(80)
    frame.loc[69, "volume"] = 0.0
    frame.loc[70, "volume"] = np.nan
    frame.loc[71, "volume"] = 1e-9
    window = shown(frame, [72])[0]
    assert window[1:4, VOLUME].tolist() == [0.0, 0.0, -3.0]
    assert window[4, VOLUME] != 0.0
    unknown = frame.assign(volume=np.nan)
    inputs = make_inputs(unknown, RECIPE, ALL)
    assert (inputs.plain[:, 1] == 0).all()
    assert 72 in usable_rows(inputs, lookback=5)


def test_a_day_without_a_range_is_as_wide_as_its_return() -> None:
    frame = made_up(80)
    frame.loc[70, "high"] = np.nan
    inputs = make_inputs(frame, RECIPE, ALL)
    size = max(abs(log_returns(frame)[70]), 0.05 * inputs.scale[70])
    assert inputs.spreads[70, 1:3] == pytest.approx(np.log([size, size]))
    assert 70 in usable_rows(inputs, lookback=5)


def test_a_frozen_price_is_finite() -> None:
    frame = made_up(80)
    frame.loc[40:, [*RANGES, "close"]] = 4000.0
    frame.loc[:, "day_utc"] = pd.date_range(FIRST, periods=80, unit="s")
    inputs = make_inputs(frame, RECIPE, ALL)
    rows = usable_rows(inputs, lookback=5)
    assert rows[-1] == 79
    assert np.isfinite(windows_at(inputs, rows, lookback=5, return_clip=6.0)).all()
