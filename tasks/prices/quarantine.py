"""The quarantined days of a product, and what a person decides about them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import pandas as pd

from closecast.storage.core.candle_schema import FIGURES, OBSERVATION, candle_frame
from closecast.storage.core.errors import BadDay, BadInput
from closecast.storage.prices.decisions import Decider, Decision, RecordedSeries
from closecast.storage.prices.price_store import Prices
from closecast.tasks.prices.jumps import JUMP_FACTOR, LIMIT, distance
from closecast.tasks.prices.validation import check_candles

Status = Literal["quarantined", "accepted", "rejected", "split"]
ONE_DAY = timedelta(days=1)
MAX_FACTOR = 1e12


@dataclass(frozen=True)
class DayStatus:
    """A day that was quarantined or decided about; `close` is that of its row, in the quote currency."""

    product_id: str
    day_utc: date | None  # None for rows that name no day
    status: Status
    close: float | None
    factor: float | None = None
    known_from: date | None = None
    decided_by: Decider | None = None
    reason: str = ""  # why the newest row of the day was quarantined


@dataclass(frozen=True)
class Choice:
    """A person's request about a day: a decision, or to reverse the last one.

    `known_from` is the first origin that uses it; by default the first without a forecast.
    """

    day: date
    action: Literal["accepted", "rejected", "split", "undo"]
    factor: float | None = None
    known_from: date | None = None


def list_days(prices: Prices, product_id: str) -> list[DayStatus]:
    """The days without a close whose rows are quarantined, and the days that were decided about, by day."""
    recorded, rows = prices.recorded(product_id), prices.quarantined(product_id)
    known = {str(day.date()) for day in recorded.known()["day_utc"]}
    found = [_decided(product_id, recorded, rows, one) for one in recorded.decided().values()]
    decided = {str(one.day_utc) for one in found}
    for row in rows.drop_duplicates("day_utc", keep="last").to_dict("records"):
        if row["day_utc"] not in known | decided:
            day = date.fromisoformat(row["day_utc"]) if row["day_utc"] else None
            close = _figures(row["raw"]).get("close")
            found.append(DayStatus(product_id, day, "quarantined", close, reason=row["reason"]))
    return sorted(found, key=lambda one: one.day_utc or date.min)


def _decided(product_id: str, recorded: RecordedSeries, rows: pd.DataFrame, one: Decision) -> DayStatus:
    stored = recorded.newest["close"][recorded.newest["day_utc"] == pd.Timestamp(one.day)]
    own = rows[rows["day_utc"] == str(one.day)]
    close = float(stored.iloc[-1]) if len(stored) else _figures(own["raw"].iloc[-1]).get("close")
    about = (one.factor, one.known_from, one.decided_by, own["reason"].iloc[-1] if len(own) else "")
    return DayStatus(product_id, one.day, one.kind, close, *about)


def decide(
    prices: Prices, product_id: str, choice: Choice, *, last_forecast: date | None, moment: datetime
) -> Decision | None:
    """Record what a person decided about a day; None if it is so already. The product's lock is held.

    `last_forecast` is the newest origin of a forecast. The decision exists for origins from its `known_from`
    on, so that no forecast that was made changes.

    Raises:
        BadInput: there is no such day, its row is not a candle, or the factor is not that of a split.
        BadDay: `known_from` is impossible.
    """
    recorded = prices.recorded(product_id)
    if recorded.rows.empty:
        raise BadInput(f"{product_id} has no stored closes: import them or make a run first")
    day = choice.day
    stored = recorded.newest[recorded.newest["day_utc"] == pd.Timestamp(day)]
    candle = None if len(stored) else _candle(prices, product_id, day)
    kind, factor = _wanted(product_id, recorded, choice, is_stored=candle is None)
    before = recorded.in_force(day)
    known_from = _known_from(recorded, choice, last_forecast)
    same = before and (before.kind, before.factor) == (kind, factor)
    if before and same and (choice.known_from is None or known_from >= before.known_from):
        return None
    if factor is not None:
        rows = stored if candle is None else candle[0]
        _check_factor(recorded, day, float(rows["close"].iloc[-1]), factor)
    decision = Decision(day, kind, known_from, "user", factor)
    brings = candle if kind != "rejected" else None
    if brings is not None:
        _check_candle(day, brings[0])
    prices.decide(product_id, decision, decided_at=moment, candle=brings)
    return decision


def _wanted(
    product_id: str, recorded: RecordedSeries, choice: Choice, *, is_stored: bool
) -> tuple[Literal["accepted", "rejected", "split"], float | None]:
    day, command = choice.day, f"`closecast quarantine --product {product_id}`"
    if choice.action == "undo":
        decisions = recorded.history_of(day)
        if not decisions:
            raise BadInput(f"nothing was decided about {day} of {product_id}: {command} lists the decisions")
        # One that was decided again to be known from an earlier day is one decision.
        kinds = [kind for kind, _ in itertools.groupby((one.kind, one.factor) for one in decisions)]
        if len(kinds) > 1:
            return kinds[-2]
        if decisions[0].kind == "rejected" and not is_stored:
            raise BadInput(
                f"{day} of {product_id} was quarantined before it was rejected: --accept {day} if it is true"
            )
        conditional = decisions[0].kind == "rejected" or not recorded.is_conditional(day)
        return ("accepted" if conditional else "rejected"), None
    if choice.action == "accepted" and is_stored and recorded.in_force(day) is None:
        raise BadInput(f"{day} of {product_id} is stored and not quarantined: there is nothing to accept")
    return choice.action, choice.factor


def _known_from(recorded: RecordedSeries, choice: Choice, last_forecast: date | None) -> date:
    """The first origin that knows a decision: by default the first one that no forecast was made from."""
    newest = recorded.origin(None) or choice.day
    first = max(choice.day, newest, last_forecast + ONE_DAY if last_forecast else choice.day)
    if choice.known_from is None:
        return first
    if not choice.day <= choice.known_from <= first:
        raise BadDay(
            f"a decision about {choice.day} can be known from {choice.day} to {first}, not from"
            f" {choice.known_from}: leave --known-from out, or choose a day between them"
        )
    return choice.known_from


def _check_factor(recorded: RecordedSeries, day: date, close: float, factor: float) -> None:
    """Refuse a factor that does not bring the close nearer to the previous one."""
    if not (math.isfinite(factor) and 1 / MAX_FACTOR <= factor <= MAX_FACTOR):
        raise BadInput(f"the factor of a split is a positive number such as 0.001 or 1/1000, not {factor:g}")
    earlier = recorded.known(day - ONE_DAY) if recorded.rows["day_utc"].iloc[0].date() < day else None
    if earlier is None or earlier.empty:
        raise BadInput(f"no close before {day} is stored: there is nothing to rescale")
    last = float(earlier["close"].iloc[-1])
    after = distance(close, last * factor)
    if after <= LIMIT and after < distance(close, last):
        return
    hint = f"; did you mean {1 / factor:g}?" if distance(close, last / factor) <= LIMIT else ""
    raise BadInput(
        f"the prices before {day} are multiplied by the factor: with {factor:g} the close before would be"
        f" {last * factor:g}, and that of {day} is {close:g}, which must be within a factor of"
        f" {JUMP_FACTOR:g} and nearer than before{hint}"
    )


def _candle(prices: Prices, product_id: str, day: date) -> tuple[pd.DataFrame, dict[str, str]]:
    """The newest quarantined row of a day as a candle frame, and how it was observed."""
    rows, source = prices.quarantined(product_id), prices.source_of(product_id)
    own = rows[(rows["day_utc"] == str(day)) & (rows["source"] == source)]
    if own.empty:
        raise BadInput(
            f"{product_id} has no row of {day}, neither stored nor quarantined:"
            f" `closecast quarantine --product {product_id}` lists the days"
        )
    row = own.iloc[-1]
    figures = _figures(row["raw"])
    frame = candle_frame([{"day_utc": day, **{name: figures.get(name) for name in FIGURES}}])
    return frame, {name: str(row[name]) for name in OBSERVATION}


def _check_candle(day: date, candle: pd.DataFrame) -> None:
    """Refuse a row that breaks any rule other than that of jumps."""
    refused = check_candles(candle, last_finished_day=day).quarantined
    if len(refused):
        raise BadInput(
            f"the quarantined row of {day} is no candle: {refused['reason'].iloc[0]}; import a file with the"
            " right figures"
        )


def _figures(raw: str) -> dict[str, float]:
    """The figures of a quarantined row that are numbers; none of a row that could not be read."""
    try:
        row = json.loads(raw)
    except ValueError:
        return {}
    figures = {name: row.get(name) for name in FIGURES} if isinstance(row, dict) else {}
    numbers = {name: one for name, one in figures.items() if isinstance(one, int | float)}
    return {name: float(one) for name, one in numbers.items() if not isinstance(one, bool)}
