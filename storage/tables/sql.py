"""Read-only SQL over everything stored, answered by DuckDB."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa

from storage.core.candle_schema import FIGURES
from storage.core.errors import BadQuery
from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.tables.delta import open_dataset
from storage.tables.predictions import PREDICTIONS
from storage.tables.schemas import BACKTESTS, CALIBRATOR, COMPONENTS
from storage.tables.scores import SCORES

if TYPE_CHECKING:
    import duckdb

VIEWS = ("closes", "candles", "quarantine", "predictions", "scores", "components", "calibrator", "backtests")
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
# More than this is for a program that reads the tables themselves, a piece at a time.
MAX_BYTES = 2**30
_KINDS = {
    "seq": pa.int64(),
    "day_utc": pa.date32(),
    "observed_at": pa.timestamp("us", tz="UTC"),
    **dict.fromkeys(FIGURES, pa.float64()),
}


def _schema(names: str) -> pa.Schema:
    return pa.schema([(name, _KINDS.get(name, pa.string())) for name in names.split()])


# What `Prices.table` returns, known without reading it.
CANDLES = _schema("seq product_id day_utc open high low close volume source observed_at payload_sha256")
CLOSES = _schema("product_id day_utc open high low close volume seq source observed_at")
QUARANTINE_SCHEMA = _schema("seq product_id day_utc raw reason source observed_at payload_sha256")


def query(home: Home, sql: str) -> pa.Table:
    """Answer one SELECT over the views of `VIEWS`: the prices, and every table of forecasts and beside them.

    The connection lives in memory and sees nothing but these: no file, no network, no extension.

    Returns:
        A column whose name comes again is numbered: `day_utc`, `day_utc_1`.

    Raises:
        BadQuery: not one SELECT, DuckDB cannot answer it, or the answer is larger than `MAX_BYTES`.
    """
    import duckdb

    with Prices(home) as prices, duckdb.connect(":memory:", config=CONFIG) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise BadQuery(
                    f"sql needs exactly one SELECT, got {_kinds(statements)}: the tables are read-only"
                )
            _register(connection, home, prices)
            rows = _interruptible(connection, statements[0])
        except duckdb.Error as error:
            raise BadQuery(f"the query cannot be answered: {' '.join(str(error).split())[:400]}") from error
    return rows.rename_columns(_told_apart(rows.column_names))


def _interruptible(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> pa.Table:
    """The rows of a query that Ctrl-C ends: DuckDB itself looks for it only when a query is done."""

    def ask() -> pa.Table:
        answer = connection.sql(statement)
        if answer is None:
            raise BadQuery("the query gives no rows, not even none: ask with a SELECT")
        reader = answer.to_arrow_reader()
        batches: list[pa.RecordBatch] = []
        size = 0
        for batch in reader:
            size += batch.nbytes
            if size > MAX_BYTES:
                raise BadQuery(
                    f"sql needs an answer of at most {MAX_BYTES // 2**20:,} MB, this one has more:"
                    " ask for fewer rows or columns, or for a sum"
                )
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=reader.schema)

    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(ask)
        try:
            return asked.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


class _Scan:
    """A table by Arrow's protocol that is read when a query scans it, once, and not before.

    What a query scans cannot be seen in its text: `query_table('clo' || 'ses')`.
    """

    def __init__(self, schema: pa.Schema, read: Callable[[], pa.Table]) -> None:
        self._schema, self._read = schema, functools.cache(read)

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._read().__arrow_c_stream__(requested_schema)


def _register(connection: duckdb.DuckDBPyConnection, home: Home, prices: Prices) -> None:
    connection.register("closes", _Scan(CLOSES, lambda: prices.table("closes")))
    connection.register("candles", _Scan(CANDLES, lambda: prices.table("candles")))
    connection.register("quarantine", _Scan(QUARANTINE_SCHEMA, lambda: prices.table("quarantine")))
    for name, folder, schema in (
        ("predictions", home.predictions, PREDICTIONS),
        ("scores", home.scores, SCORES),
        ("components", home.components, COMPONENTS),
        ("calibrator", home.calibrator, CALIBRATOR),
        ("backtests", home.backtests, BACKTESTS),
    ):
        dataset = open_dataset(folder)
        connection.register(name, schema.empty_table() if dataset is None else dataset)


def _kinds(statements: list[duckdb.Statement]) -> str:
    return " and ".join(statement.type.name for statement in statements[:3]) or "nothing"


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, none of them twice: rows are printed and written by name."""
    found: list[str] = []
    for name in names:
        number, free = 0, name
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found.append(free)
    return found
