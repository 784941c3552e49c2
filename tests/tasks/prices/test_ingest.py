from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from closecast.storage.core.errors import (
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
from closecast.storage.core.home import Home
from closecast.storage.prices.price_store import Prices
from closecast.storage.prices.raw_responses import read_raw
from closecast.storage.tables.sql import query
from closecast.tasks.core.steps import task_of
from closecast.tasks.prices import sources
from closecast.tasks.prices.coinbase_client import Client, spans
from closecast.tasks.prices.file_reader import DEFAULTS
from closecast.tasks.prices.file_table import FileOptions
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.prices.ingest import IngestedPrices, IngestRequest, read_stored
from closecast.tasks.prices.ingest_coinbase import FIRST_DAY, ingest_exchange
from closecast.tasks.prices.ingest_file import ingest_file
from closecast.tasks.prices.sources import Market, ingest_prices
from tests.exchange import Exchange
from tests.helpers import BTC, NOW, made_up, to_csv, without

# Pages of a first run: 2014-12-01, 2015-09-27 and 2016-07-23 are their first days.
LISTED, SECOND_PAGE, LAST = date(2015, 7, 20), date(2015, 9, 27), date(2016, 8, 22)
CLOCK = datetime(2016, 8, 24, 0, 20, tzinfo=UTC)
DAY = timedelta(days=1)
FRAME = made_up(400, LISTED)
CLOSES: dict[date, float] = dict(zip(FRAME["day_utc"].dt.date, FRAME["close"], strict=True))


@dataclass
class Ingest:
    """A home, and an exchange that serves FRAME."""

    home: Home
    ex: Exchange

    def fetch(
        self, origin: date = LAST, product_id: str = BTC, *, replace_source: bool = False
    ) -> IngestedPrices:
        request = IngestRequest(product_id, origin, NOW, NOW.date(), replace_source=replace_source)
        with Prices(self.home) as prices, Client(self.ex.url, sleep=lambda _: None, attempts=2) as client:
            return ingest_exchange(self.home, prices, request, client=client)

    def import_file(
        self,
        content: pd.DataFrame | bytes = FRAME,
        *,
        source: Any = "csv",
        options: FileOptions = DEFAULTS,
        **wanted: Any,
    ) -> IngestedPrices:
        path = self.home.root.parent / "prices.csv"
        path.write_bytes(content if isinstance(content, bytes) else to_csv(content))
        request = replace(IngestRequest(BTC, None, NOW, NOW.date()), **wanted)
        with Prices(self.home) as prices:
            return ingest_file(prices, request, source=source, path=path, options=options)

    def requested(self, after: int = 0) -> list[tuple[str, str]]:
        """The spans of the requests, each once."""
        queries = [request.query for request in self.ex.requests[after:]]
        return list(dict.fromkeys((query["start"][:10], query["end"][:10]) for query in queries))

    def table(self, name: Any) -> pd.DataFrame:
        with Prices(self.home) as prices:
            return prices.table(name).to_pandas()

    def closes(self) -> dict[date, float]:
        rows = self.table("closes")
        return dict(zip(rows["day_utc"], rows["close"], strict=True))

    def quarantined(self) -> pd.DataFrame:
        with Prices(self.home) as prices:
            return prices.quarantined(BTC)

    def candles_of(self, ingested: IngestedPrices) -> pd.DataFrame:
        with Prices(self.home) as prices:
            return prices.prices_at(ingested.history.data_version).candles

    def source(self, product_id: str = BTC) -> str | None:
        with Prices(self.home) as prices:
            return prices.source_of(product_id)

    def holds_nothing(self) -> bool:
        return self.source() is None and self.table("candles").empty and self.quarantined().empty


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    with Exchange({BTC: FRAME}, clock=CLOCK) as exchange:
        yield Ingest(Home(tmp_path / "home").prepare(), exchange)


def counts(prices: IngestedPrices) -> tuple[int, int, int, int]:
    """Days of the history; days new and restated, and rows quarantined by the run."""
    return len(prices.history.candles), prices.new_days, prices.restated_days, prices.quarantined


def gaps(prices: IngestedPrices) -> list[tuple[date, date]]:
    return find_gaps(prices.history.candles["day_utc"])


# The exchange


def test_the_first_run_fetches_the_whole_history(ingest: Ingest) -> None:
    prices = ingest.fetch()
    assert ingest.requested() == [
        ("2014-12-01", "2015-09-26"),
        ("2015-09-27", "2016-07-22"),
        ("2016-07-23", "2016-08-22"),
    ]
    history = prices.history
    assert (history.source, history.origin, history.first_day) == ("coinbase", LAST, LISTED)
    assert (counts(prices), gaps(prices)) == ((400, 400, 0, 0), [])
    pd.testing.assert_frame_equal(ingest.candles_of(prices), FRAME)
    # Every row names the raw response that holds it.
    rows = ingest.table("candles")
    assert rows["payload_sha256"].nunique() == 3
    for sha256, part in rows.groupby("payload_sha256"):
        sent = {row[0]: row[4] for row in json.loads(read_raw(ingest.home, str(sha256)))}
        stamps = pd.to_datetime(part["day_utc"]).astype("datetime64[s]").astype("int64")
        assert [sent[stamp] for stamp in stamps] == part["close"].tolist()


def test_the_empty_pages_before_a_product_are_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "closecast")
    with Exchange({BTC: FRAME[-20:]}, clock=CLOCK) as exchange:
        Ingest(Home(tmp_path).prepare(), exchange).fetch()
    lines = [line for line in caplog.messages if "candles" in line]
    assert lines == [
        "BTC-USD 2016-07-23 to 2016-08-22: 20 candles",
        "BTC-USD: no candles on 2 pages between 2014-12-01 and 2016-07-22",
    ]


