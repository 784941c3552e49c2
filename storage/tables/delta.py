"""Append-only Delta tables: what is there is never changed, and no key comes twice."""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from storage.core.errors import Damaged, HomeBusy, HomeUnusable
from storage.core.files import check_no_links, fsync_folder
from storage.core.s3_path import DELTA_OPTIONS, Location, S3Path
from storage.tables.checksums import added_files, record_checksums
from storage.tables.checksums_s3 import record_commits

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS = 20
KEPT_DAYS = 30
# Without it a checkpoint forgets after a week which files a compaction took out, and a vacuum of all that
# the log does not name would delete them by their own, greater age.
KEEPING = {"delta.deletedFileRetentionDuration": f"interval {KEPT_DAYS} days"}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class State:
    """A table, or some products' part of it, as it was at one moment.

    Its dataset is made once, for it takes as long as all the rest.
    """

    delta: DeltaTable
    dataset: ds.Dataset
    products: frozenset[str] | None


class Table:
    """An append-only Delta table in a folder or prefix of its own, which need not be there yet.

    `key` names the columns that tell its rows apart; they are never null. The columns of
    `partition_by`, texts all of them, belong to it, so that adding reads the partitions concerned alone.
    Nor are those of `near` ever null, and a key never comes with two values of them: adding looks for
    its keys no further than there. Name a day, which rises with the rows.
    """

    def __init__(
        self,
        folder: Location,
        schema: pa.Schema,
        *,
        name: str,
        key: Sequence[str],
        partition_by: Sequence[str] = ("product_id",),
        near: Sequence[str] = (),
    ) -> None:
        self.folder, self.schema = folder, schema
        self.name, self.key, self.partition_by = name, tuple(key), tuple(partition_by)
        self.near = tuple(near)
        self.products: frozenset[str] | None = None

    def of_products(self, *products: str | None) -> Table:
        """These products' part of the table, all of it for None: what of it is read costs what they cost.

        To open a table takes 0.7 ms for each of its files, of which every product has some.
        """
        part = copy.copy(self)
        part.products = None if None in products else frozenset(map(str, products))
        return part

    def dataset(self) -> ds.Dataset | None:
        """The table as a PyArrow dataset, or None before its first row."""
        state = self.snapshot()
        return None if state is None else state.dataset

    def read(self, wanted: ds.Expression | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that match, typed as in the schema, with no row when there is no table yet.

        Args:
            wanted: a test of each row; None for all of them.
            columns: those asked for, in that order; None for all, in the schema's order.

        Raises:
            Damaged: there is a table that cannot be read.
        """
        return self.look(self.snapshot(), wanted, columns)

    def add(self, rows: Sequence[Mapping[str, object]] | pa.Table) -> int:
        """Add the rows whose key is not there yet; the others are left as they are.

        Returns:
            How many were added.

        Raises:
            ValueError: what `given` refuses.
            HomeUnusable: the table cannot be written.
            HomeBusy: others write to it all the time.
            Damaged: there is a table that cannot be read.
        """
        given = self.given(rows)
        return self.attempt(self._add_once, given) if given.num_rows else 0

    def _add_once(self, given: pa.Table) -> int:
        return self.insert(self.of_rows(given).begin(), given)

    def of_rows(self, rows: pa.Table) -> Table:
        """The part of the table that these rows belong to."""
        return self.of_products(*rows[self.partition_by[0]].unique().to_pylist())

    def given(self, rows: Sequence[Mapping[str, object]] | pa.Table) -> pa.Table:
        """The rows as an Arrow table of the schema.

        Raises:
            ValueError: a column that the table does not have, no value where there has to be one, or a
                key that comes twice.
        """
        names = rows.column_names if isinstance(rows, pa.Table) else [name for row in rows for name in row]
        if foreign := sorted(set(names).difference(self.schema.names)):
            raise ValueError(f"{self.name} has no column {', '.join(foreign)}: leave it out")
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)
        for field in self.schema:
            if field.name not in rows.column_names or (rows[field.name].null_count and not field.nullable):
                raise ValueError(f"each row of {self.name} needs its {field.name}: give it")
        table = rows.select(self.schema.names).cast(self.schema)
        if len(set(self._keys(table))) < table.num_rows:
            raise ValueError(f"rows of {self.name} need one {', '.join(self.key)} each: one came twice")
        return table

    def attempt(self, once: Callable[..., Answer], *args: object) -> Answer:
        """As `attempt` of this module, on this table."""
        return attempt(self.folder, once, *args)

    def begin(self) -> State:
        """The table as it is now, made when there is none: what `look` reads and `insert` writes after.

        Raises:
            HomeUnusable: a partition is a link.
        """
        if isinstance(self.folder, Path):
            check_no_links(*(self.folder.iterdir() if self.folder.is_dir() else ()))
        return self._state(open_table(self.folder) or self._made())

    def snapshot(self) -> State | None:
        """The table as it is now, for more than one `look`; None before its first row."""
        delta = open_table(self.folder)
        return None if delta is None else self._state(delta)

    def _state(self, delta: DeltaTable) -> State:
        only = None if self.products is None else [(self.partition_by[0], "in", sorted(self.products))]
        with reading(self.folder):
            return State(delta, as_dataset(delta, self.folder, only), self.products)

    def _made(self) -> DeltaTable:
        from deltalake import DeltaTable

        with writing(self.folder):
            delta = DeltaTable.create(
                str(self.folder),
                self.schema,
                mode="ignore",
                partition_by=list(self.partition_by),
                name=self.name,
                configuration=KEEPING,
                storage_options=storage_options(self.folder),
            )
            _sync(self.folder, delta)
        return delta

    def look(
        self, state: State | None, wanted: ds.Expression | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """As `read`, of the table as it was when `state` was taken."""
        if state is None:
            return self._typed(columns).empty_table()
        return self._rows(state.dataset, wanted, columns)

    def insert(self, state: State, rows: pa.Table) -> int:
        """Add those of the rows whose key is not in `state`, durably; returns how many.

        Each commit stands in the name of its partitions, as an application transaction of Delta: one
        since `state` in the name of the same partition makes this one fail with `CommitFailedError`,
        which `attempt` waits for. A merge would do the same, but Delta 1.6 writes its texts as string
        views, which PyArrow cannot filter.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake

        theirs = rows[self.partition_by[0]].to_pylist()
        if state.products is not None and not state.products.issuperset(theirs):
            raise ValueError(f"rows of {self.name} were looked for among other products: begin with theirs")
        near = all_of(*(ds.field(name).isin(rows[name].unique()) for name in (*self.key, *self.near)))
        there = set(self._keys(self.look(state, near, self.key)))
        new = rows.filter(pa.array([key not in there for key in self._keys(rows)], pa.bool_()))
        if not new.num_rows:
            return 0
        version = state.delta.version() + 1
        names = [Transaction(name, version) for name in _partitions(new, self.partition_by)]
        with writing(self.folder):
            in_their_names = CommitProperties(app_transactions=names)
            write_deltalake(state.delta, new, mode="append", commit_properties=in_their_names)
            _sync(self.folder, state.delta)
        return int(new.num_rows)

    def _rows(
        self, dataset: ds.Dataset, wanted: ds.Expression | None, columns: Sequence[str] | None
    ) -> pa.Table:
        schema = self._typed(columns)
        with reading(self.folder):
            return dataset.to_table(schema.names, wanted).cast(schema)

    def _typed(self, columns: Sequence[str] | None) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])

    def _keys(self, rows: pa.Table) -> Iterator[tuple[Any, ...]]:
        return zip(*(rows[name].to_pylist() for name in self.key), strict=True)


