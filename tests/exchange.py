"""The local exchange: a real HTTP server on loopback that keeps the candles contract, or breaks it.

In a test: `with Exchange({"BTC-USD": frame}, clock=datetime(2019, 10, 18, 0, 20, tzinfo=UTC)) as ex: ex.url`.
By hand: `python tests/exchange.py --csv FILE --product BTC-USD --port 8765 --shift-to-now --fault 502`.

Only what the client asks for is served: daily candles between a start and an end.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import logging
import math
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pandas as pd

DAY = 86400
FIGURES = ("low", "high", "open", "close", "volume")
TOO_MANY = "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
log = logging.getLogger("exchange")

Row = list[Any]  # [time, low, high, open, close, volume]


@dataclass(frozen=True)
class Response:
    """A whole HTTP response; in the queue of faults it replaces the honest one."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """A request and its response; `at` is time.monotonic() on arrival, status 0 is no response."""

    at: float
    path: str
    query: dict[str, str]
    status: int
    fault: str | None
    headers: dict[str, str]
    sent_at: datetime  # by the exchange's own clock, as in the Date header
    rows: list[Any] | None  # the array that was sent, None unless one was sent whole


def error(status: int, message: str) -> Response:
    return Response(status, json.dumps({"message": message}).encode())


def page_of(rows: list[Row]) -> Response:
    """Rows as the JSON array that the exchange sends."""
    return Response(200, json.dumps(rows, separators=(",", ":")).encode())


def _html(status: int) -> Response:
    page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1>cloudflare</body></html>"
    return Response(status, page.encode(), "text/html; charset=UTF-8")


# The empty blocks of a compressed stream without content or end.
NOTHING = b"\x00\x00\x00\xff\xff" * 100
# Whole responses that replace the honest one.
RESPONSES: dict[str, Response] = {
    "403": _html(403),
    "404": error(404, "NotFound"),
    "408": error(408, "Request timeout"),
    "429": error(429, "Public rate limit exceeded"),
    "500": error(500, "Internal server error"),
    "502": _html(502),
    "503": _html(503),
    "504": _html(504),
    "html": _html(200),
    "object": error(200, "Service temporarily unavailable"),
    "empty": page_of([]),
    "redirect": Response(302, b"", headers=(("Location", "https://elsewhere.example/"),)),
    # Not UTF-8, as clients read it.
    "lost": Response(301, b"moved", "text/plain", headers=(("Location", "https://\xff\xfe/"),)),
    "bulky": Response(200, b"[" + b" " * 2**22 + b"]"),
    # 8 MiB of white space in a few kilobytes: a limit on the compressed size alone does not notice it.
    "huge": Response(
        200, gzip.compress(b"[" + b" " * 2**23 + b"]", 1), headers=(("Content-Encoding", "gzip"),)
    ),
}
# Faults of the connection. No response: closed with a reset; open and silent; a line that is not HTTP; a head
# of a byte at a time; "100 Continue" again and again. Half a response: half the body and then nothing; a byte
# at a time; half the body under a whole Content-Length; half the JSON under its own; chunks that break off;
# gzip cut off; gzip damaged; gzip without content or end. Two more that change nothing for a good client:
# gzip, and chunks.
NO_RESPONSE = ("reset", "silent", "nonsense", "slow-head", "continue")
HALF = ("stall", "trickle", "short", "truncated", "chunks-cut", "gzip-cut", "gzip-mangled", "gzip-nothing")
WHOLE = ("gzip", "chunks")
WIRE = (*NO_RESPONSE, *HALF, *WHOLE)
# Faults of the rows of an honest page, newest first, at a place that the seed chooses.
PAGES: dict[str, Callable[[list[Row], int], list[Any]]] = {
    "unordered": lambda rows, _: rows[1::2] + rows[::2],
    "repeat": lambda rows, _: rows[:1] + rows,
    "duplicates": lambda rows, _: [_other_close(row) for row in rows[:1]] + rows,
    "restated": lambda rows, _: [_other_close(row) for row in rows[:1]] + rows[1:],
    "week": lambda rows, _: [_other_close(row) for row in rows[:7]] + rows[7:],
    "gap": lambda rows, where: rows[:where] + rows[where + 5 :],
    "garbage": lambda rows, _: [
        *(spoil(row) for spoil, row in zip(GARBAGE, rows, strict=False)),
        *rows[len(GARBAGE) :],
    ],
}
# Faults of the span: three days more on both sides (the contract warns); the unfinished candle of the running
# day as well; a page from a cache, sent before the last day was over, as its Date says.
SPANS = ("outside", "open", "frozen")
# Faults of one row of an honest page, which the seed chooses.
ROW: dict[str, Callable[[Row], Any]] = {
    "negative": lambda row: [row[0], -abs(row[1]), *row[2:4], -abs(row[4]), row[5]],
    "zero": lambda row: [*row[:4], 0, row[5]],
    "nan": lambda row: [*row[:4], math.nan, row[5]],
    "infinite": lambda row: [*row[:2], math.inf, *row[3:]],
    "absurd": lambda row: [row[0], *(figure * 100 for figure in row[1:5]), row[5]],
    "vast": lambda row: [*row[:5], 1e305],
    "crossed": lambda row: [row[0], row[2] + 1, row[1], *row[3:]],
    "strings": lambda row: [row[0], *map(str, row[1:])],
    "integers": lambda row: [*row[:4], 10**4000, row[5]],
    "milliseconds": lambda row: [row[0] * 1000, *row[1:]],
    "midday": lambda row: [row[0] + DAY // 2, *row[1:]],
    "nested": lambda row: [*row[:4], [[[[row[4]]]]], row[5]],
}
FAULTS = (*RESPONSES, *WIRE, *PAGES, *SPANS, *ROW)
# Rows that are not candles; each replaces another row of the page.
GARBAGE: tuple[Callable[[Row], Any], ...] = (
    lambda row: [*row[:4], None, row[5]],
    lambda row: [*row[:4], str(row[4]), row[5]],
    lambda row: row[:5],
    lambda row: [row[0] + 1, *row[1:]],
    lambda row: [*row[:4], math.nan, row[5]],
    lambda row: [*row[:4], math.inf, row[5]],
    lambda row: [*row[:4], 10**400, row[5]],
    lambda row: {"time": row[0], "close": row[4]},
)


class Exchange:
    """The server; entering it starts it, leaving it stops it.

    Args:
        candles: a frame with the columns of `candle_frame` of `candle_schema` for each product id.
        clock: the exchange's now, which stands still; None for the system's clock. Can be assigned later.
        faults: for the next requests, in order: a name in FAULTS, "ok" or a Response; add more with
            `ex.faults.extend(...)`.
        seed: of the rows that a fault changes.
        rate: requests a second that each address has; burst: how many it may save up.
        stall_seconds: how long a stalled, silent or trickling response is held.
    """

    def __init__(
        self,
        candles: Mapping[str, pd.DataFrame],
        *,
        clock: datetime | None = None,
        faults: Iterable[str | Response] = (),
        seed: int = 0,
        rate: float = 10.0,
        burst: int = 15,
        stall_seconds: float = 30.0,
        port: int = 0,
    ) -> None:
        self.clock, self.stall_seconds = clock, stall_seconds
        self.faults: deque[str | Response] = deque(faults)
        self.requests: list[Request] = []  # in order of arrival
        self.closing = threading.Event()
        self.rate, self.burst = rate, burst
        self._tokens: dict[str, tuple[float, float]] = {}  # of each address, and when they were counted
        self._random = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._candles = {product: _rows(frame) for product, frame in candles.items()}
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Exchange:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def now(self) -> datetime:
        """The exchange's own now, in UTC."""
        return (self.clock or datetime.now(UTC)).astimezone(UTC)

    def most_in_a_second(self) -> int:
        """The largest number of requests that arrived within any one second."""
        at = [request.at for request in self.requests]
        return max((sum(start <= other < start + 1 for other in at) for start in at), default=0)

    def take_token(self, address: str, at: float) -> bool:
        """Whether this address may ask now; by real time, since a clock that stands still never refills."""
        tokens, before = self._tokens.get(address, (float(self.burst), at))
        tokens = min(float(self.burst), tokens + (at - before) * self.rate)
        self._tokens[address] = (tokens - (tokens >= 1), at)
        return tokens >= 1

    def restate(self, product_id: str, day: date, **figures: float) -> None:
        """Change the figures of a day from now on, e.g. `close=8000.0`; a new day needs all five."""
        rows, at = self._candles[product_id], _midnight(day)
        old = dict(zip(FIGURES, rows.get(at, [at])[1:], strict=False))
        rows[at] = [at, *(_number((old | figures)[name]) for name in FIGURES)]

    def withdraw(self, product_id: str, first: date, last: date) -> None:
        """Remove the rows of these days, both included."""
        for at in range(_midnight(first), _midnight(last) + DAY, DAY):
            self._candles[product_id].pop(at, None)

    def delist(self, product_id: str) -> None:
        del self._candles[product_id]

    def respond(
        self, path: str, query: dict[str, str], headers: Mapping[str, str] | Message, fault: Any = None
    ) -> tuple[Response, datetime]:
        """The response, honest but for a fault of its rows or its span, and its moment by the clock."""
        moment, product = self.now, path.removeprefix("/products/").removesuffix("/candles")
        if not headers.get("User-Agent"):
            return error(400, "User-Agent header is required."), moment
        if product not in self._candles:
            return error(404, "NotFound"), moment
        if query.get("granularity") != str(DAY):
            return error(400, "Unsupported granularity"), moment
        try:
            start, end = (int(datetime.fromisoformat(query[name]).timestamp()) for name in ("start", "end"))
        except (KeyError, ValueError):
            return error(400, "start and end must be ISO 8601"), moment
        if start > end:
            return error(400, "start must be before end"), moment
        if (end - start) / DAY > 300:
            return error(400, TOO_MANY), moment
        if fault == "outside":
            start, end = start - 3 * DAY, end + 3 * DAY
        elif fault == "open":
            end = max(end, int(moment.timestamp()))
        elif fault == "frozen":
            # Ten minutes before the last day is over, or now if that is earlier.
            moment = min(moment, datetime.fromtimestamp(end + DAY - 600, UTC))
        now = moment.timestamp()
        days = sorted(at for at in self._candles[product] if start <= at <= end and at < now)
        rows = [_so_far(self._candles[product][at], now) for at in reversed(days)]
        return page_of(self._spoil(rows, fault)), moment

    def _spoil(self, rows: list[Row], fault: Any) -> list[Any]:
        where = self._random.randrange(max(len(rows), 1))
        if fault in PAGES:
            return PAGES[fault](rows, where)
        if fault in ROW and rows:
            return [*rows[:where], ROW[fault](rows[where]), *rows[where + 1 :]]
        return rows


