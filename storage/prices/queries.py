"""The statements that `Prices` is made of.

Stored candles are candle frames with the column `seq`, a row a day, oldest day first.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from storage.core.candle_schema import CANDLE_COLUMNS, FIGURES, REJECTED_COLUMNS, arrow_schema, candle_frame
from storage.core.errors import BadInput
from storage.prices.digest import checks
from storage.prices.schema import CANDLES, PAGES, QUARANTINE, SERIES, TOO_LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Rows that are Python objects at one time: with many more, garbage collection takes most of the time.
PIECE = 2_000
NO_CANDLES = candle_frame().assign(seq=np.empty(0, "int64"))


@dataclass(frozen=True)
class Series:
    """The candles of `product_id` from one source: those numbered above `after`."""

    product_id: str
    source: str
    after: int

    @property
    def name(self) -> str:
        """`SOURCE@AFTER`."""
        return f"{self.source}@{self.after}"


def find_series(connection: sa.Connection, product_id: str, *, at: int | None = None) -> Series | None:
    """The product's newest series, or the one that candle number `at` belongs to."""
    query = sa.select(SERIES).where(SERIES.c.product_id == product_id).order_by(SERIES.c.seq.desc()).limit(1)
    if at is not None:
        query = query.where(SERIES.c.after_candle_seq < at)
    row = connection.execute(query).first()
    return Series(row.product_id, row.source, row.after_candle_seq) if row else None


def belongs(series: Series) -> sa.ColumnElement[bool]:
    """The condition on a candle of the series and of those after it."""
    return (CANDLES.c.product_id == series.product_id) & (CANDLES.c.seq > series.after)


def check_page(candles: pd.DataFrame) -> pd.DataFrame:
    """The page's candles, oldest day first; a day twice with the same figures counts once.

    Raises:
        BadInput: a time that is no day, a figure that no price has, or a day twice with different figures.
    """
    if (candles["day_utc"] != candles["day_utc"].dt.normalize()).any():  # NaT differs from itself
        raise BadInput(
            "each candle needs a day, at midnight UTC; drop candles without one or of another hour"
        )
    page = candles[CANDLE_COLUMNS].drop_duplicates().sort_values("day_utc", ignore_index=True)
    page[FIGURES] += 0.0  # turns -0.0 into 0.0, which is what SQLite would keep
    if (twice := page["day_utc"].duplicated()).any():
        day = page["day_utc"][twice].iloc[0].date()
        raise BadInput(f"one candle a day is needed, but {day} comes twice with different figures")
    figures = page[FIGURES]
    valid = (figures > 0) & (figures < TOO_LARGE) | figures.isna()
    valid["volume"] |= figures["volume"] == 0  # a day without volume
    valid["close"] &= figures["close"].notna()
    for row, column in np.argwhere(~valid.to_numpy())[:1].tolist():
        day, name = page["day_utc"][row].date(), FIGURES[column]
        raise BadInput(
            f"the candle of {day} has {name} {figures[name][row]}, and finite positive prices are needed;"
            " quarantine it"
        )
    return page


def upto(candles: pd.DataFrame, through: date | None) -> pd.DataFrame:
    """The candles of the days up to `through`, inclusive; None for all."""
    if through is None:
        return candles
    return candles.iloc[: candles["day_utc"].searchsorted(pd.Timestamp(through), side="right")]


def read_newest(
    connection: sa.Connection, series: Series, *, at: int | None = None, through: date | None = None
) -> pd.DataFrame:
    """Each day's newest candle up to day `through`, inclusive, as it was at candle number `at`."""
    query = sa.select(*CANDLES.c["seq", *CANDLE_COLUMNS]).where(belongs(series))
    if at is not None:
        query = query.where(CANDLES.c.seq <= at)
    return upto(newest_of_days(read_frame(connection, query)), through)


def newest_of_days(candles: pd.DataFrame) -> pd.DataFrame:
    """The candle of the greatest number of each day, of candles in any order."""
    ordered = candles.sort_values(["day_utc", "seq"])
    return ordered.drop_duplicates("day_utc", keep="last", ignore_index=True)


def read_frame(connection: sa.Connection, query: sa.Select[Any]) -> pd.DataFrame:
    """All rows of a query: figures and days as in a candle frame, seqs int64, the rest as text."""
    schema = arrow_schema(query.selected_columns.keys(), observed_at=pa.string())
    frame: pd.DataFrame = read_arrow(connection, query, schema).to_pandas(date_as_object=False)
    return frame.astype({"day_utc": "datetime64[s]"})


