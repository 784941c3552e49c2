"""Whether the price database is as it was recorded: each candle, each data version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from storage.core.candle_schema import FIGURES
from storage.core.errors import Damaged, HomeUnusable
from storage.prices.database import Database
from storage.prices.digest import checks, digest
from storage.prices.engine import database_engine
from storage.prices.engine_base import is_damaged
from storage.prices.queries import (
    CANDLES,
    CLOSES,
    DATA_VERSIONS,
    OBSERVATION,
    PAGES,
    QUARANTINE,
    SERIES,
    Stored,
    newest_of_days,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from storage.core.home import Home

# Without one of them some query fails, or is slow.
PARTS = (
    *(table.name for table in (CANDLES, CLOSES, DATA_VERSIONS, PAGES, QUARANTINE, SERIES)),
    *("candles_newest", "series_newest", "quarantine_once"),
)
Series = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Candles:
    """All rows of `candles` of one product, by number.

    `observations` are each distinct source, observed_at and payload_sha256, `observation` (n,) the index of
    each row's.
    """

    product_id: str
    rows: Stored
    observations: tuple[tuple[str, str, str], ...]
    observation: npt.NDArray[np.int64]

    def by_seq(self) -> Iterator[tuple[int, str]]:
        """Number and day of each row."""
        return zip(self.rows.seqs.tolist(), self.rows.days.astype(str).tolist(), strict=True)


def price_file(home: Home) -> Path | None:
    """The file of the price database, None where it is on a server."""
    return database_engine(home).file


@contextlib.contextmanager
def report_damage() -> Iterator[None]:
    """Raise `Damaged` instead of `HomeUnusable` where SQLite reports damage, or no database.

    A database that is held by another process or out of reach stays unusable: it may be intact.
    """
    try:
        yield
    except HomeUnusable as error:
        if is_damaged(getattr(error.__cause__, "orig", error.__cause__)):
            raise Damaged(str(error)) from error
        raise


def require_open_prices(home: Home) -> None:
    """Raise `HomeUnusable` where there is a price database that cannot be opened, and is not damaged."""
    file = price_file(home)
    if file is None or file.exists():
        with contextlib.suppress(Damaged), report_damage(), PriceRecords(home):
            pass


class PriceRecords(Database):
    """The price database of a home, read for checking: `with PriceRecords(home) as records: ...`."""

    def integrity(self) -> list[str]:
        """The problems that the engine reports of its file, and the tables and indexes missing in it."""
        with self.read() as connection:
            return self.engine.integrity(connection, PARTS)

    def products(self) -> list[str]:
        """Every product that has candles, by name."""
        return [name for (name,) in self._rows(sa.select(CANDLES.c.product_id).distinct(), "product_id")]

    def candles(self, product_id: str) -> Candles:
        """The product's rows, as they are now."""
        names = ("seq", "day_utc", *FIGURES, *OBSERVATION)
        query = sa.select(*(CANDLES.c[name] for name in names)).where(CANDLES.c.product_id == product_id)
        columns = list(zip(*self._rows(query, "seq"), strict=True)) or [()] * len(names)
        figures = np.array(columns[2:7], dtype="float64").T
        stored = Stored(np.array(columns[0], "int64"), np.array(columns[1], "datetime64[D]"), figures)
        observed: list[Any] = list(zip(*columns[7:], strict=True))
        indices = {observation: index for index, observation in enumerate(dict.fromkeys(observed))}
        return Candles(product_id, stored, tuple(indices), np.array([indices[o] for o in observed], "int64"))

    def versions(self, product_id: str) -> Sequence[sa.Row[Any]]:
        """The product's rows of `data_versions`."""
        query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.product_id == product_id)
        return self._rows(query, "seq", "through_day_utc")

    def series(self, product_id: str) -> Series:
        """Source and first number, exclusive, of each of the product's series, oldest first."""
        query = sa.select(SERIES.c.source, SERIES.c.after_candle_seq).where(SERIES.c.product_id == product_id)
        return [(source, after) for source, after in self._rows(query, "seq")]

    def pages(self) -> dict[int, int]:
        """The recorded check of each candle, by number.

        Raises:
            Damaged: a page has more or fewer checks than candles.
        """
        recorded: dict[int, int] = {}
        for first, last, content in self._rows(sa.select(PAGES)):
            if len(content) != 4 * (last - first + 1):
                raise Damaged(f"the page of candle {first} has another number of checks")
            recorded.update(zip(range(first, last + 1), np.frombuffer(content, "<u4").tolist(), strict=True))
        return recorded

    def _rows(self, query: sa.Select[Any], *order: str) -> Sequence[sa.Row[Any]]:
        with self.read() as connection:
            return connection.execute(query.order_by(*order)).all()


def changed_candles(candles: Candles, recorded: Mapping[int, int]) -> Iterator[str]:
    """A line for each candle whose check is not the recorded one, if there is one."""
    current = np.zeros(len(candles.rows.seqs), "uint32")
    for index, observation in enumerate(candles.observations):
        own = candles.observation == index
        common = {"product_id": candles.product_id, **dict(zip(OBSERVATION, observation, strict=True))}
        current[own] = checks(candles.rows.days[own], candles.rows.figures[own], common)
    for (seq, day), check in zip(candles.by_seq(), current.tolist(), strict=True):
        if recorded.get(seq, check) != check:
            yield f"candle {seq} of {candles.product_id} ({day}) is not the one that was stored"


def misplaced_candles(candles: Candles, series: Series) -> Iterator[str]:
    """A line for all candles of one source that are in a series of another, or in none.

    A series without a candle is no fault: a run whose first page was refused leaves one.
    """
    owners = np.array(["no series", *(f"a series of {source}" for source, _ in series)], object)
    afters = np.array([after for _, after in series], "int64")
    sources = np.array([source for source, _, _ in candles.observations], object)[candles.observation]
    owner = owners[np.searchsorted(afters, candles.rows.seqs, side="left")]
    frame = pd.DataFrame({"seq": candles.rows.seqs, "source": sources, "owner": owner})
    misplaced = frame[frame["owner"] != "a series of " + frame["source"]]
    for (source, where), rows in misplaced.groupby(["source", "owner"], sort=False):
        yield (
            f"{len(rows)} of the candles of {candles.product_id}, numbers {rows['seq'].iloc[0]} to"
            f" {rows['seq'].iloc[-1]}, came from {source} and stand in {where}"
        )


def recorded_candles(candles: Candles, series: Series, version: sa.Row[Any]) -> Stored | None:
    """The newest candle of each day that a data version stands for, as `Prices.closes_at` reads it.

    None where they are not those whose digest is in the version's name.
    """
    after = max((first for _, first in series if first < version.seq), default=0)
    rows, through = candles.rows, np.datetime64(version.through_day_utc)
    wanted = (rows.seqs > after) & (rows.seqs <= version.seq) & (rows.days <= through)
    stored = newest_of_days(rows.seqs[wanted], rows.days[wanted], rows.figures[wanted])
    if len(stored.days) != version.rows or digest(stored.days, stored.figures) != named_digest(version):
        return None
    return stored


def named_digest(version: sa.Row[Any]) -> str:
    """The digest in a data version's name."""
    return str(version.data_version.rpartition(":")[2])
