import json
import math
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import Response

from closecast.storage.core.candle_schema import CANDLE_COLUMNS, REJECTED_COLUMNS
from closecast.storage.core.errors import BadProduct, ExchangeRefused
from closecast.tasks.prices.coinbase_client import Client
from closecast.tasks.prices.coinbase_responses import (
    MAX_BYTES,
    MAX_ROWS,
    TransientError,
    read_rows,
    retry_after,
    rows_of,
    sent_at,
)
from tests.exchange import Exchange
from tests.exchange import Response as Canned

SPAN = (date(2019, 10, 1), date(2019, 10, 10))
AT = 1569888000  # 2019-10-01
GOOD = [AT, 1.0, 3.0, 2.0, 2.5, 7.0]


def rows(status: int, body: bytes) -> list[Any]:
    response = Response()
    response.status_code = status
    return rows_of(response, body, "BTC-USD")


def test_rows_are_returned_as_they_are() -> None:
    assert rows(200, b"[]") == []
    assert rows(200, b"[[1,2.5],null]") == [[1, 2.5], None]
    # A number of thousands of digits costs its row, not the page.
    assert rows(200, f"[[{'9' * 6000}],[7]]".encode()) == [[float("inf")], [7]]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "an empty body"),
        (b"null", "incomplete JSON or none"),
        (b"7", "JSON but no array"),
        (b'{"candles":[]}', "JSON but no array"),
        (b"[" * 100_000, "incomplete JSON or none"),
        (b"\xff\xfe\x00", "incomplete JSON or none"),
        (b" <html>", "an HTML page"),
        (b'{"message":"Come back\\nlater"}', "Come back later"),
        (b"[" + b"1," * MAX_ROWS + b"1]", f"an array of {MAX_ROWS + 1}"),
    ],
)
def test_a_200_without_an_array_is_transient(body: bytes, detail: str) -> None:
    with pytest.raises(TransientError) as error:
        rows(200, body)
    assert str(error.value) == f"200 without an array of candles ({detail})"


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (404, b'{"message":"NotFound"}', BadProduct, r"\(NotFound\): check its spelling, or take it out"),
        (404, b"<html>nginx</html>", ExchangeRefused, "404: an HTML page"),
        (403, b"<html>nginx</html>", ExchangeRefused, "403: an HTML page; .*CLOSECAST_COINBASE_URL"),
        (400, b'{"message":"No."}', ExchangeRefused, r"refused BTC-USD with 400: No\.;"),
        (304, b"", ExchangeRefused, "304: a redirect to nowhere"),
    ],
)
def test_refusals(status: int, body: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rows(status, body)


def test_foreign_text_is_made_printable() -> None:
    foul = "\x1b[2J\r\nTraceback:\u202e\x00 " + "long " * 200
    with pytest.raises(ExchangeRefused) as error:
        rows(400, json.dumps({"message": foul}).encode())
    message = str(error.value)
    assert "400: [2J Traceback: long long" in message
    assert message.isprintable()
    assert len(message) < 350


@pytest.mark.parametrize("response", ["huge", Canned(200, b"[" + b" " * MAX_BYTES + b"]")])
def test_a_body_beyond_the_limit_is_refused(response: str | Canned) -> None:
    fits = Canned(200, b"[" + b" " * (MAX_BYTES - 2) + b"]")
    with Exchange({}, faults=[response, fits]) as ex, Client(ex.url) as client:
        with pytest.raises(ExchangeRefused, match=f"at most {MAX_BYTES} bytes"):
            client.page("BTC-USD", *SPAN)
        assert client.page("BTC-USD", *SPAN, expect_rows=False).candles.empty


@pytest.mark.parametrize(
    ("header", "moment"),
    [
        ("Fri, 18 Oct 2019 00:20:00 GMT", datetime(2019, 10, 18, 0, 20, tzinfo=UTC)),
        ("Fri, 18 Oct 2019 02:20:00 +0200", datetime(2019, 10, 18, 0, 20, tzinfo=UTC)),
        ("Fri, 18 Oct 2019 00:20:00 -0000", datetime(2019, 10, 18, 0, 20, tzinfo=UTC)),
        ("yesterday", None),
    ],
)
def test_the_moment_of_a_response_is_its_date(header: str, moment: datetime | None) -> None:
    response = Response()
    response.headers["Date"] = header
    assert sent_at(response) == moment


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Fri, 18 Oct 2019 00:22:30 GMT", 150),
        ("Fri, 18 Oct 2019 00:10:00 GMT", 0),  # it is over
        ("soon", 0),
        ("-5", 0),
        ("1.5", 1.5),
        ("1e3", 0),
        ("9999999999", 1e9),
        ("9" * 400, 1e9),
        ("", 0),
    ],
)
def test_seconds_and_dates_of_retry_after(header: str, seconds: float) -> None:
    response = Response()
    response.status_code = 429
    response.headers.update({"Date": "Fri, 18 Oct 2019 00:20:00 GMT", "Retry-After": header})
    with pytest.raises(TransientError) as error:
        rows_of(response, b"[]", "BTC-USD")
    assert error.value.retry_after == seconds
    del response.headers["Date"]  # nothing to count a date from
    assert retry_after(response) == (seconds if "GMT" not in header else 0)


