"""Whether the price database is what was recorded of it: each candle, each data version, each raw answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from storage.core.candle_schema import FIGURES
from storage.core.errors import Damaged, HomeUnusable
from storage.prices.database import Database, database_address, is_broken
from storage.prices.digest import checks, digest
from storage.prices.queries import CANDLES, CLOSES, DATA_VERSIONS, PAGES, QUARANTINE, SERIES, Stored

if TYPE_CHECKING:
    import numpy.typing as npt

    from storage.core.home import Home


# Without one of them some question has no answer, or a slow one.
PARTS = (
    *(table.name for table in (CANDLES, CLOSES, DATA_VERSIONS, PAGES, QUARANTINE, SERIES)),
    *("candles_newest", "series_newest", "quarantine_once"),
)


@dataclass(frozen=True)
class Candles:
    """All rows of `candles` of one product, by their number: what is the same in many rows stands in `seen`.

    `source` (n,) numbers the texts of `seen`: source, observed_at and payload_sha256.
    """

    product_id: str
    rows: Stored
    source: npt.NDArray[np.int64]
    seen: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Version:
    """A row of `data_versions`."""

    data_version: str
    product_id: str
    seq: int
    through: date
    rows: int
    sha256: str

    @property
    def named(self) -> str:
        """The digest that the version's name holds."""
        return self.data_version.rpartition(":")[2]


def price_file(home: Home) -> Path | None:
    """Where the price database lies, None where that is no file."""
    return None if home.on_postgresql else Path(database_address(home).database or "")


@contextlib.contextmanager
def damage_told_apart() -> Iterator[None]:
    """Say of a file that SQLite finds no database in, or a broken one, that it is damaged.

    Raises:
        Damaged: that.
        HomeUnusable: the database is held by somebody else, out of reach, or not to be opened; what is in it
            may be as it was.
    """
    try:
        yield
    except HomeUnusable as error:
        if is_broken(getattr(error.__cause__, "orig", error.__cause__)):
            raise Damaged(str(error)) from error
        raise


def require_open_prices(home: Home) -> None:
    """Find out early that the price database cannot be opened; nothing is made where there is none.

    Raises:
        HomeUnusable: it cannot, and it is not damaged.
    """
    file = price_file(home)
    if file is None or file.exists():
        with contextlib.suppress(Damaged), damage_told_apart(), PriceRecords(home):
            pass


class PriceRecords:
    """The price database of a home, read for checking: `with PriceRecords(home) as records: ...`."""

    def __init__(self, home: Home) -> None:
        self._database = Database(home)

    def __enter__(self) -> PriceRecords:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with its file, and what is not in it; nothing of another database."""
        with self._database.read() as connection:
            if connection.dialect.name != "sqlite":
                return []
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
        lost = [f"{name} is missing" for name in PARTS if name not in names]
        return lost + ([] if list(found) == ["ok"] else [str(line) for line in found])

    def products(self) -> list[str]:
        """Every product that has candles, by its name."""
        with self._database.read() as connection:
            return list(connection.scalars(sa.select(CANDLES.c.product_id).distinct().order_by("product_id")))

    def candles(self, product_id: str) -> Candles:
        """The product's rows, each as it is now."""
        names = ("seq", "day_utc", *FIGURES, "source", "observed_at", "payload_sha256")
        query = sa.select(*(CANDLES.c[name] for name in names)).order_by(CANDLES.c.seq)
        with self._database.read() as connection:
            rows = connection.execute(query.where(CANDLES.c.product_id == product_id)).all()
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        seen = [tuple(row) for row in zip(*columns[-3:], strict=True)]
        known = {one: number for number, one in enumerate(dict.fromkeys(seen))}
        figures = np.array(columns[2:7], dtype="float64").T
        stored = Stored(np.array(columns[0], "int64"), np.array(columns[1], "datetime64[D]"), figures)
        return Candles(product_id, stored, np.array([known[one] for one in seen], "int64"), tuple(known))

    def versions(self, product_id: str) -> list[Version]:
        """Every recorded data version of the product."""
        query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.product_id == product_id)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(DATA_VERSIONS.c.seq, "through_day_utc")).all()
        return [
            Version(
                row.data_version,
                row.product_id,
                row.seq,
                date.fromisoformat(row.through_day_utc),
                row.rows,
                row.sha256,
            )
            for row in rows
        ]

    def series(self, product_id: str) -> list[tuple[str, int]]:
        """Source and first number, exclusive, of each of the product's series, oldest first."""
        query = sa.select(SERIES).where(SERIES.c.product_id == product_id).order_by(SERIES.c.seq)
        with self._database.read() as connection:
            return [(row.source, row.after_candle_seq) for row in connection.execute(query)]

    def pages(self) -> dict[int, int]:
        """The recorded check of each candle, by its number."""
        with self._database.read() as connection:
            pages = connection.execute(sa.select(PAGES)).all()
        for page in pages:
            if len(page.checks) != 4 * (page.last_candle_seq - page.first_candle_seq + 1):
                raise Damaged(f"the page of candle {page.first_candle_seq} has another number of checks")
        return {
            number: int(check)
            for page in pages
            for number, check in enumerate(np.frombuffer(page.checks, "<u4"), start=page.first_candle_seq)
        }