def attempt(folder: Location, once: Callable[..., Answer], *args: object) -> Answer:
    """Call `once`, again when somebody else's commit came between: it looks again and writes again.

    Raises:
        HomeBusy: others write to the table in `folder` all the time.
    """
    from deltalake.exceptions import CommitFailedError

    again = Retrying(
        retry=retry_if_exception_type(CommitFailedError),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        return again(once, *args)
    except CommitFailedError as error:
        raise HomeBusy(
            f"other runs wrote to {folder} each of the {ATTEMPTS} times that this one tried:"
            " try again when they are done"
        ) from error


def open_dataset(folder: Location) -> ds.Dataset | None:
    """A Delta table as a PyArrow dataset, or None when there is none.

    Raises:
        Damaged: there is one that cannot be read.
    """
    table = open_table(folder)
    if table is None:
        return None
    with reading(folder):
        return as_dataset(table, folder)


def as_dataset(table: DeltaTable, folder: Location, only: list[Any] | None = None) -> ds.Dataset:
    """The table's files as a PyArrow dataset.

    Of a folder they are read by Arrow itself: the file system that deltalake brings is written in Python, and
    a thread of Arrow's that still holds it when the interpreter ends aborts the process.

    Args:
        table: opened.
        folder: where it is.
        only: Delta's filters on partitions, so that others are not opened.

    Raises:
        Damaged: its log names a file outside of it.
    """
    from pyarrow import fs

    local = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()) if isinstance(folder, Path) else None
    found = table.to_pyarrow_dataset(filesystem=local, file_pruning_predicate=only)
    if out := [file for file in found.files if "/../" in f"/{file}"]:
        raise Damaged(f"the table {folder} names {out[0]}, which is not in it: restore it from a backup")
    return found


