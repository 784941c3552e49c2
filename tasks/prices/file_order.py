"""The order of the columns in a file without a header: the one known order in which the figures fit."""

from __future__ import annotations

import numpy as np

from closecast.storage.core.candle_schema import PRICES
from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_days import parse_days
from closecast.tasks.prices.file_figures import clean, parse_figures, settle_decimal
from closecast.tasks.prices.file_formats import FileFormat, bare_formats
from closecast.tasks.prices.file_table import FileOptions, FileTable

MAX_CONTRADICTED_SHARE = 0.02
# An open is near the close before it. Where a reading with open and close exchanged is this much nearer, it
# is the right one.
NEARER = 0.5
# An open is so far from the close before, or a high from its low, only where it is another figure.
FAR_IN_MOVES, FAR = 10.0, 0.1
NUMBERS_HINT = (
    "add a header line, or number the columns with --columns date=1,open=2,high=3,low=4,close=5, with"
    " end=1 in place of date=1 where a time of 00:00 ends the day"
)


def find_order(table: FileTable, quote: str, options: FileOptions) -> list[FileFormat]:
    """The formats whose order of columns is the only one that the figures allow."""
    formats = bare_formats(len(table.header))
    if not formats:
        raise BadFile(
            f"a header is needed, or the columns of a known export; this has"
            f" {len(table.header)} columns without header; {NUMBERS_HINT}"
        )
    columns = [clean(column, quote) for column in table.columns]
    decimal = settle_decimal(table, columns[1:5], columns[5:6], columns[4], options.decimal)
    days = parse_days(columns[0], options.dates).days
    rows = np.argsort(days, kind="stable")
    figures = [parse_figures(column, decimal)[rows] for column in columns[1:5]]
    orders = dict.fromkeys(one.roles for one in formats)
    fitting = [roles for roles in orders if _fits(roles, figures, days[rows])]
    if len(fitting) == 1:
        return [one for one in formats if one.roles == fitting[0]]
    problem = (
        f"the figures allow {len(fitting)} of these orders"
        if fitting
        else ("open or close is not between low and high, or the open is far from the close before")
    )
    tried = ", or as ".join(
        ",".join(role for role in roles.split() if role not in ("-", "end")) for roles in orders
    )
    raise BadFile(f"without a header the columns are taken as {tried}; {problem}; {NUMBERS_HINT}")


def _fits(roles: str, figures: list[np.ndarray], days: np.ndarray) -> bool:
    """Whether in this order open and close are between low and high, and not far from them and each other."""
    names = roles.split()[1:5]
    price = {name: figures[names.index(name)] for name in PRICES}
    low, high = price["low"], price["high"]
    outside = (low > high) | (price["open"] < low) | (price["open"] > high)
    outside |= (price["close"] < low) | (price["close"] > high)
    if outside.sum() > MAX_CONTRADICTED_SHARE * len(outside):
        return False
    consecutive = np.diff(days) == np.timedelta64(86_400, "s")
    apart = _mean_gap(price["open"][1:], price["close"][:-1], consecutive)
    exchanged = _mean_gap(price["close"][1:], price["open"][:-1], consecutive)
    span = _mean_gap(high, low, np.full(len(high), fill_value=True))
    far = max(FAR, FAR_IN_MOVES * _mean_gap(price["close"][1:], price["close"][:-1], consecutive))
    return not exchanged < NEARER * apart and max(apart, span) < far


def _mean_gap(later: np.ndarray, earlier: np.ndarray, rows: np.ndarray) -> float:
    """The mean distance of two prices in logarithms, over the rows where both are known."""
    rows = rows & (later > 0) & (earlier > 0)
    return float(np.abs(np.log(later[rows]) - np.log(earlier[rows])).mean()) if rows.any() else 0.0
