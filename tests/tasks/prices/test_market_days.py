"""What the local exchange's days bring, one run a day: what is known on each, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.errors import BadDay, BadInput, StaleSeries
from closecast.storage.core.home import Home
from closecast.storage.prices.price_store import Prices
from closecast.tasks.prices.coinbase_client import Client
from closecast.tasks.prices.ingest import IngestRequest
from closecast.tasks.prices.ingest_coinbase import ingest_exchange
from closecast.tasks.prices.quarantine import Choice, decide, list_days
from tests.exchange import Exchange
from tests.helpers import made_up
from tests.markets import bad_print, crash, delisting, no_trades, redenomination

XYZ = "XYZ-EUR"
FIRST = date(2021, 1, 1)
ONE_DAY = timedelta(days=1)
EVENT = 30
DAY = FIRST + timedelta(days=EVENT)


@dataclass
class Market:
    """A home that is run each day against an exchange with these candles."""

    home: Home
    exchange: Exchange

    def run(self, origin: date) -> Any:
        """The `PriceHistory` that the run of a day knows; None where the day has no close."""
        moment = datetime(origin.year, origin.month, origin.day, 0, 20, tzinfo=UTC) + ONE_DAY
        self.exchange.clock = moment
        request = IngestRequest(XYZ, origin, moment, origin)
        with Prices(self.home) as prices, Client(self.exchange.url, sleep=lambda _: None) as client:
            try:
                ingested = ingest_exchange(self.home, prices, request, client=client)
            except StaleSeries:
                return None
        return ingested.history if ingested.horizon == 1 else None

    def decide(self, day: date, action: Any, *, last: date | None = None, **more: Any) -> Any:
        moment = datetime(2021, 6, 1, tzinfo=UTC)
        with Prices(self.home) as prices:
            choice = Choice(day, action, **more)
            return decide(prices, XYZ, choice, last_forecast=last, moment=moment)

    def listed(self) -> list[tuple[date | None, str, date | None, str | None]]:
        with Prices(self.home) as prices:
            return [
                (one.day_utc, one.status, one.known_from, one.decided_by) for one in list_days(prices, XYZ)
            ]


Opened = Callable[[pd.DataFrame], Market]


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Opened]:
    exchanges: list[Exchange] = []

    def opened(frame: pd.DataFrame) -> Market:
        exchanges.append(Exchange({XYZ: frame}, rate=1e6, burst=10**6).__enter__())
        return Market(Home(tmp_path / f"home{len(exchanges)}").prepare(), exchanges[-1])

    yield opened
    for exchange in exchanges:
        exchange.__exit__()


def day(number: int) -> date:
    return DAY + timedelta(days=number)


def test_a_crash_of_99_percent_is_known_on_its_day(market: Opened, caplog: pytest.LogCaptureFixture) -> None:
    frame = crash(made_up(60, FIRST), EVENT)
    crashed = market(frame)
    for number in range(-1, 4):
        history = crashed.run(day(number))
        assert history.origin == day(number)
        assert history.closes[-1] == frame["close"][EVENT + number]
        assert len(history.candles) == EVENT + 1 + number
    assert crashed.listed() == [(DAY, "accepted", DAY, "rule")]
    assert caplog.text.count(f"{DAY} is a true jump, by rule, known from {DAY} on") == 1


def test_a_redenomination_is_accepted_the_day_after_and_split_by_a_person(
    market: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    frame = redenomination(made_up(60, FIRST), EVENT)
    old = market(frame)
    assert old.run(day(-1)) is not None
    assert old.run(DAY) is None
    assert old.listed() == [(DAY, "quarantined", None, None)]
    assert f"1 row quarantined; list and decide with `closecast quarantine --product {XYZ}`" in caplog.text
    after = old.run(day(1))
    assert len(after.candles) == EVENT + 2
    assert old.listed() == [(DAY, "accepted", day(1), "rule")]
    # A person knows better, from the first origin without a forecast on.
    with pytest.raises(BadInput, match=r"the close before would be .*; did you mean 0\.001"):
        old.decide(DAY, "split", factor=1000.0)
    assert old.decide(DAY, "split", factor=0.001, last=day(1)).known_from == day(2)
    again, split = old.run(day(1)), old.run(day(2))
    assert again.data_version == after.data_version
    returns = np.abs(np.diff(np.log(split.closes)))
    assert returns.max() < 0.2
    assert split.closes[-1] == frame["close"][EVENT + 2]
    # A forecast from the day before is in the old units, and so is its outcome.
    assert split.outcome(day(-1), day(1)) == frame["close"][EVENT + 1] / 0.001
    assert split.outcome(DAY, day(1)) == frame["close"][EVENT + 1]
    assert old.run(DAY) is None


def test_a_person_decides_on_the_day_itself(market: Opened) -> None:
    old = market(redenomination(made_up(60, FIRST), EVENT))
    assert old.run(day(-1)) is not None
    assert old.run(DAY) is None
    assert old.decide(DAY, "split", factor=0.001, last=day(-1)).known_from == DAY
    history = old.run(DAY)
    assert history.origin == DAY
    for number in range(1, 4):
        history = old.run(day(number))
        assert np.abs(np.diff(np.log(history.closes))).max() < 0.2
    assert old.listed() == [(DAY, "split", DAY, "user")]
    assert old.decide(DAY, "split", factor=0.001) is None


def test_the_same_decision_can_be_known_from_an_earlier_day(market: Opened) -> None:
    old = market(redenomination(made_up(60, FIRST), EVENT))
    for number in range(-1, 4):
        old.run(day(number))
    split: Any = (DAY, "split")
    assert old.decide(*split, factor=0.001, last=day(3)).known_from == day(4)
    assert old.decide(*split, factor=0.001, last=day(3)) is None
    assert old.decide(*split, factor=0.001, last=day(3), known_from=day(4)) is None
    before = old.run(day(2))
    assert old.decide(*split, factor=0.001, last=day(3), known_from=day(1)).known_from == day(1)
    after = old.run(day(2))
    assert np.abs(np.diff(np.log(before.closes))).max() > 6
    assert np.abs(np.diff(np.log(after.closes))).max() < 0.2
    # Both are taken back at once, to what the rule had decided.
    assert old.decide(DAY, "undo", last=day(3)).kind == "accepted"


def test_a_bad_print_is_taken_back_the_day_after(market: Opened) -> None:
    frame = bad_print(made_up(60, FIRST), EVENT)
    bad = market(frame)
    assert bad.run(day(-1)) is not None
    on_the_day = bad.run(DAY)
    assert on_the_day is not None  # nobody can tell it from a true jump yet
    assert on_the_day.origin == DAY
    for number in range(1, 10):
        history = bad.run(day(number))
        assert history.close_of(DAY) is None
        assert history.origin == day(number)
    assert bad.listed() == [(DAY, "rejected", day(1), "rule")]
    again = bad.run(DAY)
    assert again.data_version == on_the_day.data_version


def test_a_close_far_away_without_its_open_stays_out_until_a_person_accepts_it(market: Opened) -> None:
    frame = made_up(60, FIRST)
    frame.loc[EVENT, ["open", "high", "low", "close"]] *= 50
    spike = market(frame)
    histories = [spike.run(day(number)) for number in range(-1, 4)]
    assert [history is None for history in histories] == [False, True, False, False, False]
    assert spike.listed() == [(DAY, "quarantined", None, None)]
    last = histories[-1]
    assert spike.decide(DAY, "accepted", last=day(3)).known_from == day(4)
    again, after = spike.run(day(3)), spike.run(day(4))
    assert again.data_version == last.data_version
    assert after.close_of(DAY) == frame["close"][EVENT]
    assert after.until(day(3)).close_of(DAY) is None
    # Taken back, and decided again.
    assert spike.decide(DAY, "undo", last=day(4)).kind == "rejected"
    assert spike.run(day(5)).close_of(DAY) is None
    assert spike.decide(DAY, "undo", last=day(5)).kind == "accepted"
    assert spike.run(day(6)).close_of(DAY) == frame["close"][EVENT]


@pytest.mark.parametrize("change", [delisting, no_trades])
def test_days_without_candles_bring_no_close_and_no_price(market: Opened, change: Any) -> None:
    frame = change(made_up(70, FIRST), EVENT)
    quiet = market(frame)
    known = [quiet.run(day(number)) for number in range(-1, 36, 6)]
    present = set(frame["day_utc"].dt.date)
    assert [history is not None for history in known] == [
        day(number) in present for number in range(-1, 36, 6)
    ]
    assert quiet.listed() == []


def test_impossible_decisions_are_refused_in_one_line(market: Opened) -> None:
    frame = redenomination(made_up(60, FIRST), EVENT)
    frame.loc[10, "low"] = -1.0
    old = market(frame)
    old.run(day(1))
    broken = FIRST + timedelta(days=10)
    for wrong, message, error in (
        ((day(40), "accepted", {}), "has no row of 2021-03-12, neither stored nor quarantined", BadInput),
        ((day(-2), "accepted", {}), "is stored and not quarantined", BadInput),
        ((broken, "accepted", {}), "is no candle: low -1.0 is not a finite positive price", BadInput),
        ((day(-2), "undo", {}), "nothing was decided about 2021-01-29", BadInput),
        ((DAY, "split", {"factor": 0.0}), "a positive number such as 0.001 or 1/1000, not 0", BadInput),
        ((DAY, "split", {"factor": -1.0}), "a positive number", BadInput),
        ((DAY, "split", {"factor": float("inf")}), "a positive number", BadInput),
        ((DAY, "split", {"factor": 1.0}), "within a factor of 3 and nearer", BadInput),
        ((day(-2), "split", {"factor": 2.0}), "nearer than before", BadInput),
        ((FIRST, "split", {"factor": 0.5}), "no close before 2021-01-01", BadInput),
        ((DAY, "rejected", {"known_from": day(-1)}), "known from 2021-01-31 to 2021-02-01", BadDay),
        ((DAY, "rejected", {"known_from": day(9)}), "known from 2021-01-31 to 2021-02-01", BadDay),
    ):
        chosen, action, more = wrong
        with pytest.raises(error, match=message) as raised:
            old.decide(chosen, action, **more)
        assert "\n" not in str(raised.value)
    assert old.listed()[-1] == (DAY, "accepted", day(1), "rule")
