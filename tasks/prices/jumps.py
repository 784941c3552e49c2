"""Which closes are too far from the previous one, and which of these are true jumps of the market."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd

from closecast.storage.prices.decisions import Decision, Kind, RecordedSeries

JUMP_FACTOR = 3.0
MEDIAN_ROWS = 5  # whose median close is the reference for the first candle of a new series
ONE_DAY = timedelta(days=1)
LIMIT = math.log(JUMP_FACTOR)
# The rows to quarantine, with the reason, and what the rules decided about other jumps.
Jumps = tuple[dict[int, str], list[Decision]]


class _Candle(NamedTuple):
    day: date
    open: float  # NaN where unknown, as the volume
    close: float
    volume: float


class _Reference(NamedTuple):
    """A close with which the next one is compared."""

    day: date
    close: float
    label: str
    is_close: bool = True  # not a median


def find_jumps(
    candles: pd.DataFrame, previous: tuple[date, float] | None, stored: RecordedSeries | None
) -> Jumps:
    """Judge the closes of valid candles, oldest first, against the last accepted one before each.

    A close must lie within a factor of it, up or down: JUMP_FACTOR to the power of the days between the two
    (at least one). A close that only a grown allowance accepts is a spike if the next close returns from it.
    Where days are fetched again the allowance does not grow over days with a stored close, so that a response
    full of absurd prices is not accepted after a few of its rows.

    A close further away is a true jump, and accepted,

    - if its own candle crosses the distance: it opens near the reference, closes beyond the factor, and has a
      known volume that is not zero. The day knows it. Should the next candle be back without having crossed
      the distance in its turn, the close was a bad print.
    - if the next candle confirms it: that one's close, and its open where it is known, are within the factor
      of the new level and nearer to it than to the reference, and its volume is not zero. It is known from
      that candle's day on. Where the rows contradict stored closes they confirm nothing.
    - if a person accepted the day. A day that a person rejected is accepted by no rule.
    """
    if candles.empty:
        return {}, []
    return _Walk(candles, stored).walk(previous)


class _Walk:
    """One pass over the candles, with the stored part of their series."""

    def __init__(self, candles: pd.DataFrame, stored: RecordedSeries | None) -> None:
        days = candles["day_utc"].to_numpy().astype("datetime64[D]").tolist()
        figures = (candles[name].to_numpy().tolist() for name in ("open", "close", "volume"))
        self.candles = [_Candle(*row) for row in zip(days, *figures, strict=True)]
        self.decided = stored.decided() if stored else {}
        known = stored.known() if stored else candles.head(0)
        self.stored_days: list[date] = known["day_utc"].dt.date.tolist()
        self.stored_closes: list[float] = known["close"].tolist()
        self.stored = dict(zip(self.stored_days, self.stored_closes, strict=True))
        self.contradicts = any(not self._agrees_with_stored(candle) for candle in self.candles)
        self.quarantined: dict[int, str] = {}
        self.decisions: list[Decision] = []

    def walk(self, previous: tuple[date, float] | None) -> Jumps:
        closes = [candle.close for candle in self.candles]
        reference = _first_reference(self.candles, previous)
        # A row within the factor of its neighbour needs no look: the loop visits only the breaks.
        breaks = (np.flatnonzero(np.abs(np.diff(np.log(closes))) > LIMIT * (1 - 1e-9)) + 1).tolist()
        row = 0
        while row < len(closes):
            reason = self._reason(row, reference)
            if reason:
                self.quarantined[row] = reason
                reference = self._newest_stored(self.candles[row].day, reference)
                row += 1
                continue
            following = bisect_right(breaks, row)
            if following == len(breaks):
                break
            row = breaks[following]
            reference = _close_of(self.candles[row - 1])
        return self.quarantined, self.decisions

    def _reason(self, row: int, reference: _Reference) -> str:
        """Why a row is to be quarantined, empty if it is not; what the rules decide is noted."""
        candle = self.candles[row]
        reason = _jump(reference, candle)
        following = self.candles[row + 1] if row + 1 < len(self.candles) else self._stored_after(candle.day)
        if not reason:
            return _spike(reference, candle, following) if following else ""
        decided = self.decided.get(candle.day)
        if decided and decided.decided_by == "user":
            return reason if decided.kind == "rejected" else ""
        if not reference.is_close or not self._agrees_with_stored(candle):
            return reason
        if _crosses(reference.close, candle):
            if following and _returns(reference.close, candle, following):
                self._decide(candle, "rejected", following.day)
                return f"{reason}, and the next candle is back without having crossed the distance"
            self._decide(candle, "accepted", candle.day)
            return ""
        if following and not self.contradicts and _confirms(reference.close, candle, following):
            self._decide(candle, "accepted", following.day)
            return ""
        return reason

    def _decide(self, candle: _Candle, kind: Kind, known_from: date) -> None:
        self.decisions.append(Decision(candle.day, kind, known_from))
        if kind == "rejected" and candle.day in self.stored:  # no reference any more
            place = self.stored_days.index(candle.day)
            del self.stored_days[place], self.stored_closes[place], self.stored[candle.day]

    def _agrees_with_stored(self, candle: _Candle) -> bool:
        close = self.stored.get(candle.day)
        return close is None or distance(close, candle.close) <= LIMIT

    def _newest_stored(self, day: date, reference: _Reference) -> _Reference:
        """The stored close up to a day, if it is newer than the reference."""
        place = bisect_right(self.stored_days, day)
        if not place or self.stored_days[place - 1] <= reference.day:
            return reference
        newest = self.stored_days[place - 1]
        return _Reference(newest, self.stored_closes[place - 1], f"the stored close of {newest}")

    def _stored_after(self, day: date) -> _Candle | None:
        place = bisect_right(self.stored_days, day)
        if place == len(self.stored_days):
            return None
        return _Candle(self.stored_days[place], math.nan, self.stored_closes[place], math.nan)


def _first_reference(candles: list[_Candle], previous: tuple[date, float] | None) -> _Reference:
    if previous:
        return _Reference(*previous, f"the close of {previous[0]}")
    first = [candle.close for candle in candles[:MEDIAN_ROWS]]
    label = f"the median of the first {len(first)} closes"
    return _Reference(candles[0].day - ONE_DAY, statistics.median_low(first), label, is_close=False)


def _jump(reference: _Reference, candle: _Candle) -> str:
    """The reason why the close is too far from the reference, empty if it is not."""
    close, span = candle.close, max((candle.day - reference.day).days, 1)
    # A power beyond every float allows everything.
    allowed = JUMP_FACTOR**span if span * LIMIT < 700 else math.inf
    if close > reference.close * allowed:
        ratio = f"{round(close / reference.close, 3)} times"
    elif reference.close > close * allowed:
        ratio = f"1/{round(reference.close / close, 3)} of"
    else:
        return ""
    over = f" over {span} days" if span > 1 else ""
    more = f"more than {JUMP_FACTOR:g} a day{over}"
    return f"close {close} is {ratio} {reference.label} ({reference.close}), {more}"


def _spike(reference: _Reference, candle: _Candle, following: _Candle) -> str:
    """The reason why a close is a spike from which the next one returns, empty if it is not."""
    if not _jump(reference._replace(day=candle.day - ONE_DAY), candle):
        return ""
    back = _jump(_close_of(candle), following)
    if not back or _jump(reference, following):
        return ""
    return f"close {candle.close} is far from {reference.label} ({reference.close}), and the next: {back}"


def distance(one: float, other: float) -> float:
    """The distance of two prices as a logarithm; NaN if one is unknown."""
    return abs(math.log(one) - math.log(other))


def _crosses(level: float, candle: _Candle) -> bool:
    """Whether a candle with trades opens near the level, on this side of the distance to its close."""
    near = distance(candle.open, level)
    return candle.volume > 0 and near <= LIMIT and near < distance(candle.open, candle.close)


def _returns(level: float, candle: _Candle, following: _Candle) -> bool:
    """Whether the next candle is back at the level and did not begin at the close of this one."""
    away = distance(following.close, candle.close)
    is_back = away > LIMIT and distance(following.close, level) < away
    return is_back and not _crosses(candle.close, following)


def _confirms(level: float, candle: _Candle, following: _Candle) -> bool:
    """Whether the next candle lies where this one closed, and not at the level before."""
    prices = [price for price in (following.open, following.close) if not math.isnan(price)]
    return following.volume != 0 and all(
        distance(price, candle.close) <= min(LIMIT, distance(price, level)) for price in prices
    )


def _close_of(candle: _Candle) -> _Reference:
    return _Reference(candle.day, candle.close, f"the close of {candle.day}")
