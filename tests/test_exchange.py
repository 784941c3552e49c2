import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests

from storage.core.candle_schema import candle_frame
from tests.exchange import FAULTS, TOO_MANY, Answer, Exchange, shift

LISTED = date(2018, 1, 1)
NOW = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
HOLE = date(2019, 3, 20)


def frame(days: int = 656) -> pd.DataFrame:
    """Made-up candles from LISTED on, without the day HOLE."""
    n = np.arange(days)
    rows = {
        "day_utc": pd.date_range(str(LISTED), periods=len(n), unit="s"),
        "open": 100.0 + n,
        "high": 110.25 + n,
        "low": 90.5 + n,
        "close": 105.0 + n,
        "volume": 10.125 + n,
    }
    whole = candle_frame(rows)
    return whole[whole["day_utc"] != pd.Timestamp(HOLE)].reset_index(drop=True)


def seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def ask(ex: Exchange, product: str = "BTC-USD", **query: object) -> requests.Response:
    query = {"granularity": 86400} | query
    with requests.Session() as session:
        session.trust_env = False
        return session.get(
            f"{ex.url}/products/{product}/candles", params={k: str(v) for k, v in query.items()}, timeout=5
        )


def rows(ex: Exchange, start: object, end: object) -> list[list[float]]:
    answer = ask(ex, start=start, end=end)
    assert answer.status_code == 200
    return answer.json()  # type: ignore[no-any-return]


def message(answer: requests.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"message"}
    return answer.status_code, answer.json()["message"]


@pytest.fixture
def ex() -> Iterator[Exchange]:
    with Exchange({"BTC-USD": frame(), "ETH-USD": frame(10)}, clock=NOW, burst=1000) as exchange:
        yield exchange


# What the contract says, by its numbers


def test_granularities(ex: Exchange) -> None:
    span = {"start": "2019-01-01", "end": "2019-01-01"}
    assert message(ask(ex, granularity=120, **span)) == (400, "Unsupported granularity")
    for granularity in (60, 300, 900, 3600, 21600, 86400):
        assert ask(ex, granularity=granularity, **span).status_code == 200


def test_both_or_none_gives_the_newest_350_and_caches_them(ex: Exchange) -> None:
    for query in ({}, {"start": "2018-01-01"}, {"end": "2018-01-01"}):
        answer = ask(ex, **query).json()
        assert len(answer) == 350
        assert answer[0][0] == seconds(date(2019, 10, 18))
    ex.restate("BTC-USD", date(2019, 10, 17), close=700.5)
    ex.clock = NOW + timedelta(seconds=299)
    assert ask(ex).json() == answer
    ex.clock = NOW + timedelta(seconds=301)
    assert ask(ex).json()[1][4] == 700.5


def test_more_than_300_intervals_are_refused_never_truncated(ex: Exchange) -> None:
    refused = ask(ex, start="2018-01-01T00:00:00Z", end="2018-10-28T00:00:01Z")
    assert message(refused) == (400, TOO_MANY)
    assert len(rows(ex, "2018-01-01T00:00:00Z", "2018-10-28T00:00:00Z")) == 301
    assert len(rows(ex, "2018-01-01", "2018-10-27")) == 300


def test_an_unaligned_start_moves_up(ex: Exchange) -> None:
    got = rows(ex, "2018-01-01T00:00:01Z", "2018-01-03T23:59:59Z")
    assert [row[0] for row in got] == [seconds(date(2018, 1, 3)), seconds(date(2018, 1, 2))]


def test_rows_are_newest_first_in_the_order_of_the_exchange(ex: Exchange) -> None:
    answer = ask(ex, start="2018-01-01", end="2018-01-02")
    assert answer.headers["Content-Type"].startswith("application/json")
    at = seconds(LISTED)
    assert answer.json() == [
        [at + 86400, 91.5, 111.25, 101, 106, 11.125],
        [at, 90.5, 110.25, 100, 105, 10.125],
    ]
    assert b"101.0" not in answer.content  # whole numbers come without decimals


