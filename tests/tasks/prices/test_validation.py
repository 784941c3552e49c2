from __future__ import annotations

import json
import time
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.storage.core.candle_schema import FIGURES, REJECTED_COLUMNS, candle_frame
from closecast.tasks.prices.validation import Checked, check_candles

FIRST = date(2019, 1, 1)
LAST = date(2019, 12, 31)


def candles(*closes: float, days: list[int] | None = None, **figures: Any) -> pd.DataFrame:
    """Flat candles on consecutive days, or on the days counted from FIRST; `figures` go to the last row."""
    frame = candle_frame(
        {
            "day_utc": [FIRST + timedelta(days=day) for day in days or range(len(closes))],
            **{name: list(closes) for name in FIGURES[:-1]},
            "volume": [1.0] * len(closes),
        }
    )
    for name, figure in figures.items():
        frame.loc[len(frame) - 1, name] = figure
    return frame


def check(frame: pd.DataFrame, **options: Any) -> Checked:
    return check_candles(frame, **{"last_finished_day": LAST, **options})


def closes(checked: Checked) -> list[float]:
    return checked.accepted["close"].tolist()


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"close": np.nan}, "the close is unknown"),
        ({"close": np.inf, "high": np.inf}, "high inf is not a finite positive price; close inf"),
        ({"low": 0.0}, "low 0.0 is not a finite positive price"),
        ({"open": -5.0, "low": -6.0}, "open -5.0 is not a finite positive price; low -6.0 is not"),
        ({"open": 98.5, "low": 99.0}, "low 99.0 above open 98.5"),
        ({"open": 101.0}, "open 101.0 above high 100.0"),
        ({"low": 100.5, "open": np.nan}, "low 100.5 above close 100.0"),
        ({"high": 99.0, "open": np.nan}, "close 100.0 above high 99.0"),
        ({"volume": -1.0}, "volume -1.0 is negative or not finite"),
        ({"volume": np.inf}, "volume inf is negative or not finite"),
    ],
)
def test_a_row_that_breaks_a_rule_is_quarantined(figures: dict[str, Any], reason: str) -> None:
    checked = check(candles(100.0, 100.0, **figures))
    assert closes(checked) == [100.0]
    assert checked.quarantined["day_utc"].tolist() == ["2019-01-02"]
    assert checked.quarantined["reason"][0].startswith(reason)


@pytest.mark.parametrize(
    "figures", [{}, dict.fromkeys(["open", "high", "low", "volume"], np.nan), {"volume": 0.0}]
)
def test_good_candles_enter_as_they_are_with_unknown_figures_and_zero_volume(figures: dict[str, Any]) -> None:
    frame = candles(100.0, 110.0, 300.0, **figures)
    checked = check(frame)
    pd.testing.assert_frame_equal(checked.accepted, frame)
    assert checked.quarantined.empty
    assert list(checked.quarantined) == REJECTED_COLUMNS


def test_unfinished_and_unknown_days_are_quarantined() -> None:
    frame = candles(100.0, 101.0, 102.0)
    checked = check(frame, last_finished_day=date(2019, 1, 2))
    assert closes(checked) == [100.0, 101.0]
    assert checked.quarantined["reason"].tolist() == [
        "day 2019-01-03 is not finished, the last finished day is 2019-01-02"
    ]
    frame.loc[1, "day_utc"] = pd.NaT
    checked = check(frame)
    assert closes(checked) == [100.0, 102.0]
    assert checked.quarantined.iloc[0].tolist()[::2] == [None, "its day is unknown"]


def test_raw_holds_the_figures() -> None:
    checked = check(candles(100.0, 100.0, open=np.nan, high=np.inf, volume=-np.inf))
    assert json.loads(checked.quarantined["raw"][0]) == {
        "day_utc": "2019-01-02",
        "open": None,
        "high": "inf",
        "low": 100.0,
        "close": 100.0,
        "volume": "-inf",
    }


@pytest.mark.parametrize(("spike", "ratio"), [(400_000.0, "100.0 times"), (40.0, "1/100.0 of")])
def test_a_spike_costs_only_itself(spike: float, ratio: str) -> None:
    checked = check(candles(4000.0, 4000.0, spike, 4000.0, 4000.0))
    assert closes(checked) == [4000.0] * 4
    assert checked.quarantined["reason"].tolist() == [
        f"close {spike} is {ratio} the close of 2019-01-02 (4000.0), more than 3 a day"
    ]


def test_exactly_the_factor_is_accepted_and_a_bit_more_is_not() -> None:
    assert closes(check(candles(100.0, 300.0, 100.0))) == [100.0, 300.0, 100.0]
    assert closes(
        check(candles(100.0, np.nextafter(300.0, 400.0)), previous=(date(2018, 12, 31), 100.0))
    ) == [100.0]


