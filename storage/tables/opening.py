"""Opening Delta tables: a process reopens a table for reading only if another one has added a commit.

Opening a table takes as long as reading it, and a day reads each of its tables several times. Rows that the
process has added itself it keeps in memory: it never opens their many small files.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds

from closecast.storage.core.errors import Damaged
from closecast.storage.core.location import Location
from closecast.storage.tables.checksums import LOG

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Tables that stay open, and products of each whose files do: there are six tables in a home.
MAX_TABLES, MAX_PARTS = 16, 4
BESIDE = "closecast.tables"
PAGES = "reports"
_opened: OrderedDict[str, OpenedTable] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Part:
    """Some products' part of a table: the files that were opened, and the `rows` added since."""

    files: ds.Dataset
    rows: pa.Table | None = None

    @functools.cached_property
    def dataset(self) -> ds.Dataset:
        """All of its rows; the footers of the files are read once."""
        return self.files if self.rows is None else ds.dataset([self.files, ds.dataset(self.rows)])

    def with_rows(self, rows: pa.Table) -> Part:
        """The part after a commit that added these rows."""
        schema = self.files.schema
        rows = rows.select(schema.names).cast(schema)
        earlier = schema.empty_table() if self.rows is None else self.rows
        return Part(self.files, pa.concat_tables([earlier, rows]).combine_chunks())


Parts: TypeAlias = dict[frozenset[str] | None, Part]


@dataclass(frozen=True)
class OpenedTable:
    """A table at one version; `entry` is the log's entry of that version."""

    folder: Location
    delta: DeltaTable
    entry: bytes
    parts: Parts = field(default_factory=dict)

    def dataset(self, products: frozenset[str] | None) -> ds.Dataset:
        """The rows of these products, of all for None."""
        if products not in self.parts:
            if len(self.parts) >= MAX_PARTS:
                self.parts.clear()
            self.parts[products] = Part(as_dataset(self.delta, self.folder, products))
        return self.parts[products].dataset

    def is_newest(self) -> bool:
        """Whether no commit was added, and none replaced, as a restored backup would."""
        version = self.delta.version()
        return _entry(self.folder, version) == self.entry and not _path(self.folder, version + 1).is_file()


def opened(folder: Location) -> OpenedTable | None:
    """A Delta table as it is now, for reading alone, or None when there is none; errors as `open_table`."""
    with _lock:
        known = _opened.get(str(folder))
    with reading(folder):
        if known and known.is_newest():
            return known
    table = open_table(folder)
    return remember(folder, table) if table else None


def taken(folder: Location) -> OpenedTable | None:
    """As `opened`, for a caller that adds to it: no one else gets it until `remember`."""
    state = opened(folder)
    with _lock:
        if state is None or _opened.pop(str(folder), None) is state:
            return state
    table = open_table(folder)  # another thread took it, or opened a newer one
    return OpenedTable(folder, table, b"") if table else None


def parts_with(parts: Parts, rows: pa.Table) -> Parts:
    """The parts that are known after a commit that added these rows, and nothing else."""
    products = set(rows["product_id"].to_pylist())
    known = Parts()
    for name, part in parts.items():
        if name is None or products <= name:
            known[name] = part.with_rows(rows)
        elif products.isdisjoint(name):
            known[name] = part
    return known


def remember(folder: Location, table: DeltaTable, parts: Parts | None = None) -> OpenedTable:
    """Keep a table, and the parts of it that are known, for `opened`; the caller adds nothing more to it."""
    state = OpenedTable(folder, table, _entry(folder, table.version()), parts or {})
    with _lock:
        _opened.pop(str(folder), None)
        if state.entry:
            _opened[str(folder)] = state
        while len(_opened) > MAX_TABLES:
            _opened.popitem(last=False)
    return state


def versions_beside(folder: Location) -> dict[str, str]:
    """For a commit's metadata: the versions of the tables beside this one, as this process last had them.

    Outside of a bucket also those of tables not open here, and as `reports` how many HTML files it holds.
    Versions only rise, so a table with a lower version later was put back to an earlier state, or deleted.
    """
    with _lock:
        states = [state for state in _opened.values() if str(state.folder.parent) == str(folder.parent)]
    versions = {state.folder.name: state.delta.version() for state in states}
    for name in {*folder.names_beside("")} - versions.keys():
        logged = (entry.removesuffix(".json") for entry in folder.names_beside(f"{name}/{LOG}"))
        versions[name] = max((int(number) for number in logged if number.isdecimal()), default=-1)
    versions[PAGES] = sum(name.endswith(".html") for name in folder.names_beside(PAGES)) or -1
    others = sorted((name, version) for name, version in versions.items() if name != folder.name)
    return {BESIDE: " ".join(f"{name}@{version}" for name, version in others if version >= 0)}


def read_versions(metadata: Mapping[str, object]) -> dict[str, int]:
    """The versions by name that `versions_beside` put into a commit's metadata."""
    pairs = (one.rpartition("@") for one in str(metadata.get(BESIDE, "")).split())
    return {name: int(version) for name, _, version in pairs}


def _path(folder: Location, version: int) -> Location:
    return folder / LOG / f"{version:020d}.json"


def _entry(folder: Location, version: int) -> bytes:
    """The log's entry of a version; empty if a clean-up has removed it."""
    try:
        return _path(folder, version).read_bytes()
    except FileNotFoundError:
        return b""


def open_table(folder: Location) -> DeltaTable | None:
    """A Delta table as it is now, or None when there is none; `Damaged` if it cannot be read."""
    try:
        if not (folder / LOG).is_dir():
            return None
        (folder / LOG).check_regular()
    except OSError as error:
        raise _unreadable(folder, error) from error
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    with reading(folder):
        try:
            return DeltaTable(str(folder), storage_options=folder.storage_options)
        except TableNotFoundError:  # a first run was killed before its first commit
            return None


def data_files(folder: Location, table: DeltaTable) -> list[Location]:
    """The data files of a table's state; `Damaged` if its log names one outside of the folder."""
    try:
        return [folder.located(uri) for uri in table.file_uris()]
    except ValueError as error:
        raise Damaged(
            f"the table {folder} names {error}, which is not in it: restore it from a backup"
        ) from error


def check_data_files(folder: Location, table: DeltaTable) -> None:
    """Raise `Damaged` for a data file that is outside of the folder, or that would be waited for."""
    for path in data_files(folder, table):
        path.check_regular()


def as_dataset(table: DeltaTable, folder: Location, products: Iterable[str] | None = None) -> ds.Dataset:
    """The table's files as a PyArrow dataset; only the named products' files are opened."""
    check_data_files(folder, table)
    partitions: Any = None if products is None else [("product_id", "in", sorted(products))]
    filesystem = folder.arrow_filesystem()
    return table.to_pyarrow_dataset(filesystem=filesystem, file_pruning_predicate=partitions)


@contextlib.contextmanager
def reading(folder: Location) -> Iterator[None]:
    """Raise `Damaged` for every failure inside, unless the server cannot be reached."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:  # a null if none may be
        folder.check_reachable()
        raise _unreadable(folder, error) from error


def _unreadable(folder: Location, error: Exception) -> Damaged:
    reason = one_line(error)
    remedy = "correct its rights" if "Permission denied" in reason else "restore it from a backup"
    return Damaged(f"the table {folder} cannot be read: {remedy} ({reason})")


def one_line(error: Exception) -> str:
    """An error's text for a message, without Delta's colours, backtraces and structures."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return re.split(r" 0: <unknown>|: ParsedLogPath", text)[0][:300]
