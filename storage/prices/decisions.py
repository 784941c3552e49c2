"""A series as it was recorded, and as it was known on a day. Only this module applies decisions.

For an origin before its `known_from` a decision does not exist. Of the decisions about a day that exist, the
one with the greatest number is in force. Rows that an acceptance brought in are unknown until then; a
rejected day is a gap; a split rescales the days before it, and accepts its own. Stored rows never change.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from closecast.storage.core.candle_schema import (
    CANDLE_COLUMNS,
    DECISION_COLUMNS,
    PRICES,
    newest_of_days,
    upto,
)

Kind = Literal["accepted", "rejected", "split"]
Decider = Literal["rule", "user"]
# Day and factor of each, by day: the prices before the day are multiplied by the factor.
Splits = tuple[tuple[date, float], ...]


@dataclass(frozen=True)
class Decision:
    """What was decided about a day: a row of `price_decisions`.

    `factor` is that of a split: the prices before the day are multiplied by it.
    """

    day: date
    kind: Kind
    known_from: date
    decided_by: Decider = "rule"
    factor: float | None = None


def decision_frame(rows: list[dict[str, object]] | None = None) -> pd.DataFrame:
    """A frame of decisions, by number: `seq` and DECISION_COLUMNS, days as `datetime.date`."""
    return pd.DataFrame(rows or [], columns=["seq", *DECISION_COLUMNS], dtype=object)


@dataclass(frozen=True)
class RecordedSeries:
    """All rows of a series and the decisions about its days, up to a number of each.

    `rows` are stored candles with `seq`, by day, then number; `decisions` is a `decision_frame`.
    """

    rows: pd.DataFrame
    decisions: pd.DataFrame

    @functools.cached_property
    def newest(self) -> pd.DataFrame:
        """Each day's newest row, whatever was decided."""
        return newest_of_days(self.rows)

    @functools.cached_property
    def _by_day(self) -> dict[date, list[tuple[Decision, int]]]:
        """The decisions about each day, the oldest first, with the number that they stand behind."""
        found: dict[date, list[tuple[Decision, int]]] = {}
        for row in self.decisions.to_dict("records"):
            one = Decision(row["day_utc"], row["kind"], row["known_from"], row["decided_by"], row["factor"])
            found.setdefault(one.day, []).append((one, row["after_candle_seq"]))
        return found

    def in_force(self, day: date, on: date | None = None) -> Decision | None:
        """The decision about a day as it was known on another day; the newest one of all without it."""
        known = [one for one, _ in self._by_day.get(day, ()) if on is None or one.known_from <= on]
        return known[-1] if known else None

    def history_of(self, day: date) -> list[Decision]:
        """Every decision about a day, the oldest first."""
        return [one for one, _ in self._by_day.get(day, ())]

    def decided(self, on: date | None = None) -> dict[date, Decision]:
        """The decision in force for each day that there is one for, by day."""
        found = {day: self.in_force(day, on) for day in sorted(self._by_day)}
        return {day: one for day, one in found.items() if one is not None}

    def known(self, on: date | None = None) -> pd.DataFrame:
        """Each day's newest row up to a day as it was known then, as stored; all of now without a day."""
        rows = upto(self.rows, on)
        if not self._by_day:
            return upto(self.newest, on)
        hidden = np.zeros(len(rows), dtype=bool)
        days, seqs = rows["day_utc"].to_numpy().astype("datetime64[D]"), rows["seq"].to_numpy()
        for day in self._by_day:
            first, last = (np.searchsorted(days, np.datetime64(day), side) for side in ("left", "right"))
            hidden[first:last] = seqs[first:last] > self._known_through(day, on)
        return newest_of_days(rows[~hidden])

    def _known_through(self, day: date, on: date | None) -> float:
        """The greatest number that a row of the day may have to be known."""
        if one := self.in_force(day, on):
            return -np.inf if one.kind == "rejected" else np.inf
        return self._unconditional_through(day)

    def _unconditional_through(self, day: date) -> float:
        """The greatest number that a row of the day may have to be known without a decision."""
        brought = (after for one, after in self._by_day.get(day, ()) if one.kind != "rejected")
        return min(brought, default=np.inf)

    def is_conditional(self, day: date) -> bool:
        """Whether the day has rows only because it was accepted."""
        stored = self.rows["seq"][self.rows["day_utc"] == pd.Timestamp(day)]
        return not (stored <= self._unconditional_through(day)).any()

    def origin(self, through: date | None) -> date | None:
        """The newest day up to `through` that has a close as known on that very day."""
        for stamp in upto(self.newest, through)["day_utc"].iloc[::-1]:
            day: date = stamp.date()
            if day not in self._by_day or self.known(day)["day_utc"].isin([stamp]).any():
                return day
        return None

    def changes(self, first: date, last: date) -> list[date]:
        """The days after `first`, up to `last`, from which on other decisions are known than before.

        Not those of a day that was accepted at the latest on the next day, and never decided about again: no
        origin in between had to do without it.
        """
        days = set()
        for decisions in self._by_day.values():
            one = decisions[0][0]
            at_once = len(decisions) == 1 and one.kind == "accepted" and (one.known_from - one.day).days <= 1
            days |= set() if at_once else {each.known_from for each, _ in decisions}
        return sorted(day for day in days if first < day <= last)

    def splits(self, on: date | None = None) -> Splits:
        """Day and factor of each split that was known on a day, by day."""
        return tuple((day, one.factor) for day, one in self.decided(on).items() if one.factor is not None)

    def candles(self, on: date) -> pd.DataFrame:
        """The candles up to a day as known then: a candle frame, in the units of its last day."""
        candles = self.known(on)[CANDLE_COLUMNS].reset_index(drop=True)
        for day, factor in self.splits(on):
            earlier = candles["day_utc"] < pd.Timestamp(day)
            candles.loc[earlier, PRICES] *= factor
            candles.loc[earlier, "volume"] /= factor
        return candles

    def by_rule(self, new: pd.DataFrame, decisions: Sequence[Decision]) -> Iterator[tuple[Decision, int]]:
        """What is to be recorded of the rules' decisions, with the number that each stands behind.

        `new` are the rows of new days. What a person decided about a day stays.
        """
        numbers = dict(zip(new["day_utc"].dt.date, new["seq"], strict=True))
        for one in decisions:
            before = self.in_force(one.day)
            if one.kind == "rejected" and before and (before.kind, before.decided_by) == ("accepted", "rule"):
                yield one, int(self.rows["seq"].max())
            elif one.kind == "accepted" and before is None and one.day in numbers:
                yield one, int(numbers[one.day]) - 1

    def lines(self, on: date) -> list[str]:
        """The decisions about days up to `on` that were known then, as text for the digest.

        A decision that a later one overrode from its first day on leaves no line: reading is the same.
        """
        lines = []
        for day, decisions in sorted(self._by_day.items()):
            known = [one for one, _ in decisions if one.known_from <= on and day <= on]
            for number, one in enumerate(known):
                if all(later.known_from > one.known_from for later in known[number + 1 :]):
                    factor = "" if one.factor is None else repr(float(one.factor))
                    lines.append((day, one.known_from, f"{day},{one.kind},{factor},{one.known_from}"))
        return [line for *_, line in sorted(lines)]


@dataclass(frozen=True)
class KnownPrices:
    """Prices up to an origin as they were known on that day, and the names of their versions."""

    data_version: str
    series: str  # SOURCE@AFTER: prices of two series never meet in one model
    origin: date
    recorded: RecordedSeries

    @functools.cached_property
    def candles(self) -> pd.DataFrame:
        """The candle frame, oldest day first, splits applied."""
        return self.recorded.candles(self.origin)


def in_units_of(origin: date, close: float, day: date, splits: Splits) -> float:
    """A day's stored close in the units of an earlier day: forecasts keep the units of their origin."""
    for split, factor in splits:
        if origin < split <= day:
            close /= factor
    return close


def factors_to_last_day(origins: pd.Series[pd.Timestamp], splits: Splits) -> npt.NDArray[np.float64]:
    """What prices in the units of each origin are multiplied by for those of the last day, (origins,)."""
    factors = np.ones(len(origins))
    for day, factor in splits:
        factors[origins < pd.Timestamp(day)] *= factor
    return factors
