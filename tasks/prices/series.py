"""What a run knows of a product's closes, and what it brought to them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pandas as pd

from storage.core.candle_schema import REJECTED_COLUMNS
from storage.core.home import Home
from storage.prices.price_store import Appended, Prices
from tasks.prices.gaps import find_gaps

log = logging.getLogger("closecast.ingest")

Gap = tuple[date, date]
SHOWN_QUARANTINED = 5


@dataclass(frozen=True)
class Series:
    """What a run knows of a product's closes: those of `data_version`, which end on `origin`."""

    product_id: str
    source: str
    origin: date
    data_version: str
    first_day: date
    days: int
    new_days: int
    restated_days: int
    quarantined: int
    gaps: tuple[Gap, ...]

    def facts(self) -> dict[str, Any]:
        """What the closes are now, and what the run brought, for Prefect's record of them."""
        names = ("data_version", "source", "first_day", "origin", "days")
        found = {name: getattr(self, name) for name in (*names, "new_days", "restated_days", "quarantined")}
        return {**found, "gaps": len(self.gaps)}


@dataclass
class Counts:
    """What a run brought; a row that is quarantined again when its day is asked for again counts once."""

    new_days: int = 0
    restated_days: int = 0
    quarantined: set[tuple[object, ...]] = field(default_factory=set)

    def add(self, appended: Appended, quarantined: pd.DataFrame) -> None:
        """Count a stored page, and the rows of it that were quarantined."""
        self.new_days += appended.new_days
        self.restated_days += appended.restated_days
        self.quarantined |= set(quarantined[REJECTED_COLUMNS].itertuples(index=False, name=None))


def source_of(home: Home, product_id: str) -> str | None:
    """The source of the product's stored series, or None."""
    with Prices(home) as prices:
        return prices.source_of(product_id)


def check_source(
    prices: Prices, product_id: str, source: str, moment: datetime, replace_source: bool
) -> bool:
    """True when the product's stored series is of this source; raises where the two may not meet."""
    stored = prices.source_of(product_id)
    if stored not in (None, source) and not replace_source:
        prices.start_series(product_id, source, started_at=moment)  # raises, and knows what to say
    return stored == source


def summed_up(
    prices: Prices, product_id: str, origin: date | None, observed_at: datetime, counts: Counts
) -> Series:
    """The series as it now is up to the origin, with what the run brought to it; warns of what is wrong."""
    days = prices.days(product_id, through=origin)
    source = prices.source_of(product_id)
    last = days.iloc[-1].date()
    gaps = tuple(find_gaps(days))
    for _, raw, reason in sorted(counts.quarantined, key=str)[:SHOWN_QUARANTINED]:
        log.warning("%s: quarantined %.200s: %s", product_id, raw, reason)
    if counts.quarantined:
        log.warning(
            "%s: %d rows quarantined, kept in the table quarantine", product_id, len(counts.quarantined)
        )
    if counts.restated_days:
        log.info("%s: %d days came with other figures than before", product_id, counts.restated_days)
    for start, end in gaps:
        log.warning("%s: gap from %s to %s, %d days", product_id, start, end, (end - start).days + 1)
    return Series(
        product_id=product_id,
        source=source or "",
        origin=last,
        data_version=prices.data_version(product_id, last, created_at=observed_at),
        first_day=days.iloc[0].date(),
        days=len(days),
        new_days=counts.new_days,
        restated_days=counts.restated_days,
        quarantined=len(counts.quarantined),
        gaps=gaps,
    )
