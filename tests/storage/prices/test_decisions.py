from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from closecast.storage.core.candle_schema import CANDLE_COLUMNS, candle_frame
from closecast.storage.core.errors import BadInput, Damaged
from closecast.storage.core.home import Home
from closecast.storage.prices.decisions import Decision, in_units_of
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.sql import query
from tests.helpers import BTC, FIRST, NOW, SHA, made_up

ETH = "ETH-USD"
OBSERVED = {"source": "csv", "observed_at": "2020-02-01T00:00:00+00:00", "payload_sha256": SHA}
OF_CSV: dict[str, Any] = {"source": "csv", "observed_at": NOW, "payload_sha256": SHA}
DAY = FIRST + timedelta(days=30)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


@pytest.fixture
def prices(tmp_path: Path) -> Iterator[Prices]:
    """60 days; of day 30 nothing is stored."""
    with Prices(Home(tmp_path / "home").prepare()) as opened:
        put(opened, made_up().drop(index=30))
        yield opened


def put(prices: Prices, frame: pd.DataFrame, *decisions: Decision, product: str = BTC) -> None:
    prices.start_series(product, "csv", started_at=NOW)
    assert prices.append(product, frame, decisions=decisions, **OF_CSV).decisions == decisions


def decide(prices: Prices, kind: Any, known_from: int, *, number: int = 30, **more: Any) -> None:
    candle = None
    if prices.recorded(BTC).newest["day_utc"].eq(pd.Timestamp(day(number))).sum() == 0:
        candle = (made_up().iloc[[number]], OBSERVED)
    one = Decision(day(number), kind, day(known_from), "user", **more)
    prices.decide(BTC, one, decided_at=datetime(2020, 2, 1, tzinfo=UTC), candle=candle)


def name(prices: Prices, origin: int) -> str:
    return prices.read_history(BTC, day(origin), created_at=NOW).data_version


def days_known(prices: Prices, origin: int) -> int:
    return len(prices.read_history(BTC, day(origin), created_at=NOW).candles)


def test_a_decision_is_unknown_to_the_origins_before_it(prices: Prices) -> None:
    before = {origin: name(prices, origin) for origin in (29, 31, 44, 45, 59)}
    decide(prices, "accepted", known_from=45)
    after = {origin: name(prices, origin) for origin in before}
    assert {origin for origin in before if before[origin] != after[origin]} == {45, 59}
    assert [days_known(prices, origin) for origin in (31, 44, 45, 59)] == [31, 44, 46, 60]
    # Every version is read again as it was, whatever came later.
    for version, count in ((before[59], 59), (after[59], 60), (after[44], 44)):
        assert len(prices.prices_at(version).candles) == count
    pd.testing.assert_frame_equal(prices.prices_at(after[59]).candles, made_up())


def test_a_rejected_day_is_a_gap_and_a_later_decision_replaces_it(prices: Prices) -> None:
    decide(prices, "accepted", known_from=45)
    accepted = {origin: name(prices, origin) for origin in (44, 45, 59)}
    decide(prices, "rejected", known_from=45)
    assert days_known(prices, 59) == 59
    assert name(prices, 44) == accepted[44]
    decide(prices, "accepted", known_from=45)
    assert {origin: name(prices, origin) for origin in accepted} == accepted
    decide(prices, "rejected", known_from=50, number=10)
    assert [days_known(prices, origin) for origin in (49, 50)] == [50, 50]


def test_the_newest_day_is_an_origin_where_it_is_known_on_that_day(prices: Prices) -> None:
    decide(prices, "rejected", known_from=60, number=59)
    assert prices.read_history(BTC, None, created_at=NOW).origin == day(59)
    assert prices.last_day(BTC) == day(59)
    decide(prices, "rejected", known_from=59, number=59)
    assert prices.read_history(BTC, None, created_at=NOW).origin == day(58)
    assert prices.days(BTC).iloc[-1] == pd.Timestamp(day(58))


def test_a_split_rescales_the_days_before_it_and_no_stored_row(prices: Prices) -> None:
    stored = prices.table("candles")
    before = name(prices, 44)
    decide(prices, "split", known_from=45, number=40, factor=0.001)
    known = prices.read_history(BTC, day(45), created_at=NOW)
    plain = made_up().drop(index=30).head(45).reset_index(drop=True)
    assert known.candles["close"].tolist() == [
        close * 0.001 if row < 39 else close for row, close in enumerate(plain["close"])
    ]
    assert known.candles["volume"].iloc[0] == plain["volume"].iloc[0] / 0.001
    assert (name(prices, 44), prices.table("candles")) == (before, stored)
    pd.testing.assert_frame_equal(prices.prices_at(known.data_version).candles, known.candles)
    splits = known.recorded.splits(day(45))
    assert splits == ((day(40), 0.001),)
    assert in_units_of(day(39), 5.0, day(40), splits) == 5.0 / 0.001
    assert in_units_of(day(40), 5.0, day(44), splits) == in_units_of(day(38), 5.0, day(39), splits) == 5.0


