"""Texts → figures: which mark is the decimal one in a file, thousands, K and M, and words for "unknown"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal as Exact
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_formats import SIGNS
from closecast.tasks.prices.file_table import Decimal, FileTable

UNKNOWN = {
    *("", "nan", "na", "n/a", "n.a.", "-", "--", "—", "–", "null", "none", "nil", ".", "?", "#n/a", "#na"),
    *("<na>", "nat", "undefined", "missing"),
}


def _form(group: str, mark: str) -> str:
    whole, fraction = r"(0|[1-9]\d{0,39})", rf"({mark}\d{{0,40}})?"
    grouped = rf"[1-9]\d{{0,2}}({group}\d{{3}})+|[1-9]\d?({group}\d{{2}})+{group}\d{{3}}"  # or as in India
    plain = rf"({whole}|{grouped}){fraction}|{mark}\d{{1,40}}"
    return rf"^-?({plain}|{whole}{fraction}[eE][+-]?\d{{1,2}})$"


# How a figure is written with a decimal point, and with a decimal comma. Some, such as 58.120, are both.
READINGS: dict[Decimal, str] = {"point": _form(",", r"\."), "comma": _form(r"\.", ",")}
SPACE = "[ \u00a0\u202f]"
GROUP_MARKS = "[ \u00a0\u202f'\u2019]"
SPACED = rf"^-?[1-9]\d{{0,2}}({GROUP_MARKS}\d{{3}})+([.,]\d{{0,40}})?$"
UNGROUPED = r"^-?\d{4,}$"
SUFFIXED = r"^(?P<number>.*\d[.,]?) ?(?P<suffix>[KMBTkmbt])$"
SUFFIXES = {"k": 3, "m": 6, "b": 9, "t": 12}
# Of two closes in a row: a factor that no day has, and one that a misread mark makes.
MAX_FACTOR, MISREAD_FACTOR = 10.0, 100.0
HEAD = 1000
MAX_ODD, MAX_ODD_SHARE = 3, 0.02
DECIMAL_HINT = "say which with --decimal point or --decimal comma"
MIN_SETTLING_SHARE = 0.02  # of figures that can be either: so many others settle them


def clean(column: Any, quote: str) -> Any:
    """The figures of a column as text without a sign of the quote currency and spaces between thousands.

    Typed columns are returned as they are.
    """
    if not pa.types.is_string(column.type):
        return column
    signs = [re.escape(sign) for sign, currencies in SIGNS.items() if quote in ("", *currencies)]
    for sign in [*signs, quote] if quote else signs:
        if pc.any(pc.match_substring_regex(column, sign)).as_py():
            column = pc.replace_substring_regex(column, rf"^(-?){sign}{SPACE}?|{SPACE}?{sign}$", r"\1")
    if pc.any(pc.match_substring_regex(column, GROUP_MARKS)).as_py():
        spaced = pc.match_substring_regex(column, SPACED)
        column = pc.if_else(spaced, pc.replace_substring_regex(column, GROUP_MARKS, ""), column)
    return column


def parse_figures(column: Any, decimal: Decimal) -> np.ndarray:
    """(rows,) the nearest float64 of each figure; NaN for anything else, `nan` and `inf` included."""
    if pa.types.is_string(column.type):
        if decimal == "point" and (plain := _plain_figures(column)) is not None:
            return plain
        column = pc.if_else(pc.match_substring_regex(column, READINGS[decimal]), column, None)
        column = pc.replace_substring(column, "." if decimal == "comma" else ",", "")
        column = pc.replace_substring(column, ",", ".")
    figures = np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return np.where(np.isfinite(figures), figures, np.nan)


def _plain_figures(column: Any) -> np.ndarray | None:
    """The figures of a text column of plain numbers alone, else None; much faster than by their forms."""
    try:
        figures = np.array(column.cast(pa.float64()))
    except pa.ArrowInvalid:
        return None
    plain = np.isfinite(figures).all() and not pc.any(pc.match_substring_regex(column, r"^-?0\d")).as_py()
    return figures if plain else None


def parse_volumes(column: Any, decimal: Decimal) -> np.ndarray:
    """As `parse_figures`, and 68.29K is 68,290."""
    figures = parse_figures(column, decimal)
    if pa.types.is_string(column.type):
        rows = np.flatnonzero(np.isnan(figures))
        parts = pc.extract_regex(column.take(pa.array(rows)), SUFFIXED)
        found = parts.is_valid()
        numbers = parse_figures(parts.field("number").filter(found), decimal)
        suffixes = parts.field("suffix").filter(found).to_pylist()
        # The figure that is nearest to what is written, not a product that was rounded twice.
        figures[rows[np.array(found)]] = [
            float(Exact(repr(number)).scaleb(SUFFIXES[suffix.lower()]))
            for number, suffix in zip(numbers.tolist(), suffixes, strict=True)
        ]
    return figures


def is_unknown(column: Any) -> np.ndarray:
    """(rows,) whether the cell says that there is no figure."""
    if not pa.types.is_string(column.type):
        return np.asarray(np.isnan(parse_figures(column, "point")))
    return np.array(pc.is_in(pc.utf8_lower(column), pa.array(sorted(UNKNOWN))), dtype=bool)


def settle_decimal(
    table: FileTable, prices: Sequence[Any], volumes: Sequence[Any], close: Any, given: Decimal | None
) -> Decimal:
    """The decimal mark of a file's figures, from all of its columns in use.

    A figure such as 1,234.5 or 0.123 settles it. Where there are only such as 58.120, a reading that makes
    the close jump a hundredfold is none, if the other one does not.
    """
    if given:
        return given
    if _has_decimal_points(prices, close):
        return "point"
    texts = [column for column in prices if pa.types.is_string(column.type)]
    forms = [_Forms(column) for column in texts]
    only_point, only_comma = (sum(one.only[mark] for one in forms) for mark in ("point", "comma"))
    either = sum(one.either for one in forms)
    for column in volumes if texts else ():
        is_text = pa.types.is_string(column.type)
        form = _Forms(pc.replace_substring_regex(column, SUFFIXED, r"\1")) if is_text else None
        only_comma += form.only["comma"] if form else 0
        # A volume that a program wrote says little of prices in which a point may separate thousands.
        if form and (";" not in table.kind or not either):
            only_point += form.only["point"]
    few = max(MAX_ODD, MAX_ODD_SHARE * len(close))
    if min(only_point, only_comma) > few or (only_point and only_point == only_comma):
        raise BadFile(
            f"one decimal mark is needed, but some figures have a decimal point and others a"
            f" decimal comma; {DECIMAL_HINT}"
        )
    settled: Decimal | None = None
    if max(only_point, only_comma) > MIN_SETTLING_SHARE * either:
        settled = "point" if only_point > only_comma else "comma"
    if not either or not pa.types.is_string(close.type):
        return settled or "point"
    return _by_the_closes(texts, close, settled)


def _has_decimal_points(prices: Sequence[Any], close: Any) -> bool:
    """Whether plain numbers, as most files have them, settle the mark; a short look at the first rows."""
    if not all(pa.types.is_string(column.type) for column in prices):
        return False
    forms = [_Forms(column.slice(0, HEAD)) for column in prices]
    point, either = (
        sum(counts) for counts in zip(*((one.only["point"], one.either) for one in forms), strict=True)
    )
    if point <= MIN_SETTLING_SHARE * either or any(one.only["comma"] for one in forms):
        return False
    figures = [_plain_figures(column) for column in prices]
    closes = _plain_figures(close)
    return (
        closes is not None
        and all(one is not None for one in figures)
        and _largest_factor(closes) < MISREAD_FACTOR
    )


class _Forms:
    """How many figures of a column can be read with one mark only, and how many with either."""

    def __init__(self, column: Any) -> None:
        separated = column.filter(pc.match_substring_regex(column, "[.,]"))
        match = {mark: pc.match_substring_regex(separated, form) for mark, form in READINGS.items()}
        both = pc.and_(match["point"], match["comma"])
        self.either = pc.sum(both).as_py() or 0
        self.only = {mark: pc.sum(pc.and_not(found, both)).as_py() or 0 for mark, found in match.items()}


def _by_the_closes(prices: Sequence[Any], close: Any, settled: Decimal | None) -> Decimal:
    """The mark that is settled, unless it makes jumps that the other reading of doubtful figures has not."""
    factors = {mark: _largest_factor(parse_figures(close, mark)) for mark in READINGS}
    if settled:
        if factors[settled] < MISREAD_FACTOR or _largest_factor(_all_thousands(close)) > MAX_FACTOR:
            return settled
    else:
        smooth = [mark for mark, factor in factors.items() if factor <= MAX_FACTOR]
        if pc.any(pc.match_substring_regex(close, UNGROUPED)).as_py():
            smooth = []  # 7918 beside 7.918: who separates thousands does so in all figures
        torn = [mark for mark, factor in factors.items() if factor >= MISREAD_FACTOR]
        if len(smooth) == len(torn) == 1:
            return smooth[0]
    example = next(
        str(text)
        for column in (close, *prices)
        for text in column.to_pylist()
        if all(re.fullmatch(form[1:-1], text) for form in READINGS.values()) and not text.isdecimal()
    )
    digits = re.sub("[.,]", "", example)
    raise BadFile(
        f"figures such as {example!r} can be {digits} or {digits[:-3]}.{digits[-3:]}, and no"
        f" other figure settles it; {DECIMAL_HINT}"
    )


def _all_thousands(close: Any) -> np.ndarray:
    """The closes where every mark before three last digits separates thousands, others are decimal marks."""
    figures = [parse_figures(close, mark) for mark in READINGS]
    stacked = np.stack(figures)
    return np.where(np.isnan(stacked).all(axis=0), np.nan, np.nanmax(np.nan_to_num(stacked, nan=-1), axis=0))


def _largest_factor(closes: np.ndarray) -> float:
    """The largest factor between two closes in a row, up or down."""
    known = closes[closes > 0]
    if len(known) < 2:
        return 1.0
    return math.exp(min(700.0, float(np.abs(np.diff(np.log(known))).max())))