def test_the_allowance_grows_with_the_days_between() -> None:
    assert closes(check(candles(100.0, 100.0, 850.0, days=[0, 1, 3]))) == [100.0, 100.0, 850.0]
    checked = check(candles(100.0, 100.0, 901.0, days=[0, 1, 3]))
    assert checked.quarantined["reason"].tolist() == [
        "close 901.0 is 9.01 times the close of 2019-01-02 (100.0), more than 3 a day over 2 days"
    ]
    far = candles(1e-300, 9e299)
    far.loc[1, "day_utc"] = pd.Timestamp("2100-01-01")
    assert len(check(far, last_finished_day=date(2100, 1, 1), previous=(FIRST, 1e-300)).accepted) == 2


def test_previous_is_the_reference_of_the_first_row() -> None:
    frame = candles(1000.0, 1000.0, 1000.0)
    checked = check(frame.head(1), previous=(date(2018, 12, 31), 100.0))
    assert checked.quarantined["reason"].tolist() == [
        "close 1000.0 is 10.0 times the close of 2018-12-31 (100.0), more than 3 a day",
    ]
    assert closes(check(frame, previous=(date(2018, 12, 29), 100.0))) == [1000.0] * 3
    # Days fetched again may lie before the newest stored one.
    assert closes(check(frame, previous=(date(2019, 6, 1), 900.0))) == [1000.0] * 3


def test_an_absurd_first_row_is_quarantined_and_not_all_others() -> None:
    checked = check(candles(400_000.0, 4000.0, 4010.0, 4020.0, 4030.0, 4040.0))
    assert closes(checked) == [4000.0, 4010.0, 4020.0, 4030.0, 4040.0]
    assert "the median of the first 5 closes (4020.0)" in checked.quarantined["reason"][0]


def test_quarantined_rows_are_no_reference() -> None:
    frame = candles(100.0, 1000.0, 100.0)
    frame.loc[1, "volume"] = -1.0
    assert closes(check(frame)) == [100.0, 100.0]


figure = st.one_of(
    st.floats(50, 200),
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-320, 1e308, 100.0, 300.0, 900.0]),
)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(st.integers(1, 3), figure, figure, figure, figure, figure), max_size=25),
    flat=st.booleans(),
    previous=st.none() | st.tuples(st.just(date(2018, 12, 30)), st.floats(50, 200)),
)
def test_every_row_is_accepted_or_quarantined_by_the_rules(
    rows: list[tuple[float, ...]], flat: bool, previous: tuple[date, float] | None
) -> None:
    frame = candles(*[row[1] for row in rows], days=np.cumsum([row[0] for row in rows], dtype=int).tolist())
    if not flat:
        frame[FIGURES] = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 5)
    before = frame.copy(deep=True)
    last = FIRST + timedelta(days=30)
    checked = check(frame, last_finished_day=last, previous=previous)
    pd.testing.assert_frame_equal(frame, before)

    quarantined = set(checked.quarantined["day_utc"])
    assert len(quarantined) == len(checked.quarantined)
    kept = [day.strftime("%Y-%m-%d") not in quarantined for day in frame["day_utc"]]
    pd.testing.assert_frame_equal(
        checked.accepted, frame.loc[np.array(kept, dtype=bool)].reset_index(drop=True)
    )
    assert (checked.quarantined["reason"] != "").all()

    good = checked.accepted
    assert (good["day_utc"] <= pd.Timestamp(last)).all()
    assert (np.isfinite(good["close"]) & (good["close"] > 0)).all()
    for name in FIGURES[:-1]:
        assert (good[name].isna() | (np.isfinite(good[name]) & (good[name] > 0))).all()
        assert not ((good[name] > good["high"]) | (good[name] < good["low"])).any()
    assert (good["volume"].isna() | (np.isfinite(good["volume"]) & (good["volume"] >= 0))).all()
    accepted_by_rule = {pd.Timestamp(one.day) for one in checked.decisions if one.kind == "accepted"}
    assert accepted_by_rule <= set(good["day_utc"])
    for one, two in zip(good.index[:-1], good.index[1:], strict=True):
        if good["day_utc"][two] in accepted_by_rule:
            continue
        span = (good["day_utc"][two] - good["day_utc"][one]).days
        near, far = sorted([float(good["close"][one]), float(good["close"][two])])
        assert far <= near * 3.0**span


@pytest.mark.parametrize("spikes", [0, 250])
def test_a_quarter_of_a_million_rows_in_seconds(spikes: int) -> None:
    count = 250_000
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    where = np.arange(spikes) * 900 + 10
    close[where] *= 1000
    frame = candle_frame(
        {
            "day_utc": np.datetime64("1000-01-01", "s") + np.arange(count) * np.timedelta64(86_400, "s"),
            **dict.fromkeys(FIGURES, close),
        }
    )
    begun = time.process_time()
    checked = check(frame, last_finished_day=date(9000, 1, 1))
    assert time.process_time() - begun < 4  # under 0.3 s
    assert len(checked.quarantined) == spikes
    assert len(checked.accepted) == count - spikes
