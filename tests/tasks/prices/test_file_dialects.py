"""Random mixes of the ways in which files are written: each is read exactly, or refused; SOAK=20: more."""

from __future__ import annotations

import csv
import gzip
import io
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closecast.storage.core.errors import BadFile
from tests.tasks.prices.reading import closes

HEADINGS = {
    "open": ["Open", "open", "Open Price", "Open, USD"],
    "high": ["High", "high", "<HIGH>", "24h High (USD)"],
    "low": ["Low", "low", "Low*", "Low, 24h"],
    "close": ["Close", "Price", "close_price", "Close (USD)", "Price, USD"],
    "volume": ["Volume", "Vol.", "volume_btc", "Volume USD"],
    "note": ["Change %", "Market Cap", "trades"],
}
BARE = [
    "date open high low close volume",
    "date low high open close volume",
    "date open close high low volume",
]
DATE_FORMS = [
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y"),
    *("%b %d, %Y", "%d %B %Y", "%d-%b-%Y", "%Y-%m-%d 00:00:00", "%Y-%m-%d 0:00", "%Y-%m-%dT00:00:00Z"),
    *("%Y-%m-%d 23:59:59", "%m/%d/%Y 0:00", "%Y-%m-%dT02:00:00+02:00", "s", "ms", "us", "ms end", "s.0"),
]
UNKNOWN = ["", "NaN", "NA", "-", "null", "n/a", "#N/A"]


@dataclass(frozen=True)
class Written:
    """A file, and what it says."""

    data: bytes
    closes: dict[date, float]


def day_text(day: date, form: str) -> str:
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    seconds = int(moment.timestamp())
    unix = {
        "s": str(seconds), "ms": f"{seconds}000", "us": f"{seconds}000000", "s.0": f"{seconds}.0",
        "ms end": f"{seconds + 86_399}999",
    }  # fmt: skip
    return unix.get(form) or moment.strftime(form)


def figure_text(figure: Decimal, decimal: str, group: str) -> str:
    text = f"{figure:,f}" if group else f"{figure:f}"
    return text.replace(",", "\0").replace(".", decimal).replace("\0", group)


def series(draw: Any, count: int) -> list[dict[str, Decimal]]:
    """Candles that wander about a level, as figures of so many decimals."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    level, decimals = 10.0 ** draw(st.integers(-4, 5)), draw(st.sampled_from([0, 1, 2, 2, 3, 3, 6, 8]))
    close = level * 3 * np.exp(np.cumsum(random.normal(0, draw(st.sampled_from([0.004, 0.05])), count)))
    opens = np.append(close[:1], close[:-1])
    highs, lows = np.maximum(opens, close) * 1.01, np.minimum(opens, close) * 0.99
    volumes = random.uniform(1, 5000, count)
    figures = {"open": opens, "high": highs, "low": lows, "close": close, "volume": volumes}
    unit = Decimal(1).scaleb(-decimals)
    return [
        {name: Decimal(float(column[row])).quantize(unit) for name, column in figures.items()}
        for row in range(count)
    ]


@st.composite
def files(draw: Any) -> Written:
    count = draw(st.integers(1, 45))
    candles = series(draw, count)
    step = draw(st.sampled_from([1, 1, 1, 1, 7]))
    first = date(2016, 1, 1) + timedelta(days=draw(st.integers(0, 2500)))
    days = [first + timedelta(days=step * row) for row in range(count)]
    form = draw(st.sampled_from(DATE_FORMS))
    separator, decimal = draw(st.sampled_from(",,,;;\t|")), draw(st.sampled_from("..,"))
    group = draw(st.sampled_from(["", "", ",", ".", " ", "'", "\u00a0"]))
    group = "" if group == decimal else group
    quoting = draw(st.sampled_from(["minimal", "minimal", "all", "none"]))
    bare = draw(st.booleans()) and draw(st.booleans())
    roles = draw(st.sampled_from(BARE)).split()
    if not bare:
        chosen = draw(st.sets(st.sampled_from(["open", "high", "low", "volume", "note"])))
        roles = ["date", *draw(st.permutations(["close", *sorted(chosen)]))]
    names = ["Date" if role == "date" else draw(st.sampled_from(HEADINGS[role])) for role in roles]
    cut, words = draw(st.sampled_from([0, 0, 1, 3])), draw(st.sampled_from(["", *UNKNOWN]))
    if quoting == "none" and separator in (decimal, group):
        cut = 0  # `Date,Close,Volume` with `2017-06-01,30,2` below it is also a file that is right
    rows: list[list[str]] = [] if bare else [names]
    for row, (day, candle) in enumerate(zip(days, candles, strict=True)):
        cells = [
            day_text(day, form) if role == "date" else
            figure_text(candle[role], decimal, group) if role in candle else "7.1%"
            for role in roles
        ]  # fmt: skip
        for position, role in enumerate(roles):
            if words and row % 5 == 2 and role in ("open", "volume", "note"):
                cells[position] = words
        while cut and row % cut == 0 and roles[len(cells) - 1] in ("volume", "note"):
            cells.pop()
        rows.append(cells)
    body = rows[len(rows) - count :]
    rows[len(rows) - count :] = body[::-1] if draw(st.booleans()) else body
    text = written(rows, separator, quoting, draw(st.sampled_from(["\n", "\r\n"])))
    if not bare and draw(st.booleans()):
        text = f"Exported on 2024-01-02{separator}by a site\n" + text
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    wanted = {day: float(candle["close"]) for day, candle in zip(days, candles, strict=True)}
    return Written(gzip.compress(data, 1) if draw(st.booleans()) else data, wanted)


def written(rows: list[list[str]], separator: str, quoting: str, end: str) -> str:
    if quoting == "none":  # as programs do that know nothing of quotes: separators cut figures
        return "".join(separator.join(row) + end for row in rows)
    out = io.StringIO()
    every = quoting == "all"
    csv.writer(
        out,
        delimiter=separator,
        quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL,
        lineterminator=end,
    ).writerows(rows)
    return out.getvalue()


SOAK = int(os.environ.get("SOAK", "1"))
OUTCOMES: list[str] = []


@settings(
    max_examples=200 * SOAK,
    derandomize=SOAK == 1,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(files())
def test_random_dialects_are_read_exactly_or_refused(file: Written) -> None:
    try:
        found = closes(file.data)
    except BadFile as error:
        assert "\n" not in str(error)  # noqa: PT017
        OUTCOMES.append("refused")
        return
    assert found == file.closes
    OUTCOMES.append("read")


def test_most_dialects_are_read() -> None:
    assert OUTCOMES.count("read") > len(OUTCOMES) / 2
