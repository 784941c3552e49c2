"""What may enter the database; what is quarantined, and why; where days are missing."""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from storage.core.candle_schema import CANDLE_COLUMNS, FIGURES, candle_frame, rejected_frame
from storage.core.errors import BadDay, NotEnoughHistory, StaleSeries
from storage.prices.queries import TOO_LARGE

EPOCH = date(1970, 1, 1).toordinal()
# Before 0400-03-01 SQLite's calendar, by which the database checks a day, has been off by one.
EARLIEST = np.datetime64("0401-01-01", "D")
ONE_DAY = np.timedelta64(1, "D")
FIRST_ROWS = 5

# Of a day the newest stored close up to it, with its day.
Stored = Callable[[date], tuple[date, float] | None]


@dataclass(frozen=True)
class Checked:
    """Every candle given, in order: accepted (a `candle_frame`) or quarantined (a `rejected_frame`)."""

    accepted: pd.DataFrame
    quarantined: pd.DataFrame


@dataclass(frozen=True)
class _Reference:
    """The close that the next one is held against."""

    day: int  # days since 1970
    close: float
    title: str


def check_candles(
    candles: pd.DataFrame,
    *,
    last_finished_day: date,
    previous: tuple[date, float] | None = None,
    stored: Stored | None = None,
    jump_factor: float = 3.0,
) -> Checked:
    """Part what may enter from what may not; `candles` itself is not changed.

    A candle may enter when its day is finished and not before the year 401, its prices are finite and
    positive with low <= open, close <= high, and its volume is finite and not negative. Open, high, low
    and volume may be unknown (NaN), the close may not. The close must also lie within a factor of the
    last accepted close, up or down: the factor is `jump_factor` to the power of the days between the two
    (at least one). So a spike costs only itself, and after a true shift of level the days are quarantined
    only until the allowance has grown to it: one day for a shift by up to `jump_factor` squared. A close
    that only a grown allowance lets in, and that the next one does not follow but returns from, is a spike.

    Args:
        candles: a `candle_frame`, oldest first.
        last_finished_day: the last UTC day that is over.
        previous: day and close (USD) of the newest accepted candle before the first of these. Without it
            the first is held against the median close of the first five that pass the other rules, as if
            that were the close of the day before, so that an absurd first candle falls and not all others.
        stored: where days come again, what is stored of them: the allowance does not grow over days whose
            close is known, so that an answer full of absurd prices is not believed after a few of its rows.
        jump_factor: more than 1.

    Returns:
        accepted, with the index made anew; quarantined, with day and figures as they came in `raw` (an
        unknown figure is null, an infinite one the text "inf" or "-inf").
    """
    reasons = _broken_rules(candles, last_finished_day)
    valid = np.flatnonzero(reasons == "")
    days = candles["day_utc"].to_numpy().astype("datetime64[D]").astype("int64")[valid].tolist()
    closes = candles["close"].to_numpy()[valid].tolist()
    for row, reason in _find_jumps(days, closes, previous, stored, jump_factor).items():
        reasons[valid[row]] = reason
    aside = reasons != ""
    rows = [
        {"day_utc": None if pd.isna(day) else str(day)[:10], "raw": _raw(day, figures), "reason": reason}
        for day, figures, reason in zip(
            candles.loc[aside, "day_utc"],
            candles.loc[aside, FIGURES].to_numpy().tolist(),
            reasons[aside],
            strict=True,
        )
    ]
    kept: dict[str, object] = {name: candles[name].to_numpy()[~aside] for name in CANDLE_COLUMNS}
    return Checked(candle_frame(kept), rejected_frame(rows))


def find_gaps(days: pd.Series[pd.Timestamp]) -> list[tuple[date, date]]:
    """The spans of missing days between the first and the last: first and last missing day of each.

    Args:
        days: datetime64 in any order, days twice are once; NaT is passed over.
    """
    present = np.unique(days.dropna().to_numpy().astype("datetime64[D]"))
    gaps = np.flatnonzero(np.diff(present) > ONE_DAY)
    return [((present[gap] + ONE_DAY).item(), (present[gap + 1] - ONE_DAY).item()) for gap in gaps]


def require_origin(
    product_id: str,
    days: pd.Series[pd.Timestamp],
    origin: date | None,
    *,
    min_days: int = 1,
    consecutive_days: int = 1,
) -> date:
    """Refuse a run whose origin has no close, or too few before it.

    Args:
        product_id: for the message.
        days: datetime64, rising.
        origin: the last day that the run may know; the last of `days` when None.
        min_days: closes needed up to the origin.
        consecutive_days: of these, the newest ones that no gap may break.

    Returns:
        The origin.

    Raises:
        BadDay: the origin lies before the first day.
        StaleSeries: the origin's day is missing.
        NotEnoughHistory: fewer than `min_days` closes up to the origin, or a gap in the newest ones.
    """
    if days.empty:
        raise StaleSeries(f"{product_id} has no closes at all: choose another source or a later --as-of")
    first, last = days.iloc[0].date(), days.iloc[-1].date()
    origin = origin or last
    if origin < first:
        raise BadDay(f"{product_id} begins on {first}, asked for {origin}: choose a later --as-of")
    until = days[days <= pd.Timestamp(origin)]
    newest = until.iloc[-1].date()
    if newest != origin:
        raise StaleSeries(
            f"{product_id} has no close of {origin}, the newest before it is of {newest}:"
            f" no forecast is made from old prices; get that day, or choose --as-of {newest}"
        )
    if len(until) < min_days:
        raise NotEnoughHistory(
            f"the profile needs {min_days} days of closes up to {origin}, found {len(until)}:"
            " import more history"
        )
    gaps = find_gaps(until)
    consecutive = (origin - gaps[-1][1]).days if gaps else len(until)
    if consecutive < consecutive_days:
        raise NotEnoughHistory(
            f"the forecast's input needs {consecutive_days} consecutive days up to {origin}, found {consecutive}"
            f" since the gap that ends on {gaps[-1][1]}: choose a later --as-of"
        )
    return origin


