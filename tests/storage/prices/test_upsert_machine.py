"""The price database against a dictionary: after any operations in any order, both hold the same."""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from closecast.storage.core.candle_schema import FIGURES, candle_frame, rejected_frame
from closecast.storage.core.errors import SourceMismatch
from closecast.storage.core.home import Home
from closecast.storage.prices.price_store import Prices
from tests.helpers import FIRST, NOW, SHA

PRODUCTS = ("BTC-USD", "ETH-USD")
SOURCES = ("csv", "coinbase")
SOAK = int(os.environ.get("SOAK", "1"))
PRICES = st.sampled_from([1.0, 2.5, 3.0, 1e-6, 7999.99])
DAYS = st.dictionaries(st.integers(0, 12), st.tuples(PRICES, st.sampled_from([0.0, 1.5, None])), max_size=8)
Figures = tuple[float | None, ...]


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def figures_of(price: float, volume: float | None) -> Figures:
    return (None, price + 1, price / 2, price, volume)


def page(days: dict[int, Figures]) -> pd.DataFrame:
    return candle_frame(
        [
            {"day_utc": pd.Timestamp(day(number)), **dict(zip(FIGURES, figures, strict=True))}
            for number, figures in days.items()
        ]
    )


class Upserts(RuleBasedStateMachine):
    """What is appended, restated, replaced, quarantined and asked for again, beside a model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.home = Home(Path(self.folder.name))
        # Of each product: its source, its closes by day, and every observation since the first.
        self.source: dict[str, str] = {}
        self.closes: dict[str, dict[int, Figures]] = {}
        self.row_count = 0
        self.quarantined: set[tuple[str, str]] = set()
        # Every data version that was ever named, with the closes that it stood for.
        self.versions: dict[str, list[tuple[date, Figures]]] = {}

    @initialize()
    def open(self) -> None:
        self.prices = Prices(self.home).__enter__()

    def teardown(self) -> None:
        if hasattr(self, "prices"):
            self.prices.__exit__()
        self.folder.cleanup()

    @rule()
    def reopen(self) -> None:
        self.prices.__exit__()
        self.prices = Prices(self.home).__enter__()

    @rule(product=st.sampled_from(PRODUCTS), source=st.sampled_from(SOURCES), replace=st.booleans())
    def start_series(self, product: str, source: str, replace: bool) -> None:
        stored = self.source.get(product)
        if stored in (None, source) or replace:
            self.prices.start_series(product, source, started_at=NOW, replace=replace)
            if stored != source:
                self.source[product], self.closes[product] = source, {}
            return
        with pytest.raises(SourceMismatch):
            self.prices.start_series(product, source, started_at=NOW)

    @precondition(lambda self: self.source)
    @rule(product=st.sampled_from(PRODUCTS), days=DAYS, rejected=st.lists(st.sampled_from("abc"), max_size=2))
    def append_page(
        self, product: str, days: dict[int, tuple[float, float | None]], rejected: list[str]
    ) -> None:
        if product not in self.source:
            return
        rejected_rows = rejected_frame([{"day_utc": None, "raw": raw, "reason": "no"} for raw in rejected])
        observed = {number: figures_of(*given) for number, given in days.items()}
        appended = self.prices.append(
            product,
            page(observed),
            source=self.source[product],
            observed_at=NOW,
            payload_sha256=SHA,
            quarantined=rejected_rows,
        )
        stored = self.closes[product]
        new = {number for number in observed if number not in stored}
        restated = {number for number in observed if number in stored and stored[number] != observed[number]}
        assert (appended.new_days, appended.restated_days) == (len(new), len(restated))
        self.row_count += len(new) + len(restated)
        stored.update(observed)
        self.quarantined |= {(product, raw) for raw in rejected}

    @rule(product=st.sampled_from(PRODUCTS), through=st.integers(0, 14))
    def name_version(self, product: str, through: int) -> None:
        rows = self.rows(product, through)
        if rows:
            name = self.prices.data_version(product, day(through), created_at=NOW)
            assert self.versions.setdefault(name, rows) == rows

    def rows(self, product: str, through: int) -> list[tuple[date, Figures]]:
        stored = sorted(self.closes.get(product, {}).items())
        return [(day(number), figures) for number, figures in stored if number <= through]

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "prices"):
            return
        table = self.prices.table("closes").to_pylist()
        for product in PRODUCTS:
            ours = [row for row in table if row["product_id"] == product]
            assert [(row["day_utc"], _figures(row)) for row in ours] == self.rows(product, 99)
            assert self.prices.source_of(product) == self.source.get(product)
            stored = self.closes.get(product)
            assert self.prices.first_day(product) == (day(min(stored)) if stored else None)
            assert self.prices.last_day(product) == (day(max(stored)) if stored else None)
            raws = set(self.prices.quarantined(product)["raw"])
            assert raws == {raw for name, raw in self.quarantined if name == product}
        assert self.prices.table("candles").num_rows == self.row_count

    @invariant()
    def every_version_is_read_again(self) -> None:
        for name, rows in self.versions.items():
            frame = self.prices.prices_at(name).candles
            candles = [
                (stamp.date(), tuple(None if pd.isna(figure) else float(figure) for figure in figures))
                for stamp, *figures in frame.itertuples(index=False, name=None)
            ]
            assert candles == rows, name


def _figures(row: dict[str, Any]) -> Figures:
    return tuple(row[name] for name in FIGURES)


TestUpserts = Upserts.TestCase
TestUpserts.settings = settings(
    max_examples=12 * SOAK, stateful_step_count=25, derandomize=SOAK == 1, database=None
)


@pytest.fixture(autouse=True)
def _fewer_on_a_server(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--database") != "sqlite":
        request.cls.settings = settings(request.cls.settings, max_examples=4 * SOAK)
