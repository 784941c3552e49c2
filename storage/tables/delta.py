"""Append-only Delta tables: rows never change, and keys are unique."""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds

from closecast.storage.core.errors import HomeBusy, HomeUnusable
from closecast.storage.core.location import Location
from closecast.storage.tables.checksums import commit_files, record_checksums
from closecast.storage.tables.opening import (
    OpenedTable,
    Parts,
    one_line,
    open_table,
    opened,
    parts_with,
    reading,
    remember,
    taken,
    versions_beside,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS = 20
TRIES = 200
KEPT_DAYS = 30
# Without it a checkpoint forgets after a week which files a compaction took out, and a vacuum of all that
# the log does not name would delete them by their own, greater age.
RETENTION = {"delta.deletedFileRetentionDuration": f"interval {KEPT_DAYS} days"}
Result = TypeVar("Result")
Rows: TypeAlias = Sequence[Mapping[str, object]]
Select: TypeAlias = "Callable[[Snapshot, pa.Table], pa.Table]"


@dataclass(frozen=True)
class TableSchema:
    """What defines an append-only Delta table.

    `key` tells rows apart and is never null. `partition_by`, texts, is part of it: adding reads only the
    partitions concerned. `order_by` are columns that rise with the rows, such as a day, never null and the
    same for the same key: adding looks for its keys no further than there. `description` is stored with the
    table, as the comments of its columns are.
    """

    name: str
    arrow: pa.Schema
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = ("product_id",)
    order_by: tuple[str, ...] = ("target_day",)
    description: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A table, or some products' part of it, at one moment; before its first row `delta` is None.

    The dataset is opened once, because that takes as long as everything else.
    """

    table: Table
    delta: DeltaTable | None
    dataset: ds.Dataset | None
    parts: Parts  # of the table, as `opening` keeps them

    def read(
        self,
        condition: ds.Expression | None = None,
        columns: Sequence[str] | None = None,
        order: Sequence[str] = (),
    ) -> pa.Table:
        """The rows that match, sorted by the columns of `order`; by default all rows and columns."""
        fields = self.table.schema.arrow
        columns = columns or fields.names
        schema = pa.schema([fields.field(name) for name in dict.fromkeys([*columns, *order])])
        if self.dataset is None:
            return schema.empty_table().select(columns)
        with reading(self.table.folder):
            rows = self.dataset.to_table(schema.names, condition).cast(schema)
        return sorted_by(rows, order).select(columns)


class Table:
    """An append-only Delta table in its own folder or prefix, which need not exist yet."""

    def __init__(self, folder: Location, schema: TableSchema) -> None:
        self.folder, self.schema = folder, schema
        self.products: frozenset[str] | None = None

    def of_products(self, *products: str | None) -> Table:
        """These products' part of the table, all of it for None; only these products' files are opened.

        Opening a table takes 0.7 ms for each of its files, and every product has some.
        """
        part = copy.copy(self)
        part.products = None if None in products else frozenset(map(str, products))
        return part

    def read(
        self,
        condition: ds.Expression | None = None,
        columns: Sequence[str] | None = None,
        product_id: str | None = None,
    ) -> pa.Table:
        """The rows that match, all by default, typed as in the schema; none when there is no table yet."""
        part = self.of_products(product_id) if product_id else self
        return part.snapshot().read(condition, columns)

    def add(self, rows: Rows, select: Select | None = None) -> int:
        """Add the rows whose key is not there yet, in one commit, and return how many were added.

        `select` chooses or changes the rows once the table is open, and again after each conflict.

        Raises:
            ValueError: a column that the table does not have, a missing value, or a key that comes twice.
            HomeUnusable, HomeBusy, Damaged: it cannot be written, others write all the time, or reading
                fails.
        """
        checked = self.checked(rows)
        if not checked.num_rows:
            return 0
        part = self.of_products(*checked[self.schema.partition_by[0]].unique().to_pylist())

        def add_once() -> int:
            state = part.begin()
            return part.insert(state, select(state, checked) if select else checked)

        return attempt(self.folder, add_once)

    def checked(self, rows: Rows) -> pa.Table:
        """The rows as an Arrow table of the schema, or ValueError as `add`."""
        name, schema = self.schema.name, self.schema.arrow
        if foreign := sorted({column for row in rows for column in row}.difference(schema.names)):
            raise ValueError(f"{name} has no column {', '.join(foreign)}: leave it out")
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        for field in schema:
            if table[field.name].null_count and not field.nullable:
                raise ValueError(f"each row of {name} needs its {field.name}: give it")
        if len(set(self._keys(table))) < table.num_rows:
            raise ValueError(f"rows of {name} need one {', '.join(self.schema.key)} each: one came twice")
        return table

    def snapshot(self) -> Snapshot:
        """The table as it is now, for several reads of one state."""
        state = opened(self.folder)
        if state is None:
            return Snapshot(self, None, None, {})
        with reading(self.folder):
            return Snapshot(self, state.delta, state.dataset(self.products), state.parts)

    def begin(self) -> Snapshot:
        """The table as it is now, created when there is none: the state that `insert` adds to."""
        self.folder.check_no_links()
        state = taken(self.folder) or OpenedTable(self.folder, self._create(), b"")
        with reading(self.folder):
            return Snapshot(self, state.delta, state.dataset(self.products), state.parts)

    def _create(self) -> DeltaTable:
        from deltalake import DeltaTable

        with writing(self.folder):
            delta = DeltaTable.create(
                str(self.folder),
                self.schema.arrow,
                mode="ignore",
                partition_by=list(self.schema.partition_by),
                name=self.schema.name,
                description=self.schema.description or None,
                configuration=RETENTION,
                storage_options=self.folder.storage_options,
            )
            sync_commit(self.folder, delta.version())
        return delta

    def insert(self, state: Snapshot, rows: pa.Table) -> int:
        """Add those of the rows whose key is not in `state`, durably; returns how many.

        Each commit names its partitions as application transactions of Delta: another one since `state` that
        names the same partition makes this one fail with `CommitFailedError`, which `attempt` retries. A
        merge would do the same, but Delta 1.6 writes its texts as string views, which PyArrow cannot filter.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake

        assert state.delta is not None  # noqa: S101 (`begin` has created it)
        nearby = (among(name, rows[name].unique()) for name in (*self.schema.key, *self.schema.order_by))
        existing = set(self._keys(state.read(all_of(*nearby), self.schema.key)))
        new = rows.filter(pa.array([key not in existing for key in self._keys(rows)], pa.bool_()))
        parts = state.parts
        if new.num_rows:
            version = state.delta.version() + 1
            names = [Transaction(name, version) for name in _partitions(new, self.schema.partition_by)]
            with writing(self.folder):
                beside = versions_beside(self.folder)
                properties = CommitProperties(app_transactions=names, custom_metadata=beside)
                plain = pa.schema([field.remove_metadata() for field in new.schema])
                # Without comments: Delta refuses rows whose comments are of another release than its own.
                write_deltalake(state.delta, new.cast(plain), mode="append", commit_properties=properties)
                sync_commit(self.folder, state.delta.version())
            # With a later version another process has added rows of other products, too.
            parts = parts_with(parts, new) if state.delta.version() == version else {}
        remember(self.folder, state.delta, parts)
        return int(new.num_rows)

    def _keys(self, rows: pa.Table) -> Iterator[tuple[Any, ...]]:
        return zip(*(rows[name].to_pylist() for name in self.schema.key), strict=True)


def attempt(folder: Location, action: Callable[..., Result], *args: object) -> Result:
    """Call `action`, again after each conflict with another commit; `HomeBusy` after the last attempt."""
    from deltalake.exceptions import CommitFailedError
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception_type(CommitFailedError),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        return retrying(action, *args)
    except CommitFailedError as error:
        raise HomeBusy(
            f"other runs wrote to {folder} during each of {ATTEMPTS} attempts: try again when they are done"
        ) from error


def snapshot(folders: Sequence[Location]) -> list[DeltaTable | None]:
    """Each table, None if there is none, all as they were at one moment; `HomeBusy` if none is quiet.

    Versions of a table only rise: when none has a later one after the last table was opened than before, all
    of them were unchanged in between.
    """
    before = [_version(table) for table in map(open_table, folders)]
    for _ in range(TRIES):
        tables = [open_table(folder) for folder in folders]
        versions = [_version(table) for table in tables]
        if versions == before:
            return tables
        before = versions
        time.sleep(0.02)
    raise HomeBusy(f"runs write to {folders[0].parent} all the time: try again when they are done")


def _version(table: DeltaTable | None) -> int:
    return -1 if table is None else table.version()


def sorted_by(rows: pa.Table, order: Sequence[str]) -> pa.Table:
    """The rows, rising by these columns."""
    return rows.sort_by([(name, "ascending") for name in order]) if order else rows


def all_of(*conditions: ds.Expression) -> ds.Expression | None:
    """The conditions joined by "and"; None, which every row passes, if there are none."""
    return functools.reduce(operator.and_, conditions) if conditions else None


def among(name: str, values: Iterable[object]) -> ds.Expression:
    """Whether a column has one of the values."""
    return ds.field(name).isin(values if isinstance(values, pa.Array) else pa.array(values))


def between(name: str, first: object | None, last: object | None) -> list[ds.Expression]:
    """The conditions of an inclusive span, open where an end is None."""
    field = ds.field(name)
    return [*([field >= first] if first else []), *([field <= last] if last else [])]


@contextlib.contextmanager
def writing(folder: Location) -> Iterator[None]:
    """Raise `HomeUnusable` for every failure inside except a conflict with another commit."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        folder.check_reachable()
        raise HomeUnusable(
            f"the table {folder} cannot be written: {one_line(error)}; make room, or choose another --home"
        ) from error


def sync_commit(folder: Location, version: int) -> None:
    """Make a commit and its checkpoint durable, which Delta leaves to the disk; record their checksums."""
    folder.sync(commit_files(folder, version))  # the log after the data: it names no file that is missing
    record_checksums(folder, version)


def _partitions(rows: pa.Table, columns: Sequence[str]) -> list[str]:
    """The partitions that the rows lie in, as `product_id=BTC-USD`."""
    partitions = rows.group_by(list(columns)).aggregate([]).to_pylist()
    return sorted("/".join(f"{name}={row[name]}" for name in columns) for row in partitions)
