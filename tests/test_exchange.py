"""The manners of the local exchange on which the tests of the client rest: the contract, and real faults."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from storage.core.candle_schema import candle_frame
from tests.exchange import TOO_MANY, Exchange

LISTED = date(2018, 1, 1)
NOW = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
GAP = date(2019, 3, 20)


def frame(days: int = 656) -> pd.DataFrame:
    """Candles from LISTED on, without the day GAP."""
    n = np.arange(days)
    figures = {
        "open": 100.0 + n,
        "high": 110.25 + n,
        "low": 90.5 + n,
        "close": 105.0 + n,
        "volume": 10.125 + n,
    }
    whole = candle_frame({"day_utc": pd.date_range(str(LISTED), periods=days, unit="s"), **figures})
    return whole[whole["day_utc"] != pd.Timestamp(GAP)].reset_index(drop=True)


def seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def get(ex: Exchange, product: str = "BTC-USD", **query: Any) -> httpx.Response:
    url = f"{ex.url}/products/{product}/candles"
    return httpx.get(url, params={"granularity": 86400} | query, trust_env=False)


def rows(ex: Exchange, start: object, end: object) -> list[list[float]]:
    response = get(ex, start=str(start), end=str(end))
    assert response.status_code == 200
    return response.json()


@pytest.fixture
def ex() -> Iterator[Exchange]:
    with Exchange({"BTC-USD": frame()}, clock=NOW, burst=1000) as exchange:
        yield exchange


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"granularity": 120, "start": "2019-01-01", "end": "2019-01-01"}, 400, "Unsupported granularity"),
        ({"start": "2018-01-01T00:00:00Z", "end": "2018-10-28T00:00:01Z"}, 400, TOO_MANY),
        ({"start": "2019-01-02", "end": "2019-01-01"}, 400, "start must be before end"),
        ({"start": "yesterday", "end": "2019-01-01"}, 400, "start and end must be ISO 8601"),
        ({"product": "NOPE-USD", "start": "2019-01-01", "end": "2019-01-02"}, 404, "NotFound"),
    ],
)
def test_bad_requests_are_refused_with_a_message(
    ex: Exchange, query: dict[str, Any], status: int, message: str
) -> None:
    response = get(ex, **query)
    assert (response.status_code, response.json()) == (status, {"message": message})


def test_rows_are_newest_first_and_both_ends_are_included(ex: Exchange) -> None:
    response = get(ex, start="2018-01-01", end="2018-01-02")
    at = seconds(LISTED)
    assert response.json() == [
        [at + 86400, 91.5, 111.25, 101, 106, 11.125],
        [at, 90.5, 110.25, 100, 105, 10.125],
    ]
    assert b"101.0" not in response.content  # whole numbers come without decimals
    assert len(rows(ex, "2018-01-01T00:00:00Z", "2018-10-28T00:00:00Z")) == 301
    # An unaligned start moves up; days without trades have no row.
    assert [row[0] for row in rows(ex, "2018-01-01T00:00:01Z", "2018-01-02T23:00:00Z")] == [at + 86400]
    assert rows(ex, GAP, GAP) == rows(ex, "2015-01-01", "2015-02-01") == []


def test_without_start_or_end_the_newest_350_rows_come_from_a_cache(ex: Exchange) -> None:
    response = get(ex, start="2018-01-01").json()
    assert (len(response), response[0][0]) == (350, seconds(date(2019, 10, 18)))
    ex.restate("BTC-USD", date(2019, 10, 17), close=700.5)
    assert get(ex).json() == response
    ex.clock = NOW + timedelta(seconds=301)
    assert get(ex).json()[1][4] == 700.5


def test_the_newest_candle_is_unfinished_by_the_clock_of_the_exchange(ex: Exchange) -> None:
    day = date(2019, 10, 17)
    closes = []
    for moment in (seconds(day) + 600, seconds(day) + 43200, seconds(day) + 86400):
        ex.clock = datetime.fromtimestamp(moment, UTC)
        closes.append(rows(ex, day, day)[0][4])
    assert closes[0] < closes[1] < closes[2] == 105 + 654


def test_the_bucket_holds_15_requests_and_refills_with_10_a_second() -> None:
    with Exchange({"BTC-USD": frame()}, clock=NOW) as ex, httpx.Client(trust_env=False) as client:
        url = f"{ex.url}/products/BTC-USD/candles?granularity=86400&start=2018-01-01&end=2018-01-02"
        began = time.monotonic()
        responses = [client.get(url) for _ in range(25)]
        statuses = [response.status_code for response in responses]
        assert statuses[:15] == [200] * 15
        assert 15 <= statuses.count(200) <= 16 + (time.monotonic() - began) * 10
        refused = next(response for response in responses if response.status_code == 429)
        assert refused.json() == {"message": "Public rate limit exceeded"}
        assert ex.most_in_a_second() > 15


def test_faults_of_the_rows(ex: Exchange) -> None:
    start, end = date(2018, 2, 1), date(2018, 2, 20)
    honest = rows(ex, start, end)
    got = {}
    for fault in ("outside", "unordered", "repeat", "duplicates", "restated", "garbage"):
        ex.faults.append(fault)
        got[fault] = rows(ex, start, end)
    assert got["outside"][3:-3] == honest
    assert got["unordered"] != honest == sorted(got["unordered"], reverse=True)
    assert got["repeat"] == [honest[0], *honest]
    assert got["duplicates"][1:] == honest != got["duplicates"][:1] + honest[1:]
    assert [a == b for a, b in zip(got["restated"], honest, strict=True)] == [False] + [True] * 19
    assert sum(a != b for a, b in zip(got["garbage"], honest, strict=True)) == 8
    assert rows(ex, start, end) == honest
    assert [request.fault for request in ex.requests] == [None, *got, None]
    assert len(ex.sent) == 8


def test_random_faults_depend_on_the_seed() -> None:
    def statuses(seed: int) -> list[int]:
        faults: dict[str, Any] = {
            "random_faults": ("429", "500"),
            "fault_rate": 0.5,
            "seed": seed,
            "burst": 99,
        }
        with Exchange({"BTC-USD": frame(9)}, clock=NOW, **faults) as ex:
            return [get(ex, start="2018-01-01", end="2018-01-02").status_code for _ in range(30)]

    assert statuses(1) == statuses(1) != statuses(2)


def test_on_the_command_line_it_serves_a_csv_moved_to_its_now(tmp_path: Path) -> None:
    file = tmp_path / "candles.csv"
    days = [f"{seconds(LISTED) + n * 86400},{90 + n},{110 + n},{100 + n},{105 + n},1.5" for n in range(9)]
    file.write_text("\n".join(["time,low,high,open,close,volume", *days, ""]))
    script = str(Path(__file__).with_name("exchange.py"))
    options = ["--port", "0", "--clock", "2019-10-18T00:20:00Z", "--shift-to-now", "--fault", "502"]
    command = [sys.executable, script, "--csv", str(file), "--product", "BTC-USD", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stderr is not None
        url = server.stderr.readline().split(" at ")[1].split(";")[0]
        query = "granularity=86400&start=2019-10-01&end=2019-10-31"
        got = [httpx.get(f"{url}/products/BTC-USD/candles?{query}", trust_env=False) for _ in range(2)]
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert [response.status_code for response in got] == [502, 200]
    assert [got[1].json()[0], len(got[1].json())] == [
        [seconds(date(2019, 10, 17)), 98, 118, 108, 113, 1.5],
        9,
    ]
    assert (server.returncode, log.splitlines()[-1]) == (0, "stopped")
