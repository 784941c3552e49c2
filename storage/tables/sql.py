"""Read-only SQL over everything stored, by DuckDB."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa

from closecast.storage.core.candle_schema import PRICE_VIEWS, arrow_schema
from closecast.storage.core.errors import BadQuery, ClosecastError, Damaged, did_you_mean
from closecast.storage.core.home import Home
from closecast.storage.tables.delta import Table
from closecast.storage.tables.schemas import TABLES
from closecast.storage.tables.views import MADE_VIEWS, NEEDED, column_comments

if TYPE_CHECKING:
    import duckdb

    from closecast.storage.prices.price_store import Prices

# Memory alone: no file, no network, no extension, and no way to ask for them.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": "4GB",
    "lock_configuration": "true",
}
# More is for a program that reads the tables themselves, piece by piece.
MAX_BYTES = 2**30
COLUMNS = "columns"
VIEWS = (*PRICE_VIEWS, *TABLES, *MADE_VIEWS, COLUMNS)


def query(home: Home, sql: str) -> pa.Table:
    """Run one SELECT over the views of `VIEWS`, in memory, without files, network or extensions.

    Repeated column names are numbered: `day_utc`, `day_utc_1`.

    Raises:
        BadQuery: not one SELECT, DuckDB fails, or the result is larger than `MAX_BYTES`.
        Damaged: a stored table cannot be read.
    """
    import duckdb

    with contextlib.ExitStack() as opened, duckdb.connect(":memory:", config=CONFIG) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                kinds = " and ".join(statement.type.name for statement in statements[:3]) or "nothing"
                raise BadQuery(f"sql needs exactly one SELECT, not {kinds}: the tables are read-only")
            _register(connection, home, sql, opened)
            rows = _interruptible(connection, statements[0])
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise _explained(str(error)) from error
    return rows.rename_columns(_numbered(rows.column_names))


def _explained(error: str) -> ClosecastError:
    """A failure of DuckDB, or of Arrow's stream of its rows, as an error of ours."""
    line = " ".join(error.split())
    damaged = re.search(r"reading the stream registered as '(\w+)' failed: (.*)", line)
    if damaged:
        return Damaged(f"the table {damaged[1]} cannot be read: run `closecast verify` ({damaged[2]:.400})")
    unknown = re.search(r"Table with name (\S+) does not exist", line)
    if unknown is None:
        return BadQuery(f"the query fails: {line:.400}")
    hint = did_you_mean(unknown[1].lower(), VIEWS)
    return BadQuery(f"there is no view {unknown[1]:.60}{hint}; there are {', '.join(VIEWS)}")


def _interruptible(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> pa.Table:
    """The rows of a query that Ctrl-C ends: DuckDB itself notices it only when the query is done."""

    def run() -> pa.Table:
        result = connection.sql(statement)
        if result is None:
            raise BadQuery("the statement has no result: use a SELECT")
        reader = result.to_arrow_reader()
        batches: list[pa.RecordBatch] = []
        size = 0
        for batch in reader:
            size += batch.nbytes
            if size > MAX_BYTES:
                raise BadQuery(
                    f"sql needs a result of at most {MAX_BYTES // 2**20:,} MB, this one is larger:"
                    " select fewer rows or columns, or aggregate"
                )
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=reader.schema)

    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(run)
        try:
            return future.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


class _Scan:
    """A table by Arrow's protocol that is read once, when a query scans it.

    The text of a query does not show which tables it scans: `query_table('clo' || 'ses')`.
    """

    def __init__(self, schema: pa.Schema, read: Callable[[], pa.Table]) -> None:
        self._schema, self._read = schema, functools.cache(read)

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._read().__arrow_c_stream__(requested_schema)


def _register(
    connection: duckdb.DuckDBPyConnection, home: Home, sql: str, opened: contextlib.ExitStack
) -> None:
    """Name the views in the connection; only those that the query scans are opened and read."""
    named = {view for view in VIEWS if view in sql.lower()}
    named.update(*(NEEDED[view] for view in NEEDED if view in named))

    @functools.cache
    def prices() -> Prices:
        from closecast.storage.prices.price_store import Prices  # loads SQLAlchemy

        return opened.enter_context(Prices(home))

    def read_prices(view: str) -> pa.Table:
        return prices().table(view)

    if named & PRICE_VIEWS.keys():
        prices()  # so that a damaged database is not taken for an error of the query

    for view, columns in PRICE_VIEWS.items():
        connection.register(view, _Scan(arrow_schema(columns), functools.partial(read_prices, view)))
    for name, schema in TABLES.items():
        table = Table(home.table(name), schema)
        if name in named:  # of a dataset DuckDB reads only the rows and columns that it needs
            dataset = table.snapshot().dataset
            connection.register(name, schema.arrow.empty_table() if dataset is None else dataset)
        else:
            connection.register(name, _Scan(schema.arrow, table.read))
    for view, select in MADE_VIEWS.items():
        connection.execute(f"create temp view {view} as {select}")
    comments = column_comments()
    connection.register(COLUMNS, comments)


def _numbered(names: Sequence[str]) -> list[str]:
    """The names with a number on repeated ones: rows are printed and written by name."""
    unique: list[str] = []
    for name in names:
        variants = (f"{name}_{number}" if number else name for number in itertools.count())
        unique.append(next(variant for variant in variants if variant not in unique))
    return unique
