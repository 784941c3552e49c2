"""A response of the exchange → its rows, or the error that it stands for; the rows → candles."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Response:
    """A complete response: status, headers, and the body decompressed."""

    status: int
    headers: Mapping[str, str]  # whatever the case of their names
    body: bytes

    @property
    def sent_at(self) -> datetime | None:
        """The response's moment by the server's clock; None where its Date is missing or unreadable."""
        try:
            moment = parsedate_to_datetime(self.headers["Date"])
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (LookupError, ValueError, TypeError, OverflowError):
            return None


def read_response(response: requests.Response) -> Response:
    """Read a streamed response to its end, decompressed.

    Raises:
        ExchangeRefused: more than MAX_BYTES.
        requests.RequestException: the body breaks off, or is not what its headers say.
    """
    body = bytearray()
    for chunk in response.iter_content(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BYTES:
            raise ExchangeRefused(
                f"a response of the exchange needs at most {MAX_BYTES} bytes, this one has more;"
                " check CLOSECAST_COINBASE_URL"
            )
    return Response(response.status_code, response.headers, bytes(body))


def rows_of(response: Response, product_id: str) -> list[Any]:
    """The rows of a good response.

    Raises:
        TransientError: 408, 425, 429, 5xx, or a success without an array.
        BadProduct: 404 with a message of the exchange.
        ExchangeRefused: any other, a redirect included.
    """
    status, content = response.status, parse(response.body)
    message = content.get("message") if isinstance(content, dict) else None
    detail = printable(message) if isinstance(message, str) else _describe(response.body, content)
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
        raise ExchangeRefused(
            f"the exchange responded {status}, a redirect to {target}, which is not followed;"
            " check CLOSECAST_COINBASE_URL"
        )
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
    rejected: list[dict[str, object]] = []
    for row in rows:
        day = _day_number(row)
        if day is None:
            rejected.append(_rejected(None, row, "its time is not midnight UTC in whole seconds"))
        elif lowest <= day <= highest:
            figures, reason = _figures(row)
            if reason:
                rejected.append(_rejected(day, row, reason))
            else:
                versions.setdefault(day, {}).setdefault(figures, row)
    candles: list[dict[str, object]] = []
    for day, by_figures in sorted(versions.items()):
        if len(by_figures) == 1:
            (figures,) = by_figures
            moment = pd.Timestamp(day * DAY, unit="s")
            candles.append({"day_utc": moment} | dict(zip(FIGURES, figures, strict=True)))
        else:
            reason = f"the day has {len(by_figures)} rows with different figures"
            rejected += [_rejected(day, row, reason) for row in by_figures.values()]
    return candle_frame(candles), rejected_frame(rejected)


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


def _day_number(row: Any) -> int | None:
    """Days since 1970 of a row, None where it does not begin with the time of a midnight."""
    time: Any = row[0] if isinstance(row, list) and row else ""
    return int(time // DAY) if _number(time) is not None and time % DAY == 0 else None


def _figures(row: list[Any]) -> tuple[tuple[float, ...], str]:
    """The five figures after the time, or the reason why they cannot be read."""
    if len(row) != 6:
        return (), f"a candle has six values, this row {len(row)}"
    numbers = [_number(value) for value in row[1:]]
    bad = [name for name, number in zip(FIGURES, numbers, strict=True) if number is None]
    return tuple(n for n in numbers if n is not None), f"no finite number: {', '.join(bad)}" if bad else ""


def _number(value: Any) -> float | None:
    """A JSON number as a finite float64, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _rejected(day: int | None, row: Any, reason: str) -> dict[str, object]:
    iso = None if day is None else (EPOCH + timedelta(days=day)).isoformat()
    return {"day_utc": iso, "raw": json.dumps(row)[:500], "reason": reason}
