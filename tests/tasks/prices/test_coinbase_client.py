import gzip
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.core.candle_schema import REJECTED_COLUMNS, candle_frame
from storage.core.errors import (
    BadDay,
    BadProduct,
    BadSetting,
    ClosecastError,
    ExchangeRefused,
    ExchangeUnavailable,
)
from tasks.prices.coinbase_client import Client, Page, spans
from tasks.prices.coinbase_rows import read_rows
from tests.exchange import Answer, Exchange

LISTED, LAST = date(2017, 1, 1), date(2019, 10, 17)
HOLE = date(2019, 3, 20)
NOW = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
DAYS = (LAST - LISTED).days + 1
SPAN = (date(2019, 10, 1), date(2019, 10, 10))


def frame() -> pd.DataFrame:
    """Made-up candles from LISTED to the day after LAST, without the day HOLE."""
    n = np.arange(DAYS + 1)
    whole = candle_frame(
        {
            "day_utc": pd.date_range(str(LISTED), periods=len(n), unit="s"),
            "open": 1000.5 + n,
            "high": 1100.25 + n,
            "low": 900.125 + n,
            "close": 1050.0 + n,
            "volume": 10.12345678 + n,
        }
    )
    return whole[whole["day_utc"] != pd.Timestamp(HOLE)].reset_index(drop=True)


def between(first: date, last: date) -> pd.DataFrame:
    whole = frame()
    inside = whole["day_utc"].between(pd.Timestamp(first), pd.Timestamp(last))
    return whole[inside].reset_index(drop=True)


def same(got: pd.DataFrame, first: date, last: date) -> None:
    pd.testing.assert_frame_equal(got.reset_index(drop=True), between(first, last))


@pytest.fixture
def ex() -> Iterator[Exchange]:
    with Exchange({"BTC-USD": frame()}, clock=NOW, burst=1000, stall_seconds=5) as exchange:
        yield exchange


Make = Callable[..., Client]


@pytest.fixture
def waits() -> list[float]:
    """What the client would have slept, had it slept."""
    return []


@pytest.fixture
def make(ex: Exchange, waits: list[float]) -> Iterator[Make]:
    made: list[Client] = []

    def client(**options: Any) -> Client:
        made.append(Client(ex.url, **{"sleep": waits.append, "read_timeout": 0.3, **options}))
        return made[-1]

    yield client
    for each in made:
        each.close()


def text_of(error: pytest.ExceptionInfo[ClosecastError]) -> str:
    said = str(error.value)
    assert said.isprintable()  # one line, nothing that moves a terminal's cursor
    return said


# Spans


def test_spans_are_of_300_days_and_leave_nothing_out() -> None:
    assert spans(date(2019, 1, 1), date(2019, 1, 1)) == [(date(2019, 1, 1), date(2019, 1, 1))]
    assert spans(date(2019, 1, 1), date(2020, 8, 22)) == [
        (date(2019, 1, 1), date(2019, 10, 27)),
        (date(2019, 10, 28), date(2020, 8, 22)),
    ]
    assert spans(date(2019, 1, 2), date(2019, 1, 1)) == []


@given(st.dates(), st.integers(0, 5000), st.integers(1, 300))
def test_spans_tile(first: date, length: int, days: int) -> None:
    last = first + timedelta(days=min(length, (date.max - first).days))
    cut = spans(first, last, days=days)
    assert (cut[0][0], cut[-1][1]) == (first, last)
    assert all(after[0] - before[1] == timedelta(days=1) for before, after in pairwise(cut))
    assert all(1 <= (end - start).days + 1 <= days for start, end in cut)


@pytest.mark.parametrize("days", [0, -1, 301])
def test_spans_the_exchange_would_refuse(days: int) -> None:
    with pytest.raises(BadSetting, match="1 to 300 days"):
        spans(LISTED, LAST, days=days)


# What is asked, and what comes back


def test_pages_bring_the_whole_history_oldest_first(ex: Exchange, make: Make) -> None:
    pages = list(make().pages("BTC-USD", LISTED, LAST))
    assert [(page.first, page.last) for page in pages] == spans(LISTED, LAST)
    for page in pages:
        same(page.candles, page.first, page.last)
        assert page.candles["day_utc"].dtype == "datetime64[s]"
        assert page.rejected.empty
        assert list(page.rejected.columns) == REJECTED_COLUMNS
    asked = [request.query for request in ex.requests]
    assert len(asked) == len(pages) == 4
    assert asked[0] == {
        "granularity": "86400",
        "start": "2017-01-01T00:00:00Z",
        "end": "2017-10-27T00:00:00Z",
    }
    assert {request.path for request in ex.requests} == {"/products/BTC-USD/candles"}
    assert all(request.user_agent.startswith("closecast/") for request in ex.requests)


