"""Candles and quarantined rows of the exchange against the responses that they came with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from closecast.storage.core.candle_schema import FIGURES, rejected_frame
from closecast.storage.core.errors import ClosecastError
from closecast.storage.core.home import Home
from closecast.storage.prices.raw_responses import read_raw
from closecast.tasks.prices.coinbase_responses import parse, read_rows
from closecast.tasks.prices.validation import rejected_row


def changed_from_response(home: Home, product_id: str, candles: pd.DataFrame) -> Iterator[str]:
    """A line for each candle of the exchange that is not in its response."""
    for response, own in _by_response(home, candles):
        if isinstance(response, ClosecastError):
            yield str(response)
            continue
        rows, _ = read_rows(response, own["day_utc"].min().date(), own["day_utc"].max().date())
        expected = {row[0]: row[1:] for row in rows.itertuples(index=False, name=None)}
        for day, *row in own[["day_utc", *FIGURES]].itertuples(index=False, name=None):
            if not np.array_equal(np.array(expected.get(day, ()), "float64"), row, equal_nan=True):
                yield f"the candle of {product_id} of {day.date()} is not in the response that it came with"


def missing_in_response(home: Home, product_id: str, quarantined: pd.DataFrame) -> Iterator[str]:
    """A line for each quarantined row of the exchange that is not in its response."""
    for response, own in _by_response(home, quarantined):
        if isinstance(response, ClosecastError):
            yield str(response)
            continue
        candles, rejected = read_rows(response, date.min, date.max)
        others = rejected_frame([rejected_row(one, "") for one in candles.to_dict("records")])
        rows = pd.concat([rejected, others], ignore_index=True)
        days = dict(zip(rows["raw"], rows["day_utc"], strict=True))
        for day, raw in own[["day_utc", "raw"]].itertuples(index=False, name=None):
            if raw not in days or day not in (None, days[raw]):  # a day before the year 401 is not stored
                about = f"the quarantined row of {product_id} of {day or 'no day'}"
                yield f"{about} is not in the response that it came with"


def _by_response(home: Home, rows: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The rows of the exchange by the response that they came with, or by why it cannot be read."""
    for payload, own in rows[rows["source"] == "coinbase"].groupby("payload_sha256", sort=False):
        try:
            yield parse(read_raw(home, str(payload))), own
        except ClosecastError as error:
            yield error, own
