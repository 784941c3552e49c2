"""Which candles may enter the database, and why the others are quarantined."""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_right
from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd

from storage.core.candle_schema import FIGURES, rejected_frame
from storage.prices.schema import TOO_LARGE

# Before 0400-03-01 SQLite's calendar, with which the database checks a day, is off by one.
EARLIEST = np.datetime64("0401-01-01", "D")
JUMP_FACTOR = 3.0
MEDIAN_ROWS = 5  # whose median close is the reference for the first candle of a new series

# The newest stored close up to a day, with its day.
StoredClose = Callable[[date], tuple[date, float] | None]


class Checked(NamedTuple):
    """All candles of a check, in order: a `candle_frame` with a new index, and a `rejected_frame`."""

    accepted: pd.DataFrame
    quarantined: pd.DataFrame


class _Reference(NamedTuple):
    """A close to which the next one is compared."""

    day: date
    close: float
    label: str


def check_candles(
    candles: pd.DataFrame,
    *,
    last_finished_day: date,
    previous: tuple[date, float] | None = None,
    stored: StoredClose | None = None,
) -> Checked:
    """Separate the candles that may enter the database from those that may not; `candles` does not change.

    A candle may enter when its day is finished and not before the year 401, its prices are finite and
    positive with low <= open, close <= high, and its volume is finite and not negative. Open, high, low
    and volume may be unknown (NaN), the close may not.

    The close must also lie within a factor of the last accepted close, up or down: JUMP_FACTOR to the power
    of the days between the two (at least one). So a spike costs only itself, and a true shift of level costs
    days only until the allowance has grown to it: one day for a shift by up to JUMP_FACTOR squared. A close
    that only a grown allowance accepts is a spike if the next close returns from it.

    `candles` is a `candle_frame`, oldest first; `previous` the newest accepted close before them. Without it
    the reference is the median of the first five closes that pass the other rules, so that an absurd first
    candle is quarantined and not all others. Where days are fetched again the allowance does not grow over
    days with a `stored` close, so that a response full of absurd prices is not accepted after a few of its
    rows. In the `raw` of a quarantined row an unknown figure is null, an infinite one "inf" or "-inf".
    """
    reasons = _broken_rules(candles, last_finished_day)
    valid = np.flatnonzero(reasons == "")
    days = candles["day_utc"].to_numpy().astype("datetime64[D]")[valid].tolist()
    closes = candles["close"].to_numpy()[valid].tolist()
    for row, reason in _find_jumps(days, closes, previous, stored).items():
        reasons[valid[row]] = reason
    bad = reasons != ""
    rows: list[dict[str, object]] = []
    for candle, reason in zip(candles[bad].to_dict("records"), reasons[bad], strict=True):
        day = None if pd.isna(candle["day_utc"]) else str(candle["day_utc"])[:10]
        raw = {"day_utc": day} | {name: _as_json(candle[name]) for name in FIGURES}
        rows.append({"day_utc": day, "raw": json.dumps(raw), "reason": reason})
    return Checked(candles[~bad].reset_index(drop=True), rejected_frame(rows))