def test_a_page_is_asked_for_only_when_it_is_taken(ex: Exchange, make: Make) -> None:
    pages = make().pages("BTC-USD", LISTED, LAST)
    assert ex.requests == []
    next(pages)
    assert len(ex.requests) == 1


def test_a_kept_connection_that_the_exchange_closed_is_opened_again(ex: Exchange, make: Make) -> None:
    client = make()
    client.page("BTC-USD", *SPAN)
    ex.faults.append("reset")
    same(client.page("BTC-USD", *SPAN).candles, *SPAN)


def test_no_pages_for_no_days(ex: Exchange, make: Make) -> None:
    assert list(make().pages("BTC-USD", LAST + timedelta(days=1), LAST)) == []
    assert ex.requests == []


def test_the_payload_is_the_body_as_it_came(make: Make) -> None:
    page = make().page("BTC-USD", *SPAN)
    rows = json.loads(page.payload)
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
    candles, rejected = read_rows(rows, *SPAN)
    pd.testing.assert_frame_equal(candles, page.candles)
    assert rejected.empty


def test_a_compressed_body_is_kept_decompressed(ex: Exchange, make: Make) -> None:
    body = b"[[1569888000,1,3,2,2.5,7]]"
    ex.faults.append(Answer(200, gzip.compress(body), headers=(("Content-Encoding", "gzip"),)))
    page = make().page("BTC-USD", *SPAN)
    assert page.payload == body
    assert page.candles["close"].tolist() == [2.5]


def test_a_day_without_trades_stays_a_hole(make: Make) -> None:
    page = make().page("BTC-USD", HOLE - timedelta(days=1), HOLE + timedelta(days=1))
    assert page.candles["day_utc"].dt.day.tolist() == [19, 21]


def test_rows_outside_the_span_and_out_of_order_and_twice(ex: Exchange, make: Make) -> None:
    client = make()
    for fault in ("outside", "unordered", "repeat"):
        ex.faults.append(fault)
        page = client.page("BTC-USD", *SPAN)
        same(page.candles, *SPAN)
        assert page.rejected.empty
    assert len(ex.requests) == 3


def test_a_day_that_came_with_two_closes_is_rejected_twice(ex: Exchange, make: Make) -> None:
    ex.faults.append("duplicates")
    page = make().page("BTC-USD", *SPAN)
    same(page.candles, SPAN[0], SPAN[1] - timedelta(days=1))
    assert page.rejected["day_utc"].tolist() == [SPAN[1].isoformat()] * 2
    assert set(page.rejected["reason"]) == {"the day came 2 times with different figures"}
    one, two = (json.loads(raw) for raw in page.rejected["raw"])
    assert one[:4] == two[:4]
    assert one[4] != two[4]


def test_garbage_is_set_aside_and_the_rest_is_kept(ex: Exchange, make: Make) -> None:
    ex.faults.append("garbage")
    page = make().page("BTC-USD", *SPAN)
    same(page.candles, SPAN[0], SPAN[0] + timedelta(days=1))  # the newest eight of ten days are spoiled
    found = page.rejected["reason"].tolist()
    assert found.count("no finite number: close") == 5
    assert found.count("a candle has six values, this row 5") == 1
    assert found.count("its time is not midnight UTC in whole seconds") == 2
    assert page.rejected["day_utc"].isna().sum() == 2
    assert all(isinstance(raw, str) for raw in page.rejected["raw"])


def test_a_restated_day_is_seen_as_it_is_now(ex: Exchange, make: Make) -> None:
    client = make()
    before = client.page("BTC-USD", *SPAN).candles
    ex.restate("BTC-USD", SPAN[1], close=2024.5)
    after = client.page("BTC-USD", *SPAN).candles
    assert after["close"].iloc[-1] == 2024.5 != before["close"].iloc[-1]
    pd.testing.assert_frame_equal(before.iloc[:-1], after.iloc[:-1])


# Trouble that passes

PASSING = [
    "429",
    "500",
    "502",
    "503",
    "504",
    "html",
    "object",
    "reset",
    "short",
    "truncated",
    "stall",
    "silent",
]


@pytest.mark.parametrize("fault", PASSING)
def test_trouble_that_passes(ex: Exchange, make: Make, fault: str) -> None:
    ex.faults.extend([fault, fault])
    same(make().page("BTC-USD", *SPAN).candles, *SPAN)
    assert [request.fault for request in ex.requests] == [fault, fault, None]


LAST_CAME = {
    "429": "429 (Public rate limit exceeded)",
    "500": "500 (Internal server error)",
    "502": "502 (an HTML page)",
    "html": "200 without an array of candles (an HTML page)",
    "object": "200 without an array of candles (Service temporarily unavailable)",
    "reset": "connection reset by peer",
    "truncated": "200 without an array of candles (JSON cut short or none)",
    "stall": "nothing in time",
    "silent": "nothing in time",
}