def checks_now(candles: Candles) -> npt.NDArray[np.uint32]:
    """The check of each row, (n,), as `storage.prices.digest.checks` would have recorded it."""
    found = np.zeros(len(candles.rows.seqs), "uint32")
    for number, (source, observed_at, payload) in enumerate(candles.seen):
        mine = candles.source == number
        common = {
            "product_id": candles.product_id,
            "source": source,
            "observed_at": observed_at,
            "payload_sha256": payload,
        }
        found[mine] = checks(candles.rows.days[mine], candles.rows.figures[mine], common)
    return found


def changed_candles(candles: Candles, recorded: Mapping[int, int]) -> Iterator[tuple[int, str]]:
    """Number and day of each candle that is not the recorded one; those without a record are passed over."""
    now = zip(
        candles.rows.seqs.tolist(),
        candles.rows.days.astype(str).tolist(),
        checks_now(candles).tolist(),
        strict=True,
    )
    return ((seq, day) for seq, day, check in now if recorded.get(seq, check) != check)


def missing_pages(candles: Candles, recorded: Mapping[int, int]) -> Iterator[tuple[int, str]]:
    """Number and day of each candle that no page brought.

    Those before the first page are of a time when pages were not recorded.
    """
    first = min(recorded, default=None)
    if first is None:
        return
    for seq, day in zip(candles.rows.seqs.tolist(), candles.rows.days.astype(str).tolist(), strict=True):
        if seq >= first and seq not in recorded:
            yield seq, day


def in_another_series(candles: Candles, series: list[tuple[str, int]]) -> Iterator[str]:
    """What is wrong, a line for all candles of one source in series of another, or in none.

    A series without a candle is no fault: a run that was refused its first page leaves one.
    """
    afters = np.array([after for _, after in series], "int64")
    places = np.searchsorted(afters, candles.rows.seqs, side="left") - 1
    wrong: dict[tuple[str, str], list[int]] = {}
    rows = zip(candles.rows.seqs.tolist(), places.tolist(), candles.source.tolist(), strict=True)
    for seq, place, number in rows:
        theirs = f"a series of {series[place][0]}" if place >= 0 else "no series"
        source = candles.seen[number][0]
        if place < 0 or source != series[place][0]:
            wrong.setdefault((source, theirs), []).append(seq)
    for (source, theirs), seqs in wrong.items():
        yield (
            f"{len(seqs)} of the candles of {candles.product_id}, numbers {seqs[0]} to {seqs[-1]}, came from"
            f" {source} and stand in {theirs}"
        )


def state_at(candles: Candles, series: list[tuple[str, int]], version: Version) -> Stored:
    """The newest candle of each day that a data version stands for, as `Prices.closes_at` reads it."""
    after = max((first for _, first in series if first < version.seq), default=0)
    rows: Any = candles.rows
    wanted = (rows.seqs > after) & (rows.seqs <= version.seq) & (rows.days <= np.datetime64(version.through))
    order = np.lexsort((rows.seqs[wanted], rows.days[wanted]))
    seqs, days, figures = (column[wanted][order] for column in (rows.seqs, rows.days, rows.figures))
    last = np.append(days[1:] != days[:-1], True)[: len(days)]
    return Stored(seqs[last], days[last], figures[last])


def agrees(version: Version, found: Stored) -> bool:
    """Whether the row of a whole version says what its name and its closes say."""
    return version.sha256 == version.named and bool(found.days[-1] == np.datetime64(version.through))


def is_whole(version: Version, found: Stored) -> bool:
    """Whether candles are those that the version's name holds the digest of."""
    return len(found.days) == version.rows and digest(found.days, found.figures) == version.named
