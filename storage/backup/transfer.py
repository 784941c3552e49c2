"""The rows of both databases from one engine to the other; a backup holds SQLite files in any case."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import exc

from storage.core.errors import HomeUnusable
from storage.core.home import Home
from storage.models.mlflow_database import registry_client, registry_exists
from storage.models.mlflow_postgresql import registry_address
from storage.prices.database import Database, database_address, make_engine, shown
from storage.prices.queries import CANDLES, DATA_VERSIONS, PAGES, QUARANTINE, SERIES

if TYPE_CHECKING:
    from sqlalchemy.sql import FromClause

PIECE = 2_000
PRICES = (SERIES, CANDLES, PAGES, QUARANTINE, DATA_VERSIONS)
NUMBERED = (SERIES, CANDLES, QUARANTINE)
# What registers MLflow's tables with its metadata.
MODULES = ("mlflow.store.tracking.dbmodels.models", "mlflow.store.model_registry.dbmodels.models")


def sqlite_home(folder: Path) -> Home:
    """A home whose databases are SQLite files of that folder, whatever the variables say."""
    url = sa.URL.create("sqlite", database=str(folder / "prices.db"))
    return Home(folder, url.render_as_string(hide_password=False))


def dump_prices(home: Home, folder: Path) -> Path:
    """The price database as it is at one moment, as `prices.db` of a folder."""
    with (
        contextlib.closing(Database(home)) as source,
        contextlib.closing(Database(sqlite_home(folder))) as target,
        source.read() as rows,
        target.write() as to,
    ):
        for table in PRICES:
            _copy(rows, to, table)
    return folder / "prices.db"


def load_prices(folder: Path, home: Home) -> None:
    """Put the rows of `prices.db` of a folder into the home's database, all of them or none.

    Raises:
        HomeUnusable: the database holds other rows, or cannot be written.
    """
    with (
        contextlib.closing(Database(sqlite_home(folder))) as source,
        contextlib.closing(Database(home)) as target,
        source.read() as rows,
        target.write() as to,
    ):
        there = [_count(to, table) for table in PRICES]
        if any(there):
            if there == [_count(rows, table) for table in PRICES]:
                return  # a restore was cut short after this
            raise HomeUnusable(f"an empty database is needed, but there are prices in {_where(home)}")
        for table in PRICES:
            _copy(rows, to, table)
        for table in NUMBERED:
            _count_on(to, table.name, "seq")


def holds_prices(home: Home) -> bool:
    """Whether the home's database holds any row."""
    with contextlib.closing(Database(home)) as database, database.read() as connection:
        return any(_count(connection, table) for table in PRICES)


def dump_registry(home: Home, folder: Path) -> Path:
    """The registry in PostgreSQL as it is at one moment, as `mlflow.db` of a folder."""
    copy = Home(folder, sqlite_home(folder).database_url).prepare()
    registry_client(copy)
    with _registry(home) as rows, _begun(sa.create_engine(copy.mlflow_url)) as to:
        _copy_registry(rows, to)
    return copy.registry


def load_registry(folder: Path, home: Home) -> None:
    """Put the rows of `mlflow.db` of a folder into the registry in PostgreSQL, all of them or none.

    Raises:
        HomeUnusable: models are registered there already.
    """
    registry_client(home)
    with _begun(sa.create_engine(f"sqlite:///{folder / 'mlflow.db'}")) as rows, _registry(home) as to:
        versions = _mlflow()["model_versions"]
        there, come = _count(to, versions), _count(rows, versions)
        if there == come and there:
            return  # a restore was cut short after this
        if there:
            raise HomeUnusable(f"an empty registry is needed, but there are models in {_where(home)}")
        _copy_registry(rows, to)
        for table in _mlflow().values():
            for column in table.primary_key.columns:
                if isinstance(column.type, sa.Integer) and column.autoincrement:
                    _count_on(to, table.name, column.name)


def holds_models(home: Home) -> bool:
    """Whether a model version is registered in PostgreSQL."""
    if not registry_exists(home):
        return False
    with _registry(home) as connection:
        return _count(connection, _mlflow()["model_versions"]) > 0


def _copy_registry(rows: sa.Connection, to: sa.Connection) -> None:
    tables = _mlflow()
    for table in reversed(tables.values()):  # what MLflow puts into a fresh one
        to.execute(sa.delete(table))
    for table in tables.values():
        _copy(rows, to, table)


def _mlflow() -> dict[str, sa.Table]:
    """MLflow's tables by their names, each after those that it refers to."""
    for module in MODULES:
        importlib.import_module(module)
    from mlflow.store.db.base_sql_model import Base

    return {table.name: table for table in Base.metadata.sorted_tables}


def _copy(rows: sa.Connection, to: sa.Connection, table: sa.TableClause | sa.Table) -> None:
    insert = sa.insert(table)
    text: str | None = None
    if to.dialect.name == "postgresql" and table.name in [one.name for one in NUMBERED]:
        # The numbers are those of the rows, for data versions name them.
        text = str(insert.compile(dialect=to.dialect)).replace(
            " VALUES ", " OVERRIDING SYSTEM VALUE VALUES ", 1
        )
    found = rows.execution_options(stream_results=True).execute(sa.select(table)).mappings()
    for piece in found.partitions(PIECE):
        values = [dict(row) for row in piece]
        if text is None:
            to.execute(insert, values)
        else:
            to.exec_driver_sql(text, values)


def _count_on(to: sa.Connection, table: str, column: str) -> None:
    """Let the next number of PostgreSQL's follow the highest one that came."""
    serial = to.scalar(
        sa.text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table, "column": column}
    )
    if serial:
        highest = to.scalar(
            sa.select(sa.func.max(sa.column(column, sa.Integer))).select_from(sa.table(table))
        )
        if highest:
            to.execute(sa.text("SELECT setval(:serial, :highest)"), {"serial": serial, "highest": highest})


def _count(connection: sa.Connection, table: FromClause) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


@contextlib.contextmanager
def _registry(home: Home) -> Iterator[sa.Connection]:
    def make(_: str) -> None:
        raise AssertionError("the registry is there")

    url = sa.make_url(registry_address(home, make=make))
    with _begun(make_engine(url, isolation_level="REPEATABLE READ")) as connection:
        yield connection


@contextlib.contextmanager
def _begun(engine: sa.Engine) -> Iterator[sa.Connection]:
    try:
        with engine.begin() as connection:
            yield connection
    except exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise HomeUnusable(f"the registry {shown(engine.url)} cannot be copied: {reason}") from error
    finally:
        engine.dispose()


def _where(home: Home) -> str:
    return shown(database_address(home))
