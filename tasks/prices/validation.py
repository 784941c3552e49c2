"""Decides which candles may enter the database, and why the others are quarantined."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from closecast.storage.core.candle_schema import FIGURES, PRICES, rejected_frame
from closecast.storage.prices.decisions import Decision, RecordedSeries
from closecast.storage.prices.schema import TOO_LARGE
from closecast.tasks.prices.jumps import find_jumps

# Before 0400-03-01 SQLite's calendar, with which the database checks a day, is off by one.
EARLIEST = np.datetime64("0401-01-01", "D")


class Checked(NamedTuple):
    """All candles of a check, in order: a `candle_frame` with a new index, and a `rejected_frame`.

    `decisions` are what the rules decided: a true jump that is among the accepted candles, with the day from
    which it is known; or that a day which they had accepted was a bad print, and is among the quarantined.
    """

    accepted: pd.DataFrame
    quarantined: pd.DataFrame
    decisions: tuple[Decision, ...] = ()


def check_candles(
    candles: pd.DataFrame,
    *,
    last_finished_day: date,
    previous: tuple[date, float] | None = None,
    stored: RecordedSeries | None = None,
) -> Checked:
    """Separate the candles that may enter the database from those that may not; `candles` does not change.

    A candle may enter when its day is finished and not before the year 401, its prices are finite and
    positive with low <= open, close <= high, and its volume is finite and not negative. Open, high, low
    and volume may be unknown (NaN), the close may not. Jumps are judged by `find_jumps`.

    `candles` is a `candle_frame`, oldest first; `previous` the newest accepted close before them. Without it
    the reference is the median of the first five closes that pass the other rules, so that an absurd first
    candle is quarantined and not all others. `stored` is the series that the candles join. In the `raw` of a
    quarantined row an unknown figure is null, an infinite one "inf" or "-inf".
    """
    reasons = broken_rules(candles, last_finished_day)
    valid = np.flatnonzero(reasons == "")
    jumps, decisions = find_jumps(candles.iloc[valid], previous, stored)
    for row, reason in jumps.items():
        reasons[valid[row]] = reason
    bad = reasons != ""
    rows = [
        rejected_row(candle, reason)
        for candle, reason in zip(candles[bad].to_dict("records"), reasons[bad], strict=True)
    ]
    return Checked(candles[~bad].reset_index(drop=True), rejected_frame(rows), tuple(decisions))


def rejected_row(candle: Mapping[Hashable, Any], reason: str) -> dict[str, object]:
    """The row of a `rejected_frame` for a candle, a row of a `candle_frame`."""
    day = None if pd.isna(candle["day_utc"]) else str(candle["day_utc"])[:10]
    raw = {"day_utc": day} | {name: _as_json(candle[name]) for name in FIGURES}
    return {"day_utc": day, "raw": json.dumps(raw), "reason": reason}


def broken_rules(candles: pd.DataFrame, last_finished_day: date) -> np.ndarray:
    """(rows,) the rules that each row of a `candle_frame` breaks by itself, as text; empty if none."""
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
    for name in PRICES:
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


def _as_json(figure: float) -> float | str | None:
    return None if math.isnan(figure) else figure if math.isfinite(figure) else str(figure)
