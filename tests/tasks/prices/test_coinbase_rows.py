import json
import math
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.core.candle_schema import CANDLE_COLUMNS
from tasks.prices.coinbase_rows import read_rows

SPAN = (date(2019, 10, 1), date(2019, 10, 10))
AT = 1569888000  # 2019-10-01
GOOD = [AT, 1.0, 3.0, 2.0, 2.5, 7.0]


@pytest.mark.parametrize(
    ("row", "day", "reason"),
    [
        ("text", None, "its time"),
        (None, None, "its time"),
        ([], None, "its time"),
        ({"time": AT}, None, "its time"),
        ([str(AT), 1, 3, 2, 2.5, 7], None, "its time"),
        ([True, 1, 3, 2, 2.5, 7], None, "its time"),
        ([AT + 1, 1, 3, 2, 2.5, 7], None, "its time"),
        ([AT + 0.5, 1, 3, 2, 2.5, 7], None, "its time"),
        ([math.nan, 1, 3, 2, 2.5, 7], None, "its time"),
        ([math.inf, 1, 3, 2, 2.5, 7], None, "its time"),
        ([AT], "2019-10-01", "six values, this row 1"),
        ([*GOOD, 8], "2019-10-01", "six values, this row 7"),
        ([AT, None, 3, 2, 2.5, 7], "2019-10-01", "low"),
        ([AT, 1, "3", 2, 2.5, 7], "2019-10-01", "high"),
        ([AT, 1, 3, True, 2.5, 7], "2019-10-01", "open"),
        ([AT, 1, 3, 2, math.nan, 7], "2019-10-01", "close"),
        ([AT, 1, 3, 2, -math.inf, 7], "2019-10-01", "close"),
        ([AT, 1, 3, 2, [2], 7], "2019-10-01", "close"),
        ([AT, 1, 3, 2, 10**309, math.inf], "2019-10-01", "close, volume"),
    ],
)
def test_a_row_that_is_no_candle(row: Any, day: str | None, reason: str) -> None:
    candles, rejected = read_rows([row], *SPAN)
    assert candles.empty
    assert list(candles.columns) == CANDLE_COLUMNS
    assert rejected["day_utc"].tolist() == [day]
    assert reason in rejected["reason"][0]
    assert rejected["raw"][0] == json.dumps(row)[:500]


def test_columns_are_not_confused() -> None:
    candles, rejected = read_rows([GOOD], *SPAN)
    assert rejected.empty
    assert candles.to_dict("records") == [
        {
            "day_utc": pd.Timestamp("2019-10-01"),
            "low": 1.0,
            "high": 3.0,
            "open": 2.0,
            "close": 2.5,
            "volume": 7.0,
        }
    ]


def test_days_far_outside_are_dropped_whatever_they_hold() -> None:
    rows = [[86400 * 10**12, 1, 3, 2, 2.5, 7], [-86400 * 10**300, None], [AT - 86400, "x"], GOOD]
    candles, rejected = read_rows(rows, *SPAN)
    assert len(candles) == 1
    assert rejected.empty


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([AT, AT + 86400]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)
candle_like = st.tuples(
    st.sampled_from([AT, AT + 86400, AT - 86400]), *[st.floats() | st.integers() | st.none()] * 5
).map(list)


@given(st.lists(candle_like | json_values, max_size=8))
def test_whatever_comes_only_what_was_said_becomes_a_candle(rows: list[Any]) -> None:
    candles, rejected = read_rows(rows, *SPAN)
    assert rejected["reason"].astype(bool).all()
    assert candles["day_utc"].is_monotonic_increasing
    assert candles["day_utc"].is_unique
    assert candles["day_utc"].between(pd.Timestamp(SPAN[0]), pd.Timestamp(SPAN[1])).all()
    assert np.isfinite(candles.drop(columns="day_utc").to_numpy()).all()
    known = [row for row in rows if isinstance(row, list) and len(row) == 6]
    for day, candle in candles.set_index("day_utc").iterrows():
        at = int(pd.Timestamp(str(day)).timestamp())
        figures = [candle[f"{name}"] for name in ("low", "high", "open", "close")] + [candle["volume"]]
        assert any(row[0] == at and row[1:] == figures for row in known)
