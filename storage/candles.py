"""The tables of the price database, and the statements and digests that `Prices` is made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from storage.errors import BadInput
from storage.frames import CANDLE_COLUMNS, FIGURES, REJECTED_COLUMNS, candle_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pyarrow as pa

CHUNK = 50_000
# Above it a CHECK of the tables would refuse; no price is near it.
TOO_LARGE = 1e300


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


_SEEN = ("source", "observed_at", "payload_sha256")
CANDLES = _table("candles", "seq", "product_id", *CANDLE_COLUMNS, *_SEEN)
CLOSES = _table("closes", "product_id", *CANDLE_COLUMNS, "seq", "source", "observed_at")
SERIES = _table("series", "seq", "product_id", "source", "after_candle_seq", "started_at")
QUARANTINE = _table("quarantine", "seq", "product_id", *REJECTED_COLUMNS, *_SEEN)
DATA_VERSIONS = _table(
    "data_versions", "data_version", "product_id", "seq", "through_day_utc", "rows", "sha256", "created_at"
)


@dataclass(frozen=True)
class Series:
    """The candles of `product_id` from one source: those numbered above `after`."""

    product_id: str
    source: str
    after: int


@dataclass(frozen=True)
class Page:
    """Days (n,) datetime64[D], rising, each once; figures (n, 5) float64 in the order of FIGURES."""

    days: npt.NDArray[np.datetime64]
    figures: npt.NDArray[np.float64]


def find_series(connection: sa.Connection, product_id: str, *, at: int | None = None) -> Series | None:
    """The product's newest series, or the one that candle number `at` belongs to."""
    query = sa.select(SERIES).where(SERIES.c.product_id == product_id).order_by(SERIES.c.seq.desc()).limit(1)
    if at is not None:
        query = query.where(SERIES.c.after_candle_seq < at)
    row = connection.execute(query).first()
    return Series(row.product_id, row.source, row.after_candle_seq) if row else None