@pytest.mark.parametrize(("fault", "came"), LAST_CAME.items())
def test_trouble_that_stays(ex: Exchange, make: Make, fault: str, came: str) -> None:
    ex.faults.extend([fault] * 9)
    with pytest.raises(ExchangeUnavailable) as error:
        make(attempts=3).page("BTC-USD", *SPAN)
    said = text_of(error)
    assert f"BTC-USD 2019-10-01 to 2019-10-10: asked 3 times, last came {came};" in said
    assert said.endswith("run again later (--source sample works offline)")
    assert len(ex.requests) == 3


def test_a_body_cut_short_of_its_length(ex: Exchange, make: Make) -> None:
    ex.faults.extend(["short"] * 2)
    with pytest.raises(ExchangeUnavailable, match="last came a body cut short;"):
        make(attempts=2).page("BTC-USD", *SPAN)


def test_a_body_that_trickles_is_given_up(ex: Exchange, make: Make) -> None:
    ex.faults.append("trickle")
    began = time.monotonic()
    same(make(total_timeout=0.3).page("BTC-USD", *SPAN).candles, *SPAN)
    assert 0.3 <= time.monotonic() - began < 2
    assert [request.fault for request in ex.requests] == ["trickle", None]


def test_waits_grow_and_are_bounded(ex: Exchange, make: Make, waits: list[float]) -> None:
    ex.faults.extend(["500"] * 7)
    make(attempts=8, longest_wait=4, min_interval=0.1).page("BTC-USD", *SPAN)
    backoff = [wait for wait in waits if wait >= 0.45]  # the others keep the pace
    assert len(backoff) == 7
    for wait, least in zip(backoff, [0.5, 1, 2, 4, 4, 4, 4], strict=True):
        assert least <= wait <= least + 0.5
    assert len({round(wait % 0.5, 6) for wait in backoff[:3]}) > 1  # jitter


def test_an_exchange_that_is_not_there(waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url, sleep=waits.append, attempts=3) as client, pytest.raises(ExchangeUnavailable) as error:
        client.page("BTC-USD", *SPAN)
    assert "asked 3 times, last came connection refused; " in text_of(error)
    assert "--source sample works offline" in text_of(error)


def test_a_random_storm_is_survived_page_by_page(waits: list[float]) -> None:
    kinds = (
        "429",
        "500",
        "502",
        "html",
        "object",
        "reset",
        "truncated",
        "short",
        "outside",
        "unordered",
        "repeat",
    )
    storm: dict[str, Any] = {"fault_rate": 0.5, "random_faults": kinds, "seed": 7, "burst": 1000}
    with (
        Exchange({"BTC-USD": frame()}, clock=NOW, **storm) as ex,
        Client(ex.url, sleep=waits.append, attempts=12) as client,
    ):
        candles = pd.concat([page.candles for page in client.pages("BTC-USD", LISTED, LAST)])
        assert len({request.fault for request in ex.requests}) > 3
    same(candles, LISTED, LAST)


# Empty pages


def test_a_spurious_empty_page_is_asked_for_again(ex: Exchange, make: Make, waits: list[float]) -> None:
    ex.faults.extend(["empty", "empty"])
    same(make().page("BTC-USD", *SPAN).candles, *SPAN)
    assert len(ex.requests) == 3
    assert max(waits) < 1


def test_an_empty_page_is_believed_in_the_end(ex: Exchange, make: Make) -> None:
    page = make(empty_attempts=4).page("BTC-USD", date(2015, 1, 1), date(2015, 2, 1))
    assert page.candles.empty
    assert page.candles["day_utc"].dtype == "datetime64[s]"
    assert page.payload == b"[]"
    assert len(ex.requests) == 4


def test_an_empty_page_is_believed_at_once_where_no_rows_are_expected(ex: Exchange, make: Make) -> None:
    assert make().page("BTC-USD", HOLE, HOLE, expect_rows=False).candles.empty
    assert len(ex.requests) == 1


def test_pages_go_on_after_an_empty_one(make: Make) -> None:
    pages = list(make().pages("BTC-USD", date(2015, 6, 1), date(2017, 6, 1)))
    assert [len(page.candles) for page in pages] == [0, 20, 132]


# Refusals


def test_an_unknown_product_is_said_at_once(ex: Exchange, make: Make) -> None:
    with pytest.raises(BadProduct) as error:
        make().page("NOPE-USD", *SPAN)
    assert text_of(error).startswith("the exchange knows no product NOPE-USD; check its spelling")
    assert len(ex.requests) == 1


