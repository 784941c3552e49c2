"""A CSV file of daily candles → candles in memory.

The file may name its columns as CryptoDataDownload, the exchange's API or a plain export does. What cannot
be read is set aside with its line; what makes the whole file doubtful is refused. Nothing is guessed.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from storage.errors import BadFile
from storage.frames import CANDLE_COLUMNS, FIGURES, candle_frame, rejected_frame
from storage.home import check_product_id

MAX_LINE_BYTES = 64 * 1024
MAX_COLUMNS = 100
SECONDS_A_DAY = 86_400
NUMBER = r"^-?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?$"
DAY_FORM = r"^\d{4}-\d{2}-\d{2}$"
CLOCK_24 = re.compile(r"[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.0+)?)?(?:Z|\+00:?00| ?UTC)?")
CLOCK_12 = re.compile(r" (\d{2})-(AM|PM)")
API_ORDER = ["time", "low", "high", "open", "close", "volume"]
NAMES = {
    "day": {"date", "day", "day_utc", "datetime", "date_utc"},
    "stamp": {"unix_timestamp", "unix", "unix_time", "unixtime", "timestamp", "time", "epoch"},
    "symbol": {"symbol", "product", "product_id", "pair", "ticker"},
    "open_usd": {"open", "open_usd", "open_price", "price_open"},
    "high_usd": {"high", "high_usd", "high_price", "price_high"},
    "low_usd": {"low", "low_usd", "low_price", "price_low"},
    "close_usd": {"close", "close_usd", "close_price", "price_close", "closing_price", "price", "price_usd"},
}
# Ratios of base × close to quote within this factor of one say "the volumes are these two".
NEAR = 2.0


@dataclass(frozen=True)
class CsvCandles:
    """What a file holds: candles (oldest first, one row a day) and the rows that were not taken."""

    candles: pd.DataFrame
    rejected: pd.DataFrame


class _Layout(NamedTuple):
    header: list[str]  # as written
    delimiter: str
    columns: dict[str, int]  # role → position
    first_row: int  # index of the first line below the header


class _Lines(NamedTuple):
    text: bytes  # LF only, no byte order mark, no quotes, ends with LF
    starts: np.ndarray  # (lines + 1,) offsets, the last is the end

    def line(self, index: int) -> str:
        return self.text[self.starts[index] : self.starts[index + 1] - 1].decode("utf-8", "replace")


def read_candles(
    data: bytes,
    product_id: str,
    *,
    name: str = "the file",
    on_duplicate: Literal["refuse", "first", "last"] = "refuse",
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
    lines = _split_lines(data, name)
    layout = _find_layout(lines, name)
    table, numbers, reasons = _read_table(lines, layout, name)
    _check_symbol(table, numbers, product_id, name)
    frame = pd.DataFrame({"day_utc": _read_days(table, numbers, reasons, name)}, index=numbers)
    for figure in FIGURES[:-1]:
        frame[figure] = _read_figure(table, figure, numbers, reasons)
    volume = _pick_volume(table, layout, frame["close_usd"].to_numpy(), product_id)
    frame["volume"] = _read_figure(table, volume, numbers, reasons)
    good = frame[~frame.index.isin(list(reasons))]
    if good.empty:
        raise _no_rows(reasons, name)
    good = _one_a_day(good, on_duplicate, reasons, name).sort_values("day_utc", ignore_index=True)
    candles = candle_frame({column: good[column] for column in CANDLE_COLUMNS})
    return CsvCandles(candles, _rejected(lines, layout, reasons, frame["day_utc"]))


def _split_lines(data: bytes, name: str) -> _Lines:
    """Refuse what is no text, or has endless lines; bring the rest to one form."""
    head = data[: MAX_LINE_BYTES + 2]
    if b"\0" in data or not _is_text(head):
        raise BadFile(f"{name}: a CSV file in UTF-8 text is needed, what came is not text: {head[:20]!r:.60}")
    endless = f"{name}: lines of at most {MAX_LINE_BYTES} bytes are needed, line "
    if len(head) > MAX_LINE_BYTES and b"\n" not in head and b"\r" not in head:
        raise BadFile(f"{endless}1 is longer; is it a CSV file of candles?")
    text = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # Without quotes a comma is always a delimiter: "7,993.54" gives a row too long, never a wrong figure.
    text = text.replace(b'"', b"")
    text = text if text.endswith(b"\n") else text + b"\n"
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
    starts = np.concatenate([[0], ends])
    longest = int(np.argmax(np.diff(starts)))
    if starts[longest + 1] - starts[longest] > MAX_LINE_BYTES:
        raise BadFile(f"{endless}{longest + 1} is longer; is it a CSV file of candles?")
    return _Lines(text, starts)


def _is_text(head: bytes) -> bool:
    try:
        # Incremental: a character that the cut has split is no fault.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _find_layout(lines: _Lines, name: str) -> _Layout:
    """The header, below a banner line or not, or the API's order where there is none."""
    filled = [i for i in range(min(len(lines.starts) - 1, 50)) if lines.line(i).strip()][:2]
    if not filled:
        raise BadFile(f"{name}: a CSV file of daily candles is needed, but it is empty or begins so")
    best: tuple[int, _Layout] | None = None
    for index in filled:
        for delimiter in ",;\t":
            header = [field.strip() for field in lines.line(index).split(delimiter)]
            columns = _roles(header, name) if len(header) <= MAX_COLUMNS else {}
            known = len({"day", "stamp", "close_usd"} & columns.keys())
            if "close_usd" in columns and known > 1:
                return _Layout(header, delimiter, columns, index + 1)
            if known and (best is None or known > best[0]):
                best = (known, _Layout(header, delimiter, columns, index + 1))
    first = [field.strip() for field in lines.line(filled[0]).split(",")]
    if len(first) == len(API_ORDER) and all(re.fullmatch(NUMBER, field) for field in first):
        return _Layout(API_ORDER, ",", _roles(API_ORDER, name), filled[0])
    if len(first) > MAX_COLUMNS:
        raise BadFile(
            f"{name}: at most {MAX_COLUMNS} columns are expected, line {filled[0] + 1} has {len(first)}"
        )
    came = lines.line(best[1].first_row - 1 if best else filled[0])
    missing = "date" if best and "close_usd" in best[1].columns else "close" if best else "date and close"
    raise BadFile(
        f"{name}: a header with a date and a close is needed (such as Date,Open,High,Low,Close,Volume),"
        f" {missing} not found in {came[:60]!r}"
    )