def _broken_rules(candles: pd.DataFrame, last_finished_day: date) -> np.ndarray:
    """For each row the rules that it breaks by itself, in words; an empty text if none."""
    reasons = np.full(len(candles), "", dtype=object)
    days = candles["day_utc"].to_numpy().astype("datetime64[D]")
    value = {name: candles[name].to_numpy() for name in FIGURES}

    def note(broken: np.ndarray, text: str, *names: str) -> None:
        for row in np.flatnonzero(broken):
            figures = [float(value[name][row]) for name in names]
            reason = text.format(*figures, day=days[row])
            reasons[row] = f"{reasons[row]}; {reason}" if reasons[row] else reason

    note(np.isnat(days), "its day is unknown")
    note(days < EARLIEST, f"day {{day}} is before {EARLIEST}, the first that can be kept")
    last = np.datetime64(last_finished_day, "D")
    note(days > last, f"day {{day}} is not finished, the last finished day is {last}")
    note(np.isnan(value["close"]), "the close is unknown")
    for name in ("open", "high", "low", "close"):
        # Comparisons with NaN are false: what is unknown breaks no rule.
        note((value[name] <= 0) | np.isinf(value[name]), f"{name} {{}} is not a finite positive price", name)
    for name in value:
        note(np.isfinite(value[name]) & (value[name] >= TOO_LARGE), f"{name} {{}} is past all measure", name)
    # The close is known, or noted above: low above high shows in one of these.
    for lower, upper in (("low", "open"), ("open", "high"), ("low", "close"), ("close", "high")):
        note(value[lower] > value[upper], f"{lower} {{}} above {upper} {{}}", lower, upper)
    note((value["volume"] < 0) | np.isinf(value["volume"]), "volume {} is negative or not finite", "volume")
    return reasons


def _find_jumps(
    days: list[int],
    closes: list[float],
    previous: tuple[date, float] | None,
    stored: Stored | None,
    factor: float,
) -> dict[int, str]:
    """The rows whose close is too far from the last accepted one, with the reason."""
    if not closes:
        return {}
    if previous:
        start = _Reference(_number(previous[0]), previous[1], f"the close of {previous[0]}")
    else:
        median = statistics.median_low(closes[:FIRST_ROWS])
        start = _Reference(days[0] - 1, median, f"the median of the first {len(closes[:FIRST_ROWS])} closes")
    # Between neighbours that agree nothing can be quarantined: only the breaks are walked through.
    doubtful = np.abs(np.diff(np.log(closes))) > math.log(factor) * (1 - 1e-9)
    breaks = (np.flatnonzero(doubtful) + 1).tolist()
    jumps: dict[int, str] = {}
    row, reference = 0, start
    while row < len(closes):
        pair = slice(row, row + 2)
        reason = _jump(reference, days[row], closes[row], factor)
        if reason := reason or _spike(reference, days[pair], closes[pair], factor):
            jumps[row] = reason
            known = stored(date.fromordinal(days[row] + EPOCH)) if stored else None
            if known and _number(known[0]) > reference.day:
                reference = _Reference(_number(known[0]), known[1], f"the stored close of {known[0]}")
            row += 1
            continue
        following = bisect_right(breaks, row)
        if following == len(breaks):
            break
        row = breaks[following]
        before = date.fromordinal(days[row - 1] + EPOCH)
        reference = _Reference(days[row - 1], closes[row - 1], f"the close of {before}")
    return jumps


def _jump(reference: _Reference, day: int, close: float, factor: float) -> str:
    """Why the close is too far from the reference, or an empty text."""
    span = max(day - reference.day, 1)
    # A power beyond every float allows everything.
    allowed = factor**span if span * math.log(factor) < 700 else math.inf
    if close > reference.close * allowed:
        ratio = f"{round(close / reference.close, 3)} times"
    elif reference.close > close * allowed:
        ratio = f"1/{round(reference.close / close, 3)} of"
    else:
        return ""
    over = f" over {span} days" if span > 1 else ""
    return f"close {close} is {ratio} {reference.title} ({reference.close}), more than {factor:g} a day{over}"


def _spike(reference: _Reference, days: list[int], closes: list[float], factor: float) -> str:
    """Why the first of two closes, which the reference allows, is a spike that the second returns from."""
    if len(closes) < 2 or not _jump(reference, reference.day + 1, closes[0], factor):
        return ""
    here = _Reference(days[0], closes[0], f"the close of {date.fromordinal(days[0] + EPOCH)}")
    back = _jump(here, days[1], closes[1], factor)
    if not back or _jump(reference, days[1], closes[1], factor):
        return ""
    return f"close {closes[0]} is far from {reference.title} ({reference.close}), and the next: {back}"


def _number(day: date) -> int:
    return day.toordinal() - EPOCH


def _raw(day: pd.Timestamp, figures: list[float]) -> str:
    row: dict[str, object] = {"day_utc": None if pd.isna(day) else str(day)[:10]}
    for name, figure in zip(FIGURES, figures, strict=True):
        row[name] = None if math.isnan(figure) else figure if math.isfinite(figure) else str(figure)
    return json.dumps(row)