@pytest.mark.parametrize("product", ["btc-usd", "BTC-USD/../x", "BTC-USD?", "", "BTC-USD\n"])
def test_a_malformed_product_never_reaches_the_exchange(ex: Exchange, make: Make, product: str) -> None:
    with pytest.raises(BadProduct):
        make().page(product, *SPAN)
    with pytest.raises(BadProduct):
        list(make().pages(product, *SPAN))
    assert ex.requests == []


@pytest.mark.parametrize("span", [(SPAN[1], SPAN[0]), (date(2019, 1, 1), date(2019, 10, 28))])
def test_a_span_that_is_backwards_or_too_long(ex: Exchange, make: Make, span: tuple[date, date]) -> None:
    with pytest.raises(BadDay, match="1 to 300 days"):
        make().page("BTC-USD", *span)
    assert ex.requests == []


def test_a_redirect_is_named_and_not_followed(ex: Exchange, make: Make) -> None:
    ex.faults.append("redirect")
    with pytest.raises(
        ExchangeRefused, match=r"302, a redirect to https://elsewhere\.example/, which is not followed"
    ):
        make().page("BTC-USD", *SPAN)
    assert len(ex.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "api.exchange.coinbase.com",
        "ftp://x",
        "file:///etc/passwd",
        "http://",
        "http://[::1",
        "",
        "https://x?a=b",
    ],
)
def test_an_address_that_cannot_be_used(url: str) -> None:
    with pytest.raises(BadSetting, match="CLOSECAST_COINBASE_URL"):
        Client(url)


def test_an_address_that_no_host_can_have(waits: list[float]) -> None:
    with (
        Client("http://a..b", sleep=waits.append) as client,
        pytest.raises(BadSetting, match="cannot be used"),
    ):
        client.page("BTC-USD", *SPAN)


@pytest.mark.parametrize(
    "options", [{"min_interval": 0.05}, {"min_interval": math.nan}, {"attempts": 0}, {"read_timeout": 0}]
)
def test_numbers_that_cannot_be_used(options: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        Client(**options)


def test_a_base_address_may_end_in_a_slash(ex: Exchange) -> None:
    with Client(f"{ex.url}/") as client:
        assert len(client.page("BTC-USD", *SPAN).candles) == 10


# Manners


def test_never_more_than_ten_requests_in_a_second_also_over_retries_and_threads(ex: Exchange) -> None:
    ex.faults.extend(["500", "ok", "500"] * 4)

    def shorter(seconds: float) -> None:
        time.sleep(min(seconds, 0.11))  # the pace as it is, hardly a back-off

    began = time.monotonic()
    with Client(ex.url, longest_wait=0.001, attempts=20, sleep=shorter) as client:
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


def test_progress_and_retries_are_logged(ex: Exchange, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    ex.faults.extend(["502", "empty"])
    with caplog.at_level(logging.INFO, logger="closecast.fetch"):
        make().page("BTC-USD", *SPAN)
    lines = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "closecast.fetch"
    ]
    assert lines[0][0] == lines[1][0] == "WARNING"
    assert lines[0][1].startswith(
        "BTC-USD 2019-10-01 to 2019-10-10: 502 (an HTML page); asked 1 of 6 times, again in"
    )
    assert lines[1][1].startswith(
        "BTC-USD 2019-10-01 to 2019-10-10: no candles; asked 1 of 3 times, again in"
    )
    assert lines[2:] == [("INFO", "BTC-USD 2019-10-01 to 2019-10-10: 10 candles")]


def test_what_was_fetched_can_be_handed_on() -> None:
    page = Page(*SPAN, b"[]", *read_rows([], *SPAN))
    with pytest.raises(AttributeError):
        page.payload = b""  # type: ignore[misc]


# Real prices


def test_the_real_history_comes_through_unchanged(waits: list[float]) -> None:
    file = Path(__file__).parents[2].parent / "shared" / "data" / "coinbase_btc-usd_daily.csv"
    if not file.is_file():
        pytest.skip("the real prices are not here")
    table = pd.read_csv(file).sort_values("time")
    columns: dict[str, object] = {
        f"{name}": table[name].tolist() for name in ("low", "high", "open", "close")
    }
    columns |= {
        "day_utc": pd.to_datetime(table["time"], unit="s").tolist(),
        "volume": table["volume"].tolist(),
    }
    real = candle_frame(columns)
    first, last = real["day_utc"].iloc[0].date(), real["day_utc"].iloc[-1].date()
    after = datetime(last.year, last.month, last.day, 0, 20, tzinfo=UTC) + timedelta(days=1)
    with (
        Exchange({"BTC-USD": real}, clock=after, burst=1000) as ex,
        Client(ex.url, sleep=waits.append) as client,
    ):
        got = pd.concat([page.candles for page in client.pages("BTC-USD", first, last)])
    pd.testing.assert_frame_equal(got.reset_index(drop=True), real)