def test_later_runs_begin_a_week_back_and_append_only_new_days(ingest: Ingest) -> None:
    early = ingest.fetch(LAST - 3 * DAY)
    assert (counts(early), early.history.origin) == ((397, 397, 0, 0), LAST - 3 * DAY)
    requests = len(ingest.ex.requests)
    late = ingest.fetch()
    assert ingest.requested(requests) == [(str(LAST - 10 * DAY), str(LAST))]
    assert counts(late) == (400, 3, 0, 0)
    requests = len(ingest.ex.requests)
    again = ingest.fetch()
    assert ingest.requested(requests) == [(str(LAST - 7 * DAY), str(LAST))]
    assert again.facts() == late.facts() | {"new_days": 0}
    assert len(ingest.table("candles")) == 400
    # A past origin sees nothing later.
    assert ingest.fetch(LAST - 3 * DAY).history.data_version == early.history.data_version


def test_restated_days_keep_both_observations(ingest: Ingest) -> None:
    first, day = ingest.fetch(), LAST - 2 * DAY
    ingest.ex.restate(BTC, day, close=CLOSES[day] + 1)
    ingest.ex.restate(BTC, LAST - 20 * DAY, close=1.0)  # beyond the days that are fetched again
    second = ingest.fetch()
    assert counts(second) == (400, 0, 1, 0)
    rows = ingest.table("candles")
    assert rows[rows["day_utc"] == day]["close"].tolist() == [CLOSES[day], CLOSES[day] + 1]
    assert ingest.closes() == CLOSES | {day: CLOSES[day] + 1}
    assert second.history.data_version != first.history.data_version
    pd.testing.assert_frame_equal(ingest.candles_of(first), FRAME)


def test_gaps_are_reported_fetched_again_and_filled(ingest: Ingest) -> None:
    first, last, single = date(2016, 3, 20), date(2016, 3, 31), date(2016, 5, 1)
    ingest.ex.withdraw(BTC, first, last)
    ingest.ex.withdraw(BTC, single, single)
    assert gaps(ingest.fetch()) == [(first, last), (single, single)]
    newest_first = [(str(single), str(single)), (str(first), str(last))]
    assert ingest.requested()[3:] == newest_first
    for day in (first, single):
        (row,) = FRAME[FRAME["day_utc"] == pd.Timestamp(day)].to_dict("records")
        ingest.ex.restate(BTC, day, **{str(name): row[name] for name in row if name != "day_utc"})
    requests = len(ingest.ex.requests)
    prices = ingest.fetch()
    assert ingest.requested(requests)[1:] == newest_first
    assert (gaps(prices), prices.new_days) == ([(first + DAY, last)], 2)
    assert ingest.closes()[first] == CLOSES[first]


