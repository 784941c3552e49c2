"""The state of a product's closes, for people: gaps, rows quarantined, figures that came otherwise later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pandas as pd

from storage.core.home import Home
from storage.prices.price_store import Prices
from tasks.prices.series import Gap
from tasks.prices.validation import find_gaps

# Of each kind, the newest; the tables hold all of them.
SHOWN = 20
CUT = 160


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that was not used: its day if it has one, what it said, and why it was quarantined."""

    day_utc: str
    raw: str
    reason: str
    observed_at: str


@dataclass(frozen=True)
class Restated:
    """A day whose close came again with another figure."""

    day_utc: str
    first_close: float
    newest_close: float
    observed_at: str

    @property
    def change(self) -> float:
        """The newest close over the first one, less one."""
        return self.newest_close / self.first_close - 1.0


@dataclass(frozen=True)
class Health:
    """How many closes there are of which source, and what is wrong with them.

    `other_days` came again with the same close, and another open, high, low or volume.
    """

    source: str
    days: int
    first_day: date | None
    last_day: date | None
    gaps: tuple[Gap, ...]
    quarantined_rows: int
    quarantined: list[QuarantinedRow]
    restated_days: int
    restated: list[Restated]
    other_days: int

    @property
    def missing_days(self) -> int:
        """Days between the first and the last that have no close."""
        return sum((last - first).days + 1 for first, last in self.gaps)


def health_of(home: Home, product_id: str) -> Health:
    """The state of the product's series as it is stored now."""
    with Prices(home) as prices:
        source = prices.source_of(product_id) or "none"
        days = prices.days(product_id)
        rejected = prices.quarantined(product_id)
        changed, other_days = _restated(prices.restated(product_id))
    return Health(
        source=source,
        days=len(days),
        first_day=days.iloc[0].date() if len(days) else None,
        last_day=days.iloc[-1].date() if len(days) else None,
        gaps=tuple(find_gaps(days)),
        quarantined_rows=len(rejected),
        quarantined=[
            QuarantinedRow(
                str(row.day_utc or "unknown"), _cut(row.raw), _cut(row.reason), str(row.observed_at)
            )
            for row in rejected.tail(SHOWN).iloc[::-1].itertuples(index=False)
        ],
        restated_days=len(changed),
        restated=changed[-SHOWN:][::-1],
        other_days=other_days,
    )


def _cut(said: object) -> str:
    whole = str(said)
    return whole if len(whole) <= CUT else f"{whole[: CUT - 1]}…"


def _restated(observations: pd.DataFrame) -> tuple[list[Restated], int]:
    """The days whose close was another, and how many had other figures alone."""
    again = observations.groupby("day_utc", sort=True)
    changed = [
        Restated(
            str(day),
            float(rows["close"].iloc[0]),
            float(rows["close"].iloc[-1]),
            str(rows["observed_at"].iloc[-1]),
        )
        for day, rows in again
        if rows["close"].nunique() > 1
    ]
    return changed, again.ngroups - len(changed)
