import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closecast.storage.core.errors import (
    BadDay,
    BadProduct,
    BadSetting,
    ClosecastError,
    ExchangeUnavailable,
)
from closecast.tasks.prices.coinbase_client import MAX_DAYS, Client, spans
from tests.exchange import Exchange, Response
from tests.helpers import made_up, without

FIRST, LAST = date(2017, 1, 1), date(2019, 10, 17)
GAP = date(2019, 3, 20)
NOW = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
SPAN = (date(2019, 10, 1), date(2019, 10, 10))
# The faults that a response hangs on, wherever it hangs: in its head, its body, or in nothing at all.
ENDLESS = ["trickle", "stall", "silent", "slow-head", "continue", "gzip-nothing"]
TRANSIENT = {
    "408": "408 (Request timeout)",
    "429": "429 (Public rate limit exceeded)",
    "500": "500 (Internal server error)",
    "502": "502 (an HTML page)",
    "html": "200 without an array of candles (an HTML page)",
    "object": "200 without an array of candles (Service temporarily unavailable)",
    "reset": "connection reset by peer",
    "truncated": "200 without an array of candles (incomplete JSON or none)",
    "gzip-cut": "200 without an array of candles (incomplete JSON or none)",
    "gzip-mangled": "a damaged gzip body",
    "short": "a body cut short",
    "nonsense": "220 this is not the service that you are looking for",
    "stall": "no response in time",
    "silent": "no response in time",
}


FRAME = without(made_up((LAST - FIRST).days + 2, FIRST), GAP, GAP)


def assert_candles(candles: pd.DataFrame, first: date = SPAN[0], last: date = SPAN[1]) -> None:
    inside = FRAME["day_utc"].between(pd.Timestamp(first), pd.Timestamp(last))
    pd.testing.assert_frame_equal(candles.reset_index(drop=True), FRAME[inside].reset_index(drop=True))


@pytest.fixture
def ex() -> Iterator[Exchange]:
    with Exchange({"BTC-USD": FRAME}, clock=NOW, stall_seconds=5) as exchange:
        yield exchange