@pytest.mark.parametrize(
    ("faults", "quarantined"),
    [
        # A page is believed to be empty after three times; its days are fetched once more as a gap.
        *[(["ok"] * page + ["empty"] * 3, 0) for page in range(3)],
        (["ok", "garbage"], 8),
    ],
)
def test_days_of_a_faulty_page_are_fetched_again_in_the_same_run(
    ingest: Ingest, faults: list[str], quarantined: int
) -> None:
    ingest.ex.faults.extend(faults)
    prices = ingest.fetch()
    assert ingest.closes() == CLOSES
    assert (counts(prices), gaps(prices)) == ((400, 400, 0, quarantined), [])
    assert len(ingest.quarantined()) == quarantined


def test_a_history_cut_off_at_a_page_is_completed_later(ingest: Ingest) -> None:
    ingest.ex.faults.extend(["empty", "ok", "ok", *["empty"] * 3])  # requested once more, and empty again
    assert ingest.fetch().history.first_day == SECOND_PAGE
    assert ingest.fetch().history.first_day == LISTED
    assert ingest.closes() == CLOSES


def test_quarantined_rows_are_counted_once_and_never_used(
    ingest: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    spike = date(2016, 2, 10)
    ingest.ex.restate(BTC, spike, close=CLOSES[spike] * 9, high=CLOSES[spike] * 9)
    prices = ingest.fetch()
    assert (counts(prices), gaps(prices)) == ((399, 399, 0, 1), [(spike, spike)])
    assert spike not in ingest.closes()
    assert ingest.quarantined()["day_utc"].tolist() == [str(spike)]
    assert "more than 3 a day" in ingest.quarantined()["reason"][0]
    assert "1 row quarantined; list and decide with `closecast quarantine --product BTC-USD`" in caplog.text
    assert (ingest.fetch().quarantined, len(ingest.quarantined())) == (1, 1)


def test_quarantined_first_days_are_fetched_again(ingest: Ingest) -> None:
    for day in (LISTED, LISTED + DAY):
        ingest.ex.restate(BTC, day, low=-1.0)
    assert ingest.fetch(LAST - 60 * DAY).history.first_day == LISTED + 2 * DAY
    for day in (LISTED, LISTED + DAY):
        ingest.ex.restate(BTC, day, low=CLOSES[day] - 5)
    assert ingest.fetch().history.first_day == LISTED
    assert ingest.closes() == CLOSES
    assert (str(FIRST_DAY), str(LISTED + DAY)) in ingest.requested()
    requests = len(ingest.ex.requests)
    ingest.fetch()
    assert len(ingest.ex.requests) == requests + 1


def test_a_failure_keeps_whole_pages_and_the_next_run_completes(ingest: Ingest) -> None:
    ingest.ex.faults.extend(["ok", "500", "reset", "ok"])
    with pytest.raises(ExchangeUnavailable, match="2015-09-27 to 2016-07-22"):
        ingest.fetch()
    first_page = {day: close for day, close in CLOSES.items() if day < SECOND_PAGE}
    assert ingest.closes() == first_page
    assert ingest.fetch().new_days == 400 - len(first_page)
    assert ingest.closes() == CLOSES
    assert len(ingest.table("candles")) == 400


def test_ten_years_take_13_requests_and_a_transaction_a_page(ingest: Ingest) -> None:
    last = date(2025, 7, 19)
    frame = made_up((last - LISTED).days + 1, LISTED)
    wrote: list[bool] = []

    def note(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        connection.info["candles"] = connection.info.get("candles") or "INTO candles" in statement

    def committed(connection: sa.Connection) -> None:
        wrote.append(bool(connection.info.pop("candles", False)))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    sa.event.listen(sa.engine.Engine, "commit", committed)
    try:
        with (
            Exchange({BTC: frame}, clock=datetime(2025, 7, 20, 0, 20, tzinfo=UTC)) as ex,
            Client(ex.url, sleep=lambda _: None) as client,
            Prices(ingest.home) as prices,
        ):
            request = IngestRequest(BTC, last, NOW, last)
            ingested = ingest_exchange(ingest.home, prices, request, client=client)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
        sa.event.remove(sa.engine.Engine, "commit", committed)
    assert (counts(ingested), gaps(ingested)) == ((3653, 3653, 0, 0), [])
    assert len(ex.requests) == len(spans(FIRST_DAY, last)) == sum(wrote) == 13


def test_another_source_replaces_a_series_only_once_it_has_sent_rows(ingest: Ingest) -> None:
    ingest.import_file(FRAME.head(100))
    before = ingest.closes()
    with pytest.raises(SourceMismatch, match="--replace-source"):
        ingest.fetch()
    assert ingest.ex.requests == []
    for faults in (["500"] * 2, ["empty"] * 3 + ["500"] * 2):
        ingest.ex.faults.extend(faults)
        with pytest.raises(ExchangeUnavailable):
            ingest.fetch(replace_source=True)
        assert (ingest.source(), ingest.closes()) == ("csv", before)
    prices = ingest.fetch(replace_source=True)
    assert (prices.history.source, len(prices.history.candles)) == ("coinbase", 400)
    assert ingest.closes() == CLOSES
    assert ingest.fetch().new_days == 0


def test_an_unknown_product_gets_no_series(ingest: Ingest) -> None:
    with pytest.raises(BadProduct):
        ingest.fetch(product_id="XYZ-USD")
    assert ingest.source("XYZ-USD") is None
    assert ingest.table("candles").empty


def test_an_origin_that_the_exchange_cannot_serve(ingest: Ingest) -> None:
    with pytest.raises(BadDay, match=str(FIRST_DAY)):
        ingest.fetch(FIRST_DAY - DAY)
    assert ingest.ex.requests == []
    with pytest.raises(StaleSeries, match="later --as-of"):
        ingest.fetch(LISTED - DAY)
    assert ingest.holds_nothing()
    prices = ingest.fetch(LAST + DAY)
    assert (prices.history.origin, prices.as_of) == (LAST, LAST + DAY)
    assert ingest.requested()[-1] == (str(LAST + DAY),) * 2  # once more, before the day counts as missing
    assert ingest.closes() == CLOSES  # the days before it are kept
    with pytest.raises(BadDay, match=str(LISTED)):
        ingest.fetch(LISTED - DAY)
    assert ingest.closes() == CLOSES


# A file


def test_a_file_is_stored_once(ingest: Ingest) -> None:
    prices = ingest.import_file()
    assert (prices.history.source, prices.history.origin, counts(prices)) == ("csv", LAST, (400, 400, 0, 0))
    assert ingest.closes() == CLOSES
    assert ingest.import_file().facts() == prices.facts() | {"new_days": 0}
    assert len(ingest.table("candles")) == 400
    longer = ingest.import_file(made_up(403, LISTED).tail(5).assign(close=4000.0, high=1e5, low=1.0))
    assert (len(longer.history.candles), longer.new_days, longer.restated_days) == (403, 3, 2)


def test_an_origin_within_the_file(ingest: Ingest) -> None:
    origin, gap = date(2016, 1, 31), (date(2016, 3, 20), date(2016, 3, 31))
    prices = ingest.import_file(without(FRAME, *gap), origin=origin)
    assert (prices.history.origin, len(prices.history.candles)) == (origin, (origin - LISTED).days + 1)
    assert ingest.candles_of(prices)["day_utc"].iloc[-1] == pd.Timestamp(origin)
    assert gaps(prices) == []
    assert len(ingest.closes()) == 388
    assert gaps(ingest.import_file(without(FRAME, *gap))) == [gap]


def test_rows_of_a_file_are_quarantined_with_a_reason(ingest: Ingest) -> None:
    frame = FRAME.copy()
    frame.loc[100, ["close", "high"]] *= 9
    odd = b"0000-02-29,1,1,1,1,1\n0020-05-01,1,1,1,1,1\n-90000000000,1,1,1,1,1\n2014-08-23,1,1,1,x,1\n"
    for new_days in (398, 0):
        prices = ingest.import_file(to_csv(frame) + odd, last_finished_day=LAST - DAY)
        assert (counts(prices), prices.history.origin) == ((398, new_days, 0, 6), LAST - DAY)
        rows = query(ingest.home, "SELECT product_id, source, reason FROM quarantine").to_pandas()
        assert set(zip(rows["product_id"], rows["source"], strict=True)) == {(BTC, "csv")}
        assert len(rows) == 6
        for part, count in (
            ("more than 3 a day", 1),
            ("is not finished", 1),
            ("'x' is not a number", 1),
            ("day 0020-05-01 is before 0401-01-01", 1),
            ("is not a UTC day", 2),
        ):
            assert sum(part in reason for reason in rows["reason"]) == count, part


def test_the_first_close_of_a_file_is_compared_with_the_stored_one(ingest: Ingest) -> None:
    ingest.import_file()
    far = FRAME.tail(1).assign(day_utc=pd.Timestamp(LAST + DAY), volume=1.0)
    far[["open", "high", "low", "close"]] *= 4
    prices = ingest.import_file(far)
    assert (prices.history.origin, counts(prices)) == (LAST, (400, 0, 0, 1))


def test_a_file_of_which_many_days_cannot_be_prices_is_refused_whole(ingest: Ingest) -> None:
    """Else a run would forecast from an old day, or from closes of two units."""
    mixed, negative = FRAME[["day_utc", "close"]].copy(), FRAME[["day_utc", "close"]].copy()
    mixed.loc[::4, "close"] *= 100
    negative.loc[396:, "close"] *= -1
    for frame, days in ((mixed, 100), (negative, 4)):
        data = frame.to_csv(index=False)
        with pytest.raises(BadFile, match=f"but {days} of 400 days cannot be or jump, .* --columns"):
            ingest.import_file(data.encode())
        assert ingest.holds_nothing()
    negative["close"] *= np.where(negative.index == 396, -1, 1)
    assert counts(ingest.import_file(negative.to_csv(index=False).encode())) == (397, 397, 0, 3)


def test_closes_of_zero_are_unknown(ingest: Ingest) -> None:
    """CryptoCompare has them for the days before a coin was traded."""
    frame = FRAME[["day_utc", "close"]].copy()
    frame.loc[:99, "close"] = 0.0
    prices = ingest.import_file(frame.to_csv(index=False).encode())
    assert counts(prices) == (300, 300, 0, 100)


GAP = (date(2016, 3, 5), date(2016, 3, 6))


@pytest.mark.parametrize(
    ("error", "message", "wanted"),
    [
        (NotEnoughHistory, "needs 401 days up to 2016-08-22 .* 400 with 398 closes", {"min_days": 401}),
        (StaleSeries, "no close after 2016-08-22, .*--as-of 2016-08-22", {"origin": LAST + 30 * DAY}),
        (BadDay, "begins on 2015-07-20, the origin is 2015-07-19", {"origin": LISTED - DAY}),
        (BadFile, "no usable candle", {"last_finished_day": LISTED - DAY}),
    ],
)
def test_a_file_that_cannot_serve_the_run_is_stored_where_it_has_candles(
    ingest: Ingest, error: type[ClosecastError], message: str, wanted: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        ingest.import_file(without(FRAME, *GAP), **wanted)
    if error is BadFile:
        assert ingest.holds_nothing()
        return
    assert len(ingest.closes()) == 398
    assert counts(ingest.import_file(without(FRAME, *GAP))) == (398, 0, 0, 0)


def test_a_file_with_just_enough_closes_serves_the_run(ingest: Ingest) -> None:
    prices = ingest.import_file(without(FRAME, *GAP), min_days=400)
    assert (prices.history.origin, prices.as_of, prices.horizon) == (LAST, LAST, 1)
    third = FRAME.iloc[::-3].iloc[::-1].reset_index(drop=True)
    with pytest.raises(NotEnoughHistory, match="400 with 134 closes"):
        ingest.import_file(third, source="sample", min_days=400, replace_source=True)


@pytest.mark.parametrize(("origin", "newest"), [(LAST + 29 * DAY, LAST), (GAP[1], GAP[0] - DAY)])
def test_an_origin_without_a_close_has_that_of_the_day_before(
    ingest: Ingest, origin: date, newest: date
) -> None:
    file = without(FRAME, *GAP)
    prices = ingest.import_file(file, origin=origin)
    assert (prices.history.origin, prices.as_of) == (newest, origin)
    assert prices.horizon == (origin - newest).days + 1
    # The newest close's own day has the same candles, and so the same data version and run key.
    assert ingest.import_file(file, origin=newest).history.data_version == prices.history.data_version


def test_a_duplicate_day_is_refused_or_chosen(ingest: Ingest) -> None:
    other = to_csv(FRAME.tail(1).assign(close=CLOSES[LAST] + 1)).split(b"\n", 1)[1]
    with pytest.raises(BadFile):
        ingest.import_file(to_csv(FRAME) + other)
    assert ingest.holds_nothing()
    last = FileOptions(on_duplicate="last")
    assert counts(ingest.import_file(to_csv(FRAME) + other, options=last)) == (400, 400, 0, 1)
    assert ingest.closes()[LAST] == CLOSES[LAST] + 1


def test_the_sample_and_a_file_do_not_mix(ingest: Ingest) -> None:
    ingest.import_file(source="sample")
    other = made_up(50, LISTED, seed=9)
    with pytest.raises(SourceMismatch, match="--replace-source"):
        ingest.import_file(other)
    with pytest.raises(NotEnoughHistory):
        ingest.import_file(other, replace_source=True, min_days=51)
    assert (ingest.source(), ingest.closes()) == ("sample", CLOSES)
    prices = ingest.import_file(other, replace_source=True)
    assert (prices.history.source, len(prices.history.candles)) == ("csv", 50)
    assert list(ingest.closes().values()) == other["close"].tolist()


# The database


def test_the_stored_closes_are_read_without_a_source(ingest: Ingest) -> None:
    request = IngestRequest(BTC, None, NOW, NOW.date())
    with pytest.raises(BadInput, match="--csv"):
        read_stored(ingest.home, request)
    prices = ingest.import_file()
    assert read_stored(ingest.home, request).facts() == prices.facts() | {"new_days": 0}
    day = date(2016, 1, 1)
    assert read_stored(ingest.home, replace(request, origin=day)).history.origin == day
    for origin, error in ((LISTED - DAY, BadDay), (LAST + 30 * DAY, StaleSeries)):
        with pytest.raises(error):
            read_stored(ingest.home, replace(request, origin=origin))


def test_the_source_is_the_stored_one_or_the_sample(ingest: Ingest) -> None:
    path = ingest.home.root.parent / "prices.csv"
    path.write_bytes(to_csv(FRAME))

    def source(origin: date | None = None, product_id: str = BTC, **market: Any) -> str:
        request = IngestRequest(product_id, origin, NOW, NOW.date(), replace_source="source" in market)
        market = {"product_id": product_id, **market}
        return ingest_prices(ingest.home, Market(**market), request, base_url=ingest.ex.url).history.source

    with pytest.raises(BadProduct, match="the sample has BTC-USD, not ETH-USD"):
        source(product_id="ETH-USD")
    assert source() == "sample"
    with pytest.raises(BadFile, match="--csv goes with the source csv"):
        source(source="coinbase", csv=path)
    with pytest.raises(SourceMismatch, match="has prices of sample, and the source csv needs a file"):
        source(source="csv")
    path.write_text(path.read_text().replace("close", "last_of_day"))
    with pytest.raises(BadFile, match="name the columns with --columns"):
        source(csv=path, source="csv")
    columns = {"date": "date", "close": "last_of_day"}
    with pytest.raises(BadFile, match="are about a file: name it with --csv"):
        source(source="csv", columns=columns)
    assert (source(csv=path, source="csv", columns=columns), source()) == ("csv", "csv")
    assert ingest.ex.requests == []
    assert (source(LAST, source="coinbase"), source(LAST)) == ("coinbase", "coinbase")
    assert ingest.ex.requests


def test_a_schedule_retries_an_unavailable_exchange_and_a_person_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.runtime import deployment
    from prefect.states import Failed

    def retried(error: Exception) -> bool:
        return sources._retry_later(None, None, Failed(data=error))

    assert not retried(ExchangeUnavailable("x"))
    monkeypatch.setattr(deployment, "get_id", lambda: "some deployment")
    assert retried(ExchangeUnavailable("x"))
    assert not retried(BadProduct("x"))
    assert (task_of(ingest_prices).retries, task_of(read_stored).retries) == (3, 0)