def read_arrow(connection: sa.Connection, query: sa.Select[Any], schema: pa.Schema) -> pa.Table:
    """All rows of a query, a piece at a time."""
    batches = []
    for rows in _pieces(connection, query):
        # Days and times are stored as ISO text, which Arrow reads.
        texts = [pa.array(column) for column in zip(*rows, strict=True)]
        columns = [text.cast(field.type) for text, field in zip(texts, schema, strict=True)]
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def _pieces(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
    """The rows, some at a time, by the driver's own cursor: as SQLAlchemy's rows they take twice as long."""
    inlined = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    with contextlib.closing(connection.connection.cursor()) as cursor:
        cursor.execute(str(inlined))
        while rows := cursor.fetchmany(PIECE):
            yield rows


def highest(connection: sa.Connection) -> int:
    """The greatest number of a candle, of any series: while it is the same, nothing was added."""
    return connection.scalar(sa.select(sa.func.max(CANDLES.c.seq))) or 0


def insert_candles(connection: sa.Connection, candles: pd.DataFrame, common: dict[str, str]) -> pd.DataFrame:
    """Write the candles of a page, so that row numbers rise with the days, and their checks.

    Returns them with their numbers.
    """
    # A common value stands in the statement: binding it to each row takes as long as the figures do.
    values: dict[str, Any] = {name: sa.bindparam(name) for name in CANDLE_COLUMNS}
    values |= {name: _literal(value) for name, value in common.items()}
    statement = sa.insert(CANDLES).inline().values(values).compile(dialect=connection.dialect)
    for start in range(0, len(candles), PIECE):
        piece = candles.iloc[start : start + PIECE]
        days = piece["day_utc"].to_numpy().astype("datetime64[D]").astype(str).tolist()
        # An unknown figure is NULL, not a number.
        figures = ([None if f != f else f for f in piece[name].tolist()] for name in FIGURES)
        rows: list[Any] = list(zip(days, *figures, strict=True))
        if not statement.positional:
            rows = [dict(zip(CANDLE_COLUMNS, row, strict=True)) for row in rows]
        connection.exec_driver_sql(str(statement), rows)
    last = highest(connection)
    first = last - len(candles) + 1
    if len(candles):
        content = checks(candles, common).astype("<u4").tobytes()
        page = {"first_candle_seq": first, "last_candle_seq": last, "checks": content}
        connection.execute(sa.insert(PAGES), [page])
    return candles.assign(seq=np.arange(first, last + 1))


def _literal(text: str) -> sa.ColumnClause[str]:
    # Both engines read a text so, backslashes and all; SQLAlchemy's own way doubles a percent sign twice.
    return sa.literal_column("'" + text.replace("'", "''") + "'")


def insert_rejected(connection: sa.Connection, rejected: pd.DataFrame | None, common: dict[str, str]) -> int:
    """Write the quarantined rows that are not stored yet; returns their number."""
    if rejected is None or rejected.empty:
        return 0
    before = connection.scalar(sa.select(sa.func.max(QUARANTINE.c.seq))) or 0
    for start in range(0, len(rejected), PIECE):
        piece = rejected[REJECTED_COLUMNS].iloc[start : start + PIECE].itertuples(index=False, name=None)
        rows = [{**common, "day_utc": _iso_day(day), "raw": raw, "reason": text} for day, raw, text in piece]
        insert_new(connection, QUARANTINE, rows)
    # Nobody else writes meanwhile, and the count that a driver gives for many rows is not always theirs.
    new = sa.select(sa.func.count()).select_from(QUARANTINE).where(QUARANTINE.c.seq > before)
    return connection.scalar(new) or 0


def _iso_day(text: object) -> str | None:
    # An impossible day stays readable in `raw`; it must not keep the good candles of its page out. Nor may
    # one before 0400-03-01, by which SQLite's calendar is off.
    try:
        day = date.fromisoformat(str(text))
    except ValueError:
        return None
    return day.isoformat() if day.year > 400 else None


def insert_new(connection: sa.Connection, table: sa.TableClause, rows: Sequence[dict[str, object]]) -> None:
    """Insert the rows, all with the same columns, that no unique index holds yet."""
    names = list(rows[0])
    columns, values = ", ".join(names), ", ".join(f":{name}" for name in names)
    statement = f"INSERT INTO {table.name} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608
    connection.execute(sa.text(statement), rows)


def iso_utc(moment: datetime) -> str:
    """A time with its zone as ISO text in UTC, to the second; `BadInput` where it has none."""
    if moment.tzinfo is None:
        raise BadInput(f"a time with its zone is needed, not {moment}; give it in UTC")
    return moment.astimezone(UTC).isoformat(timespec="seconds")