def test_no_row_for_a_day_without_trades(ex: Exchange) -> None:
    got = rows(ex, HOLE - timedelta(days=1), HOLE + timedelta(days=1))
    assert [row[0] for row in got] == [seconds(HOLE) + 86400, seconds(HOLE) - 86400]


def test_the_newest_bucket_is_unfinished_by_the_clock_of_the_exchange(ex: Exchange) -> None:
    day = date(2019, 10, 17)
    seen = []
    for moment in (seconds(day), seconds(day) + 600, seconds(day) + 43200, seconds(day) + 86400):
        ex.clock = datetime.fromtimestamp(moment, UTC)
        seen.append(rows(ex, day, day + timedelta(days=9)))
    nothing, early, later, done = seen
    assert nothing == []
    assert early[0][4] < later[0][4] < done[-1][4] == 105 + 654
    assert early[0][5] < later[0][5] < done[-1][5]
    for at, low, high, opened, close, _ in (early[0], later[0]):
        assert at == seconds(day)
        assert low <= min(opened, close) <= max(opened, close) <= high


def test_days_before_the_listing_are_an_empty_page(ex: Exchange) -> None:
    assert rows(ex, "2015-01-01", "2015-02-01") == []


def test_unknown_products_and_paths_are_not_found(ex: Exchange) -> None:
    assert message(ask(ex, "NOPE-USD", start="2019-01-01", end="2019-01-02")) == (404, "NotFound")
    answer = requests.get(f"{ex.url}/products", timeout=5)
    assert message(answer) == (404, "NotFound")


def test_the_bucket_holds_15_and_refills_with_10_a_second() -> None:
    with Exchange({"BTC-USD": frame()}, clock=NOW) as ex, requests.Session() as session:
        session.trust_env = False
        url = f"{ex.url}/products/BTC-USD/candles?granularity=86400&start=2018-01-01&end=2018-01-02"
        began = time.monotonic()
        answers = [session.get(url, timeout=5) for _ in range(25)]
        took = time.monotonic() - began
        codes = [answer.status_code for answer in answers]
        assert codes[:15] == [200] * 15
        assert 15 <= codes.count(200) <= 16 + took * 10
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert message(refused) == (429, "Public rate limit exceeded")
        assert not [name for name in refused.headers if "rate" in name.lower() or "retry" in name.lower()]
        time.sleep(0.35)
        assert [session.get(url, timeout=5).status_code for _ in range(3)] == [200] * 3


def test_a_user_agent_is_required(ex: Exchange) -> None:
    url = f"{ex.url}/products/BTC-USD/candles?granularity=86400"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(url, headers={"User-Agent": ""}, timeout=5)
    assert message(answer) == (400, "User-Agent header is required.")


@pytest.mark.parametrize(
    "query",
    [
        {"start": "2019-01-02", "end": "2019-01-01"},
        {"start": "yesterday", "end": "2019-01-01"},
        {"start": "2019-01-01", "end": "2019-02-30"},
        {"granularity": "", "start": "2019-01-01", "end": "2019-01-01"},
        {"granularity": "day", "start": "2019-01-01", "end": "2019-01-01"},
    ],
)
def test_malformed_questions_are_refused_with_a_message(ex: Exchange, query: dict[str, str]) -> None:
    assert message(ask(ex, **query))[0] == 400


def test_each_product_has_its_own_rows(ex: Exchange) -> None:
    assert len(ask(ex, "ETH-USD", start="2018-01-01", end="2018-03-01").json()) == 10


# What it does when told to misbehave


@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("500", 500), ("object", 200)])
def test_error_objects(ex: Exchange, fault: str, status: int) -> None:
    ex.faults.append(fault)
    assert message(ask(ex))[0] == status


@pytest.mark.parametrize(("fault", "status"), [("502", 502), ("503", 503), ("504", 504), ("html", 200)])
def test_html_pages(ex: Exchange, fault: str, status: int) -> None:
    ex.faults.append(fault)
    answer = ask(ex)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html; charset=UTF-8")
    assert answer.text.startswith("<html>")