def newest(series: Series, *, upto: int | None = None, through: date | None = None) -> sa.Select[Any]:
    """Each day's newest candle (seq, day and figures) of a series, as it was at candle number `upto`."""

    def belongs(candles: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        found = [candles.c.product_id == series.product_id, candles.c.seq > series.after]
        return found if upto is None else [*found, candles.c.seq <= upto]

    later = CANDLES.alias("later")
    last = sa.select(sa.func.max(later.c.seq)).where(*belongs(later), later.c.day_utc == CANDLES.c.day_utc)
    query = sa.select(*(CANDLES.c[name] for name in ("seq", *CANDLE_COLUMNS)))
    query = query.where(*belongs(CANDLES), CANDLES.c.seq == last.scalar_subquery())
    return query if through is None else query.where(CANDLES.c.day_utc <= through.isoformat())


def oldest_first(query: sa.Select[Any]) -> sa.Select[Any]:
    """The same candles in the order of their days."""
    return query.order_by(CANDLES.c.day_utc)


def to_page(candles: pd.DataFrame) -> Page:
    """Candles in any order as a page; a day that comes twice with the same figures counts once.

    Raises:
        BadInput: a day that is none, a figure that no price can have, or a day twice with different figures.
    """
    stamps = candles["day_utc"].to_numpy().astype("datetime64[s]")
    days = stamps.astype("datetime64[D]")
    if bool((days != stamps).any()):  # NaT differs from itself
        raise BadInput("candles need a day each, at midnight UTC; drop what has none, or another hour")
    order = np.argsort(days, kind="stable")
    # + 0.0 turns -0.0 into 0.0, which is what SQLite would keep.
    days, figures = days[order], candles[FIGURES].to_numpy("float64")[order] + 0.0
    again = np.flatnonzero(days[1:] == days[:-1]) + 1
    clash = again[~equal_figures(figures[again], figures[again - 1])]
    if len(clash):
        raise BadInput(f"one candle a day is needed, but {days[clash[0]]} came twice with different figures")
    fit = (figures > 0) & (figures < TOO_LARGE) | np.isnan(figures)
    fit[:, -1] |= figures[:, -1] == 0  # a day without volume
    fit[:, FIGURES.index("close_usd")] &= ~np.isnan(figures[:, FIGURES.index("close_usd")])
    if not fit.all():
        row, column = (int(found[0]) for found in np.nonzero(~fit))
        raise BadInput(
            f"the candle of {days[row]} has {FIGURES[column]} {figures[row, column]}, and finite positive"
            " prices are needed; set it aside"
        )
    return Page(np.delete(days, again), np.delete(figures, again, axis=0))


def equal_figures(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) have the same figures; an unknown figure equals an unknown one."""
    same: npt.NDArray[np.bool_] = ((left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1)
    return same


def compare(
    connection: sa.Connection, series: Series, page: Page
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which days of the page (n,) are stored, and which of them with the same figures: one query."""
    if not len(page.days):
        return np.zeros(0, bool), np.zeros(0, bool)
    span = CANDLES.c.day_utc.between(str(page.days[0]), str(page.days[-1]))
    stored = to_page(to_frame(connection.execute(newest(series).where(span)).all()))
    known = np.isin(page.days, stored.days)
    same = known.copy()
    where = np.searchsorted(stored.days, page.days[known])
    same[known] = equal_figures(page.figures[known], stored.figures[where])
    return known, same


def insert_candles(connection: sa.Connection, page: Page, common: dict[str, object]) -> None:
    """Write every day of the page, oldest first, so that row numbers rise with the days."""
    statement = sa.insert(CANDLES)
    for start in range(0, len(page.days), CHUNK):
        days = np.datetime_as_string(page.days[start : start + CHUNK], unit="D").tolist()
        figures = page.figures[start : start + CHUNK]
        # NaN becomes NULL: an unknown figure, not a number.
        values = figures.astype(object)
        values[np.isnan(figures)] = None
        rows = [
            {"day_utc": day, **dict(zip(FIGURES, row, strict=True)), **common}
            for day, row in zip(days, values.tolist(), strict=True)
        ]
        connection.execute(statement, rows)


def insert_rejected(
    connection: sa.Connection, rejected: pd.DataFrame | None, common: dict[str, object]
) -> int:
    """Write the rows set aside that are not there yet; returns how many."""
    if rejected is None or rejected.empty:
        return 0
    rows = [
        {"day_utc": _iso_day(day), "raw": raw, "reason": reason, **common}
        for day, raw, reason in rejected[REJECTED_COLUMNS].itertuples(index=False, name=None)
    ]
    return insert_new(connection, QUARANTINE, rows)


def _iso_day(text: object) -> str | None:
    # A day that is none stays readable in `raw`; it must not keep the good candles of its page out.
    try:
        return date.fromisoformat(str(text)).isoformat()
    except ValueError:
        return None


def insert_new(connection: sa.Connection, table: sa.TableClause, rows: Sequence[dict[str, object]]) -> int:
    """Insert the rows that no unique index knows yet; returns how many."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing()
    return sum(connection.execute(statement, row).rowcount for row in rows)


def to_frame(rows: Sequence[sa.Row[Any]]) -> pd.DataFrame:
    """Rows of `newest` as a candle frame, in their order."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in ["seq", *CANDLE_COLUMNS])
    _, days, *figures = columns
    # By way of NumPy, which reads ISO days by the million and knows no other form.
    stamps = np.array(days, dtype="datetime64[s]")
    return candle_frame({"day_utc": stamps, **dict(zip(FIGURES, figures, strict=True))})


def digest(frame: pd.DataFrame) -> str:
    """SHA-256 over `day,open,high,low,close,volume` a line, in Python's shortest exact notation, LF.

    An unknown figure is empty.
    """
    page = hashlib.sha256()
    days = np.datetime_as_string(frame["day_utc"].to_numpy(), unit="D").tolist()
    for day, figures in zip(days, frame[FIGURES].to_numpy("float64").tolist(), strict=True):
        texts = ("" if figure != figure else repr(figure) for figure in figures)
        page.update(f"{day},{','.join(texts)}\n".encode())
    return page.hexdigest()


def to_arrow(result: sa.Result[Any]) -> pa.Table:
    """All rows of a result as a typed table, a chunk at a time: days date32, `observed_at` UTC."""
    import pyarrow as pa

    kinds = {"seq": pa.int64(), "day_utc": pa.date32(), "observed_at": pa.timestamp("us", tz="UTC")}
    kinds |= dict.fromkeys(FIGURES, pa.float64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in result.keys()])  # noqa: SIM118
    batches = []
    for rows in result.partitions(CHUNK):
        # Days and times lie there as ISO text, which Arrow reads.
        texts = [pa.array(column) for column in zip(*rows, strict=True)]
        columns = [text.cast(field.type) for text, field in zip(texts, schema, strict=True)]
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def iso_utc(moment: datetime) -> str:
    """A time with its zone as ISO text in UTC, to the second.

    Raises:
        BadInput: a time without a zone.
    """
    if moment.tzinfo is None:
        raise BadInput(f"a time with its zone is needed, not {moment}; give it in UTC")
    return moment.astimezone(UTC).isoformat(timespec="seconds")
