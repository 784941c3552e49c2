"""Fixtures of the tests on a whole platform: an exchange that has one more day than is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta

import pandas as pd
import pytest

from flows.clock import last_complete_day
from tests.exchange import Exchange

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def newest() -> date:
    """The newest complete day, the same although midnight may pass during the test."""
    return last_complete_day()


@pytest.fixture(scope="module")
def candles(walk: Callable[..., pd.DataFrame], newest: date) -> pd.DataFrame:
    """With one day more, so that a run after midnight gets the day that it asks for."""
    return walk(newest + DAY, days=461)


@pytest.fixture(scope="module")
def exchange(candles: pd.DataFrame) -> Iterator[Exchange]:
    with Exchange({"BTC-USD": candles}) as served:
        yield served