Connect = Callable[..., Client]


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client would have slept."""
    return []


@pytest.fixture
def connect(ex: Exchange, waits: list[float]) -> Iterator[Connect]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Client(ex.url, **{"sleep": waits.append, **options}))


def message_of(error: pytest.ExceptionInfo[ClosecastError]) -> str:
    message = str(error.value)
    assert message.isprintable()  # one line, nothing that moves a terminal's cursor
    return message


@given(st.dates(), st.integers(0, 5000))
def test_spans_cover_each_day_once_and_the_oldest_first(first: date, length: int) -> None:
    last = first + timedelta(days=min(length, (date.max - first).days))
    parts = spans(first, last)
    assert (parts[0][0], parts[-1][1]) == (first, last)
    assert all(after[0] - before[1] == timedelta(days=1) for before, after in pairwise(parts))
    assert all(1 <= (end - start).days + 1 <= MAX_DAYS for start, end in parts)


# Requests and pages


def test_a_page_sends_one_request_and_returns_the_days_of_its_span(ex: Exchange, connect: Connect) -> None:
    page = connect().page("BTC-USD", *SPAN)
    assert_candles(page.candles)
    assert (page.first, page.last) == SPAN
    assert page.rejected.empty
    (request,) = ex.requests
    assert request.path == "/products/BTC-USD/candles"
    assert request.query == {
        "granularity": "86400",
        "start": "2019-10-01T00:00:00Z",
        "end": "2019-10-10T00:00:00Z",
    }
    assert request.headers["User-Agent"].startswith("closecast/")


def test_the_payload_is_the_decompressed_body(ex: Exchange, connect: Connect) -> None:
    body = b"[[1569888000,1,3,2,2.5,7]]"
    ex.faults.append(Response(200, gzip.compress(body), headers=(("Content-Encoding", "gzip"),)))
    page = connect().page("BTC-USD", *SPAN)
    assert page.payload == body
    assert page.candles["close"].tolist() == [2.5]


@pytest.mark.parametrize("fault", ["outside", "unordered", "repeat", "chunks", "gzip"])
def test_harmless_faults_change_nothing(ex: Exchange, connect: Connect, fault: str) -> None:
    ex.faults.append(fault)
    page = connect().page("BTC-USD", *SPAN)
    assert_candles(page.candles)
    assert page.rejected.empty
    assert len(ex.requests) == 1


def test_a_candle_of_an_unfinished_day_is_requested_again(ex: Exchange, connect: Connect) -> None:
    ex.faults.append("frozen")
    assert_candles(connect().page("BTC-USD", SPAN[0], LAST).candles, SPAN[0], LAST)
    assert len(ex.requests) == 2


# Transient errors


@pytest.mark.parametrize("fault", TRANSIENT)
def test_transient_errors_are_retried_then_reported(
    ex: Exchange, connect: Connect, waits: list[float], fault: str
) -> None:
    ex.faults.extend([fault] * 4)
    client = connect(attempts=3, read_timeout=0.5 if TRANSIENT[fault] == "no response in time" else 15)
    with pytest.raises(ExchangeUnavailable) as error:
        client.page("BTC-USD", *SPAN)
    assert (
        f"BTC-USD 2019-10-01 to 2019-10-10 in 3 attempts, the last one: {TRANSIENT[fault]}; "
        "check the network and run again later (--source sample works offline)"
    ) in message_of(error)
    assert_candles(client.page("BTC-USD", *SPAN).candles)
    assert [request.fault for request in ex.requests] == [fault] * 4 + [None]


@pytest.mark.parametrize("fault", ENDLESS)
def test_an_endless_response_ends_within_the_total_timeout(
    ex: Exchange, connect: Connect, fault: str
) -> None:
    ex.faults.append(fault)
    client = connect(read_timeout=5, total_timeout=0.3, attempts=1)
    began = time.monotonic()
    with pytest.raises(ExchangeUnavailable, match=r"no complete response within 0\.3 s"):
        client.page("BTC-USD", *SPAN)
    assert 0.3 <= time.monotonic() - began < 2
    # The next request of the same client is not affected.
    assert_candles(client.page("BTC-USD", *SPAN).candles)


def test_waits_grow_and_are_bounded(ex: Exchange, connect: Connect, waits: list[float]) -> None:
    ex.faults.extend(["500"] * 7)
    connect(attempts=8, max_wait=4).page("BTC-USD", *SPAN)
    backoff = [wait for wait in waits if wait >= 0.45]  # the others keep the pace
    assert len(backoff) == 7
    for wait, lowest in zip(backoff, [0.5, 1, 2, 4, 4, 4, 4], strict=True):
        assert lowest <= wait <= lowest + 0.5
    assert len({round(wait % 0.5, 6) for wait in backoff[:3]}) > 1  # jitter


@pytest.mark.parametrize("header", ["7", "Fri, 18 Oct 2019 00:20:07 GMT"])
def test_the_client_waits_as_long_as_the_exchange_asks(
    ex: Exchange, connect: Connect, waits: list[float], header: str
) -> None:
    asked = Response(429, b"[]", headers=(("Retry-After", header),))
    ex.faults.extend([asked, Response(503, b"", headers=(("Retry-After", "0"),))])
    connect().page("BTC-USD", *SPAN)
    first, second = (wait for wait in waits if wait >= 0.45)
    assert first == 7
    assert second <= 1.5  # as usual


def test_a_longer_wait_than_there_is_patience_for_ends_at_once(
    ex: Exchange, connect: Connect, waits: list[float]
) -> None:
    ex.faults.append(Response(503, b"", headers=(("Retry-After", "900"),)))
    with pytest.raises(ExchangeUnavailable, match=r"a pause of 900 s .* waits at most 780 s more"):
        connect(patience=780.5).page("BTC-USD", *SPAN)
    assert (len(ex.requests), [wait for wait in waits if wait >= 0.45]) == (1, [])


def test_no_request_starts_after_the_patience(ex: Exchange, connect: Connect) -> None:
    client = connect(patience=0.05)
    client.page("BTC-USD", *SPAN)
    time.sleep(0.1)
    with pytest.raises(ExchangeUnavailable, match=r"needed within 0\.05 s.*the pages so far are kept"):
        client.page("BTC-USD", *SPAN)
    assert len(ex.requests) == 1


def test_an_exchange_that_is_not_running(waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url, sleep=waits.append, attempts=3) as client, pytest.raises(ExchangeUnavailable) as error:
        client.page("BTC-USD", *SPAN)
    assert "in 3 attempts, the last one: connection refused; " in message_of(error)


# Empty pages


@pytest.mark.parametrize(
    ("empty", "expect_rows", "requests", "days"),
    [(0, True, 1, 10), (1, True, 2, 10), (2, True, 3, 10), (3, True, 3, 0), (1, False, 1, 0)],
)
def test_an_empty_page_is_requested_again_where_rows_are_expected_and_then_accepted(
    ex: Exchange,
    connect: Connect,
    waits: list[float],
    empty: int,
    expect_rows: bool,
    requests: int,
    days: int,
) -> None:
    ex.faults.extend(["empty"] * empty)
    page = connect().page("BTC-USD", *SPAN, expect_rows=expect_rows)
    assert (len(page.candles), len(ex.requests)) == (days, requests)
    assert page.candles["day_utc"].dtype == "datetime64[s]"
    assert max(waits, default=0) < 1


# Refusals


@pytest.mark.parametrize(
    ("error", "product", "span"),
    [
        (BadProduct, "BTC-USD/../x", SPAN),
        (BadProduct, "BTC-USD\n", SPAN),
        (BadDay, "BTC-USD", (SPAN[1], SPAN[0])),
        (BadDay, "BTC-USD", (date(2019, 1, 1), date(2019, 10, 28))),
    ],
)
def test_a_malformed_product_or_span_is_never_requested(
    ex: Exchange, connect: Connect, error: type[ClosecastError], product: str, span: tuple[date, date]
) -> None:
    with pytest.raises(error):
        connect().page(product, *span)
    assert ex.requests == []


@pytest.mark.parametrize(
    "url",
    ["api.example.com", "ftp://x", "file:///etc/passwd", "http://", "http://[::1", "", "https://x?a=b", "https://x?a",
     "http://a..b", "https://x:99999"],
)  # fmt: skip
def test_an_address_that_cannot_be_used(url: str) -> None:
    with pytest.raises(BadSetting, match="CLOSECAST_COINBASE_URL"):
        Client(url)


# Pace and log


def test_at_most_ten_requests_a_second_over_retries_and_threads(ex: Exchange) -> None:
    ex.faults.extend(["500", "ok", "500"] * 4)

    def shorter(seconds: float) -> None:
        time.sleep(min(seconds, 0.11))  # the pace as it is, hardly a back-off

    began = time.monotonic()
    with Client(f"{ex.url}/", max_wait=0.001, attempts=20, sleep=shorter) as client:
        days = [SPAN[0] + timedelta(days=n) for n in range(12)]
        threads = [
            threading.Thread(target=lambda some=some: [client.page("BTC-USD", day, day) for day in some])
            for some in (days[:6], days[6:])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ex.requests) == 20
    assert time.monotonic() - began >= 19 * 0.11
    # Sent 0.11 s apart; a busy machine can hold one up on its way into the next second.
    assert ex.most_in_a_second() <= 11


def test_progress_and_retries_are_logged(
    ex: Exchange, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    ex.faults.extend(["502", "empty"])
    with caplog.at_level(logging.INFO, logger="closecast.fetch"):
        connect().page("BTC-USD", *SPAN)
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    label = "BTC-USD 2019-10-01 to 2019-10-10:"
    assert lines[0].startswith(f"WARNING {label} 502 (an HTML page); attempt 1 of 6, again in")
    assert lines[1].startswith(f"WARNING {label} no candles; attempt 1 of 3, again in")
    assert lines[2:] == [f"INFO {label} 10 candles"]
