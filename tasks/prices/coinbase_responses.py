"""What an answer of the exchange is worth: final, worth asking again, or a refusal."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from urllib3.exceptions import IncompleteRead

from storage.core.errors import BadProduct, ExchangeRefused
from tasks.prices.session import Passing

# A time-out, too early, too many: these may be gone the next time, as may all from 500 on.
MAY_PASS = (408, 425, 429)
MAX_ROWS = 3000  # of an answer that is still read as a page of at most 300
MAX_BYTES = 4 * 2**20  # of a body, decompressed


def read_body(response: requests.Response) -> bytes:
    """The body of a streamed answer, decompressed.

    Args:
        response: made with `stream=True`, nothing read of it.

    Raises:
        ExchangeRefused: more than MAX_BYTES.
    """
    body = bytearray()
    # read1 returns what one read brings: read() would wait on a trickle until its buffer is full.
    while piece := response.raw.read1(65536, decode_content=True):
        body += piece
        if len(body) > MAX_BYTES:
            raise ExchangeRefused(
                f"an answer of the exchange needs at most {MAX_BYTES} bytes, more came;"
                " check CLOSECAST_COINBASE_URL"
            )
    return bytes(body)


def judge(response: requests.Response, payload: bytes, product_id: str) -> list[Any]:
    """The rows of a good answer.

    Raises:
        Passing: 408, 425, 429, 5xx, or a success without an array: asking again can help.
        BadProduct: 404 in the exchange's own words.
        ExchangeRefused: any other, a redirect included.
    """
    status, content = response.status_code, parse(payload)
    message = content.get("message") if isinstance(content, dict) else None
    said = one_line(message) if isinstance(message, str) else _looks(payload, content)
    if 200 <= status < 300:
        if isinstance(content, list) and len(content) <= MAX_ROWS:
            return content
        raise Passing(f"{status} without an array of candles ({said})")
    if status in MAY_PASS or status >= 500:
        raise Passing(f"{status} ({said})")
    if status == 404 and isinstance(message, str):
        raise BadProduct(
            f"the exchange knows no product {product_id}; check its spelling, for example BTC-USD ({said})"
        )
    if 300 <= status < 400:
        to = one_line(response.headers.get("Location", "nowhere"))
        raise ExchangeRefused(
            f"the exchange answered {status}, a redirect to {to}, which is not followed;"
            " check CLOSECAST_COINBASE_URL"
        )
    raise ExchangeRefused(
        f"the exchange refused {product_id} with {status}: {said}; check the days and CLOSECAST_COINBASE_URL"
    )


def made_at(response: requests.Response) -> datetime | None:
    """When the answer was made, by the clock of whoever made it; None where the Date says nothing."""
    try:
        moment = parsedate_to_datetime(response.headers["Date"])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


def parse(payload: bytes) -> Any:
    """The JSON of a body, None where it is not JSON."""
    try:
        return json.loads(payload, parse_int=_whole)
    except (ValueError, RecursionError):
        return None


def _whole(digits: str) -> int | float:
    # int() refuses thousands of digits, which would lose the page for the sake of one row.
    return int(digits) if len(digits) <= 1000 else float(digits)


def _looks(payload: bytes, content: Any) -> str:
    """What a body without a message looks like."""
    if isinstance(content, list):
        return f"an array of {len(content)}"
    if content is not None:
        return "JSON that is no array"
    if not payload:
        return "an empty body"
    return "an HTML page" if payload.lstrip().startswith(b"<") else "JSON cut short or none"


def one_line(text: str) -> str:
    """Foreign text fit for a message: one line of at most 200 printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def why(error: BaseException) -> str:
    """What went wrong underneath, in a few words: the system's own where there are any."""
    link: BaseException | None = error
    said = ""
    while link is not None:
        if isinstance(link, requests.Timeout | TimeoutError):
            return "nothing in time"
        if isinstance(link, IncompleteRead):
            return "a body cut short"
        if isinstance(link, OSError) and link.strerror:
            return one_line(link.strerror).lower()
        said = one_line(str(link)) or said
        link = link.__cause__ or link.__context__
    return said or type(error).__name__
