from __future__ import annotations

import hashlib
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closecast.storage.core.candle_schema import CANDLE_COLUMNS, candle_frame
from closecast.storage.prices import digest as module
from closecast.storage.prices.digest import digest

FIGURE = st.floats(min_value=0, max_value=1e300) | st.just(np.nan) | st.integers(0, 10**12).map(float)
Row = tuple[date, float, float, float, float, float]
ROWS = st.lists(st.tuples(st.dates(date(401, 1, 1)), *[FIGURE] * 5), min_size=1, max_size=12)


def expected(rows: list[Row]) -> str:
    texts = (
        ",".join([day.isoformat(), *("" if figure != figure else repr(figure) for figure in figures)])
        for day, *figures in rows
    )
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()


def frame(rows: list[Row]) -> pd.DataFrame:
    return candle_frame([dict(zip(CANDLE_COLUMNS, row, strict=True)) for row in rows])


@given(ROWS)
def test_figures_are_written_as_python_writes_them(rows: list[Row]) -> None:
    assert digest(frame(rows)) == expected(rows)


@pytest.mark.parametrize(
    "figure", [0.0, 5e-324, 9.9999e-05, 1e-4, 0.1 + 0.2, 7000.0, 9999999999.99, 1e10, 1e15, 1e16, 1e22, 1e299]
)
def test_notation_at_its_boundaries(figure: float) -> None:
    above, below = float(np.nextafter(figure, 1e300)), float(np.nextafter(figure, 0.0))
    rows = [(date(2020, 1, 1), figure, above, figure, below, np.nan)]
    assert digest(frame(rows)) == expected(rows)


def test_a_digest_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(date(2020, 1, n + 1), float(n), 1.5, np.nan, 2.25, 0.0) for n in range(20)]
    for chunk in (1, 7, 19, 20, 21):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert digest(frame(rows)) == expected(rows)
    assert digest(frame([])) == expected([])
