"""Whether the price database is as it was recorded: each candle, each data version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
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
OBSERVATION = ("source", "observed_at", "payload_sha256")


@dataclass(frozen=True)
class Candles:
    """All rows of `candles` of one product, by number.

    Attributes:
        source: (n,) int64, the index of each row's observation in `seen`.
        seen: each distinct source, observed_at and payload_sha256.
    """

    product_id: str
    rows: Stored
    source: npt.NDArray[np.int64]
    seen: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Version:
    """A row of `data_versions`."""

    data_version: str
    seq: int
    through: date
    rows: int
    sha256: str


def price_file(home: Home) -> Path | None:
    """The file of the price database, None where it is on a server."""
    return database_engine(home).file


@contextlib.contextmanager
def damage_told_apart() -> Iterator[None]:
    """Tell a damaged file, or one that is no database, from one that cannot be opened.

    Raises:
        Damaged: SQLite reports damage, or no database.
        HomeUnusable: the database is held by another process, or out of reach; its content may be as it was.
    """
    try:
        yield
    except HomeUnusable as error:
        if is_damaged(getattr(error.__cause__, "orig", error.__cause__)):
            raise Damaged(str(error)) from error
        raise


def require_open_prices(home: Home) -> None:
    """Check early that the price database can be opened; nothing is made where there is none.

    Raises:
        HomeUnusable: it cannot, and it is not damaged.
    """
    file = price_file(home)
    if file is None or file.exists():
        with contextlib.suppress(Damaged), damage_told_apart(), PriceRecords(home):
            pass


class PriceRecords(Database):
    """The price database of a home, read for checking: `with PriceRecords(home) as records: ...`."""

    def integrity(self) -> list[str]:
        """The problems that the engine reports of its file, and the tables and indexes missing in it."""
        with self.read() as connection:
            return self.engine.integrity(connection, PARTS)

    def products(self) -> list[str]:
        """Every product that has candles, by name."""
        with self.read() as connection:
            return list(connection.scalars(sa.select(CANDLES.c.product_id).distinct().order_by("product_id")))

    def candles(self, product_id: str) -> Candles:
        """The product's rows, as they are now."""
        names = ("seq", "day_utc", *FIGURES, *OBSERVATION)
        query = sa.select(*(CANDLES.c[name] for name in names)).order_by(CANDLES.c.seq)
        with self.read() as connection:
            rows = connection.execute(query.where(CANDLES.c.product_id == product_id)).all()
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        figures = np.array(columns[2:7], dtype="float64").T
        stored = Stored(np.array(columns[0], "int64"), np.array(columns[1], "datetime64[D]"), figures)
        observations: list[Any] = list(zip(*columns[7:], strict=True))
        numbers = {observation: n for n, observation in enumerate(dict.fromkeys(observations))}
        indices = np.array([numbers[observation] for observation in observations], "int64")
        return Candles(product_id, stored, indices, tuple(numbers))

    def versions(self, product_id: str) -> list[Version]:
        """Every recorded data version of the product."""
        names = ("data_version", "seq", "through_day_utc", "rows", "sha256")
        query = sa.select(*(DATA_VERSIONS.c[name] for name in names)).order_by("seq", "through_day_utc")
        with self.read() as connection:
            rows = connection.execute(query.where(DATA_VERSIONS.c.product_id == product_id)).all()
        return [Version(name, seq, date.fromisoformat(day), n, sha256) for name, seq, day, n, sha256 in rows]

    def series(self, product_id: str) -> list[tuple[str, int]]:
        """Source and first number, exclusive, of each of the product's series, oldest first."""
        query = sa.select(SERIES.c.source, SERIES.c.after_candle_seq).where(SERIES.c.product_id == product_id)
        with self.read() as connection:
            return [(source, after) for source, after in connection.execute(query.order_by(SERIES.c.seq))]

    def pages(self) -> dict[int, int]:
        """The recorded check of each candle, by number.

        Raises:
            Damaged: a page has more or fewer checks than candles.
        """
        recorded: dict[int, int] = {}
        with self.read() as connection:
            pages = connection.execute(sa.select(PAGES)).all()
        for first, last, content in pages:
            if len(content) != 4 * (last - first + 1):
                raise Damaged(f"the page of candle {first} has another number of checks")
            recorded.update(zip(range(first, last + 1), np.frombuffer(content, "<u4").tolist(), strict=True))
        return recorded


def changed_candles(candles: Candles, recorded: Mapping[int, int]) -> Iterator[tuple[int, str]]:
    """Number and day of each candle whose check is not the recorded one, if there is one."""
    current = np.zeros(len(candles.rows.seqs), "uint32")
    for number, observation in enumerate(candles.seen):
        own = candles.source == number
        common = {"product_id": candles.product_id, **dict(zip(OBSERVATION, observation, strict=True))}
        current[own] = checks(candles.rows.days[own], candles.rows.figures[own], common)
    for seq, day, check in zip(*_numbers_and_days(candles), current.tolist(), strict=True):
        if recorded.get(seq, check) != check:
            yield seq, day


def missing_pages(candles: Candles, recorded: Mapping[int, int]) -> Iterator[tuple[int, str]]:
    """Number and day of each candle that no page brought."""
    return ((seq, day) for seq, day in zip(*_numbers_and_days(candles), strict=True) if seq not in recorded)


def _numbers_and_days(candles: Candles) -> tuple[list[int], list[str]]:
    return candles.rows.seqs.tolist(), candles.rows.days.astype(str).tolist()


def in_another_series(candles: Candles, series: list[tuple[str, int]]) -> Iterator[str]:
    """A line for all candles of one source that stand in series of another, or in none.

    A series without a candle is no fault: a run whose first page was refused leaves one.
    """
    owners = np.array(["no series", *(f"a series of {source}" for source, _ in series)], object)
    afters = np.array([after for _, after in series], "int64")
    sources = np.array([source for source, _, _ in candles.seen], object)[candles.source]
    owner = owners[np.searchsorted(afters, candles.rows.seqs, side="left")]
    frame = pd.DataFrame({"seq": candles.rows.seqs, "source": sources, "owner": owner})
    misplaced = frame[frame["owner"] != "a series of " + frame["source"]]
    for (source, where), rows in misplaced.groupby(["source", "owner"], sort=False):
        yield (
            f"{len(rows)} of the candles of {candles.product_id}, numbers {rows['seq'].iloc[0]} to"
            f" {rows['seq'].iloc[-1]}, came from {source} and stand in {where}"
        )


def state_at(candles: Candles, series: list[tuple[str, int]], version: Version) -> Stored:
    """The newest candle of each day that a data version stands for, as `Prices.closes_at` reads it."""
    after = max((first for _, first in series if first < version.seq), default=0)
    rows = candles.rows
    wanted = (rows.seqs > after) & (rows.seqs <= version.seq) & (rows.days <= np.datetime64(version.through))
    return newest_of_days(rows.seqs[wanted], rows.days[wanted], rows.figures[wanted])


def is_whole(version: Version, state: Stored) -> bool:
    """Whether these are the candles whose digest is in the version's name."""
    return len(state.days) == version.rows and digest(state.days, state.figures) == _named_digest(version)


def agrees(version: Version, state: Stored) -> bool:
    """Whether the row of a whole version agrees with its name and its candles."""
    return version.sha256 == _named_digest(version) and bool(state.days[-1] == np.datetime64(version.through))


def _named_digest(version: Version) -> str:
    return version.data_version.rpartition(":")[2]
