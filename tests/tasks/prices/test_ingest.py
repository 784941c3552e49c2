"""Prices into the database, from the exchange and from files: what is stored, refused, quarantined."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from storage.core.errors import (
    BadDay,
    BadFile,
    BadInput,
    BadProduct,
    ClosecastError,
    ExchangeUnavailable,
    NotEnoughHistory,
    SourceMismatch,
    StaleSeries,
)
from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.prices.raw_responses import read_raw
from storage.tables.sql import query
from tasks.core.steps import task_of
from tasks.prices import sources
from tasks.prices.coinbase_client import Client, spans
from tasks.prices.gaps import find_gaps
from tasks.prices.ingest import IngestedPrices, IngestRequest, read_stored, source_of
from tasks.prices.ingest_coinbase import FIRST_DAY, ingest_exchange
from tasks.prices.ingest_csv import ingest_file
from tasks.prices.sources import Market, ingest_prices
from tests.exchange import Exchange
from tests.helpers import BTC, NOW, made_up, to_csv, without

# Pages of a first run: 2014-12-01, 2015-09-27 and 2016-07-23 are their first days.
LISTED = date(2015, 7, 20)
LAST = LISTED + timedelta(days=399)  # 2016-08-22
SECOND_PAGE = date(2015, 9, 27)
Serve = Callable[..., Exchange]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def frame() -> pd.DataFrame:
    return made_up(400, LISTED)


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[Exchange] = []

    def start(frame: pd.DataFrame, **more: Any) -> Exchange:
        clock = datetime(2016, 8, 24, 0, 20, tzinfo=UTC)
        exchange = Exchange({BTC: frame}, **{"clock": clock, "burst": 10_000, **more})
        running.append(exchange)
        return exchange.__enter__()

    yield start
    for exchange in running:
        exchange.__exit__()


def facts(ingested: IngestedPrices) -> SimpleNamespace:
    """What a run brought and what the database has, the gaps as spans."""
    gaps = tuple(find_gaps(ingested.history.candles["day_utc"]))
    return SimpleNamespace(**ingested.facts() | {"gaps": gaps})


def fetch(
    home: Home, ex: Exchange, origin: date = LAST, product_id: str = BTC, *, replace_source: bool = False
) -> SimpleNamespace:
    request = IngestRequest(product_id, origin, NOW, NOW.date(), replace_source=replace_source)
    with Client(ex.url, sleep=lambda _: None, attempts=2) as client, Prices(home) as prices:
        return facts(ingest_exchange(home, prices, request, client=client))


def asked(ex: Exchange, after: int = 0) -> list[tuple[str, str]]:
    """The spans of the requests, each once."""
    spans = [(request.query["start"][:10], request.query["end"][:10]) for request in ex.requests[after:]]
    return list(dict.fromkeys(spans))


def candles(home: Home) -> pd.DataFrame:
    with Prices(home) as prices:
        return prices.table("candles").to_pandas()


def closes(home: Home) -> dict[date, float]:
    with Prices(home) as prices:
        rows = prices.table("closes").to_pylist()
    return {row["day_utc"]: row["close"] for row in rows}


def quarantined(home: Home) -> pd.DataFrame:
    with Prices(home) as prices:
        return prices.quarantined(BTC)


def of(frame: pd.DataFrame) -> dict[date, float]:
    return dict(zip(frame["day_utc"].dt.date, frame["close"], strict=True))


def untouched(home: Home) -> bool:
    return source_of(home, BTC) is None and candles(home).empty and quarantined(home).empty


def refused(kind: type[ClosecastError], call: Callable[..., Any], *args: Any, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **more)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The exchange


def test_the_first_run_fetches_the_whole_history(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    ex = serve(frame)
    series = fetch(home, ex)
    assert closes(home) == of(frame)
    assert asked(ex) == [
        ("2014-12-01", "2015-09-26"),
        ("2015-09-27", "2016-07-22"),
        ("2016-07-23", str(LAST)),
    ]
    assert (series.source, series.origin, series.first_day, series.days) == ("coinbase", LAST, LISTED, 400)
    assert (series.new_days, series.restated_days, series.quarantined, series.gaps) == (400, 0, 0, ())
    with Prices(home) as prices:
        pd.testing.assert_frame_equal(prices.closes_at(series.data_version), frame)


def test_every_row_names_its_raw_response(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    fetch(home, serve(frame))
    rows = candles(home)
    assert rows["payload_sha256"].nunique() == 3
    for sha256, part in rows.groupby("payload_sha256"):
        by_stamp = {row[0]: row[4] for row in json.loads(read_raw(home, str(sha256)))}
        stamps = pd.to_datetime(part["day_utc"]).astype("datetime64[s]").astype("int64")
        assert [by_stamp[stamp] for stamp in stamps] == part["close"].tolist()


def test_later_runs_fetch_from_7_days_back_and_append_new_days(
    home: Home, serve: Serve, frame: pd.DataFrame
) -> None:
    ex = serve(frame)
    before = fetch(home, ex, LAST - timedelta(days=3))
    assert (before.days, before.origin) == (397, LAST - timedelta(days=3))
    count = len(ex.requests)
    series = fetch(home, ex)
    assert asked(ex, count) == [(str(LAST - timedelta(days=10)), str(LAST))]
    assert (series.new_days, series.restated_days, series.days) == (3, 0, 400)
    assert len(candles(home)) == 400
    count = len(ex.requests)
    again = fetch(home, ex)
    assert asked(ex, count) == [(str(LAST - timedelta(days=7)), str(LAST))]
    assert again == SimpleNamespace(**vars(series) | {"new_days": 0})
    assert len(candles(home)) == 400


def test_a_past_origin_sees_no_later_day(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    ex = serve(frame)
    early = fetch(home, ex, date(2016, 1, 31))
    assert max(end for _, end in asked(ex)) == "2016-01-31"
    fetch(home, ex)
    again = fetch(home, ex, date(2016, 1, 31))
    assert again.data_version == early.data_version
    assert (again.origin, again.days) == (date(2016, 1, 31), early.days)


def test_restated_days_keep_both_observations(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    ex = serve(frame)
    first = fetch(home, ex)
    day = LAST - timedelta(days=2)
    old = of(frame)[day]
    ex.restate(BTC, day, close=old + 1)
    ex.restate(BTC, LAST - timedelta(days=20), close=1.0)  # beyond what is asked for again
    second = fetch(home, ex)
    assert (second.new_days, second.restated_days) == (0, 1)
    rows = candles(home)
    assert rows[rows["day_utc"] == day]["close"].tolist() == [old, old + 1]
    assert closes(home) == of(frame) | {day: old + 1}
    assert second.data_version != first.data_version
    with Prices(home) as prices:
        pd.testing.assert_frame_equal(prices.closes_at(first.data_version), frame)


def test_gaps_are_asked_for_again_newest_first_and_filled(
    home: Home, serve: Serve, frame: pd.DataFrame
) -> None:
    first, last = date(2016, 3, 20), date(2016, 3, 31)
    ex = serve(without(without(frame, first, last), date(2016, 5, 1), date(2016, 5, 1)))
    gaps = ((first, last), (date(2016, 5, 1), date(2016, 5, 1)))
    series = fetch(home, ex)
    assert series.gaps == gaps
    assert asked(ex)[3:] == [("2016-05-01", "2016-05-01"), (str(first), str(last))]  # the newest first
    whole = frame.set_index(frame["day_utc"].dt.date)
    for day in (first, date(2016, 5, 1)):
        figures: Any = {str(name): value for name, value in whole.loc[day].drop("day_utc").items()}
        ex.restate(BTC, day, **figures)
    count = len(ex.requests)
    series = fetch(home, ex)
    assert asked(ex, count)[1:] == [("2016-05-01", "2016-05-01"), (str(first), str(last))]
    assert series.gaps == ((first + timedelta(days=1), last),)
    assert series.new_days == 2
    assert closes(home)[first] == of(frame)[first]


@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_page_that_is_empty_by_mistake_is_asked_for_again(
    home: Home, serve: Serve, frame: pd.DataFrame, page: int
) -> None:
    """A page counts as empty after three responses; its days are asked for once more as a gap."""
    ex = serve(frame, faults=["ok"] * page + ["empty"] * 3)
    series = fetch(home, ex)
    assert closes(home) == of(frame)
    assert (series.days, series.new_days, series.gaps) == (400, 400, ())


def test_a_history_that_begins_at_a_page_asks_for_the_page_before(
    home: Home, serve: Serve, frame: pd.DataFrame
) -> None:
    ex = serve(frame, faults=["empty", "ok", "ok", *["empty"] * 3])  # asked for once more, and empty again
    assert fetch(home, ex).first_day == SECOND_PAGE
    series = fetch(home, ex)
    assert series.first_day == LISTED
    assert closes(home) == of(frame)


def test_quarantined_rows_are_counted_once_and_never_used(
    home: Home, serve: Serve, frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    spike = date(2016, 2, 10)
    row = frame["day_utc"] == pd.Timestamp(spike)
    frame.loc[row, ["close", "high"]] *= 9
    ex = serve(frame)
    series = fetch(home, ex)
    assert (series.quarantined, series.new_days, series.gaps) == (1, 399, ((spike, spike),))
    assert spike not in closes(home)
    kept = quarantined(home)
    assert kept["day_utc"].tolist() == [str(spike)]
    assert "more than 3 a day" in kept["reason"][0]
    assert "1 rows quarantined, see the view quarantine" in caplog.text
    again = fetch(home, ex)
    assert (again.quarantined, len(quarantined(home))) == (1, 1)


def test_a_quarantined_first_day_is_asked_for_again(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    bad = frame.copy()
    bad.loc[:1, "low"] *= -1
    begins = LISTED + timedelta(days=2)
    assert fetch(home, serve(bad), LAST - timedelta(days=60)).first_day == begins
    honest = serve(frame)
    assert fetch(home, honest).first_day == LISTED
    assert closes(home) == of(frame)
    assert (str(FIRST_DAY), str(begins - timedelta(days=1))) in asked(honest)
    before = len(honest.requests)
    fetch(home, honest)
    assert len(honest.requests) == before + 1


def test_a_failed_run_keeps_whole_pages_and_the_next_completes_them(
    home: Home, serve: Serve, frame: pd.DataFrame
) -> None:
    ex = serve(frame, faults=["ok", "500", "reset", "ok"])
    message = refused(ExchangeUnavailable, fetch, home, ex)
    assert "2015-09-27 to 2016-07-22" in message
    first_page = {day: close for day, close in of(frame).items() if day < SECOND_PAGE}
    assert closes(home) == first_page
    series = fetch(home, ex)
    assert closes(home) == of(frame)
    assert series.new_days == 400 - len(first_page)
    assert len(candles(home)) == 400


def test_ten_years_take_13_requests_at_most_10_a_second_and_a_transaction_a_page(home: Home) -> None:
    listed, last = date(2015, 7, 20), date(2025, 7, 19)
    frame = made_up((last - listed).days + 1, listed)
    wrote: list[bool] = []

    def note(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        connection.info["candles"] = connection.info.get("candles") or "INTO candles" in statement

    def kept(connection: sa.Connection) -> None:
        wrote.append(bool(connection.info.pop("candles", False)))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    sa.event.listen(sa.engine.Engine, "commit", kept)
    try:
        clock = datetime(2025, 7, 20, 0, 20, tzinfo=UTC)
        request = IngestRequest(BTC, last, NOW, last)
        with Exchange({BTC: frame}, clock=clock) as ex, Client(ex.url) as client, Prices(home) as prices:
            series = facts(ingest_exchange(home, prices, request, client=client))
            starts = sorted(request.at for request in ex.requests)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
        sa.event.remove(sa.engine.Engine, "commit", kept)
    assert (series.days, series.gaps) == (3653, ())
    assert len(starts) == 13  # all of 300 days, from the first day that the exchange can have
    assert max(sum(at <= other < at + 1 for other in starts) for at in starts) <= 10
    with_rows = sum(end >= listed for _, end in spans(FIRST_DAY, last))
    assert sum(wrote) == with_rows == 13


def test_another_source_is_refused_before_any_request(
    home: Home, serve: Serve, frame: pd.DataFrame, tmp_path: Path
) -> None:
    take(home, tmp_path, frame.head(100))
    before = closes(home)
    ex = serve(frame)
    assert "--replace-source" in refused(SourceMismatch, fetch, home, ex)
    assert ex.requests == []
    assert closes(home) == before
    assert source_of(home, BTC) == "csv"
    ex.faults.extend(["500", "500"])
    refused(ExchangeUnavailable, fetch, home, ex, replace_source=True)
    assert (source_of(home, BTC), closes(home)) == (
        "csv",
        before,
    )  # not before there is something in its place
    ex.faults.extend(["empty"] * 3 + ["500", "500"])
    refused(ExchangeUnavailable, fetch, home, ex, replace_source=True)
    assert (source_of(home, BTC), closes(home)) == ("csv", before)
    series = fetch(home, ex, replace_source=True)
    assert (series.source, series.days) == ("coinbase", 400)
    assert closes(home) == of(frame)
    assert fetch(home, ex).new_days == 0


def test_an_unknown_product_leaves_no_series(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    refused(BadProduct, fetch, home, serve(frame), product_id="XYZ-USD")
    assert source_of(home, "XYZ-USD") is None
    assert candles(home).empty


def test_an_origin_before_the_listing_changes_nothing(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    ex = serve(frame)
    assert str(FIRST_DAY) in refused(BadDay, fetch, home, ex, FIRST_DAY - timedelta(days=1))
    assert ex.requests == []
    assert "later --as-of" in refused(StaleSeries, fetch, home, ex, LISTED - timedelta(days=1))
    assert untouched(home)
    assert not list(Path(str(home.raw)).rglob("*"))
    fetch(home, ex)
    before = closes(home)
    assert str(LISTED) in refused(BadDay, fetch, home, ex, LISTED - timedelta(days=1))
    assert closes(home) == before


def test_a_missing_origin_names_the_last_day(home: Home, serve: Serve, frame: pd.DataFrame) -> None:
    ex = serve(frame)
    message = refused(StaleSeries, fetch, home, ex, LAST + timedelta(days=1))
    assert f"--as-of {LAST}" in message
    assert asked(ex)[-1] == (str(LAST + timedelta(days=1)),) * 2  # once more, before it is given up
    assert closes(home) == of(frame)  # what came is kept


# A file


def take(
    home: Home,
    folder: Path,
    frame: pd.DataFrame | bytes,
    origin: date | None = None,
    *,
    source: Any = "csv",
    last_finished_day: date = date(2020, 1, 1),
    **more: Any,
) -> SimpleNamespace:
    path = folder / "prices.csv"
    path.write_bytes(frame if isinstance(frame, bytes) else to_csv(frame))
    request = IngestRequest(BTC, origin, NOW, last_finished_day, **more)
    with Prices(home) as prices:
        return facts(ingest_file(prices, request, source=source, path=path))


def repeated(frame: pd.DataFrame, days: int) -> pd.DataFrame:
    """The last row again for that many days after it."""
    last = frame.iloc[[-1] * days].reset_index(drop=True)
    return last.assign(
        day_utc=last["day_utc"] + pd.to_timedelta(last.index + 1, unit="D").astype("timedelta64[s]")
    )


def test_a_file_is_stored_once(home: Home, tmp_path: Path, frame: pd.DataFrame) -> None:
    series = take(home, tmp_path, frame)
    assert (series.source, series.origin, series.days, series.new_days) == ("csv", LAST, 400, 400)
    assert closes(home) == of(frame)
    again = take(home, tmp_path, frame)
    assert again == SimpleNamespace(**vars(series) | {"new_days": 0})
    assert len(candles(home)) == 400
    longer = pd.concat([frame.tail(2), repeated(frame, 3)])
    more = take(home, tmp_path, longer)
    assert (more.new_days, more.days, more.origin) == (3, 403, LAST + timedelta(days=3))


def test_an_origin_within_a_file_limits_the_history_only(
    home: Home, tmp_path: Path, frame: pd.DataFrame
) -> None:
    origin, gap = date(2016, 1, 31), (date(2016, 3, 20), date(2016, 3, 31))
    series = take(home, tmp_path, without(frame, *gap), origin)
    assert (series.origin, series.days, series.gaps) == (origin, (origin - LISTED).days + 1, ())
    with Prices(home) as prices:
        assert prices.closes_at(series.data_version)["day_utc"].iloc[-1] == pd.Timestamp(origin)
    assert len(closes(home)) == 388
    assert take(home, tmp_path, without(frame, *gap)).gaps == (gap,)


def test_days_outside_the_calendar_are_quarantined(home: Home, tmp_path: Path, frame: pd.DataFrame) -> None:
    odd = b"".join(
        b"%s,1,1,1,1,1\n" % day for day in (b"0000-02-29", b"0020-05-01", b"0400-12-31", b"-90000000000")
    )
    series = take(home, tmp_path, to_csv(frame) + odd)
    assert (series.quarantined, series.days, series.first_day) == (4, 400, LISTED)
    assert closes(home) == of(frame)
    reasons = " ".join(quarantined(home)["reason"])
    assert reasons.count("is before 0401-01-01") == 2
    assert reasons.count("is not a UTC day") == 2
    again = take(home, tmp_path, to_csv(frame) + odd)
    assert (again.quarantined, len(quarantined(home))) == (4, 4)
    rows = query(home, "SELECT product_id, source, reason FROM quarantine ORDER BY seq").to_pylist()
    assert [row["reason"] for row in rows] == quarantined(home)["reason"].tolist()
    assert {(row["product_id"], row["source"]) for row in rows} == {(BTC, "csv")}


def test_spikes_unreadable_rows_and_unfinished_days_are_quarantined(
    home: Home, tmp_path: Path, frame: pd.DataFrame
) -> None:
    frame.loc[100, ["close", "high"]] *= 9
    data = to_csv(frame) + b"2016-08-23,1,1,1,x,1\n"
    series = take(home, tmp_path, data, last_finished_day=LAST - timedelta(days=1))
    # The spike, the line that cannot be read, and the day that is not over.
    assert (series.quarantined, series.days, series.origin) == (3, 398, LAST - timedelta(days=1))
    assert sorted(quarantined(home)["day_utc"]) == ["2015-10-28", str(LAST), "2016-08-23"]


def test_a_files_first_close_is_compared_with_the_stored_one(
    home: Home, tmp_path: Path, frame: pd.DataFrame
) -> None:
    take(home, tmp_path, frame)
    far = repeated(frame, 1)
    far[["open", "high", "low", "close"]] *= 4
    series = take(home, tmp_path, far)
    assert (series.origin, series.new_days, series.quarantined) == (LAST, 0, 1)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (NotEnoughHistory, {"min_days": 401}),
        (NotEnoughHistory, {"consecutive_days": 200}),
        (StaleSeries, {"origin": LAST + timedelta(days=1)}),
        (StaleSeries, {"origin": date(2016, 3, 5)}),
        (BadDay, {"origin": LISTED - timedelta(days=1)}),
        (BadFile, {"last_finished_day": LISTED - timedelta(days=1)}),
    ],
)
def test_a_file_that_no_forecast_can_be_made_from_stores_nothing(
    home: Home, tmp_path: Path, frame: pd.DataFrame, kind: type[ClosecastError], wanted: dict[str, Any]
) -> None:
    refused(kind, take, home, tmp_path, without(frame, date(2016, 3, 5), date(2016, 3, 6)), **wanted)
    assert untouched(home)


@pytest.mark.parametrize(
    "data", [b"", b"a,b\n1,2\n", b"date,symbol,close\n2016-01-01,ETHUSD,1\n", b"date,close\n"]
)
def test_foreign_files_store_nothing(home: Home, tmp_path: Path, data: bytes) -> None:
    refused(BadFile, take, home, tmp_path, data)
    assert untouched(home)


def test_a_day_twice_is_refused_or_resolved_as_asked(home: Home, tmp_path: Path, frame: pd.DataFrame) -> None:
    data = to_csv(frame) + to_csv(frame.tail(1).assign(close=frame["close"].iloc[-1] + 1)).split(b"\n", 1)[1]
    refused(BadFile, take, home, tmp_path, data)
    assert untouched(home)
    assert take(home, tmp_path, data, on_duplicate="last").days == 400
    assert closes(home)[LAST] == of(frame)[LAST] + 1


def test_the_sample_and_a_file_do_not_mix(home: Home, tmp_path: Path, frame: pd.DataFrame) -> None:
    take(home, tmp_path, frame, source="sample")
    before = closes(home)
    other = made_up(50, LISTED, seed=9)
    assert "--replace-source" in refused(SourceMismatch, take, home, tmp_path, other)
    assert closes(home) == before
    refused(NotEnoughHistory, take, home, tmp_path, other, replace_source=True, min_days=51)
    assert (source_of(home, BTC), closes(home)) == ("sample", before)
    series = take(home, tmp_path, other, replace_source=True)
    assert (series.source, series.days) == ("csv", 50)
    assert closes(home) == of(other)


# Stored closes, and where prices come from


def test_stored_closes_need_no_source(home: Home, tmp_path: Path, frame: pd.DataFrame) -> None:
    def stored(origin: date | None = None) -> SimpleNamespace:
        return facts(read_stored(home, IngestRequest(BTC, origin, NOW, NOW.date())))

    assert "--csv" in refused(BadInput, stored)
    series = take(home, tmp_path, frame)
    assert stored() == SimpleNamespace(**vars(series) | {"new_days": 0})
    assert stored(date(2016, 1, 1)).origin == date(2016, 1, 1)
    refused(BadDay, stored, LISTED - timedelta(days=1))
    refused(StaleSeries, stored, LAST + timedelta(days=1))


def test_the_source_is_the_stored_one_or_the_sample(
    home: Home, tmp_path: Path, frame: pd.DataFrame, serve: Serve
) -> None:
    ex, path = serve(frame), tmp_path / "prices.csv"
    path.write_bytes(to_csv(frame))

    def ingest(origin: date | None = None, product_id: str = BTC, **market: Any) -> str:
        request = IngestRequest(product_id, origin, NOW, NOW.date(), replace_source="source" in market)
        which = Market(product_id=product_id, **market)
        return ingest_prices(home, which, request, base_url=ex.url).history.source

    assert "the sample holds BTC-USD, not ETH-USD" in refused(BadProduct, ingest, product_id="ETH-USD")
    assert ingest() == "sample"
    assert "--csv goes with the source csv" in refused(BadFile, ingest, source="coinbase", csv=path)
    assert ingest(csv=path, source="csv") == "csv"
    assert ingest() == "csv"
    assert ex.requests == []
    assert ingest(LAST, source="coinbase") == ingest(LAST) == "coinbase"
    assert ex.requests


def test_only_a_schedule_retries_and_only_an_unavailable_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.runtime import deployment
    from prefect.states import Failed

    def retried(error: Exception) -> bool:
        return sources._retry_later(None, None, Failed(data=error))

    assert not retried(ExchangeUnavailable("x"))
    monkeypatch.setattr(deployment, "get_id", lambda: "some deployment")
    assert [retried(error) for error in (ExchangeUnavailable("x"), BadProduct("x"), ZeroDivisionError())] == [
        True,
        False,
        False,
    ]
    assert task_of(ingest_prices).retries == 3
    assert task_of(read_stored).retries == 0
