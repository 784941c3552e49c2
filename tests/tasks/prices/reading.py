"""What the reader makes of the tests' files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_reader import FileCandles, read_candles
from closecast.tasks.prices.file_table import FileOptions

DAYS = [date(2019, 5, 1) + timedelta(days=row) for row in range(40)]
CLOSES = [round(8000 + 37.13 * row * (-1) ** row, 2) for row in range(40)]
ROWS = list(zip(DAYS, CLOSES, strict=True))
RECORDS = [{"date": str(day), "close": close} for day, close in ROWS]


def lines(header: str, row: Callable[[date, float], str]) -> str:
    """A file with the header, if any, and a row for each of ROWS."""
    rows = [row(day, close) for day, close in ROWS]
    return "\n".join([header, *rows] if header else rows) + "\n"


TABLE = lines("Date,Close", lambda day, close: f"{day},{close}")


def read(data: str | bytes, product: str | None = "BTC-USD", **options: Any) -> FileCandles:
    content = data.encode() if isinstance(data, str) else data
    return read_candles(content, product, name="prices.csv", options=FileOptions(**options))


def closes(data: str | bytes, product: str | None = "BTC-USD", **options: Any) -> dict[date, float]:
    found = read(data, product, **options).candles
    return dict(zip(found["day_utc"].dt.date, found["close"], strict=True))


def refusal(data: str | bytes, product: str | None = "BTC-USD", **options: Any) -> str:
    with pytest.raises(BadFile) as caught:
        read(data, product, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