class _Server(ThreadingTCPServer):
    # Not http.server.HTTPServer: that one looks its own name up, which can take seconds.
    allow_reuse_address = True
    daemon_threads = True  # a client may keep its connection open
    request_queue_size = 128

    def __init__(self, exchange: Exchange, port: int) -> None:
        self.exchange = exchange
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that gave up is expected; anything else is a bug in here.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version, sys_version = "exchange", ""
    sent_at: datetime  # by the exchange's clock

    def do_GET(self) -> None:
        at, exchange = time.monotonic(), cast(_Server, self.server).exchange
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        fault: Any = exchange.faults.popleft() if exchange.faults else "ok"
        if not exchange.take_token(self.client_address[0], at):
            fault = "429"
        response, self.sent_at = exchange.respond(parts.path, query, self.headers, fault)
        response = fault if isinstance(fault, Response) else RESPONSES.get(fault, response)
        name = "response" if isinstance(fault, Response) else None if fault == "ok" else fault
        status = 0 if name in NO_RESPONSE else response.status
        rows = None if name in (*NO_RESPONSE, *HALF) else _array(response)
        exchange.requests.append(
            Request(at, parts.path, query, status, name, dict(self.headers), self.sent_at, rows)
        )
        log.info("%s %s -> %s, %s", parts.path, query, status, f"fault {name}" if name else "honest")
        if name in WIRE:
            self._mangle(exchange, response, name)
        else:
            self._send(response, response.body, len(response.body))

    def _send(self, response: Response, body: bytes, length: int | None) -> None:
        """The head with that Content-Length, or chunked without one, and the body."""
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        for name, value in response.headers:
            self.send_header(name, value)
        length_header = (
            ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        )
        self.send_header(*length_header)
        self.end_headers()
        self.wfile.write(body)

    def _mangle(self, exchange: Exchange, response: Response, fault: str) -> None:
        half, whole = response.body[: len(response.body) // 2], len(response.body)
        # A body of the promised length leaves the connection usable; closing it would race the next request.
        self.close_connection = fault not in ("truncated", "gzip", "gzip-cut", "gzip-mangled", "chunks")
        if fault == "truncated":
            self._send(response, half, len(half))
        elif fault == "short":
            self._send(response, half, whole)
        elif fault == "reset":
            # Lingering for zero seconds makes close() send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault == "silent":
            exchange.closing.wait(exchange.stall_seconds)
        elif fault == "stall":
            self._send(response, half, whole)
            exchange.closing.wait(exchange.stall_seconds)
        elif fault == "trickle":
            self._send(response, b"", whole)
            self._drip(exchange, (bytes([byte]) for byte in response.body))
        elif fault == "nonsense":
            self.wfile.write(b"220 this is not the service that you are looking for\r\n\r\n")
        elif fault == "slow-head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self._drip(exchange, itertools.repeat(b"."))
        elif fault == "continue":
            self._drip(exchange, itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"))
        elif fault.startswith("gzip"):
            self._compress(exchange, response, fault)
        else:
            body = half if fault == "chunks-cut" else response.body
            chunks = [body[start : start + 1000] for start in range(0, len(body), 1000)]
            self._send(response, b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), None)
            if fault == "chunks":
                self.wfile.write(b"0\r\n\r\n")

    def _compress(self, exchange: Exchange, response: Response, fault: str) -> None:
        """The gzipped body, whole or not; the Content-Length is right."""
        body = gzip.compress(response.body, mtime=0)
        middle = len(body) // 2
        packed = replace(response, headers=(*response.headers, ("Content-Encoding", "gzip")))
        if fault == "gzip-nothing":
            self.close_connection = True
            self._send(packed, body[:10], 2**30)
            self._drip(exchange, itertools.repeat(NOTHING))
            return
        if fault == "gzip-cut":
            body = body[:middle]
        elif fault == "gzip-mangled":
            mangled = bytes(255 - byte for byte in body[middle : middle + 8])
            body = body[:middle] + mangled + body[middle + 8 :]
        self._send(packed, body, len(body))

    def _drip(self, exchange: Exchange, drops: Iterable[bytes]) -> None:
        """One drop at a time, until there are no more or `stall_seconds` are over."""
        until = time.monotonic() + exchange.stall_seconds
        for drop in drops:
            self.wfile.write(drop)
            if exchange.closing.wait(0.02) or time.monotonic() > until:
                break

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(self.sent_at, usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        log.debug(format, *args)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _number(value: float) -> float | int | None:
    """A figure as JSON has it: whole numbers without decimals, null where the frame has NaN."""
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _rows(frame: pd.DataFrame) -> dict[int, Row]:
    times = frame["day_utc"].astype("datetime64[s]").astype("int64").tolist()
    figures = frame[list(FIGURES)].itertuples(index=False)
    return {at: [at, *map(_number, row)] for at, row in zip(times, figures, strict=True)}


def _array(response: Response) -> list[Any] | None:
    """The rows of a good response."""
    try:
        rows = json.loads(response.body) if response.status == 200 else None
    except (ValueError, RecursionError):
        return None
    return rows if isinstance(rows, list) else None


def _so_far(row: Row, now: float) -> Row:
    """The candle as it stands at `now`: a finished one unchanged, the open one part of the way."""
    share = (now - row[0]) / DAY
    if share >= 1 or None in row:
        return row
    at, low, high, opened, close, volume = row
    moved = [opened + share * (figure - opened) for figure in (low, high)]
    return [at, *moved, opened, opened + share * (close - opened), volume * share]


def _other_close(row: Row) -> Row:
    """The row with another close, still a possible candle."""
    if None in row:
        return row
    at, low, high, opened, close, volume = row
    middle = (low + high) / 2
    return [at, low, high, opened, middle if middle != close else high + 1, volume]


def shift(frame: pd.DataFrame, last: date) -> pd.DataFrame:
    """The same candles, all moved by whole days so that the newest is of the day `last`."""
    moved = frame["day_utc"] + (pd.Timestamp(last) - frame["day_utc"].max())
    return frame.assign(day_utc=moved.astype("datetime64[s]"))


def main() -> None:
    """Serve until interrupted, a line on stderr for each request."""
    from closecast.tasks.prices.file_reader import read_candles

    parser = argparse.ArgumentParser(description="A local exchange: daily candles of a CSV file.")
    parser.add_argument("--csv", required=True, type=Path, help="a file of candles")
    parser.add_argument("--product", required=True, help="its product id")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument(
        "--shift-to-now", action="store_true", help="move all days: the newest becomes yesterday"
    )
    parser.add_argument("--fault", action="append", default=[], choices=FAULTS, help="of the next request")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    frame = read_candles(given.csv.read_bytes(), given.product).candles
    if given.shift_to_now:
        frame = shift(frame, datetime.now(UTC).date() - timedelta(days=1))
    with Exchange({given.product: frame}, faults=given.fault, port=given.port) as exchange:
        log.info("serving %s at %s; stop with Ctrl-C", given.product, exchange.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            log.info("stopped")


if __name__ == "__main__":
    # Run as a file, Python looks for modules in tests/, where `tasks` would be the tests of the tasks.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main()
