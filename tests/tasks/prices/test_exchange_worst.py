"""Whatever its faults, a stored candle is one that the exchange sent of a finished day; SOAK=20: more."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from closecast.flows.clock import last_complete_day
from closecast.storage.core.errors import BadProduct, ClosecastError
from closecast.storage.core.home import Home
from closecast.storage.prices.price_store import Prices
from closecast.storage.prices.raw_responses import raw_sha256s, read_raw
from closecast.tasks.prices import ingest_coinbase
from closecast.tasks.prices.coinbase_client import Client
from closecast.tasks.prices.coinbase_responses import FIGURES, parse
from closecast.tasks.prices.ingest import IngestRequest
from closecast.tasks.prices.ingest_coinbase import REFETCHED_DAYS, ingest_exchange
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
    """So many minutes after the end of the day of that number."""
    return datetime.combine(day(number + 1), datetime.min.time(), UTC) + timedelta(minutes=minutes)


@pytest.fixture(scope="module", autouse=True)
def begins_with_the_frame() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_coinbase, "FIRST_DAY", day(1))
        yield


class Scenario:
    """A home, an exchange with faults, and a client that does not wait."""

    def __init__(self, root: Path, number: int, seed: int = 0) -> None:
        self.home, self.number, self.seed = Home(root).prepare(), number, seed
        self.waits: list[float] = []
        self.skew = timedelta()
        self.exchange = Exchange({BTC: FRAME}, seed=seed, stall_seconds=0.3)

    def __enter__(self) -> Scenario:
        self.exchange.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.exchange.__exit__()

    def ingest(self, minutes: float = 20) -> BaseException | None:
        """Ingest as a daily run does; returns its error."""
        moment = at(self.number, minutes)
        self.exchange.clock = moment + self.skew
        before, self.waits = len(self.exchange.requests), []
        client = Client(
            self.exchange.url,
            read_timeout=0.15,
            total_timeout=0.2,
            attempts=ATTEMPTS,
            empty_attempts=EMPTY_ATTEMPTS,
            sleep=self.waits.append,
        )
        request = IngestRequest(BTC, last_complete_day(moment), moment, last_complete_day(moment))
        error: BaseException | None = None
        with client, Prices(self.home) as prices:
            try:
                ingest_exchange(self.home, prices, request, client=client)
            except ClosecastError as raised:
                error = raised
        assert error is None or "\n" not in str(error)
        self.bounded(len(self.exchange.requests) - before)
        return error

    def bounded(self, requests: int) -> None:
        """Requests and waits are bounded: a page for each 300 days and each gap, times the attempts."""
        pages = 1 + ingest_coinbase.MAX_GAPS_A_RUN
        assert requests <= pages * ATTEMPTS * EMPTY_ATTEMPTS
        assert all(0 <= wait <= 20.5 for wait in self.waits)

    def stored(self) -> set[tuple[Any, ...]]:
        """All rows of the table of candles: seconds, low, high, open, close, volume."""
        with Prices(self.home) as prices:
            rows = prices.table("candles").to_pylist()
        return {(_seconds(row["day_utc"]), *(row[name] for name in FIGURES)) for row in rows}

    def check(self) -> None:
        """Every stored candle was sent of a finished day; every other row is quarantined with its reason."""
        finished = {
            (row[0], *map(float, row[1:]))
            for page in self.exchange.requests
            for row in page.rows or []
            if _is_candle(row) and row[0] + DAY <= page.sent_at.timestamp()
        }
        candles = self.stored()
        assert candles <= finished
        with Prices(self.home) as prices:
            quarantined = prices.quarantined(BTC)
        assert (quarantined["reason"] != "").all()
        for sha256 in raw_sha256s(self.home):
            for row in parse(read_raw(self.home, sha256)):
                assert self.accounted(row, candles, quarantined), row

    def accounted(self, row: Any, candles: set[tuple[Any, ...]], quarantined: pd.DataFrame) -> bool:
        """Whether a row of an accepted response is stored, quarantined, or of a day outside its request."""
        if not _is_candle(row):
            return json.dumps(row)[:500] in set(quarantined["raw"])
        if (row[0], *map(float, row[1:])) in candles:
            return True
        if any(json.dumps(row)[:500] == raw or _same(row, raw) for raw in quarantined["raw"]):
            return True
        day = str(pd.Timestamp(row[0], unit="s").date())
        return not any(
            page.query["start"][:10] <= day <= page.query["end"][:10]
            for page in self.exchange.requests
            if row in (page.rows or [])
        )

    def truth(self) -> dict[int, tuple[float, ...]]:
        """The exchange's candles of the finished days, without a fault."""
        query = {
            "granularity": str(DAY),
            "start": f"{day(1)}T00:00:00Z",
            "end": f"{day(self.number)}T00:00:00Z",
        }
        response, _ = self.exchange.respond(f"/products/{BTC}/candles", query, {"User-Agent": "x"})
        return {row[0]: tuple(map(float, row[1:])) for row in json.loads(response.body)}


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
    """Whether `raw` holds the figures of the row under their names."""
    with suppress(ValueError, AttributeError, TypeError, LookupError):
        kept = json.loads(raw)
        return all(float(kept[name]) == float(value) for name, value in zip(FIGURES, row[1:], strict=True))
    return False


