"""What the reader makes of the tests' files."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_reader import FileCandles, read_candles
from closecast.tasks.prices.file_table import FileOptions


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
