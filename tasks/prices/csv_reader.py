"""A CSV file of daily candles → candles in memory.

The file may name its columns as CryptoDataDownload, the exchange's API or a plain export does. What cannot
be read is quarantined with its line; what makes the whole file doubtful is refused. Nothing is guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from storage.core.candle_schema import CANDLE_COLUMNS, FIGURES, candle_frame, rejected_frame
from storage.core.errors import BadFile
from storage.core.home import check_product_id
from tasks.prices.csv_formats import NUMBER, Rows, cut_rows, no_rows

SECONDS_A_DAY = 86_400
# The days that Python's calendar has.
YEAR_1, YEAR_9999 = np.datetime64("0001-01-01", "s"), np.datetime64("9999-12-31", "s")
DAY_FORM = r"^\d{4}-\d{2}-\d{2}$"
CLOCK_24 = re.compile(r"[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.0+)?)?(?:Z|\+00:?00| ?UTC)?")
CLOCK_12 = re.compile(r" (\d{2})-(AM|PM)")
# Ratios of base × close to quote within this factor of one say "the volumes are these two".
NEAR = 2.0

OnDuplicate = Literal["refuse", "first", "last"]


@dataclass(frozen=True)
class CsvCandles:
    """What a file holds: candles (oldest first, one row a day) and the rows that were not taken."""

    candles: pd.DataFrame
    rejected: pd.DataFrame


def read_candles(
    data: bytes, product_id: str, *, name: str = "the file", on_duplicate: OnDuplicate = "refuse"
) -> CsvCandles:
    """Read the candles of one product from a CSV file's bytes.

    Rows may come in any order; days are UTC. A time stamp (seconds, milliseconds or microseconds) or a
    `2019-10-17 00:00:00` must lie on midnight. The form `2020-10-24 07-AM` is the label of a daily file: its
    hour is ignored while each day has one. Where a date and a time stamp are both there, the date names the
    day, and a row whose two days differ is rejected. The volume taken is the one in the base currency, by
    the figures (base × close ≈ quote) and, where they do not decide, by name; NaN where neither tells. A
    lone `volume` is in the base currency. Open, high, low and volume may be empty (NaN), the close never.

    Args:
        data: the file's content, UTF-8.
        product_id: the product that the file must be of, if it says.
        name: how errors call the file.
        on_duplicate: which row of a day with different figures to take: the one nearer the top of the file
            (`first`) or nearer its end (`last`), whichever way the days run. The other row is rejected.
            Rows with the same figures are one row.

    Returns:
        candles, a `candle_frame` with figures exactly as written; rejected, a `rejected_frame` in the
        file's order: each reason starts with the line number.

    Raises:
        BadProduct: a product id of the wrong form.
        BadFile: empty, not CSV, no known header, another product, not daily, no row that can be read, or
            days that come twice with different figures.
    """
    check_product_id(product_id)
    rows = cut_rows(data, name)
    _check_symbol(rows, product_id)
    frame = pd.DataFrame({"day_utc": _read_days(rows)}, index=rows.numbers)
    for figure in FIGURES[:-1]:
        frame[figure] = _read_figure(rows, figure)
    frame["volume"] = _read_figure(rows, _pick_volume(rows, frame["close"].to_numpy(), product_id))
    good = frame[~frame.index.isin(list(rows.reasons))]
    if good.empty:
        raise no_rows(rows.reasons, name)
    if not good["day_utc"].is_unique:
        good = _one_a_day(good, on_duplicate, rows)
    if not good["day_utc"].is_monotonic_increasing:
        good = good.sort_values("day_utc")
    candles = candle_frame({column: good[column].to_numpy() for column in CANDLE_COLUMNS})
    return CsvCandles(candles, _rejected(rows, frame["day_utc"]))


def _check_symbol(rows: Rows, product_id: str) -> None:
    """Refuse a file of another product; BTCUSD, BTC/USD and btc-usd are all BTC-USD."""
    if "symbol" not in rows.texts:
        return
    for symbol in pc.unique(rows.texts["symbol"]).to_pylist():
        plain = re.sub(r"[/_ -]", "-", symbol.upper())
        if plain not in (product_id, product_id.replace("-", "")):
            line = rows.numbers[pc.index(rows.texts["symbol"], symbol).as_py()]
            raise BadFile(
                f"{rows.name}: candles of {product_id} are needed, line {line} is of {symbol!r:.40};"
                " give that product or another file"
            )


# Days


def _read_days(rows: Rows) -> np.ndarray:
    """The UTC day of each row, NaT where a reason says why not."""
    role = "day" if "day" in rows.texts else "stamp"
    days, clock, labelled = _parse_days(rows.texts[role])
    off = np.flatnonzero(~np.isnat(days) & (clock != 0) & ~labelled).tolist()
    if off:
        came = f"line {rows.numbers[off[0]]} is of {rows.text(role, off[0])!r:.40}"
        raise BadFile(f"{rows.name}: daily candles are needed, each at midnight UTC, but {came}")
    _check_hours(rows, days, clock)
    for row in np.flatnonzero(np.isnat(days)).tolist():
        rows.reject(row, f"date {rows.text(role, row)!r:.40} is not a UTC day such as 2020-10-24")
    if role == "day" and "stamp" in rows.texts:
        stamps, clock, _ = _parse_days(rows.texts["stamp"])
        _check_hours(rows, np.where(days == stamps, days, np.datetime64("NaT", "s")), clock)
        for row in np.flatnonzero(~np.isnat(days) & ~np.isnat(stamps) & (days != stamps)).tolist():
            other = f"its time stamp {rows.text('stamp', row)!r:.40} says {stamps[row]!s:.10}"
            rows.reject(row, f"its date says {days[row]!s:.10}, {other}")
    return days


def _check_hours(rows: Rows, days: np.ndarray, clock: np.ndarray) -> None:
    """Refuse a file in which one day has two hours: it is not daily."""
    order = np.lexsort((clock, days))
    hourly = np.flatnonzero((np.diff(days[order]) == np.timedelta64(0, "s")) & (np.diff(clock[order]) != 0))
    if len(hourly):
        first, second = sorted(rows.numbers[order[hourly[0] : hourly[0] + 2]])
        day = str(days[order[hourly[0]]])[:10]
        raise BadFile(
            f"{rows.name}: daily candles are needed, lines {first} and {second} are two hours of {day}"
        )


def _parse_days(text: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UTC days (NaT where unreadable), seconds after midnight, and whether those are an AM/PM label."""
    number = _parse_numbers(text)
    unit = np.where(np.abs(number) >= 1e14, 1e6, np.where(np.abs(number) >= 1e11, 1e3, 1.0))
    stamped, seconds = np.divmod(number / unit, SECONDS_A_DAY)
    stamped[~(np.abs(stamped) < 3e6)] = np.nan  # the years of four digits
    form = pc.utf8_slice_codeunits(text, 0, 10)
    form = pc.if_else(pc.match_substring_regex(form, DAY_FORM), form, None)
    written = pd.to_datetime(pd.Series(form.to_pandas()), format="%Y-%m-%d", errors="coerce")
    rest = pc.utf8_slice_codeunits(text, 10, None).dictionary_encode()
    clocks = np.array([_parse_clock(tail) for tail in rest.dictionary.to_pylist()])
    clock, labelled = clocks.reshape(-1, 2)[rest.indices.to_numpy()].T
    days = written.to_numpy().astype("datetime64[s]")
    days[np.isnan(clock)] = np.datetime64("NaT", "s")
    is_stamp = ~np.isnan(stamped)
    days[is_stamp] = (stamped[is_stamp].astype("int64") * SECONDS_A_DAY).astype("datetime64[s]")
    days[(days < YEAR_1) | (days > YEAR_9999)] = np.datetime64("NaT", "s")
    return days, np.where(is_stamp, seconds, clock), (labelled == 1) & ~is_stamp


