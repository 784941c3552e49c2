from datetime import date, timedelta
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.core.errors import BadDay, ClosecastError, NotEnoughHistory, StaleSeries
from tasks.prices.gaps import find_gaps, require_origin

FIRST = date(2019, 1, 1)


def series(*numbers: int) -> pd.Series:
    return pd.Series([FIRST + timedelta(days=number) for number in numbers], dtype="datetime64[s]")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 60), max_size=60))
def test_gaps_are_exactly_the_missing_days(present: list[int]) -> None:
    gaps = find_gaps(series(*present))
    missing = [day.date() for start, end in gaps for day in pd.date_range(start, end)]
    span = range(min(present, default=0), max(present, default=-1))
    assert missing == [FIRST + timedelta(days=number) for number in span if number not in present]
    for (_, end), (start, _) in pairwise(gaps):
        assert (start - end).days > 1


DAYS = series(0, 1, 2, 5, 6, 7)  # a gap on 4 and 5 January


@pytest.mark.parametrize(
    ("origin", "min_days", "consecutive_days"),
    [(None, 6, 3), (date(2019, 1, 8), 6, 3), (date(2019, 1, 3), 3, 3), (date(2019, 1, 6), 4, 1)],
)
def test_an_origin_with_enough_closes(origin: date | None, min_days: int, consecutive_days: int) -> None:
    last = require_origin("BTC-USD", DAYS, origin, min_days=min_days, consecutive_days=consecutive_days)
    assert last == (origin or date(2019, 1, 8))


@pytest.mark.parametrize(
    ("days", "origin", "error", "message"),
    [
        (series(), None, StaleSeries, "BTC-USD has no closes at all"),
        (DAYS, date(2018, 12, 31), BadDay, "begins on 2019-01-01, the origin is 2018-12-31"),
        (DAYS, date(2019, 1, 5), StaleSeries, "no close of 2019-01-05, .*choose --as-of 2019-01-03"),
        (DAYS, date(2019, 1, 9), StaleSeries, "no close of 2019-01-09, .*choose --as-of 2019-01-08"),
        (DAYS, date(2019, 1, 2), NotEnoughHistory, "needs 3 days of closes up to 2019-01-02, there are 2"),
        (DAYS, date(2019, 1, 7), NotEnoughHistory, "needs 3 consecutive days .* 2 since .* 2019-01-05"),
    ],
)
def test_an_origin_without_enough_closes_is_refused(
    days: pd.Series, origin: date | None, error: type[ClosecastError], message: str
) -> None:
    with pytest.raises(error, match=message):
        require_origin("BTC-USD", days, origin, min_days=3, consecutive_days=3)
