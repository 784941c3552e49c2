"""A product's prices as a run knows them: read once, handed on to every step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from storage.core.candle_schema import rejected_frame
from tasks.core.types import Floats


def _no_days() -> pd.Series[pd.Timestamp]:
    return pd.Series(pd.DatetimeIndex([], dtype="datetime64[s]"))


@dataclass(frozen=True)
class PriceHistory:
    """The candles of one product up to an origin, and what they are a version of.

    `quarantined` are the rows of the product that did not become candles, `restated` every observation of the
    days that were observed with more than one set of figures.
    """

    product_id: str
    candles: pd.DataFrame  # oldest day first; the last day is the origin
    data_version: str  # under which the database gives the same candles again
    series: str  # `SOURCE@AFTER`: prices of two series never meet in one model
    # Every stored day of the series, also those after the origin.
    stored_days: pd.Series[pd.Timestamp] = field(default_factory=_no_days)
    quarantined: pd.DataFrame = field(default_factory=rejected_frame)
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
        """The close of a day; None where it is missing."""
        return self._closes_by_day.get(day)

    @functools.cached_property
    def _closes_by_day(self) -> dict[date, float]:
        return dict(zip(self.days.tolist(), self.closes.tolist(), strict=True))

    def until(self, day: date) -> PriceHistory:
        """The same history up to a day, inclusive; `data_version` still names the whole one."""
        earlier = self.candles["day_utc"] <= pd.Timestamp(day)
        return replace(self, candles=self.candles[earlier].reset_index(drop=True))


def quote_currency(product_id: str) -> str:
    """The currency that a product is priced in: USD of BTC-USD."""
    return product_id.partition("-")[2]