def test_faults_of_the_connection() -> None:
    with Exchange({"BTC-USD": frame()}, clock=NOW, stall_seconds=0.1) as ex:
        ex.faults.extend(["reset", "short", "stall", "silent"])
        for _ in range(4):
            with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
                ask(ex)
        ex.faults.append("truncated")
        with pytest.raises(requests.JSONDecodeError):
            ask(ex).json()
        assert [request.status for request in ex.requests] == [0, 200, 200, 0, 200]


def test_faults_of_the_rows(ex: Exchange) -> None:
    start, end = date(2018, 2, 1), date(2018, 2, 20)
    honest = rows(ex, start, end)
    said = {}
    for fault in ("empty", "outside", "unordered", "repeat", "duplicates", "restated", "garbage"):
        ex.faults.append(fault)
        said[fault] = rows(ex, start, end)
    assert said["empty"] == []
    assert len(said["outside"]) == 26
    assert said["outside"][3:-3] == honest
    assert said["unordered"] != honest
    assert sorted(said["unordered"]) == sorted(honest)
    assert said["repeat"] == [honest[0], *honest]
    assert said["duplicates"][1:] == honest
    assert said["duplicates"][0][0] == honest[0][0]
    assert said["duplicates"][0] != honest[0]
    assert said["restated"][0][4] != honest[0][4]
    assert said["restated"][1:] == honest[1:]
    assert sum(a != b for a, b in zip(said["garbage"], honest, strict=True)) == 8
    assert rows(ex, start, end) == honest


def test_a_whole_answer_can_be_scripted(ex: Exchange) -> None:
    ex.faults.extend(["ok", Answer(418, b"{}")])
    assert [ask(ex).status_code for _ in range(3)] == [200, 418, 200]


def test_a_restated_day_stays_restated(ex: Exchange) -> None:
    ex.restate("BTC-USD", LISTED, close=99.5)
    ex.restate("BTC-USD", HOLE, open=1, high=2, low=0.5, close=1.5, volume=3)
    assert rows(ex, LISTED, LISTED) == [[seconds(LISTED), 90.5, 110.25, 100, 99.5, 10.125]]
    assert rows(ex, HOLE, HOLE) == [[seconds(HOLE), 0.5, 2, 1, 1.5, 3]]


def test_random_faults_come_from_the_seed() -> None:
    def statuses(seed: int) -> list[tuple[int, str | None]]:
        kinds = ("429", "500", "object", "html")
        faults: dict[str, Any] = {"fault_rate": 0.5, "random_faults": kinds, "seed": seed, "burst": 100}
        with Exchange({"BTC-USD": frame()}, clock=NOW, **faults) as ex:
            for _ in range(30):
                ask(ex, start="2018-01-01", end="2018-01-02")
            return [(request.status, request.fault) for request in ex.requests]

    first = statuses(1)
    assert statuses(1) == first != statuses(2)
    assert 5 < sum(fault is not None for _, fault in first) < 25


def test_every_request_is_logged(ex: Exchange) -> None:
    ex.faults.append("500")
    before = time.monotonic()
    ask(ex, start="2018-01-01", end="2018-01-02")
    ask(ex, "NOPE-USD", start="2018-01-01", end="2018-01-02")
    one, two = ex.requests
    assert (one.path, one.status, one.fault) == ("/products/BTC-USD/candles", 500, "500")
    assert one.query == {"granularity": "86400", "start": "2018-01-01", "end": "2018-01-02"}
    assert one.user_agent.startswith("python-requests/")
    assert (two.status, two.fault) == (404, None)
    assert before <= one.at <= two.at <= time.monotonic()
    assert ex.most_in_a_second() == 2