def test_rules_decide_only_about_new_days_and_never_against_a_person(prices: Prices) -> None:
    frame = made_up(product_days := 64)
    put(prices, frame.iloc[60:62], rule := Decision(day(60), "accepted", day(61)))
    assert [days_known(prices, origin) for origin in (60, 61)] == [59, 61]
    again = prices.append(BTC, frame.iloc[60:62], decisions=[rule], **OF_CSV)
    assert again.decisions == ()
    bad = Decision(day(60), "rejected", day(62))
    assert prices.append(BTC, frame.iloc[62:63], decisions=[bad], **OF_CSV).decisions == (bad,)
    assert [days_known(prices, origin) for origin in (60, 61, 62)] == [59, 61, 61]
    decide(prices, "accepted", known_from=63, number=60)
    assert prices.append(BTC, frame.iloc[63:64], decisions=[bad], **OF_CSV).decisions == ()
    assert days_known(prices, product_days - 1) == 63


def test_a_day_that_was_stored_before_it_was_accepted_keeps_its_first_row(prices: Prices) -> None:
    put(prices, made_up().iloc[[30]].assign(close=1.0, low=1.0))
    one = Decision(DAY, "accepted", day(45), "user")
    prices.decide(BTC, one, decided_at=NOW, candle=(made_up().iloc[[30]], OBSERVED))
    closes = [
        float(prices.read_history(BTC, day(origin), created_at=NOW).candles["close"][30])
        for origin in (44, 45)
    ]
    assert closes == [1.0, float(made_up()["close"][30])]


def test_decisions_end_with_their_series(prices: Prices) -> None:
    decide(prices, "rejected", known_from=45, number=10)
    prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
    prices.append(BTC, made_up(), **OF_CSV | {"source": "coinbase"})
    assert len(prices.days(BTC)) == 60
    assert prices.recorded(BTC).decisions.empty


def test_sql_shows_decisions_and_no_rejected_close(prices: Prices, tmp_path: Path) -> None:
    decide(prices, "rejected", known_from=45, number=10)
    decide(prices, "split", known_from=45, number=40, factor=0.5)
    rows = query(Home(tmp_path / "home"), "select * from price_decisions order by seq").to_pylist()
    assert [(row["day_utc"], row["kind"], row["factor"], row["decided_by"]) for row in rows] == [
        (day(10), "rejected", None, "user"),
        (day(40), "split", 0.5, "user"),
    ]
    assert rows[0]["decided_at"] == datetime(2020, 2, 1, tzinfo=UTC)
    closes = prices.table("closes").to_pandas()
    assert len(closes) == 58
    assert day(10) not in set(closes["day_utc"])
    decide(prices, "accepted", known_from=45, number=10)
    assert len(prices.table("closes")) == 59
    assert set(CANDLE_COLUMNS) <= set(closes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "maybe"},
        {"kind": "split", "factor": None},
        {"kind": "split", "factor": -1.0},
        {"kind": "accepted", "factor": 2.0},
        {"known_from": day(29)},
        {"decided_by": "nobody"},
    ],
)
def test_the_table_refuses_an_impossible_decision(prices: Prices, wrong: dict[str, Any]) -> None:
    rejected: dict[str, Any] = {"day": DAY, "kind": "rejected", "known_from": DAY, "decided_by": "user"}
    with pytest.raises(BadInput, match="refuses a row"):
        prices.decide(BTC, Decision(**rejected | wrong), decided_at=NOW)
    assert prices.table("price_decisions").num_rows == 0


def test_a_changed_decision_is_detected(prices: Prices) -> None:
    decide(prices, "split", known_from=45, number=40, factor=0.001)
    version = name(prices, 59)
    with prices.write() as connection:
        triggers = {"sqlite": "DROP TRIGGER price_decisions_no_update"}
        fallback = "DROP TRIGGER price_decisions_append_only ON price_decisions"
        connection.exec_driver_sql(triggers.get(connection.dialect.name, fallback))
        connection.execute(sa.text("UPDATE price_decisions SET factor = 0.01"))
    with pytest.raises(Damaged, match="not those that were recorded"):
        prices.prices_at(version)


def test_a_home_without_decisions_names_its_data_as_before(prices: Prices) -> None:
    put(prices, candle_frame([{"day_utc": day(n), "close": 1.5 * n} for n in (1, 2)]), product=ETH)
    known = prices.read_history(ETH, None, created_at=NOW)
    sha256 = "24a9ab272df8b110a7c05f812826d0fc4ce259d13ba2f0ff2f9adecb389b13a4"
    assert known.data_version == f"{ETH}@61:{sha256}"
