"""The tables of the price database, and the statements that `Prices` is made of."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from storage.core.candle_schema import CANDLE_COLUMNS, FIGURES, REJECTED_COLUMNS, candle_frame
from storage.core.errors import BadInput
from storage.prices.digest import checks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Days = npt.NDArray[np.datetime64]
    Figures = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

# Rows that are Python objects at one time: with many more, garbage collection takes most of the time.
PIECE = 2_000
# From here on the tables' CHECKs refuse a figure; no price is near it.
TOO_LARGE = 1e300


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


OBSERVATION = ("source", "observed_at", "payload_sha256")
CANDLES = _table("candles", "seq", "product_id", *CANDLE_COLUMNS, *OBSERVATION)
CLOSES = _table("closes", "product_id", *CANDLE_COLUMNS, "seq", "source", "observed_at")
SERIES = _table("series", "seq", "product_id", "source", "after_candle_seq", "started_at")
QUARANTINE = _table("quarantine", "seq", "product_id", *REJECTED_COLUMNS, *OBSERVATION)
PAGES = _table("pages", "first_candle_seq", "last_candle_seq", "checks")
DATA_VERSIONS = _table(
    "data_versions", "data_version", "product_id", "seq", "through_day_utc", "rows", "sha256", "created_at"
)


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


@dataclass(frozen=True)
class Stored:
    """Candles by day: seqs (n,) int64, days (n,) datetime64[D] rising and unique, figures (n, 5) float64."""

    seqs: npt.NDArray[np.int64]
    days: Days
    figures: Figures

    @property
    def first_day(self) -> date | None:
        """The oldest day, None where there is none."""
        return self.days[0].item() if len(self.days) else None

    def day_series(self) -> pd.Series[pd.Timestamp]:
        """The days, datetime64[s]."""
        return pd.Series(self.days.astype("datetime64[s]"), name="day_utc")

    def upto(self, through: date | None) -> Stored:
        """The candles of the days up to `through`, inclusive."""
        if through is None:
            return self
        end = int(np.searchsorted(self.days, np.datetime64(through, "D"), side="right"))
        return Stored(self.seqs[:end], self.days[:end], self.figures[:end])

    def updated(self, new: Stored) -> Stored:
        """These candles with the newer ones in place of those of the same days."""
        return newest_of_days(
            np.concatenate([self.seqs, new.seqs]),
            np.concatenate([self.days, new.days]),
            np.concatenate([self.figures, new.figures]),
        )


NOTHING = Stored(np.empty(0, "int64"), np.empty(0, "datetime64[D]"), np.empty((0, len(FIGURES))))


def find_series(connection: sa.Connection, product_id: str, *, at: int | None = None) -> Series | None:
    """The product's newest series, or the one that candle number `at` belongs to."""
    query = sa.select(SERIES).where(SERIES.c.product_id == product_id).order_by(SERIES.c.seq.desc()).limit(1)
    if at is not None:
        query = query.where(SERIES.c.after_candle_seq < at)
    row = connection.execute(query).first()
    return Series(row.product_id, row.source, row.after_candle_seq) if row else None


def belongs(series: Series, upto: int | None = None) -> list[sa.ColumnElement[bool]]:
    """The conditions on a candle of the series, as it was at candle number `upto`."""
    conditions = [CANDLES.c.product_id == series.product_id, CANDLES.c.seq > series.after]
    return conditions if upto is None else [*conditions, CANDLES.c.seq <= upto]


def to_arrays(candles: pd.DataFrame) -> tuple[Days, Figures]:
    """Days and figures of a candle frame as in `Stored`; a day twice with the same figures counts once.

    Raises:
        BadInput: a time that is no day, a figure that no price has, or a day twice with different figures.
    """
    stamps = candles["day_utc"].to_numpy().astype("datetime64[s]")
    days = stamps.astype("datetime64[D]")
    if bool((days != stamps).any()):  # NaT differs from itself
        raise BadInput(
            "each candle needs a day, at midnight UTC; drop candles without one or of another hour"
        )
    order = np.argsort(days, kind="stable")
    # + 0.0 turns -0.0 into 0.0, which is what SQLite would keep.
    days, figures = days[order], candles[FIGURES].to_numpy("float64")[order] + 0.0
    again = np.flatnonzero(days[1:] == days[:-1]) + 1
    conflicts = again[~equal_figures(figures[again], figures[again - 1])]
    if len(conflicts):
        raise BadInput(
            f"one candle a day is needed, but {days[conflicts[0]]} comes twice with different figures"
        )
    valid = (figures > 0) & (figures < TOO_LARGE) | np.isnan(figures)
    valid[:, -1] |= figures[:, -1] == 0  # a day without volume
    valid[:, FIGURES.index("close")] &= ~np.isnan(figures[:, FIGURES.index("close")])
    if not valid.all():
        row, column = (int(indices[0]) for indices in np.nonzero(~valid))
        raise BadInput(
            f"the candle of {days[row]} has {FIGURES[column]} {figures[row, column]}, and finite positive"
            " prices are needed; quarantine it"
        )
    return np.delete(days, again), np.delete(figures, again, axis=0)