def _plain(written: str) -> str:
    return re.sub(r"[\W_]+", "_", written.lower()).strip("_")


def _roles(header: list[str], name: str) -> dict[str, int]:
    """Role → position; volumes as `volume:0`, `volume:1` … by position."""
    roles: dict[str, int] = {}
    for position, written in enumerate(header):
        plain = _plain(written)
        role = next((role for role, names in NAMES.items() if plain in names), None)
        if plain.startswith("vol") or plain.endswith("volume"):
            role = f"volume:{position}"
        if role in roles:
            twice = f"{header[roles[role]]!r:.25} and {written!r:.25}"
            raise BadFile(
                f"{name}: one column is needed for the {role.removesuffix('_usd')}, two came: {twice}"
            )
        if role:
            roles[role] = position
    return roles


def _no_rows(reasons: dict[int, str], name: str) -> BadFile:
    came = f"line {min(reasons)}: {reasons[min(reasons)]}" if reasons else "nothing below the header"
    return BadFile(f"{name}: rows of daily candles are needed, but none can be read ({came})")


def _count_fields(lines: _Lines, layout: _Layout, name: str) -> np.ndarray:
    """Fields of each line below the header."""
    bounds = lines.starts[layout.first_row :]
    if len(bounds) == 1:
        raise _no_rows({}, name)
    body = np.frombuffer(lines.text, np.uint8)[bounds[0] :]
    delimiters = np.flatnonzero(body == ord(layout.delimiter)) + bounds[0]
    fields = np.diff(np.searchsorted(delimiters, bounds)) + 1
    if fields.max() > MAX_COLUMNS:
        line = int(np.argmax(fields)) + layout.first_row + 1
        raise BadFile(f"{name}: at most {MAX_COLUMNS} columns are expected, line {line} has {fields.max()}")
    return fields


