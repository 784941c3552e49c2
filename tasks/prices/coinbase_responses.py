"""A response of the exchange → its rows or an error; the rows → candles."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from closecast.storage.core.candle_schema import candle_frame, rejected_frame
from closecast.storage.core.errors import BadProduct, ExchangeRefused

if TYPE_CHECKING:
    import requests

DAY = 86400  # seconds
EPOCH = date(1970, 1, 1)
FIGURES = ("low", "high", "open", "close", "volume")  # of a row after its time, in the exchange's order
TRANSIENT_STATUSES = (408, 425, 429)  # a time-out, too early, too many requests
# Of a time, by its size: from 5138 on in seconds it is another unit; how many make a second.
UNITS = (
    *((1e17, "nanoseconds", 10**9), (1e14, "microseconds", 10**6), (1e11, "milliseconds", 10**3)),
    (-math.inf, "seconds", 1),
)
MAX_RETRY_AFTER = 1e9  # seconds: nobody waits for so long, so more is the same
MAX_ROWS = 3000  # of a response; a page asks for at most 300
MAX_BYTES = 4 * 2**20  # of a body, decompressed
CHUNK_BYTES = 2**14  # read at a time: so few that they unpack to some megabytes at most


class TransientError(Exception):
    """A failure that may not occur on the next attempt; its text is one line.

    `retry_after` is the pause in seconds that the exchange asks for.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


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
    """The response's moment by the server's clock; None if its Date is missing or unreadable."""
    return _moment(response.headers.get("Date", ""))


def _moment(text: str) -> datetime | None:
    """The moment of an HTTP date, None for other text."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


def retry_after(response: requests.Response) -> float:
    """The seconds of a Retry-After header; 0 if it is missing or unreadable.

    A date counts from the response's own Date: this machine's clock may be wrong.
    """
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return min(float(text), MAX_RETRY_AFTER)
    until, sent = _moment(text), sent_at(response)
    return max(0.0, (until - sent).total_seconds()) if until and sent else 0.0


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
        raise TransientError(f"{status} ({detail})", retry_after(response))
    if status == 404 and isinstance(message, str):
        raise BadProduct(
            f"the exchange has no product {product_id} ({detail}): check its spelling, or take it out if it"
            " is delisted"
        )
    if 300 <= status < 400:
        target = printable(response.headers.get("Location", "nowhere"))
        detail = f"a redirect to {target}, which is not followed"
    raise ExchangeRefused(
        f"the exchange refused {product_id} with {status}: {detail};"
        " check the days and CLOSECAST_COINBASE_URL"
    )


def parse(body: bytes) -> Any:
    """The JSON of a body, None if it is not JSON."""
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
        day, unit = _day_number(row)
        if day is None:
            rejected.append((None, row, "its time is not midnight UTC in whole seconds"))
        elif lowest <= day <= highest and unit != "seconds":
            rejected.append((day, row, f"its time is in {unit}, and seconds are needed"))
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
    if isinstance(content, list):
        return f"an array of {len(content)}"
    if content is not None:
        return "JSON but no array"
    if not body:
        return "an empty body"
    return "an HTML page" if body.lstrip().startswith(b"<") else "incomplete JSON or none"


def _date(day: int) -> date:
    return EPOCH + timedelta(days=day)


def _day_number(row: Any) -> tuple[int | None, str]:
    """Days since 1970 of a row and the unit of its time; None if that is not of a midnight."""
    time: Any = row[0] if isinstance(row, list) and row else None
    if math.isnan(_number(time)):
        return None, ""
    unit, share = next(((unit, share) for at_least, unit, share in UNITS if time >= at_least))
    return (int(time // (share * DAY)) if time % (share * DAY) == 0 else None), unit


def _number(value: Any) -> float:
    """A JSON number as a float64, NaN for anything else, infinite numbers included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan
