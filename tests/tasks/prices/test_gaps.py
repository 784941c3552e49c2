from datetime import date, timedelta
from itertools import pairwise

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.tasks.prices.gaps import find_gaps

FIRST = date(2019, 1, 1)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 60), max_size=60))
def test_gaps_are_exactly_the_missing_days(present: list[int]) -> None:
    days = [FIRST + timedelta(days=number) for number in present]
    gaps = find_gaps(pd.Series(days, dtype="datetime64[s]"))
    missing = [day.date() for start, end in gaps for day in pd.date_range(start, end)]
    span = range(min(present, default=0), max(present, default=-1))
    assert missing == [FIRST + timedelta(days=number) for number in span if number not in present]
    assert all((start - end).days > 1 for (_, end), (start, _) in pairwise(gaps))
