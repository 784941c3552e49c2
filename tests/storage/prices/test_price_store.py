"""The price database keeps what was observed, and every state of it can be read again."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import sqlalchemy as sa
from pandas.testing import assert_frame_equal

from closecast.storage.core.candle_schema import FIGURES, candle_frame, rejected_frame
from closecast.storage.core.errors import BadDay, BadInput, BadProduct, Damaged, SourceMismatch
from closecast.storage.core.home import Home
from closecast.storage.prices import price_store, queries
from closecast.storage.prices.digest import digest
from closecast.storage.prices.price_store import Appended, Prices
from tests.helpers import BTC, NOW, SHA, one_line
from tests.processes import forked, process_for

FIRST = date(2020, 1, 1)


def candles(closes: dict[int, float], **figures: float | None) -> pd.DataFrame:
    """Candles of the days FIRST + key, in the order given; other figures are the close unless named."""
    rows: list[dict[str, object]] = []
    for offset, close in closes.items():
        row: dict[str, object] = dict.fromkeys(FIGURES, close)
        rows.append({"day_utc": pd.Timestamp(FIRST + timedelta(days=offset)), **row, **figures})
    return candle_frame(rows)


def day(offset: int) -> date:
    return FIRST + timedelta(days=offset)


def put(prices: Prices, frame: pd.DataFrame, source: str = "coinbase", **more: Any) -> Appended:
    page: dict[str, Any] = {"product_id": BTC, "observed_at": NOW, "payload_sha256": SHA} | more
    return prices.append(candles=frame, source=source, **page)


def closes(prices: Prices) -> dict[int, float]:
    table = prices.table("closes").to_pylist()
    return {(row["day_utc"] - FIRST).days: row["close"] for row in table if row["product_id"] == BTC}


@pytest.fixture
def prices(home: Home) -> Iterator[Prices]:
    with Prices(home) as opened:
        opened.start_series(BTC, "coinbase", started_at=NOW)
        yield opened


class Plain:
    """Another program at the database, with none of our settings; `?` stands for a value."""

    # A text where a figure was needed is refused by PostgreSQL's driver, not by a rule of the table.
    refused = (sa.exc.IntegrityError, sa.exc.DataError)

    def __init__(self, home: Home) -> None:
        url = home.database_url or f"sqlite:///{home.root / 'prices.db'}"
        self.is_sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        self._connection = self._engine.connect()

    def execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        if values and not self.is_sqlite:
            statement = statement.replace("?", "%s")
        return self._connection.exec_driver_sql(statement, tuple(values) or None)

    def drop_triggers(self) -> None:
        """Take away what keeps rows from being changed."""
        if self.is_sqlite:
            for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                self.execute(f"DROP TRIGGER {name}")
            return
        for table in ("candles", "series", "quarantine", "data_versions", "pages"):
            self.execute(f"DROP TRIGGER {table}_append_only ON {table}")

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


@pytest.fixture
def plain(prices: Prices, home: Home) -> Iterator[Plain]:
    with contextlib.closing(Plain(home)) as connection:
        yield connection


def test_a_page_in_any_order_is_stored_by_day(prices: Prices) -> None:
    assert put(prices, candles({4: 5.0, 0: 1.0, 2: 3.0})) == Appended(3, 0, 0)
    assert put(prices, candle_frame()) == Appended(0, 0, 0)
    assert put(prices, pd.concat([candles({0: 1.0}), candles({0: 1.0})])) == Appended(0, 0, 0)
    assert (prices.first_day(BTC), prices.last_day(BTC)) == (day(0), day(4))
    assert prices.last_close_before(BTC, day(4)) == (day(2), 3.0)
    assert prices.last_close_before(BTC, day(0)) is None
    assert list(prices.days(BTC, through=day(3))) == [pd.Timestamp(day(n)) for n in (0, 2)]
    assert [row["close"] for row in prices.table("candles").to_pylist()] == [1.0, 3.0, 5.0]


def test_an_ambiguous_page_is_refused(prices: Prices) -> None:
    with pytest.raises(BadInput, match="2020-01-03 comes twice"):
        put(prices, pd.concat([candles({2: 1.0}), candles({2: 2.0})]))
    for stamp in ("2020-01-01T07:00", "NaT"):
        frame = candles({0: 1.0}).assign(day_utc=pd.Series([stamp]).astype("datetime64[s]"))
        with pytest.raises(BadInput, match="midnight"):
            put(prices, frame)
    with pytest.raises(BadInput, match="zone"):
        put(prices, candles({0: 1.0}), observed_at=NOW.replace(tzinfo=None))
    with pytest.raises(SourceMismatch, match="no series yet"):
        put(prices, candles({0: 1.0}), product_id="ETH-USD")
    assert closes(prices) == {}


def test_the_oldest_products_are_those_that_had_enough_days(prices: Prices) -> None:
    spans = {BTC: (3, 9), "ETH-USD": (0, 9), "ADA-USD": (3, 9), "LTC-USD": (7, 9)}
    for product, (first, last) in spans.items():
        prices.start_series(product, "coinbase", started_at=NOW)
        put(prices, candles(dict.fromkeys(range(first, last + 1), 1.0)), product_id=product)
    put(prices, candles({7: 2.0, 8: 2.0, 9: 2.0}), product_id="LTC-USD")  # restated, not older
    oldest = functools.partial(prices.oldest_products, min_days=5, limit=9)
    assert oldest(day(9)) == ["ETH-USD", "ADA-USD", BTC]
    assert oldest(day(6)) == ["ETH-USD"]
    assert oldest(day(9), limit=2) == ["ETH-USD", "ADA-USD"]
    prices.start_series("ETH-USD", "csv", started_at=NOW, replace=True)
    assert oldest(day(9)) == ["ADA-USD", BTC]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_change_of_any_figure_is_a_restatement(prices: Prices, figure: str) -> None:
    unknown = dict.fromkeys(set(FIGURES) - {"close"})
    put(prices, candles({0: 1.0}, **unknown))
    assert put(prices, candles({0: 1.0}, **unknown)) == Appended(0, 0, 0)
    assert put(prices, candles({0: 1.0}, **unknown | {figure: 7.0})).restated_days == 1


@pytest.mark.parametrize("volume", [0.0, -0.0])  # SQLite keeps no minus
def test_figures_are_read_to_the_last_bit(prices: Prices, volume: float) -> None:
    figures = [0.1 + 0.2, 5e-324, 1.7976931348623157e299, 1 / 3, volume]
    frame = candle_frame([{"day_utc": pd.Timestamp(FIRST), **dict(zip(FIGURES, figures, strict=True))}])
    put(prices, frame)
    version = prices.data_version(BTC, FIRST, created_at=NOW)
    assert str(prices.prices_at(version).candles[FIGURES].to_numpy().tolist()) == str([[*figures[:4], 0.0]])


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_figure_refuses_the_whole_page(prices: Prices, figure: str, value: float) -> None:
    frame = candles({0: 1.0, 1: 2.0})
    frame.loc[1, figure] = value
    fine = (figure == "volume" and value == 0) or (figure != "close" and value != value)
    if fine:
        assert put(prices, frame).new_days == 2
        return
    with pytest.raises(BadInput, match=f"the candle of 2020-01-02 has {figure}"):
        put(prices, frame)
    assert closes(prices) == {}


@pytest.mark.parametrize("product", ["btc-usd", "BTCUSD", "../X-Y", "BTC-USD\n"])
def test_a_malformed_product_is_refused(prices: Prices, product: str) -> None:
    with pytest.raises(BadProduct):
        prices.start_series(product, "csv", started_at=NOW)
    with pytest.raises(BadProduct):
        put(prices, candles({0: 1.0}), product_id=product)
    with pytest.raises(BadProduct):
        prices.data_version(product, FIRST, created_at=NOW)


def test_a_second_source_is_refused_with_the_facts_to_decide(prices: Prices) -> None:
    put(prices, candles({0: 1.0, 1: 2.0}))
    put(prices, candles({1: 2.5}))
    prices.start_series(BTC, "coinbase", started_at=NOW)
    with pytest.raises(SourceMismatch, match=r"2 days from coinbase.*csv.*--replace-source", check=one_line):
        prices.start_series(BTC, "csv", started_at=NOW)
    with pytest.raises(SourceMismatch, match=r"coinbase.*csv"):
        put(prices, candles({2: 3.0}), source="csv")
    assert prices.source_of(BTC) == "coinbase"
    assert closes(prices) == {0: 1.0, 1: 2.5}


@pytest.mark.parametrize("name", ["", "BTC-USD@1:" + "0" * 64, "BTC-USD", "x" * 500, "' OR 1=1 --"])
def test_an_unknown_data_version_is_refused(prices: Prices, name: str) -> None:
    put(prices, candles({0: 10.0}))
    prices.data_version(BTC, day(0), created_at=NOW)
    with pytest.raises(BadInput, match="no data version") as error:
        prices.prices_at(name)
    assert len(str(error.value)) < 300


def test_the_same_rows_are_one_data_version(prices: Prices, plain: Plain) -> None:
    put(prices, candles({0: 1.0, 1: 2.0}))
    name = prices.data_version(BTC, day(1), created_at=NOW)
    assert prices.data_version(BTC, day(1), created_at=NOW + timedelta(1)) == name
    assert prices.data_version(BTC, day(9), created_at=NOW) == name
    put(prices, candles({2: 3.0}))
    assert prices.data_version(BTC, day(1), created_at=NOW) == name
    row = plain.execute("SELECT * FROM data_versions").fetchall()
    sha256 = name.partition(":")[2]
    assert row == [(name, BTC, 2, 0, "2020-01-02", 2, sha256, "2020-01-31T00:15:00+00:00")]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE candles SET close = 2.0000000000000004 WHERE seq = 2",
        "UPDATE candles SET volume = NULL WHERE seq = 1",
        "DELETE FROM candles WHERE seq = 1",
        "DELETE FROM candles",
        "UPDATE data_versions SET through_day_utc = '2020-01-01'",
        "UPDATE data_versions SET seq = 1",
        "DELETE FROM series",
    ],
)
def test_tampering_is_detected(prices: Prices, plain: Plain, tampering: str) -> None:
    put(prices, candles({0: 1.0, 1: 2.0}))
    name = prices.data_version(BTC, day(1), created_at=NOW)
    plain.drop_triggers()
    prices.prices_at(name)
    plain.execute(tampering)
    with pytest.raises(Damaged, match=name, check=one_line):
        prices.prices_at(name)


def test_a_history_is_the_candles_of_its_data_version(prices: Prices) -> None:
    put(prices, candles({0: 1.0, 1: 2.0, 3: 4.0}))
    put(prices, candles({1: 2.5}))
    for through, days in ((None, [0, 1, 3]), (day(9), [0, 1, 3]), (day(2), [0, 1])):
        known = prices.read_history(BTC, through, created_at=NOW)
        name, series, frame = known.data_version, known.series, known.candles
        assert name == prices.data_version(BTC, day(days[-1]), created_at=NOW)
        assert_frame_equal(frame, prices.prices_at(name).candles)
        assert frame["day_utc"].tolist() == [pd.Timestamp(day(n)) for n in days]
        assert series == prices.prices_at(name).series == "coinbase@0"
    with pytest.raises(BadDay, match="a close of ETH-USD is needed, but none is stored"):
        prices.read_history("ETH-USD", None, created_at=NOW)
    with pytest.raises(BadDay, match="the first stored day is 2020-01-01"):
        prices.read_history(BTC, FIRST - timedelta(days=1), created_at=NOW)


def test_a_day_reads_and_digests_the_series_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        put(prices, candles({n: n + 1.0 for n in range(5)}))
    read, digested = Mock(wraps=queries.read_recorded), Mock(wraps=digest)
    monkeypatch.setattr(queries, "read_recorded", read)
    monkeypatch.setattr(price_store, "digest", digested)
    with Prices(home) as prices:
        assert prices.last_close_before(BTC, day(4)) == (day(3), 4.0)
        put(prices, candles({4: 5.5, 5: 6.0}))
        assert len(prices.days(BTC)) == 6
        known = prices.read_history(BTC, None, created_at=NOW)
        name, frame = known.data_version, known.candles
    assert (read.call_count, digested.call_count) == (1, 1)
    assert frame["close"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.5, 6.0]
    with Prices(home) as prices:
        assert_frame_equal(prices.prices_at(name).candles, frame)


def test_restated_days_list_every_observation_of_the_series(prices: Prices) -> None:
    assert prices.restated(BTC).empty
    put(prices, candles({n: n + 1.0 for n in range(20)}))
    assert prices.restated(BTC).empty
    for close in (5000.0, 5001.0):
        put(prices, candles({3: close}))
    restated = prices.restated(BTC)
    assert restated["day_utc"].tolist() == ["2020-01-04"] * 3
    assert restated["close"].tolist() == [4.0, 5000.0, 5001.0]
    assert restated["seq"].is_monotonic_increasing
    assert prices.restated("ETH-USD").empty
    prices.start_series(BTC, "csv", started_at=NOW, replace=True)
    put(prices, candles({3: 9.0}), source="csv")
    assert prices.restated(BTC).empty  # the earlier series is another one


def test_a_quarantined_row_is_stored_once(prices: Prices) -> None:
    rows: list[dict[str, object]] = [
        {"day_utc": "2020-01-02", "raw": "[1]", "reason": "a jump of more than 3"},
        {"day_utc": None, "raw": "[?]", "reason": "no day"},
        {"day_utc": "2020-02-30", "raw": "[30]", "reason": "no such day"},
        {"day_utc": "0200-01-01", "raw": "[200]", "reason": "before SQLite's calendar"},
    ]
    page = candles({0: 1.0})
    assert put(prices, page, quarantined=rejected_frame(rows)) == Appended(1, 0, 4)
    assert put(prices, page, quarantined=rejected_frame(rows)) == Appended(0, 0, 0)
    more: list[dict[str, object]] = [*rows, {"day_utc": None, "raw": "[??]", "reason": "no day"}]
    assert put(prices, page, quarantined=rejected_frame(more)).quarantined == 1
    rejected = prices.quarantined(BTC)
    assert rejected["raw"].tolist() == ["[1]", "[?]", "[30]", "[200]", "[??]"]
    assert rejected["day_utc"].tolist() == ["2020-01-02", None, None, None, None]
    assert rejected["source"].unique().tolist() == ["coinbase"]
    assert prices.quarantined("ETH-USD").empty
    assert closes(prices) == {0: 1.0}


def test_a_page_is_stored_whole_or_not_at_all(prices: Prices) -> None:
    bad = rejected_frame([{"day_utc": "2020-01-02", "raw": "[1]", "reason": None}])
    with pytest.raises(BadInput, match="refuses a row"):
        put(prices, candles({0: 1.0}), quarantined=bad)
    assert closes(prices) == {}


@pytest.mark.parametrize("table", ["candles", "series", "quarantine", "data_versions", "pages"])
def test_tables_are_strict_and_append_only(prices: Prices, plain: Plain, table: str) -> None:
    aside = rejected_frame([{"day_utc": None, "raw": "[?]", "reason": "no day"}])
    put(prices, candles({0: 1.0}), quarantined=aside)
    prices.data_version(BTC, day(0), created_at=NOW)
    everything = f"SELECT * FROM {table}"  # noqa: S608
    assert (before := plain.execute(everything).fetchall())
    column = "checks" if table == "pages" else "product_id"
    changes = [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"]  # noqa: S608
    for change in changes if plain.is_sqlite else [*changes, f"TRUNCATE {table}"]:
        with pytest.raises(plain.refused, match="append-only"):
            plain.execute(change)
    assert plain.execute(everything).fetchall() == before
    if plain.is_sqlite:
        strict = "SELECT strict FROM pragma_table_list WHERE name = ?"
        assert plain.execute(strict, (table,)).fetchone() == (1,)


GOOD = ("BTC-USD", "2020-01-01", 1.0, 1.0, 1.0, 1.0, 1.0, "csv", "2020-01-01T00:00:00+00:00", SHA)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(
            (0, bad)
            for bad in ("btc-usd", "BTCUSD", "-USD", "BTC-", "A-B-C", "BTC-USD'", "B" * 30 + "-USD", None)
        ),
        *((1, bad) for bad in ("2020-1-1", "2020-02-30", "2020-01-01T00:00", "01/01/2020", "", None)),
        *((place, bad) for place in (2, 3, 4, 5) for bad in (0.0, -1.0, float("inf"), "dear")),
        (5, None),
        *((6, bad) for bad in (-1.0, float("inf"), "much")),
        (7, None),
    ],
)
def test_the_table_refuses_an_invalid_row(plain: Plain, column: int, value: object) -> None:
    insert = (
        "INSERT INTO candles (product_id, day_utc, open, high, low, close, volume, source,"
        " observed_at, payload_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    row: list[object] = [*GOOD]
    row[column] = value
    with pytest.raises(plain.refused):
        plain.execute(insert, row)
    plain.execute(insert, GOOD)


@pytest.mark.sqlite
def test_no_query_scans_the_whole_table(prices: Prices, plain: Plain) -> None:
    questions = [
        "SELECT * FROM closes WHERE product_id = 'BTC-USD' AND day_utc >= '2020-01-01' ORDER BY day_utc DESC",
        "SELECT max(seq) FROM candles WHERE product_id = 'BTC-USD' AND day_utc = '2020-01-01'",
    ]
    for question in questions:
        plan = [step[3] for step in plain.execute(f"EXPLAIN QUERY PLAN {question}")]
        assert not [step for step in plan if step.startswith("SCAN c")], plan


def test_rows_are_written_and_read_in_small_pieces(
    home: Home, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PIECE", 7)
    given = candles({n: n + 1.0 for n in range(51)})
    put(prices, given)
    # Two rows of a day in two pieces, and three days over the end of one.
    put(prices, candles({n: n + 1.5 for n in (5, 6, 7, 20, 27)}))
    given.loc[[5, 6, 7, 20, 27], FIGURES] += 0.5
    with Prices(home) as again:
        name = again.data_version(BTC, day(60), created_at=NOW)
        assert_frame_equal(again.prices_at(name).candles, given)
        assert again.days(BTC, through=day(30)).tolist() == given["day_utc"].tolist()[:31]
        assert put(again, given) == Appended(0, 0, 0)


def test_a_cached_series_is_read_again_after_another_process_wrote(home: Home, prices: Prices) -> None:
    put(prices, candles({0: 1.0, 1: 2.0, 2: 3.0}))
    first = prices.data_version(BTC, day(1), created_at=NOW)
    assert prices.days(BTC, through=day(1)).tolist() == [pd.Timestamp(day(n)) for n in range(2)]
    with Prices(home) as other:
        assert other.data_version(BTC, day(1), created_at=NOW) == first
        put(other, candles({1: 2.5, 3: 4.0}))
        second = other.data_version(BTC, day(9), created_at=NOW)
    assert prices.data_version(BTC, day(9), created_at=NOW) == second
    assert len(prices.days(BTC)) == 4
    put(prices, candles({0: 1.5}))
    with Prices(home) as other:
        third = other.data_version(BTC, day(9), created_at=NOW)
    assert prices.data_version(BTC, day(9), created_at=NOW) == third
    prices.start_series(BTC, "csv", started_at=NOW, replace=True)
    assert prices.days(BTC).empty
    put(prices, candles({7: 9.0}), source="csv")
    assert prices.days(BTC).tolist() == [pd.Timestamp(day(7))]


def append_days(prices: Prices, start: int, count: int) -> None:
    put(prices, candles({n: n + 1.0 for n in range(start, start + count)}))


def write_pages(home: Home, barrier: Any) -> None:
    barrier.wait(60)
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        for start in range(0, 100, 10):
            append_days(prices, start, 15)


def write_forever(home: Home) -> None:
    with Prices(home) as prices, (home.root / "stored").open("w", buffering=1) as stored:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        for start in itertools.count(0, 10):
            append_days(prices, start, 10)
            print(start, file=stored)


def test_ten_processes_on_a_new_home_lose_and_duplicate_nothing(home: Home) -> None:
    barrier = forked().Barrier(10)
    crowd = [process_for(write_pages, home, barrier) for _ in range(10)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(60)
    assert [process.exitcode for process in crowd] == [0] * 10
    with Prices(home) as prices:
        table = prices.table("candles").to_pylist()
    assert [(row["day_utc"] - FIRST).days for row in table] == list(range(105))
    assert [row["close"] for row in table] == [float(n + 1) for n in range(105)]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_writer_leaves_whole_pages(home: Home, seed: int) -> None:
    writer, stored = process_for(write_forever, home), home.root / "stored"
    writer.start()
    while not stored.exists() or stored.read_text().count("\n") < 5:
        assert writer.is_alive()
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.05))  # noqa: S311
    writer.kill()
    writer.join()
    with Prices(home) as prices:
        offsets = list(closes(prices))
        assert offsets == list(range(len(offsets)))
        assert len(offsets) % 10 == 0
        assert len(offsets) >= 10 * stored.read_text().count("\n")
        put(prices, candles({len(offsets): 1.0}))
    with contextlib.closing(Plain(home)) as plain:
        assert not plain.is_sqlite or plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
