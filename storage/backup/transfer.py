"""Both databases as SQLite files, whichever engine they are on, and their rows loaded into a server."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from closecast.storage.core.errors import HomeUnusable
from closecast.storage.core.files import absolute_path, check_regular, open_file
from closecast.storage.core.home import Home
from closecast.storage.models.mlflow_database import registry_client
from closecast.storage.prices.database import Database
from closecast.storage.prices.engine import database_engine
from closecast.storage.prices.engine_base import one_line
from closecast.storage.prices.schema import CANDLES, DATA_VERSIONS, PAGES, PRICE_DECISIONS, QUARANTINE, SERIES

PIECE = 2_000
NOT_EMPTY = "an empty database is needed, but there are prices or models in it: name another"
PRICES = (SERIES, CANDLES, PAGES, QUARANTINE, PRICE_DECISIONS, DATA_VERSIONS)
NUMBERED = (SERIES, CANDLES, QUARANTINE, PRICE_DECISIONS)


def sqlite_home(folder: Path) -> Home:
    """A home whose databases are SQLite files of that folder, whatever the variables are."""
    url = sa.URL.create("sqlite", database=str(absolute_path(folder / "prices.db")))
    return Home(folder, url.render_as_string(hide_password=False))


def dump_prices(home: Home, folder: Path) -> Path | None:
    """Copy the price database, one state of it, to `prices.db` of a folder; None if there is none."""
    file = database_engine(home).file
    if file is not None:
        return _copy_file(file, folder / "prices.db")
    with _prices(home, sqlite_home(folder)) as (rows, to):
        _copy(rows, to, PRICES)
    return folder / "prices.db"


def load_prices(folder: Path, home: Home) -> None:
    """Insert the rows of `prices.db` of a folder into the home's server, all of them or none."""
    with _prices(sqlite_home(folder), home) as (rows, to):
        if not _is_loaded(rows, to, PRICES):
            _copy(rows, to, PRICES)
            for table in NUMBERED:
                database_engine(home).continue_numbering(to, table.name, "seq")


def dump_registry(home: Home, folder: Path) -> Path | None:
    """Copy the model registry, one state of it, to `mlflow.db` of a folder; None if there is none."""
    engine = database_engine(home)
    if engine.file is not None:
        return _copy_file(home.registry, folder / "mlflow.db")
    if not engine.registry_exists():
        return None
    copy = sqlite_home(folder).prepare()
    registry_client(copy)
    with _registry(home) as rows, _registry(copy) as to:
        _copy_registry(rows, to)
    return copy.registry


def load_registry(folder: Path, home: Home) -> None:
    """Insert the rows of `mlflow.db` of a folder into the home's server, all of them or none."""
    registry_client(home)
    engine = database_engine(home)
    with _registry(sqlite_home(folder)) as rows, _registry(home) as to:
        if _is_loaded(rows, to, [_mlflow()["model_versions"]]):
            return
        _copy_registry(rows, to)
        for table in _mlflow().values():
            for column in table.primary_key.columns:
                if isinstance(column.type, sa.Integer) and column.autoincrement:
                    engine.continue_numbering(to, table.name, column.name)


def require_empty_databases(home: Home) -> None:
    """Raise `HomeUnusable` if the home's server has a row of prices, or a model version."""
    with Database(home) as database, database.read() as connection:
        counts = _counts(connection, PRICES)
    if database_engine(home).registry_exists():
        with _registry(home) as connection:
            counts += _counts(connection, [_mlflow()["model_versions"]])
    if any(counts):
        raise HomeUnusable(NOT_EMPTY)


def _copy_file(path: Path, copy: Path) -> Path | None:
    """SQLite's own copy of a database that others write to."""
    check_regular(path)
    if not path.is_file():
        return None
    open_file(path).close()  # SQLite does not name the file that it cannot open
    with (
        contextlib.closing(sqlite3.connect(path)) as live,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        live.execute("PRAGMA busy_timeout = 30000")
        live.backup(target)
    return copy


def _copy_registry(rows: sa.Connection, to: sa.Connection) -> None:
    for table in reversed(_mlflow().values()):  # MLflow fills some in a fresh registry
        to.execute(sa.delete(table))
    _copy(rows, to, _mlflow().values())


def _mlflow() -> dict[str, sa.Table]:
    """MLflow's tables by name, each after those that it refers to."""
    import mlflow.store.model_registry.dbmodels.models
    import mlflow.store.tracking.dbmodels.models  # noqa: F401 (both register tables with the metadata)
    from mlflow.store.db.base_sql_model import Base

    return {table.name: table for table in Base.metadata.sorted_tables}


def _copy(rows: sa.Connection, to: sa.Connection, tables: Iterable[sa.TableClause]) -> None:
    for table in tables:
        result = rows.execution_options(stream_results=True).execute(sa.select(table)).mappings()
        for piece in result.partitions(PIECE):
            to.execute(sa.insert(table), [dict(row) for row in piece])


def _is_loaded(rows: sa.Connection, to: sa.Connection, tables: Sequence[sa.TableClause]) -> bool:
    """Whether an interrupted restore has filled the tables; `HomeUnusable` if they hold other rows."""
    present = _counts(to, tables)
    if any(present) and present != _counts(rows, tables):
        raise HomeUnusable(NOT_EMPTY)
    return any(present)


def _counts(connection: sa.Connection, tables: Iterable[sa.TableClause]) -> list[int]:
    queries = (sa.select(sa.func.count()).select_from(table) for table in tables)
    return [connection.scalars(query).one() for query in queries]


@contextlib.contextmanager
def _prices(source: Home, target: Home) -> Iterator[tuple[sa.Connection, sa.Connection]]:
    """A transaction that reads one price database, and one that writes to the other."""
    with Database(source) as old, Database(target) as new, old.read() as rows, new.write() as to:
        yield rows, to


@contextlib.contextmanager
def _registry(home: Home) -> Iterator[sa.Connection]:
    """A transaction on the registry, which exists, that sees one state of it."""
    engine = database_engine(home)
    connections = sa.create_engine(engine.registry_url(lambda _: None), isolation_level="SERIALIZABLE")
    try:
        with connections.begin() as connection:
            yield connection
    except exc.DBAPIError as error:
        raise HomeUnusable(
            f"the registry {engine.registry_address} cannot be copied: {one_line(error.orig)}"
        ) from error
    finally:
        connections.dispose()