def equal_figures(left: Figures, right: Figures) -> Flags:
    """Which rows (n,) have the same figures; an unknown figure equals an unknown one."""
    same: Flags = ((left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1)
    return same


def read_newest(
    connection: sa.Connection, series: Series, *, upto: int | None = None, through: date | None = None
) -> Stored:
    """Each day's newest candle up to day `through`, inclusive, as it was at candle number `upto`."""
    query = sa.select(*(CANDLES.c[name] for name in ("seq", *CANDLE_COLUMNS)))
    query = query.where(*belongs(series, upto))
    query = query if through is None else query.where(CANDLES.c.day_utc <= through.isoformat())
    pieces = [(NOTHING.seqs, NOTHING.days, NOTHING.figures)]
    for rows in _pieces(connection, query):
        # NumPy reads ISO days by the million and knows no other form; NULL becomes NaN.
        seqs, days, *figures = zip(*rows, strict=True)
        piece = np.array(seqs, "int64"), np.array(days, "datetime64[D]"), np.array(figures, "float64").T
        pieces.append(piece)
    return newest_of_days(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def newest_of_days(seqs: Any, days: Any, figures: Any) -> Stored:
    """The candle of the greatest number of each day; shapes as in `Stored`, in any order."""
    order = np.lexsort((seqs, days))
    seqs, days, figures = seqs[order], days[order], figures[order]
    last = np.append(days[1:] != days[:-1], True)[: len(days)]
    return Stored(seqs[last], days[last], figures[last])


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


def compare(stored: Stored, days: Days, figures: Figures) -> tuple[Flags, Flags]:
    """Which of the days (n,) are stored, and which of them with the same figures (n, 5)."""
    is_stored = np.isin(days, stored.days)
    same = is_stored.copy()
    rows = np.searchsorted(stored.days, days[is_stored])
    same[is_stored] = equal_figures(figures[is_stored], stored.figures[rows])
    return is_stored, same


def insert_candles(connection: sa.Connection, days: Days, figures: Figures, common: dict[str, str]) -> Stored:
    """Write the candles of a page, oldest first, so that row numbers rise with the days, and their checks."""
    if not len(days):
        return NOTHING
    # A common value stands in the statement: binding it to each row takes as long as the figures do.
    values: dict[str, Any] = {name: sa.bindparam(name) for name in CANDLE_COLUMNS}
    values |= {name: _literal(value) for name, value in common.items()}
    statement = sa.insert(CANDLES).values(values).compile(dialect=connection.dialect)
    for start in range(0, len(days), PIECE):
        texts = np.datetime_as_string(days[start : start + PIECE], unit="D").tolist()
        # An unknown figure is NULL, not a number.
        columns = (
            [None if f != f else f for f in column.tolist()] for column in figures[start : start + PIECE].T
        )
        rows: list[Any] = list(zip(texts, *columns, strict=True))
        if not statement.positional:
            rows = [dict(zip(CANDLE_COLUMNS, row, strict=True)) for row in rows]
        connection.exec_driver_sql(str(statement), rows)
    last = highest(connection)
    seqs = np.arange(last - len(days), last, dtype="int64") + 1
    content = checks(days, figures, common).astype("<u4").tobytes()
    row = {"first_candle_seq": int(seqs[0]), "last_candle_seq": last, "checks": content}
    connection.execute(sa.insert(PAGES), [row])
    return Stored(seqs, days, figures)


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


def to_frame(stored: Stored) -> pd.DataFrame:
    """The candles as a candle frame."""
    figures = dict(zip(FIGURES, stored.figures.T, strict=True))
    return candle_frame({"day_utc": stored.days.astype("datetime64[s]"), **figures})


def to_arrow(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """All rows of a query as a typed table, a piece at a time: days date32, `observed_at` UTC."""
    kinds = {"seq": pa.int64(), "day_utc": pa.date32(), "observed_at": pa.timestamp("us", tz="UTC")}
    kinds |= dict.fromkeys(FIGURES, pa.float64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in query.selected_columns.keys()])  # noqa: SIM118
    batches = []
    for rows in _pieces(connection, query):
        # Days and times are stored as ISO text, which Arrow reads.
        texts = [pa.array(column) for column in zip(*rows, strict=True)]
        columns = [text.cast(field.type) for text, field in zip(texts, schema, strict=True)]
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def iso_utc(moment: datetime) -> str:
    """A time with its zone as ISO text in UTC, to the second; `BadInput` where it has none."""
    if moment.tzinfo is None:
        raise BadInput(f"a time with its zone is needed, not {moment}; give it in UTC")
    return moment.astimezone(UTC).isoformat(timespec="seconds")