def _read_table(
    lines: _Lines, layout: _Layout, name: str
) -> tuple[dict[str, Any], np.ndarray, dict[int, str]]:
    """The columns in use as text, the line number of each row, and the rows with too few or many fields."""
    fields = _count_fields(lines, layout, name)
    width = len(layout.header)
    numbers = np.flatnonzero(fields == width) + layout.first_row + 1
    reasons = {
        int(line): f"{fields[line - layout.first_row - 1]} fields where the header has {width}"
        for line in np.flatnonzero(fields != width) + layout.first_row + 1
        if lines.line(int(line) - 1).strip()
    }
    if not len(numbers):
        raise _no_rows(reasons, name)
    bounds = lines.starts[layout.first_row :]
    body = np.frombuffer(lines.text, np.uint8)[bounds[0] :]
    if len(numbers) < len(fields):
        body = body[np.repeat(fields == width, np.diff(bounds))]
    columns = {str(position): pa.string() for position in layout.columns.values()}
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(body),
            arrow_csv.ReadOptions(column_names=[str(position) for position in range(width)]),
            arrow_csv.ParseOptions(delimiter=layout.delimiter, quote_char=False),
            arrow_csv.ConvertOptions(
                column_types=columns, include_columns=list(columns), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise BadFile(
            f"{name}: a CSV file in UTF-8 text is needed: {str(error).splitlines()[0]:.120}"
        ) from error
    texts = {
        role: pc.utf8_trim_whitespace(table[str(position)].combine_chunks())
        for role, position in layout.columns.items()
    }
    return texts, numbers, reasons


def _check_symbol(table: dict[str, Any], numbers: np.ndarray, product_id: str, name: str) -> None:
    """Refuse a file of another product; BTCUSD, BTC/USD and btc-usd are all BTC-USD."""
    if "symbol" not in table:
        return
    for symbol in pc.unique(table["symbol"]).to_pylist():
        plain = re.sub(r"[/_ -]", "-", symbol.upper())
        if plain not in (product_id, product_id.replace("-", "")):
            line = numbers[pc.index(table["symbol"], symbol).as_py()]
            raise BadFile(
                f"{name}: candles of {product_id} are needed, line {line} is of {symbol!r:.40};"
                " give that product or another file"
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
    days[np.isnan(clock)] = np.datetime64("NaT")
    is_stamp = ~np.isnan(stamped)
    days[is_stamp] = (stamped[is_stamp].astype("int64") * SECONDS_A_DAY).astype("datetime64[s]")
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


def _read_days(table: dict[str, Any], numbers: np.ndarray, reasons: dict[int, str], name: str) -> np.ndarray:
    """The UTC day of each row, NaT where a reason says why not."""
    role = "day" if "day" in table else "stamp"
    days, clock, labelled = _parse_days(table[role])
    off = np.flatnonzero(~np.isnat(days) & (clock != 0) & ~labelled)
    if len(off):
        came = f"line {numbers[off[0]]} is of {table[role][int(off[0])].as_py()!r:.40}"
        raise BadFile(f"{name}: daily candles are needed, each at midnight UTC, but {came}")
    order = np.lexsort((clock, days)) if labelled.any() else np.array([], int)
    hourly = np.flatnonzero((np.diff(days[order]) == np.timedelta64(0)) & (np.diff(clock[order]) != 0))
    if len(hourly):
        first, second = sorted(numbers[order[hourly[0] : hourly[0] + 2]])
        day = pd.Timestamp(days[order[hourly[0]]]).date()
        raise BadFile(f"{name}: daily candles are needed, lines {first} and {second} are two hours of {day}")
    for row in np.flatnonzero(np.isnat(days)):
        came = table[role][int(row)].as_py()
        reasons.setdefault(int(numbers[row]), f"date {came!r:.40} is not a UTC day such as 2020-10-24")
    if role == "day" and "stamp" in table:
        stamps = _parse_days(table["stamp"])[0]
        for row in np.flatnonzero(~np.isnat(days) & ~np.isnat(stamps) & (days != stamps)):
            other = f"its time stamp {table['stamp'][int(row)].as_py()!r:.40}"
            reasons.setdefault(
                int(numbers[row]), f"its date says {days[row]!s:.10}, {other} says {stamps[row]!s:.10}"
            )
    return days


def _parse_numbers(text: Any) -> np.ndarray:
    """Decimal numbers as the nearest float64; NaN for anything else, `nan` and `inf` included."""
    plain = pc.if_else(pc.match_substring_regex(text, NUMBER), text, None)
    return np.array(plain.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _read_figure(
    table: dict[str, Any], role: str | None, numbers: np.ndarray, reasons: dict[int, str]
) -> np.ndarray:
    """One figure of each row; NaN where it is empty or not in the file, with a reason where unreadable."""
    if role not in table:
        return np.full(len(numbers), np.nan)
    figures = _parse_numbers(table[role])
    label = role.partition(":")[0].removesuffix("_usd")
    for row in np.flatnonzero(np.isnan(figures)):
        came = table[role][int(row)].as_py()
        if came or label == "close":
            why = f"{label} {came!r:.40} is not a number" if came else "the close is empty"
            reasons.setdefault(int(numbers[row]), why)
    return figures


def _pick_volume(table: dict[str, Any], layout: _Layout, close: np.ndarray, product_id: str) -> str | None:
    """The column of the base currency's volume: as the figures say, else as the names say, else none."""
    base, quote = product_id.lower().split("-")
    volumes = [role for role in table if role.startswith("volume:")]
    tails = {role: _plain(layout.header[layout.columns[role]]) for role in volumes}
    tails = {role: re.sub(r"vol(ume)?", "", tail).strip("_") for role, tail in tails.items()}
    named = [role for role in volumes if tails[role] in (base, "base", "from")]
    named = named or [role for role in volumes if tails[role] == ""]
    quoted = [role for role in volumes if tails[role] in (quote, "quote", "to")]
    by_name = named[0] if len(named) == 1 else None
    others = [role for role in volumes if role != by_name]
    if len(volumes) == 2:
        one, two = (by_name or others.pop(0)), others[0]
    elif by_name and len(quoted) == 1:
        one, two = by_name, quoted[0]
    else:
        return by_name
    first, second = _parse_numbers(table[one]), _parse_numbers(table[two])
    traded = (first > 0) & (second > 0) & (close > 0)
    if not traded.any():
        return by_name
    first, second, price = (np.log(figures[traded]) for figures in (first, second, close))
    as_named = abs(np.median(first + price - second)) < np.log(NEAR)
    swapped = abs(np.median(second + price - first)) < np.log(NEAR)
    return by_name if as_named == swapped else one if as_named else two


def _one_a_day(
    frame: pd.DataFrame, on_duplicate: Literal["refuse", "first", "last"], reasons: dict[int, str], name: str
) -> pd.DataFrame:
    """One row of each day; `frame` is indexed by line number, in the file's order."""
    again = frame[frame["day_utc"].duplicated(keep=False)]
    distinct = again.drop_duplicates()
    conflicts = distinct[distinct["day_utc"].duplicated(keep=False)].sort_values("day_utc", kind="stable")
    if on_duplicate == "refuse" and len(conflicts):
        (one, first), (two, second) = ((line, row) for line, row in conflicts.head(2).iterrows())
        shown = [", ".join(f"{f.removesuffix('_usd')} {row[f]}" for f in FIGURES) for row in (first, second)]
        raise BadFile(
            f"{name}: each day is needed once, but {first['day_utc']:%Y-%m-%d} comes with different figures:"
            f" line {one} ({shown[0]}) and line {two} ({shown[1]}); days like this:"
            f" {conflicts['day_utc'].nunique()}; choose with --on-duplicate last|first"
        )
    kept = frame.drop_duplicates("day_utc", keep="last" if on_duplicate == "last" else "first")
    taken = kept[kept["day_utc"].isin(conflicts["day_utc"])]
    chosen = pd.Series(taken.index, index=taken["day_utc"])
    other = pd.concat([taken, again[~again.index.isin(kept.index)]]).drop_duplicates().iloc[len(taken) :]
    for line, day in other["day_utc"][other["day_utc"].isin(chosen.index)].items():
        reasons[int(str(line))] = f"line {chosen[day]} has other figures for this day and was taken"
    return kept


def _rejected(
    lines: _Lines, layout: _Layout, reasons: dict[int, str], days: pd.Series[pd.Timestamp]
) -> pd.DataFrame:
    """The rows of `reasons` as they were written, in the file's order."""
    numbers = sorted(reasons)
    rows: list[dict[str, object]] = []
    for number, day in zip(numbers, days.reindex(numbers), strict=True):
        fields = [field.strip() for field in lines.line(number - 1).split(layout.delimiter)]
        whole = len(fields) == len(layout.header)
        raw = json.dumps(
            dict(zip(layout.header, fields, strict=True)) if whole else fields, ensure_ascii=False
        )
        shown = None if pd.isna(day) else f"{day:%Y-%m-%d}"
        rows.append({"day_utc": shown, "raw": raw, "reason": f"line {number}: {reasons[number]}"})
    return rejected_frame(rows)
