"""Whatever the exchange plays, what is stored is what it truly said of finished days; SOAK=20 tries more."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flows.clock import last_complete_day
from storage.core.errors import BadProduct, ClosecastError
from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.prices.raw_responses import read_raw
from tasks.prices import ingest_coinbase as catch_up
from tasks.prices.coinbase_client import Client
from tasks.prices.coinbase_responses import parse
from tasks.prices.ingest_coinbase import REFETCHED_DAYS, ingest_exchange
from tests.calibrated import day
from tests.exchange import DAY, FAULTS, Exchange
from tests.helpers import BTC, made_up

DAYS = 60
ATTEMPTS, EMPTY_ATTEMPTS = 3, 2
MORE = int(os.environ.get("SOAK", "1"))
STEADY = {
    "derandomize": MORE == 1,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
FRAME = made_up(DAYS)


def at(number: int, minutes: float = 20) -> datetime:
    """A moment of the day after the day of that number: it is over since so many minutes."""
    return datetime.combine(day(number + 1), datetime.min.time(), UTC) + timedelta(minutes=minutes)


@pytest.fixture(scope="module", autouse=True)
def begins_with_the_frame() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catch_up, "FIRST_DAY", day(1))
        yield


class Play:
    """A home, an exchange that breaks its word, and a client that is told not to wait."""

    def __init__(self, root: Path, number: int, seed: int = 0) -> None:
        self.home, self.number, self.seed = Home(root).prepare(), number, seed
        self.waits: list[float] = []
        self.skew = timedelta()
        self.exchange = Exchange({BTC: FRAME}, seed=seed, rate=1e6, burst=10**6, stall_seconds=0.3)
        self.exchange.__enter__()

    def close(self) -> None:
        self.exchange.__exit__()

    def catch_up(self, minutes: float = 20) -> BaseException | None:
        """What a run does to bring the closes; the error that it ends with."""
        moment = at(self.number, minutes)
        self.exchange.clock = moment + self.skew
        before, self.waits = len(self.exchange.requests), []
        client = Client(
            self.exchange.url,
            connect_timeout=2,
            read_timeout=0.15,
            total_timeout=0.2,
            attempts=ATTEMPTS,
            empty_attempts=EMPTY_ATTEMPTS,
            sleep=self.waits.append,
        )
        error: BaseException | None = None
        with client:
            try:
                ingest_exchange(
                    self.home,
                    BTC,
                    client=client,
                    origin=last_complete_day(moment),
                    observed_at=moment,
                )
            except ClosecastError as said:
                error = said
        assert error is None or "\n" not in str(error)
        self.bounded(len(self.exchange.requests) - before)
        return error

    def bounded(self, requests: int) -> None:
        """Requests and waits are bounded: a page for each 300 days and each gap, each asked so often."""
        pages = 1 + catch_up.MAX_GAPS_A_RUN
        assert requests <= pages * ATTEMPTS * EMPTY_ATTEMPTS
        assert all(0 <= wait <= 20.5 for wait in self.waits)

    def stored(self) -> list[tuple[Any, ...]]:
        """Every row of the table of candles: seconds, low, high, open, close, volume, its answer."""
        with Prices(self.home) as prices:
            rows = prices.table("candles").to_pylist()
        names = ("low", "high", "open", "close", "volume", "payload_sha256")
        return [(_seconds(row["day_utc"]), *(row[name] for name in names)) for row in rows]

    def check(self) -> None:
        """Every stored close was truly given of a finished day; every other row is kept with its reason."""
        said = {
            (row[0], *map(float, row[1:]))
            for given in self.exchange.given
            for row in given.rows
            if _is_candle(row) and row[0] + DAY <= given.made.timestamp()
        }
        stored = self.stored()
        for row in stored:
            assert row[:-1] in said, row
        with Prices(self.home) as prices:
            aside = prices.quarantined(BTC)
        assert aside["reason"].str.len().min() > 0 or aside.empty
        kept = {row[:-1] for row in stored}
        for path in self.home.raw.glob("*/*.gz"):
            for row in parse(read_raw(self.home, path.name.removesuffix(".json.gz"))):
                assert self.accounted(row, kept, aside), row

    def accounted(self, row: Any, kept: set[tuple[Any, ...]], aside: pd.DataFrame) -> bool:
        """Whether a row of an accepted answer is stored, quarantined, or of a day that nobody asked for."""
        if _is_candle(row) and (row[0], *map(float, row[1:])) in kept:
            return True
        if json.dumps(row)[:500] in set(aside["raw"]):
            return True
        if _is_candle(row):
            stamp = pd.Timestamp(row[0], unit="s")
            asked = any(
                given.query["start"][:10] <= str(stamp.date()) <= given.query["end"][:10]
                for given in self.exchange.given
                if row in given.rows
            )
            return not asked or any(_same(row, raw) for raw in aside["raw"])
        return False

    def truth(self) -> dict[int, tuple[float, ...]]:
        """What the exchange says now of the finished days, without a fault."""
        query = {
            "granularity": str(DAY),
            "start": f"{day(1)}T00:00:00Z",
            "end": f"{day(self.number)}T00:00:00Z",
        }
        answer = self.exchange.answer(f"/products/{BTC}/candles", query, {"User-Agent": "x"})
        return {row[0]: tuple(map(float, row[1:])) for row in json.loads(answer.body)}


def _seconds(when: Any) -> int:
    return int(datetime.combine(when, datetime.min.time(), UTC).timestamp())


def _is_candle(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 6:
        return False
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in row)
    with suppress(OverflowError):
        return numbers and row[0] % DAY == 0 and all(abs(float(value)) < 1e308 for value in row)
    return False


def _same(row: list[Any], raw: str) -> bool:
    """Whether a row was quarantined as a candle: by its figures under their names."""
    with suppress(ValueError, AttributeError, TypeError, LookupError):
        kept = json.loads(raw)
        names = ("low", "high", "open", "close", "volume")
        return all(float(kept[name]) == float(value) for name, value in zip(names, row[1:], strict=True))
    return False


def closes(play: Play) -> dict[int, float]:
    with Prices(play.home) as prices:
        rows = prices.table("closes").to_pylist()
    return {_seconds(row["day_utc"]): row["close"] for row in rows}


def honest_at_last(play: Play, *, kept_quiet: bool = False) -> None:
    """When the trouble is over, the next run makes the series whole.

    Days before the first one that the exchange has `kept_quiet` about look like days before the listing.
    """
    play.exchange.faults.clear()
    play.skew = timedelta()
    for _ in range(2):  # a gap that the first one leaves, the second one asks for
        assert play.catch_up() is None
    truth = play.truth()
    since = min(closes(play)) if kept_quiet else 0
    assert closes(play).keys() == {when for when in truth if when >= since}
    recent = _seconds(day(play.number)) - REFETCHED_DAYS * DAY
    assert {when: usd for when, usd in closes(play).items() if when >= recent} == {
        when: row[3] for when, row in truth.items() if when >= recent
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault: str, tmp_path: Path) -> None:
    play = Play(tmp_path, 40)
    try:
        for times in (1, 2, ATTEMPTS, ATTEMPTS * EMPTY_ATTEMPTS):
            play.number += 1
            play.exchange.faults.extend([fault] * times)
            play.catch_up()
            play.check()
        honest_at_last(play)
        play.check()
    finally:
        play.close()


@settings(max_examples=15 * MORE, **STEADY)  # type: ignore[arg-type]
@given(
    faults=st.lists(st.sampled_from([*FAULTS, "ok", "ok"]), max_size=14),
    seed=st.integers(0, 2**16),
    first=st.integers(8, 40),
)
@example(faults=["403", "negative"], seed=1188, first=8)  # the very first day was quarantined
@example(faults=["midday"], seed=17, first=17)  # and nobody knew which day it was
def test_faults_mixed_at_random(faults: list[str], seed: int, first: int) -> None:
    with TemporaryDirectory() as folder:
        play = Play(Path(folder), first, seed)
        try:
            play.exchange.faults.extend(faults)
            for _ in range(3):
                play.catch_up()
                play.check()
                play.number += 1
            honest_at_last(play, kept_quiet="gap" in faults)
            play.check()
        finally:
            play.close()


@settings(max_examples=20 * MORE, **STEADY)  # type: ignore[arg-type]
@given(
    minutes=st.floats(-12, 12),
    skew=st.floats(-3, 3),
    fault=st.sampled_from(["ok", "open", "frozen", "outside"]),
)
def test_around_midnight_no_open_candle_enters_whatever_the_clocks_say(
    minutes: float, skew: float, fault: str
) -> None:
    with TemporaryDirectory() as folder:
        play = Play(Path(folder), 30)
        play.skew = timedelta(minutes=skew)
        try:
            play.exchange.faults.extend([fault] * 4)
            play.catch_up(minutes)
            play.check()
            honest_at_last(play)
        finally:
            play.close()


def test_a_delisted_product_loses_nothing(tmp_path: Path) -> None:
    play = Play(tmp_path, 30)
    try:
        assert play.catch_up() is None
        before = closes(play)
        play.number += 5
        play.exchange.delist(BTC)
        error = play.catch_up()
        assert isinstance(error, BadProduct)
        assert "has no product BTC-USD" in str(error)
        assert closes(play) == before
    finally:
        play.close()


def test_an_exchange_that_forgets_days_takes_none_of_them_away(tmp_path: Path) -> None:
    play = Play(tmp_path, 30)
    try:
        assert play.catch_up() is None
        before = closes(play)
        play.exchange.withdraw(BTC, day(10), day(28))
        play.number += 1
        assert play.catch_up() is None
        assert before.items() <= closes(play).items()
        assert len(closes(play)) == len(before) + 1
    finally:
        play.close()


class Storm(RuleBasedStateMachine):
    """Days pass, the exchange restates, breaks its word and mends it; runs come when they come."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.play = Play(Path(self.folder.name), 10)

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.play.exchange._random.seed(seed)

    @rule(days=st.integers(1, 4))
    @precondition(lambda self: self.play.number < DAYS - 5)
    def days_pass(self, days: int) -> None:
        self.play.number += days

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 7))
    def trouble(self, fault: str, times: int) -> None:
        self.play.exchange.faults.extend([fault] * times)

    @rule(back=st.integers(0, 6), share=st.floats(0.9, 1.1))
    def restated(self, back: int, share: float) -> None:
        number = self.play.number - back
        close = float(FRAME["close"].iloc[number - 1]) * share
        figures = {"open": close, "high": close + 1, "low": close - 1, "close": close}
        self.play.exchange.restate(BTC, day(number), **figures)

    @rule(skew=st.sampled_from([-3, 0, 3]))
    def clocks_drift(self, skew: int) -> None:
        self.play.skew = timedelta(minutes=skew)

    @rule(minutes=st.sampled_from([1, 6, 20, 900]))
    def run_comes(self, minutes: float) -> None:
        self.play.catch_up(minutes)

    @invariant()
    def only_the_truth_is_stored(self) -> None:
        self.play.check()

    def teardown(self) -> None:
        try:
            honest_at_last(self.play)
            self.play.check()
        finally:
            self.play.close()
            self.folder.cleanup()


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=8 * MORE, stateful_step_count=15, **STEADY)  # type: ignore[arg-type]