def _broken_rules(candles: pd.DataFrame, last_finished_day: date) -> np.ndarray:
    """(rows,) the rules that each row breaks by itself, as text; empty if none."""
    reasons = np.full(len(candles), "", dtype=object)
    days = candles["day_utc"].to_numpy().astype("datetime64[D]")
    value = {name: candles[name].to_numpy() for name in FIGURES}

    def add(broken: np.ndarray, text: str, *columns: np.ndarray) -> None:
        for row in np.flatnonzero(broken):
            reason = text.format(*(column[row].item() for column in columns))
            reasons[row] = f"{reasons[row]}; {reason}" if reasons[row] else reason

    add(np.isnat(days), "its day is unknown")
    add(days < EARLIEST, f"day {{}} is before {EARLIEST}, the first that can be kept", days)
    last = np.datetime64(last_finished_day, "D")
    add(days > last, f"day {{}} is not finished, the last finished day is {last}", days)
    add(np.isnan(value["close"]), "the close is unknown")
    for name in ("open", "high", "low", "close"):
        # Comparisons with NaN are false: an unknown figure breaks no rule.
        price = value[name]
        add((price <= 0) | np.isinf(price), f"{name} {{}} is not a finite positive price", price)
    for name, figure in value.items():
        add(np.isfinite(figure) & (figure >= TOO_LARGE), f"{name} {{}} is too large", figure)
    # The close is known, or has its reason above: low above high fails one of these.
    for lower, upper in (("low", "open"), ("open", "high"), ("low", "close"), ("close", "high")):
        low, high = value[lower], value[upper]
        add(low > high, f"{lower} {{}} above {upper} {{}}", low, high)
    volume = value["volume"]
    add((volume < 0) | np.isinf(volume), "volume {} is negative or not finite", volume)
    return reasons


def _find_jumps(
    days: list[date],
    closes: list[float],
    previous: tuple[date, float] | None,
    stored: StoredClose | None,
) -> dict[int, str]:
    """The rows whose close is too far from the last accepted one, with the reason."""
    if not closes:
        return {}
    if previous:
        reference = _Reference(*previous, f"the close of {previous[0]}")
    else:
        first = closes[:MEDIAN_ROWS]
        label = f"the median of the first {len(first)} closes"
        reference = _Reference(days[0] - timedelta(days=1), statistics.median_low(first), label)
    # A row within the factor of its neighbour needs no look: the loop visits only the breaks.
    far = np.abs(np.diff(np.log(closes))) > math.log(JUMP_FACTOR) * (1 - 1e-9)
    breaks = (np.flatnonzero(far) + 1).tolist()
    jumps: dict[int, str] = {}
    row = 0
    while row < len(closes):
        pair = slice(row, row + 2)
        reason = _jump(reference, days[row], closes[row])
        if reason := reason or _spike(reference, days[pair], closes[pair]):
            jumps[row] = reason
            newest = stored(days[row]) if stored else None
            if newest and newest[0] > reference.day:
                reference = _Reference(*newest, f"the stored close of {newest[0]}")
            row += 1
            continue
        following = bisect_right(breaks, row)
        if following == len(breaks):
            break
        row = breaks[following]
        reference = _close_of(days[row - 1], closes[row - 1])
    return jumps


def _jump(reference: _Reference, day: date, close: float) -> str:
    """The reason why the close is too far from the reference, empty if it is not."""
    span = max((day - reference.day).days, 1)
    # A power beyond every float allows everything.
    allowed = JUMP_FACTOR**span if span * math.log(JUMP_FACTOR) < 700 else math.inf
    if close > reference.close * allowed:
        ratio = f"{round(close / reference.close, 3)} times"
    elif reference.close > close * allowed:
        ratio = f"1/{round(reference.close / close, 3)} of"
    else:
        return ""
    over = f" over {span} days" if span > 1 else ""
    more = f"more than {JUMP_FACTOR:g} a day{over}"
    return f"close {close} is {ratio} {reference.label} ({reference.close}), {more}"


def _spike(reference: _Reference, days: list[date], closes: list[float]) -> str:
    """The reason why the first of two closes is a spike from which the second returns, empty if it is not."""
    if len(closes) < 2 or not _jump(reference, reference.day + timedelta(days=1), closes[0]):
        return ""
    back = _jump(_close_of(days[0], closes[0]), days[1], closes[1])
    if not back or _jump(reference, days[1], closes[1]):
        return ""
    return f"close {closes[0]} is far from {reference.label} ({reference.close}), and the next: {back}"


def _close_of(day: date, close: float) -> _Reference:
    return _Reference(day, close, f"the close of {day}")


def _as_json(figure: float) -> float | str | None:
    return None if math.isnan(figure) else figure if math.isfinite(figure) else str(figure)
