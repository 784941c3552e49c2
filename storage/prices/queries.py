"""The SQL statements behind `Prices`.

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

from closecast.storage.core.candle_schema import (
    CANDLE_COLUMNS,
    DECISION_COLUMNS,
    FIGURES,
    REJECTED_COLUMNS,
    arrow_schema,
    candle_frame,
)
from closecast.storage.core.errors import BadInput, Damaged
from closecast.storage.prices.decisions import RecordedSeries, decision_frame
from closecast.storage.prices.digest import checks
from closecast.storage.prices.schema import CANDLES, PAGES, PRICE_DECISIONS, QUARANTINE, SERIES, TOO_LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from closecast.storage.prices.decisions import Decision

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
    """The page's candles, oldest day first, or `BadInput`; a day twice with the same figures counts once."""
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


def read_recorded(
    connection: sa.Connection, series: Series, *, at: int | None = None, decision_at: int | None = None
) -> RecordedSeries:
    """The candles of a series up to number `at`, and the decisions up to number `decision_at`."""
    query = sa.select(*CANDLES.c["seq", *CANDLE_COLUMNS]).where(belongs(series))
    if at is not None:
        query = query.where(CANDLES.c.seq <= at)
    rows = read_frame(connection, query).sort_values(["day_utc", "seq"], ignore_index=True)
    return RecordedSeries(rows, read_decisions(connection, series.product_id, series.after, at=decision_at))


def read_decisions(
    connection: sa.Connection, product_id: str, after: int, *, at: int | None = None
) -> pd.DataFrame:
    """The `decision_frame` of the series that begins after that candle, up to number `at`.

    None belongs to the last candle of another series: a series begins with a close that needs no decision.
    """
    table = PRICE_DECISIONS.c
    query = sa.select(*table["seq", *DECISION_COLUMNS]).where(
        (table.product_id == product_id) & (table.after_candle_seq > after)
    )
    if at is not None:
        query = query.where(table.seq <= at)
    rows = [dict(row) for row in connection.execute(query.order_by(table.seq)).mappings()]
    days = ("day_utc", "known_from")
    return decision_frame([row | {name: stored_day(row[name]) for name in days} for row in rows])


def stored_day(text: str) -> date:
    """The day of a column; `Damaged` if it has none."""
    try:
        return date.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Damaged:
    """The error for a row with an invalid day or figure: the file was changed."""
    return Damaged(
        f"the price database has a row that cannot be read ({error}): run `closecast verify`, and restore it"
        " from a backup"
    )


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
        try:
            texts = [pa.array(column) for column in zip(*rows, strict=True)]
            columns = [text.cast(field.type) for text, field in zip(texts, schema, strict=True)]
        except pa.ArrowException as error:
            raise _unreadable(error) from error
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def _pieces(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
    """The rows in batches from the driver's cursor, because SQLAlchemy's rows take twice as long."""
    inlined = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    with contextlib.closing(connection.connection.cursor()) as cursor:
        cursor.execute(str(inlined))
        while rows := cursor.fetchmany(PIECE):
            yield rows


def highest(connection: sa.Connection, table: sa.Table = CANDLES) -> int:
    """The greatest row number of a table: if it is the same, nothing was added."""
    return connection.scalar(sa.select(sa.func.max(table.c.seq))) or 0


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
    before = highest(connection, QUARANTINE)
    for start in range(0, len(rejected), PIECE):
        piece = rejected[REJECTED_COLUMNS].iloc[start : start + PIECE].itertuples(index=False, name=None)
        rows = [{**common, "day_utc": _iso_day(day), "raw": raw, "reason": text} for day, raw, text in piece]
        insert_new(connection, QUARANTINE, rows)
    # Nobody else writes meanwhile, and the count that a driver gives for many rows is not always theirs.
    new = sa.select(sa.func.count()).select_from(QUARANTINE).where(QUARANTINE.c.seq > before)
    return connection.scalar(new) or 0


def insert_decisions(
    connection: sa.Connection,
    product_id: str,
    decisions: Sequence[tuple[Decision, int]],
    decided_at: datetime,
) -> None:
    """Write decisions, each with the candle number that it stands behind."""
    rows = [
        {
            "product_id": product_id,
            "day_utc": one.day.isoformat(),
            "kind": one.kind,
            "factor": one.factor,
            "known_from": one.known_from.isoformat(),
            "decided_at": iso_utc(decided_at),
            "decided_by": one.decided_by,
            "after_candle_seq": after,
        }
        for one, after in decisions
    ]
    if rows:
        connection.execute(sa.insert(PRICE_DECISIONS), rows)


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
    """A time with its zone as ISO text in UTC, to the second; `BadInput` if it has none."""
    if moment.tzinfo is None:
        raise BadInput(f"a time with its zone is needed, not {moment}; give it in UTC")
    return moment.astimezone(UTC).isoformat(timespec="seconds")
