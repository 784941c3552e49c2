"""A product's prices as a run knows them: read once, passed to every step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from closecast.storage.core.candle_schema import CANDLE_COLUMNS, rejected_frame
from closecast.storage.prices.decisions import RecordedSeries, Splits, decision_frame, in_units_of
from closecast.tasks.core.types import Floats


def _no_days() -> pd.Series[pd.Timestamp]:
    return pd.Series(pd.DatetimeIndex([], dtype="datetime64[s]"))


@dataclass(frozen=True)
class PriceHistory:
    """The candles of one product up to an origin, with their data version.

    `quarantined` are the rows of the product that did not become candles, `restated` every observation of the
    days that were observed with more than one set of figures. Decisions about days are applied as the origin
    knew them; before a split the prices are in the units of the origin.
    """

    product_id: str
    candles: pd.DataFrame  # oldest day first; the last day is the origin
    data_version: str  # under which the database gives the same candles again
    series: str  # `SOURCE@AFTER`: prices of two series never meet in one model
    # Every stored day of the series, also those after the origin.
    stored_days: pd.Series[pd.Timestamp] = field(default_factory=_no_days)
    quarantined: pd.DataFrame = field(default_factory=rejected_frame)
    # What the candles were read from; without it no day was decided about.
    recorded: RecordedSeries | None = None
    known_on: date | None = None  # the day that knew the decisions, where candles after it are there, too
    decisions: pd.DataFrame = field(default_factory=decision_frame)  # all about the series's days
    restated: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"day_utc": [], "close": []}))

    @property
    def quote_currency(self) -> str:
        """The currency of the prices: the part of the product id after the dash."""
        return quote_currency(self.product_id)

    @property
    def source(self) -> str:
        """Where the closes come from."""
        return self.series.partition("@")[0]

    @property
    def origin(self) -> date:
        """The last day of the candles."""
        origin: date = self.candles["day_utc"].iloc[-1].date()
        return origin

    @property
    def first_day(self) -> date:
        """The first day of the candles."""
        first: date = self.candles["day_utc"].iloc[0].date()
        return first

    @property
    def closes(self) -> Floats:
        """The closes, (days,)."""
        return self.candles["close"].to_numpy(dtype=np.float64)

    @property
    def days(self) -> Any:
        """The days, (days,) datetime.date."""
        return self.candles["day_utc"].dt.date.to_numpy()

    def close_of(self, day: date) -> float | None:
        """The close of a day; None if it is missing."""
        return self._closes_by_day.get(day)

    def outcome(self, origin: date, day: date) -> float | None:
        """The close of a day in the units of an earlier origin, as its forecasts are; None if missing."""
        if not self.splits:
            return self.close_of(day)
        close = self._stored_closes.get(day)
        return None if close is None else in_units_of(origin, close, day, self.splits)

    @functools.cached_property
    def splits(self) -> Splits:
        """Day and factor of each split that the origin knew."""
        return self.recorded.splits(self.known_on or self.origin) if self.recorded else ()

    @property
    def splits_in_force(self) -> Splits:
        """Day and factor of each split that is in force now, also of those that the origin did not know."""
        return RecordedSeries(self.candles, self.decisions).splits()

    @functools.cached_property
    def _stored_closes(self) -> dict[date, float]:
        assert self.recorded is not None  # noqa: S101 (there are splits)
        known = self.recorded.known(self.known_on or self.origin)
        return dict(zip(known["day_utc"].dt.date, known["close"], strict=True))

    @functools.cached_property
    def _closes_by_day(self) -> dict[date, float]:
        return dict(zip(self.days.tolist(), self.closes.tolist(), strict=True))

    def until(self, day: date) -> PriceHistory:
        """The history up to and including a day, as it was known on that day.

        `data_version` still names the whole history.
        """
        earlier = self.candles["day_utc"] <= pd.Timestamp(day)
        candles = self.candles[earlier].reset_index(drop=True)
        if self.recorded is not None and len(self.recorded.decisions):
            candles = self.recorded.candles(min(day, self.origin))
        return replace(self, candles=candles, known_on=None)

    def as_known(self, day: date, through: date) -> PriceHistory:
        """The history through a day, up to an earlier one as that knew it.

        The rest is as stored: there are closes on its days, and no more is to be read of it.
        """
        if self.recorded is None or not len(self.recorded.decisions):
            return self.until(through)
        known = self.recorded.candles(day)
        rest = self.recorded.known(min(through, self.origin))[CANDLE_COLUMNS]
        later = rest[rest["day_utc"] > known["day_utc"].iloc[-1]]
        return replace(self, candles=pd.concat([known, later], ignore_index=True), known_on=day)

    def knowledge_changes(self, first: date, last: date) -> list[date]:
        """The days after `first`, up to `last`, from which on other decisions about days are known."""
        return self.recorded.changes(first, last) if self.recorded else []

    def was_known(self, day: date) -> bool:
        """Whether a day's close was known on that very day."""
        return self.recorded is None or self.recorded.origin(day) == day


def quote_currency(product_id: str) -> str:
    """The currency that a product is priced in: USD of BTC-USD."""
    return product_id.partition("-")[2]