def all_of(*tests: ds.Expression) -> ds.Expression | None:
    """The tests joined by "and"; None, which every row passes, when there is none."""
    return functools.reduce(operator.and_, tests) if tests else None


def among(name: str, values: Iterable[object]) -> ds.Expression:
    """Whether a column holds one of the values."""
    return ds.field(name).isin(pa.array(list(values)))


@contextlib.contextmanager
def reading(folder: Location) -> Iterator[None]:
    """Say of what goes wrong inside that the table is damaged."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:  # a null where none may be
        _still_there(folder)
        raise Damaged(
            f"the table {folder} cannot be read: restore it from a backup ({_line(error)})"
        ) from error


@contextlib.contextmanager
def writing(folder: Location) -> Iterator[None]:
    """Say of what goes wrong inside that the home is unusable, but for a commit that came between."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        _still_there(folder)
        raise HomeUnusable(
            f"the table {folder} cannot be written: {_line(error)}; make room, or choose another --home"
        ) from error


def _still_there(folder: Location) -> None:
    """Of a bucket that cannot be reached, say that: nothing is damaged."""
    if isinstance(folder, S3Path):
        folder.is_dir()


def storage_options(folder: Location) -> dict[str, str] | None:
    """What Delta is told of a table's place."""
    return dict(DELTA_OPTIONS) if isinstance(folder, S3Path) else None


def open_table(folder: Location) -> DeltaTable | None:
    """A Delta table as it is now, or None when there is none.

    Raises:
        Damaged: there is one that cannot be read.
    """
    if isinstance(folder, Path) and not (folder / "_delta_log").is_dir():
        return None
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    with reading(folder):
        try:
            return DeltaTable(str(folder), storage_options=storage_options(folder))
        except TableNotFoundError:  # a first run was killed before its first commit
            return None


def _sync(folder: Location, table: DeltaTable) -> None:
    """Make the newest commit durable."""
    sync_commit(folder, table.version())


def sync_commit(folder: Location, version: int) -> None:
    """Make a commit and its checkpoint durable, which Delta leaves to the disk; record their sums.

    A bucket answers when what it took is durable.
    """
    if isinstance(folder, S3Path):
        record_commits(folder, version)
        return
    log = folder / "_delta_log"
    entry, checkpoint = log / f"{version:020d}.json", log / f"{version:020d}.checkpoint.parquet"
    added = added_files(folder, entry)
    marks = [checkpoint, log / "_last_checkpoint"] if checkpoint.is_file() else []
    for path in [*added, entry, *marks]:  # the log later: it must not name a file that is not there
        with path.open("rb") as written:
            os.fsync(written.fileno())
        fsync_folder(path.parent)
    fsync_folder(folder)
    record_checksums(folder)


def _partitions(rows: pa.Table, columns: Sequence[str]) -> list[str]:
    """The partitions that the rows lie in, as `product_id=BTC-USD`."""
    found = rows.group_by(list(columns)).aggregate([]).to_pylist()
    return sorted("/".join(f"{name}={row[name]}" for name in columns) for row in found)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