def _parse_clock(tail: str) -> tuple[float, float]:
    """What follows the day as seconds after midnight, NaN if unreadable; 1 if it is an AM/PM label."""
    if not tail:
        return 0.0, 0.0
    if match := CLOCK_24.fullmatch(tail):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return hours * 3600.0 + minutes * 60 + seconds, 0.0
    if (match := CLOCK_12.fullmatch(tail)) and 1 <= int(match[1]) <= 12:
        return (int(match[1]) % 12 + 12 * (match[2] == "PM")) * 3600.0, 1.0
    return np.nan, 0.0


# Figures


def _parse_numbers(text: Any) -> np.ndarray:
    """Decimal numbers as the nearest float64; NaN for anything else, `nan` and `inf` included."""
    plain = pc.if_else(pc.match_substring_regex(text, NUMBER), text, None)
    return np.array(plain.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _read_figure(rows: Rows, role: str | None) -> np.ndarray:
    """One figure of each row; NaN where it is empty or not in the file, with a reason where unreadable."""
    if role not in rows.texts:
        return np.full(len(rows.numbers), np.nan)
    figures = _parse_numbers(rows.texts[role])
    label = role.partition(":")[0]
    for row in np.flatnonzero(np.isnan(figures)).tolist():
        came = rows.text(role, row)
        if came:
            rows.reject(row, f"{label} {came!r:.40} is not a number")
        elif label == "close":
            rows.reject(row, "the close is empty")
    return figures


def _pick_volume(rows: Rows, close: np.ndarray, product_id: str) -> str | None:
    """The column of the base currency's volume: as the figures say, else as the names say, else none."""
    base, quote = product_id.lower().split("-")
    volumes = [role for role in rows.texts if role.startswith("volume:")]
    tails = {role: re.sub(r"vol(ume)?", "", rows.heading(role)).strip("_") for role in volumes}
    named = [role for role in volumes if tails[role] in (base, "base", "from")]
    named = named or [role for role in volumes if tails[role] == ""]
    quoted = [role for role in volumes if tails[role] in (quote, "quote", "to")]
    by_name = named[0] if len(named) == 1 else None
    if len(volumes) == 2:
        one, two = volumes
    elif by_name and len(quoted) == 1:
        one, two = by_name, quoted[0]
    else:
        return by_name
    first, second = _parse_numbers(rows.texts[one]), _parse_numbers(rows.texts[two])
    if _is_quote(second, first, close) == _is_quote(first, second, close):
        return by_name
    return one if _is_quote(second, first, close) else two


def _is_quote(quote: np.ndarray, base: np.ndarray, close: np.ndarray) -> bool:
    """Whether the one volume is the other times the close, on most of the days with trades."""
    traded = (quote > 0) & (base > 0) & (close > 0)
    ratios = np.log(base[traded]) + np.log(close[traded]) - np.log(quote[traded])
    return len(ratios) > 0 and bool(abs(np.median(ratios)) < np.log(NEAR))


# Rows


def _one_a_day(frame: pd.DataFrame, on_duplicate: OnDuplicate, rows: Rows) -> pd.DataFrame:
    """One row of each day; `frame` is indexed by line number, in the file's order."""
    kept = frame.drop_duplicates("day_utc", keep="last" if on_duplicate == "last" else "first")
    again = frame.drop(kept.index)
    # The row taken instead of each of these, in their order.
    taken = kept.reset_index(names="line").set_index("day_utc").loc[again["day_utc"]]
    # No figure that was read is infinite, so that -inf can stand for "unknown", which equals itself.
    came, chosen = (part[FIGURES].fillna(-np.inf).to_numpy() for part in (again, taken))
    other = (came != chosen).any(axis=1)
    conflicts, taken = again[other], taken[other]
    if on_duplicate == "refuse" and len(conflicts):
        at = int(np.argmin(conflicts["day_utc"].to_numpy()))
        shown = [
            ", ".join(f"{name} {figure}" for name, figure in known.items())
            for known in (row.iloc[at][FIGURES].dropna() for row in (taken, conflicts))
        ]
        day, one, two = taken.index[at], taken["line"].iloc[at], conflicts.index[at]
        raise BadFile(
            f"{rows.name}: each day is needed once, but {day:%Y-%m-%d} comes with different figures:"
            f" line {one} ({shown[0]}) and line {two} ({shown[1]}); days like this:"
            f" {conflicts['day_utc'].nunique()}; choose with --on-duplicate last|first"
        )
    for line, instead in zip(conflicts.index, taken["line"], strict=True):
        rows.reasons[int(line)] = f"line {instead} has other figures for this day and was taken"
    return kept


def _rejected(rows: Rows, days: pd.Series[pd.Timestamp]) -> pd.DataFrame:
    """The rows that were not taken, as they were written, in the file's order."""
    numbers = sorted(rows.reasons)
    return rejected_frame(
        [
            {
                "day_utc": None if pd.isna(day) else str(day)[:10],
                "raw": json.dumps(rows.written(number), ensure_ascii=False),
                "reason": f"line {number}: {rows.reasons[number]}",
            }
            for number, day in zip(numbers, days.reindex(numbers), strict=True)
        ]
    )
