"""The state of a product's closes, for people: gaps, quarantined rows, restated days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pandas as pd

from tasks.core.history import PriceHistory
from tasks.core.types import Gap
from tasks.prices.gaps import find_gaps

# Of each kind, the newest; the tables hold all of them.
MAX_ROWS = 20
MAX_TEXT = 160


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that did not become a candle: its day if it has one, its text, and why it was quarantined."""

    day_utc: str
    raw: str
    reason: str
    observed_at: str


@dataclass(frozen=True)
class RestatedDay:
    """A day whose close was observed again with another figure; prices in the quote currency."""

    day_utc: str
    first_close: float
    newest_close: float
    observed_at: str

    @property
    def change(self) -> float:
        """The newest close over the first one, less one."""
        return self.newest_close / self.first_close - 1.0


@dataclass(frozen=True)
class DataSection:
    """How many closes there are from which source, and what is wrong with them.

    `quarantined` and `restated` hold the newest ones. `other_days` were observed again with the same close,
    and another open, high, low or volume.
    """

    source: str
    days: int
    first_day: date | None
    last_day: date | None
    gaps: tuple[Gap, ...]
    quarantined_rows: int
    quarantined: list[QuarantinedRow]
    restated_days: int
    restated: list[RestatedDay]
    other_days: int

    @property
    def missing_days(self) -> int:
        """Days between the first and the last that have no close."""
        return sum((last - first).days + 1 for first, last in self.gaps)


def data_section(history: PriceHistory) -> DataSection:
    """The state of the product's whole series, also after the origin."""
    days = history.stored_days
    restated, other_days = _restated(history.restated)
    return DataSection(
        source=history.source,
        days=len(days),
        first_day=days.iloc[0].date() if len(days) else None,
        last_day=days.iloc[-1].date() if len(days) else None,
        gaps=tuple(find_gaps(days)),
        quarantined_rows=len(history.quarantined),
        quarantined=[
            QuarantinedRow(
                str(row.day_utc or "unknown"), _short(row.raw), _short(row.reason), str(row.observed_at)
            )
            for row in history.quarantined.tail(MAX_ROWS).iloc[::-1].itertuples(index=False)
        ],
        restated_days=len(restated),
        restated=restated[-MAX_ROWS:][::-1],
        other_days=other_days,
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _restated(observations: pd.DataFrame) -> tuple[list[RestatedDay], int]:
    """The days whose close changed, and how many only had other figures."""
    by_day = observations.groupby("day_utc", sort=True)
    changed = [
        RestatedDay(
            str(day),
            float(rows["close"].iloc[0]),
            float(rows["close"].iloc[-1]),
            str(rows["observed_at"].iloc[-1]),
        )
        for day, rows in by_day
        if rows["close"].nunique() > 1
    ]
    return changed, by_day.ngroups - len(changed)