def test_leaving_ends_kept_connections_and_stalls_at_once() -> None:
    with requests.Session() as session:
        session.trust_env = False
        with Exchange({"BTC-USD": frame()}, clock=NOW, faults=["ok", "stall"]) as ex:
            url = f"{ex.url}/products/BTC-USD/candles?granularity=86400"
            session.get(url, timeout=5)
            stalled = session.get(url, timeout=5, stream=True)
            began = time.monotonic()
        assert time.monotonic() - began < 2
        stalled.close()
        with pytest.raises(requests.ConnectionError):
            session.get(url, timeout=5)


@pytest.mark.parametrize(
    "clock", [NOW, lambda: NOW, NOW.astimezone(tz=None)], ids=["instant", "function", "zone"]
)
def test_clocks(clock: object) -> None:
    with Exchange({}, clock=clock) as ex:  # type: ignore[arg-type]
        assert ex.now == NOW


def test_a_clock_with_an_offset() -> None:
    with Exchange({}, clock=timedelta(days=-30)) as ex:
        assert abs(datetime.now(UTC) - timedelta(days=30) - ex.now) < timedelta(seconds=5)


def test_shift_keeps_figures_and_holes() -> None:
    moved = shift(frame(), date(2026, 1, 31))
    assert moved["day_utc"].max() == pd.Timestamp("2026-01-31")
    assert moved["day_utc"].dtype == "datetime64[s]"
    assert (moved["day_utc"].diff().dropna() == frame()["day_utc"].diff().dropna()).all()
    assert moved["close"].tolist() == frame()["close"].tolist()


# By hand


def by_hand(file: Path, *options: str) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("exchange.py")
    command = [sys.executable, str(script), "--csv", str(file), "--product", "BTC-USD", *options]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=file.parent, env=env)


def refused(file: Path, *options: str) -> tuple[int, str]:
    server = by_hand(file, *options)
    _, said = server.communicate(timeout=60)
    return server.returncode, said


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Nine days of 2018, in the column order of the exchange."""
    file = tmp_path / "candles.csv"
    days = [f"{seconds(LISTED) + n * 86400},{90 + n},{110 + n},{100 + n},{105 + n},1.5" for n in range(9)]
    file.write_text("\n".join(["time,low,high,open,close,volume", *days, ""]))
    return file


def test_by_hand_it_serves_a_csv_moved_to_its_now(csv: Path) -> None:
    options = ("--port", "0", "--clock", "2019-10-18T00:20:00Z", "--shift-to-now", "--fault", "502:2")
    server = by_hand(csv, *options)
    assert server.stderr is not None
    try:
        url = server.stderr.readline().split(" at ")[1].split(";")[0]
        query = "granularity=86400&start=2019-10-01&end=2019-10-31"
        with requests.Session() as session:
            session.trust_env = False
            answers = [session.get(f"{url}/products/BTC-USD/candles?{query}", timeout=5) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [502, 502, 200]
        assert answers[2].json()[0] == [seconds(date(2019, 10, 17)), 98, 118, 108, 113, 1.5]
        assert len(answers[2].json()) == 9
    finally:
        server.send_signal(signal.SIGTERM)
        _, rest = server.communicate(timeout=60)
    assert server.returncode == 0
    assert rest.splitlines()[-1] == "stopped"
    assert rest.count(" -> 502, fault 502") == 2


def test_by_hand_an_unknown_fault_is_refused_with_the_names_of_the_known(csv: Path) -> None:
    code, said = refused(csv, "--fault", "505")
    assert code == 2
    assert said.splitlines()[-1].endswith("not 505; names: ok, " + ", ".join(FAULTS))


def test_by_hand_a_missing_file_is_one_line(csv: Path) -> None:
    code, said = refused(csv.with_name("none.csv"))
    assert (code, len(said.splitlines())) == (1, 1)
    assert "none.csv" in said


def test_by_hand_a_taken_port_is_one_line(csv: Path) -> None:
    with Exchange({}) as taken:
        code, said = refused(csv, "--port", taken.url.rpartition(":")[2])
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.endswith("choose another with --port\n")