def closes(scenario: Scenario) -> dict[int, float]:
    with Prices(scenario.home) as prices:
        rows = prices.table("closes").to_pylist()
    return {_seconds(row["day_utc"]): row["close"] for row in rows}


def check_recovery(scenario: Scenario, *, first_days_missing: bool = False) -> None:
    """After the faults the next runs complete the series.

    First days that the exchange has left out (`first_days_missing`) look like days before the listing.
    """
    scenario.exchange.faults.clear()
    scenario.skew = timedelta()
    for _ in range(2):  # the second one requests a gap that the first one leaves
        assert scenario.ingest() is None
    truth = scenario.truth()
    since = min(closes(scenario)) if first_days_missing else 0
    assert closes(scenario).keys() == {when for when in truth if when >= since}
    recent = _seconds(day(scenario.number)) - REFETCHED_DAYS * DAY
    assert {when: close for when, close in closes(scenario).items() if when >= recent} == {
        when: row[3] for when, row in truth.items() if when >= recent
    }


@pytest.fixture
def scenario(tmp_path: Path) -> Iterator[Scenario]:
    with Scenario(tmp_path, 40) as scenario:
        yield scenario


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault: str, scenario: Scenario) -> None:
    between = (2, ATTEMPTS) if MORE > 1 else ()
    for times in (1, *between, ATTEMPTS * EMPTY_ATTEMPTS):
        scenario.number += 1
        scenario.exchange.faults.extend([fault] * times)
        scenario.ingest()
        scenario.check()
    check_recovery(scenario)
    scenario.check()


@settings(max_examples=15 * MORE, **STEADY)  # type: ignore[arg-type]
@given(
    faults=st.lists(st.sampled_from([*FAULTS, "ok", "ok"]), max_size=14),
    seed=st.integers(0, 2**16),
    first=st.integers(8, 40),
)
@example(faults=["403", "negative"], seed=1188, first=8)  # the first day of all was quarantined
@example(faults=["midday"], seed=17, first=17)  # and its day was unknown
def test_faults_mixed_at_random(faults: list[str], seed: int, first: int) -> None:
    with TemporaryDirectory() as folder, Scenario(Path(folder), first, seed) as scenario:
        scenario.exchange.faults.extend(faults)
        for _ in range(3):
            scenario.ingest()
            scenario.check()
            scenario.number += 1
        check_recovery(scenario, first_days_missing="gap" in faults)
        scenario.check()


@settings(max_examples=20 * MORE, **STEADY)  # type: ignore[arg-type]
@given(
    minutes=st.floats(-12, 12),
    skew=st.floats(-3, 3),
    fault=st.sampled_from(["ok", "open", "frozen", "outside"]),
)
def test_around_midnight_no_unfinished_candle_is_stored(minutes: float, skew: float, fault: str) -> None:
    with TemporaryDirectory() as folder, Scenario(Path(folder), 30) as scenario:
        scenario.skew = timedelta(minutes=skew)
        scenario.exchange.faults.extend([fault] * 4)
        scenario.ingest(minutes)
        scenario.check()
        check_recovery(scenario)


def test_a_delisted_product_keeps_its_candles(scenario: Scenario) -> None:
    assert scenario.ingest() is None
    before = closes(scenario)
    scenario.number += 5
    scenario.exchange.delist(BTC)
    assert isinstance(scenario.ingest(), BadProduct)
    assert closes(scenario) == before


def test_days_that_the_exchange_removes_stay_stored(scenario: Scenario) -> None:
    assert scenario.ingest() is None
    before = closes(scenario)
    scenario.exchange.withdraw(BTC, day(10), day(28))
    scenario.number += 1
    assert scenario.ingest() is None
    assert before.items() <= closes(scenario).items()
    assert len(closes(scenario)) == len(before) + 1


class Storm(RuleBasedStateMachine):
    """Days pass, the exchange restates and has faults, clocks drift, and runs come at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = self.stack.enter_context(TemporaryDirectory())
        self.scenario = self.stack.enter_context(Scenario(Path(folder), 10))

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.scenario.exchange._random.seed(seed)

    @rule(days=st.integers(1, 4))
    @precondition(lambda self: self.scenario.number < DAYS - 5)
    def days_pass(self, days: int) -> None:
        self.scenario.number += days

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 7))
    def faults_come(self, fault: str, times: int) -> None:
        self.scenario.exchange.faults.extend([fault] * times)

    @rule(back=st.integers(0, 6), share=st.floats(0.9, 1.1))
    def restated(self, back: int, share: float) -> None:
        number = self.scenario.number - back
        close = float(FRAME["close"].iloc[number - 1]) * share
        figures = {"open": close, "high": close + 1, "low": close - 1, "close": close}
        self.scenario.exchange.restate(BTC, day(number), **figures)

    @rule(skew=st.sampled_from([-3, 0, 3]))
    def clocks_drift(self, skew: int) -> None:
        self.scenario.skew = timedelta(minutes=skew)

    @rule(minutes=st.sampled_from([1, 6, 20, 900]))
    def run(self, minutes: float) -> None:
        self.scenario.ingest(minutes)

    @invariant()
    def only_sent_candles_are_stored(self) -> None:
        self.scenario.check()

    def teardown(self) -> None:
        with self.stack:
            check_recovery(self.scenario)
            self.scenario.check()


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=8 * MORE, stateful_step_count=15, **STEADY)  # type: ignore[arg-type]
