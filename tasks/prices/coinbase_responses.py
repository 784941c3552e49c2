"""A response of the exchange → its rows, or the error that it stands for; the rows → candles."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pandas as pd
import requests

from storage.core.candle_schema import candle_frame, rejected_frame
from storage.core.errors import BadProduct, ExchangeRefused

DAY = 86400  # seconds
EPOCH = date(1970, 1, 1)
FIGURES = ("low", "high", "open", "close", "volume")  # of a row after its time, in the exchange's order
TRANSIENT_STATUSES = (408, 425, 429)  # a time-out, too early, too many requests
MAX_ROWS = 3000  # of a response; a page asks for at most 300
MAX_BYTES = 4 * 2**20  # of a body, decompressed
CHUNK_BYTES = 2**14  # read at a time: so few that they unpack to some megabytes at most


class TransientError(Exception):
    """A failure that may be gone on the next attempt; its text is one line."""


def read_body(response: requests.Response) -> bytes:
    """The whole body of a streamed response, decompressed; more than MAX_BYTES raise `ExchangeRefused`."""
    body = bytearray()
    for chunk in response.iter_content(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BYTES:
            raise ExchangeRefused(
                f"a response of the exchange needs at most {MAX_BYTES} bytes, this one has more;"
                " check CLOSECAST_COINBASE_URL"
            )
    return bytes(body)


def sent_at(response: requests.Response) -> datetime | None:
    """The response's moment by the server's clock; None where its Date is missing or unreadable."""
    try:
        moment = parsedate_to_datetime(response.headers["Date"])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


def rows_of(response: requests.Response, body: bytes, product_id: str) -> list[Any]:
    """The rows of a good response.

    Raises:
        TransientError: 408, 425, 429, 5xx, or a success without an array.
        BadProduct: 404 with a message of the exchange.
        ExchangeRefused: any other, a redirect included.
    """
    status, content = response.status_code, parse(body)
    message = content.get("message") if isinstance(content, dict) else None
    detail = printable(message) if isinstance(message, str) else _describe(body, content)
    if 200 <= status < 300:
        if isinstance(content, list) and len(content) <= MAX_ROWS:
            return content
        raise TransientError(f"{status} without an array of candles ({detail})")
    if status in TRANSIENT_STATUSES or status >= 500:
        raise TransientError(f"{status} ({detail})")
    if status == 404 and isinstance(message, str):
        raise BadProduct(
            f"the exchange has no product {product_id}; check its spelling, for example BTC-USD ({detail})"
        )
    if 300 <= status < 400:
        target = printable(response.headers.get("Location", "nowhere"))
        detail = f"a redirect to {target}, which is not followed"
    raise ExchangeRefused(
        f"the exchange refused {product_id} with {status}: {detail};"
        " check the days and CLOSECAST_COINBASE_URL"
    )


def parse(body: bytes) -> Any:
    """The JSON of a body, None where it is not JSON."""
    try:
        # int() refuses thousands of digits, and one such number would cost the whole page.
        return json.loads(body, parse_int=lambda digits: (int if len(digits) <= 1000 else float)(digits))
    except (ValueError, RecursionError):
        return None


def read_rows(rows: list[Any], first: date, last: date) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows `[time, low, high, open, close, volume]` as a candle_frame, oldest first, and a rejected_frame.

    Rows of days outside the inclusive span are dropped. A row that cannot be read is rejected, and so is
    every row of a day with different figures. A repeated row counts once. `raw` is the first 500 characters
    of the row's JSON.
    """
    lowest, highest = (first - EPOCH).days, (last - EPOCH).days
    versions: dict[int, dict[tuple[float, ...], Any]] = {}
    rejected: list[tuple[int | None, Any, str]] = []
    for row in rows:
        day = _day_number(row)
        if day is None:
            rejected.append((None, row, "its time is not midnight UTC in whole seconds"))
        elif lowest <= day <= highest:
            figures = tuple(_number(value) for value in row[1:])
            bad = [name for name, figure in zip(FIGURES, figures, strict=False) if math.isnan(figure)]
            if len(row) != 6:
                rejected.append((day, row, f"a candle has six values, this row {len(row)}"))
            elif bad:
                rejected.append((day, row, f"no finite number: {', '.join(bad)}"))
            else:
                versions.setdefault(day, {}).setdefault(figures, row)
    candles: list[dict[str, object]] = []
    for day, by_figures in sorted(versions.items()):
        if len(by_figures) == 1:
            (figures,) = by_figures
            candles.append({"day_utc": _date(day), **dict(zip(FIGURES, figures, strict=True))})
        else:
            reason = f"the day has {len(by_figures)} rows with different figures"
            rejected += [(day, row, reason) for row in by_figures.values()]
    return candle_frame(candles), rejected_frame(
        [
            {"day_utc": None if day is None else str(_date(day)), "raw": json.dumps(row)[:500], "reason": why}
            for day, row, why in rejected
        ]
    )


def printable(text: str) -> str:
    """Foreign text fit for a message: one line of at most 200 printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def _describe(body: bytes, content: Any) -> str:
    """What a body without a message is."""
    if isinstance(content, list):
        return f"an array of {len(content)}"
    if content is not None:
        return "JSON but no array"
    if not body:
        return "an empty body"
    return "an HTML page" if body.lstrip().startswith(b"<") else "incomplete JSON or none"


def _date(day: int) -> date:
    return EPOCH + timedelta(days=day)


def _day_number(row: Any) -> int | None:
    """Days since 1970 of a row, None where it does not begin with the time of a midnight."""
    time: Any = row[0] if isinstance(row, list) and row else None
    return int(time // DAY) if not math.isnan(_number(time)) and time % DAY == 0 else None


def _number(value: Any) -> float:
    """A JSON number as a float64, NaN for anything else, infinite numbers included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan
