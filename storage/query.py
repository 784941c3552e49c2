"""Read-only SQL over everything stored, answered by DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from storage.errors import BadQuery
from storage.home import Home
from storage.predictions import PREDICTIONS, SCORES, open_dataset
from storage.prices import Prices

if TYPE_CHECKING:
    import duckdb

VIEWS = ("closes", "candles", "predictions", "scores")


def query(home: Home, sql: str) -> pa.Table:
    """Answer one SELECT over the views `closes`, `candles`, `predictions` and `scores`.

    The connection lives in memory and sees nothing but these four: no file, no network, no extension.

    Raises:
        BadQuery: not one SELECT, or DuckDB cannot answer it.
    """
    import duckdb

    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise BadQuery(
                    f"sql needs exactly one SELECT, got {_kinds(statements)}: the tables are read-only"
                )
            _register(connection, home, sql)
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            return connection.execute(statements[0]).to_arrow_table()
        except duckdb.Error as error:
            raise BadQuery(f"the query cannot be answered: {' '.join(str(error).split())[:400]}") from error


def _kinds(statements: list[duckdb.Statement]) -> str:
    return " and ".join(statement.type.name for statement in statements[:3]) or "nothing"


def _register(connection: duckdb.DuckDBPyConnection, home: Home, sql: str) -> None:
    """Make the views that the query's text speaks of: reading all candles for the others would be waste."""
    spoken = sql.lower()
    with Prices(home) as prices:
        for name in ("closes", "candles"):
            if name in spoken:
                connection.register(name, prices.table(name))
    for name, folder, schema in (
        ("predictions", home.predictions, PREDICTIONS),
        ("scores", home.scores, SCORES),
    ):
        dataset = open_dataset(folder)
        connection.register(name, schema.empty_table() if dataset is None else dataset)
