"""The state of a product's closes, for people: gaps, quarantined rows, restated days."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from tasks.core.history import PriceHistory
from tasks.core.types import Gap
from tasks.prices.gaps import find_gaps

# Of each kind, the newest; the tables hold all of them.
MAX_ROWS = 20


@dataclass(frozen=True)
class DataSection:
    """How many closes there are from which source, and what is wrong with them.

    `quarantined` and `restated` hold the newest rows: those that did not become candles, and the days whose
    close was restated (`day_utc`, `first_close`, `newest_close`, `change`, `observed_at`).
    `other_days` were observed with the same close, and another open, high, low or volume.
    """

    source: str
    days: int
    first_day: date | None
    last_day: date | None
    gaps: tuple[Gap, ...]
    quarantined_rows: int
    quarantined: list[dict[Hashable, Any]]
    restated_days: int
    restated: list[dict[Hashable, Any]]
    other_days: int

    @property
    def missing_days(self) -> int:
        """Days between the first and the last that have no close."""
        return sum((last - first).days + 1 for first, last in self.gaps)


def data_section(history: PriceHistory) -> DataSection:
    """The state of the product's whole series, also after the origin."""
    days, again = history.stored_days, _observed_again(history.restated)
    restated = again[again["figures"] > 1]
    return DataSection(
        source=history.source,
        days=len(days),
        first_day=days.iloc[0].date() if len(days) else None,
        last_day=days.iloc[-1].date() if len(days) else None,
        gaps=tuple(find_gaps(days)),
        quarantined_rows=len(history.quarantined),
        quarantined=_newest(history.quarantined),
        restated_days=len(restated),
        restated=_newest(restated),
        other_days=len(again) - len(restated),
    )


def _observed_again(observations: pd.DataFrame) -> pd.DataFrame:
    """A row a day that was observed with more than one set of figures, by day."""
    by_day = observations.groupby("day_utc", sort=True)
    first, newest = by_day["close"].first(), by_day["close"].last()
    columns = {"first_close": first, "newest_close": newest, "change": newest / first - 1.0}
    columns |= {"figures": by_day["close"].nunique(), "observed_at": by_day["observed_at"].last()}
    return pd.DataFrame(columns).reset_index()


def _newest(rows: pd.DataFrame) -> list[dict[Hashable, Any]]:
    return rows.tail(MAX_ROWS).iloc[::-1].to_dict("records")
