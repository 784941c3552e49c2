"""Checks whether the price database is as it was recorded: each candle, each data version.

A product's candles are a frame of all its rows: `seq`, a candle frame's columns and those of OBSERVATION.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from closecast.storage.core.candle_schema import CANDLE_COLUMNS, OBSERVATION
from closecast.storage.core.errors import Damaged, HomeUnusable
from closecast.storage.prices import queries
from closecast.storage.prices.database import Database
from closecast.storage.prices.decisions import RecordedSeries
from closecast.storage.prices.digest import checks, digest
from closecast.storage.prices.engine import database_engine
from closecast.storage.prices.engine_base import is_damaged
from closecast.storage.prices.schema import CANDLES, CLOSES, DATA_VERSIONS, PAGES, SERIES, TABLES

if TYPE_CHECKING:
    from closecast.storage.core.home import Home

# Without one of them some query fails, or is slow.
PARTS = [
    CLOSES.name,
    *(table.name for table in TABLES),
    *(str(index.name) for table in TABLES for index in table.indexes),
]


@contextlib.contextmanager
def report_damage() -> Iterator[None]:
    """Raise `Damaged` instead of `HomeUnusable` if SQLite reports damage, or no database.

    A database that another process holds, or that is out of reach, stays `HomeUnusable`: it may be intact.
    """
    try:
        yield
    except HomeUnusable as error:
        if is_damaged(getattr(error.__cause__, "orig", error.__cause__)):
            raise Damaged(str(error)) from error
        raise


def require_open_prices(home: Home) -> None:
    """Raise `HomeUnusable` if there is a price database that cannot be opened, and is not damaged."""
    file = database_engine(home).file
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

    def candles(self, product_id: str) -> pd.DataFrame:
        """The product's rows by number, as they are now."""
        columns = CANDLES.c["seq", *CANDLE_COLUMNS, *OBSERVATION]
        query = sa.select(*columns).where(CANDLES.c.product_id == product_id).order_by(CANDLES.c.seq)
        with self.read() as connection:
            return queries.read_frame(connection, query)

    def versions(self, product_id: str) -> Sequence[sa.Row[Any]]:
        """The product's rows of `data_versions`."""
        query = sa.select(DATA_VERSIONS).where(DATA_VERSIONS.c.product_id == product_id)
        return self._rows(query, "seq", "through_day_utc")

    def series(self, product_id: str) -> pd.DataFrame:
        """Source and first number, exclusive, of each of the product's series, oldest first."""
        query = sa.select(*SERIES.c["source", "after_candle_seq"]).where(SERIES.c.product_id == product_id)
        return pd.DataFrame(self._rows(query, "seq"), columns=["owner", "after"])

    def decisions(self, product_id: str) -> pd.DataFrame:
        """The decisions about the product's days, of every series."""
        with self.read() as connection:
            return queries.read_decisions(connection, product_id, 0)

    def pages(self) -> dict[int, int]:
        """The recorded check of each candle, by number; `Damaged` if a page has another number of them."""
        recorded: dict[int, int] = {}
        for first, last, content in self._rows(sa.select(PAGES)):
            if len(content) != 4 * (last - first + 1):
                raise Damaged(f"the page of candle {first} has another number of checks")
            recorded.update(zip(range(first, last + 1), np.frombuffer(content, "<u4").tolist(), strict=True))
        return recorded

    def _rows(self, query: sa.Select[Any], *order: str) -> Sequence[sa.Row[Any]]:
        with self.read() as connection:
            return connection.execute(query.order_by(*order)).all()


def changed_candles(product_id: str, candles: pd.DataFrame, recorded: Mapping[int, int]) -> Iterator[str]:
    """A line for each candle whose check is not the recorded one, if there is one."""
    for observation, rows in candles.groupby(list(OBSERVATION), sort=False):
        common = {"product_id": product_id, **dict(zip(OBSERVATION, map(str, observation), strict=True))}
        for seq, day, check in zip(rows["seq"], rows["day_utc"], checks(rows, common).tolist(), strict=True):
            if recorded.get(seq, check) != check:
                yield f"candle {seq} of {product_id} ({day.date()}) is not the one that was stored"


def misplaced_candles(product_id: str, candles: pd.DataFrame, series: pd.DataFrame) -> Iterator[str]:
    """A line for all candles of one source that are in another source's series, or in none.

    A series without a candle is not a fault: a run whose first page was refused leaves one.
    """
    newest = series.drop_duplicates("after", keep="last").astype({"after": "int64"})
    owned = pd.merge_asof(
        candles[["seq", "source"]], newest, left_on="seq", right_on="after", allow_exact_matches=False
    )
    owner = ("a series of " + owned["owner"].astype(object)).fillna("no series")
    misplaced = owned[owned["owner"] != owned["source"]].assign(owner=owner)
    for (source, where), rows in misplaced.groupby(["source", "owner"], sort=False):
        yield (
            f"{len(rows)} of the candles of {product_id}, numbers {rows['seq'].iloc[0]} to"
            f" {rows['seq'].iloc[-1]}, came from {source} and are in {where}"
        )


def recorded_prices(
    candles: pd.DataFrame, series: pd.DataFrame, decisions: pd.DataFrame, version: sa.Row[Any]
) -> tuple[RecordedSeries, pd.DataFrame] | None:
    """What a data version stands for, as `Prices.prices_at` reads it, and the newest known row of each day.

    None if they are not those whose digest is in the version's name.
    """
    begins = series["after"][series["after"] < version.seq].max()
    after = begins if begins == begins else 0
    rows = candles[candles["seq"].between(after, version.seq, inclusive="right")]
    own = decisions[(decisions["after_candle_seq"] > after) & (decisions["seq"] <= version.decision_seq)]
    recorded = RecordedSeries(rows.sort_values(["day_utc", "seq"], ignore_index=True), own)
    origin = date.fromisoformat(version.through_day_utc)
    stored = recorded.known(origin)
    whole = len(stored) == version.rows and digest(stored, recorded.lines(origin)) == named_digest(version)
    return (recorded, stored) if whole else None


def named_digest(version: sa.Row[Any]) -> str:
    """The digest in a data version's name."""
    return str(version.data_version.rpartition(":")[2])