# Rows


@pytest.mark.parametrize(
    ("row", "day", "reason"),
    [
        ("text", None, "its time"),
        (None, None, "its time"),
        ([], None, "its time"),
        ({"time": AT}, None, "its time"),
        ([str(AT), 1, 3, 2, 2.5, 7], None, "its time"),
        ([True, 1, 3, 2, 2.5, 7], None, "its time"),
        ([AT + 0.5, 1, 3, 2, 2.5, 7], None, "its time"),
        ([math.nan, 1, 3, 2, 2.5, 7], None, "its time"),
        ([math.inf, 1, 3, 2, 2.5, 7], None, "its time"),
        ([AT * 10**3, *GOOD[1:]], "2019-10-01", "its time is in milliseconds, and seconds are needed"),
        ([AT * 1e3, *GOOD[1:]], "2019-10-01", "its time is in milliseconds"),
        ([AT * 10**6, *GOOD[1:]], "2019-10-01", "its time is in microseconds"),
        ([AT * 10**9, *GOOD[1:]], "2019-10-01", "its time is in nanoseconds"),
        ([AT * 10**3 + 1, *GOOD[1:]], None, "its time is not midnight"),
        ([AT], "2019-10-01", "six values, this row 1"),
        ([*GOOD, 8], "2019-10-01", "six values, this row 7"),
        ([AT, None, 3, 2, 2.5, 7], "2019-10-01", "low"),
        ([AT, 1, "3", 2, 2.5, 7], "2019-10-01", "high"),
        ([AT, 1, 3, True, 2.5, 7], "2019-10-01", "open"),
        ([AT, 1, 3, 2, -math.inf, 7], "2019-10-01", "close"),
        ([AT, 1, 3, 2, [2], 7], "2019-10-01", "close"),
        ([AT, 1, 3, 2, 10**309, math.inf], "2019-10-01", "close, volume"),
    ],
)
def test_a_row_that_is_not_a_candle_is_rejected(row: Any, day: str | None, reason: str) -> None:
    candles, rejected = read_rows([row], *SPAN)
    assert candles.empty
    assert list(candles.columns) == CANDLE_COLUMNS
    assert list(rejected.columns) == REJECTED_COLUMNS
    assert rejected["day_utc"].tolist() == [day]
    assert reason in rejected["reason"][0]
    assert rejected["raw"][0] == json.dumps(row)[:500]


def test_a_day_with_different_figures_is_rejected_and_a_repeated_row_is_not() -> None:
    other = [AT + 86400, *GOOD[1:]]
    candles, rejected = read_rows([GOOD, other, [*GOOD[:4], 2.75, 7.0], other], *SPAN)
    assert candles["day_utc"].tolist() == [pd.Timestamp("2019-10-02")]
    assert rejected["day_utc"].tolist() == ["2019-10-01"] * 2
    assert set(rejected["reason"]) == {"the day has 2 rows with different figures"}
    assert [json.loads(raw)[4] for raw in rejected["raw"]] == [2.5, 2.75]


def test_days_outside_the_span_are_dropped() -> None:
    outside = [[86400 * 10**12, 1, 3, 2, 2.5, 7], [-86400 * 10**300, None], [AT - 86400, "x"]]
    candles, rejected = read_rows([*outside, GOOD], *SPAN)
    assert len(candles) == 1
    assert rejected.empty


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([AT]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)
candle_like = st.tuples(
    st.sampled_from([AT, AT + 86400, AT - 86400]), *[st.floats() | st.integers() | st.none()] * 5
).map(list)


@given(st.lists(candle_like | json_values, max_size=8))
def test_every_candle_is_in_the_rows(content: list[Any]) -> None:
    candles, rejected = read_rows(content, *SPAN)
    assert rejected["reason"].astype(bool).all()
    assert candles["day_utc"].is_monotonic_increasing
    assert candles["day_utc"].is_unique
    assert candles["day_utc"].between(pd.Timestamp(SPAN[0]), pd.Timestamp(SPAN[1])).all()
    assert np.isfinite(candles.drop(columns="day_utc").to_numpy()).all()
    six = [row for row in content if isinstance(row, list) and len(row) == 6]
    for day, candle in candles.set_index("day_utc").iterrows():
        at = int(pd.Timestamp(str(day)).timestamp())
        figures = [candle[name] for name in ("low", "high", "open", "close", "volume")]
        assert any(row[0] == at and row[1:] == figures for row in six)
