"""Both databases as SQLite files, whichever engine they are on, and their rows back into a server."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from storage.core.errors import HomeUnusable
from storage.core.home import Home
from storage.models.mlflow_database import registry_client, registry_exists
from storage.prices.database import Database
from storage.prices.engine import database_engine
from storage.prices.engine_base import one_line
from storage.prices.schema import CANDLES, DATA_VERSIONS, PAGES, QUARANTINE, SERIES

PIECE = 2_000
PRICES = (SERIES, CANDLES, PAGES, QUARANTINE, DATA_VERSIONS)
NUMBERED = (SERIES, CANDLES, QUARANTINE)


def sqlite_home(folder: Path) -> Home:
    """A home whose databases are SQLite files of that folder, whatever the variables are."""
    url = sa.URL.create("sqlite", database=str(folder / "prices.db"))
    return Home(folder, url.render_as_string(hide_password=False))


def dump_prices(home: Home, folder: Path) -> Path | None:
    """Copy the price database, one state of it, to `prices.db` of a folder; None where there is none."""
    file = database_engine(home).file
    if file is not None:
        return _copy_file(file, folder / "prices.db")
    with (
        Database(home) as source,
        Database(sqlite_home(folder)) as target,
        source.read() as rows,
        target.write() as to,
    ):
        for table in PRICES:
            _copy(rows, to, table)
    return folder / "prices.db"


def load_prices(folder: Path, home: Home) -> None:
    """Insert the rows of `prices.db` of a folder into the home's server, all of them or none.

    Raises:
        HomeUnusable: the database holds other rows, or cannot be written.
    """
    with (
        Database(sqlite_home(folder)) as source,
        Database(home) as target,
        source.read() as rows,
        target.write() as to,
    ):
        counts = [_count(to, table) for table in PRICES]
        if any(counts):
            if counts == [_count(rows, table) for table in PRICES]:
                return  # a restore was interrupted after this
            raise HomeUnusable(
                f"an empty database is needed, but there are prices in {target.engine.address}"
            )
        for table in PRICES:
            _copy(rows, to, table)
        for table in NUMBERED:
            target.engine.continue_numbering(to, table.name, "seq")


def holds_prices(home: Home) -> bool:
    """Whether the home's database holds any row."""
    with Database(home) as database, database.read() as connection:
        return any(_count(connection, table) for table in PRICES)


def dump_registry(home: Home, folder: Path) -> Path | None:
    """Copy the model registry, one state of it, to `mlflow.db` of a folder; None where there is none."""
    if database_engine(home).file is not None:
        return _copy_file(home.registry, folder / "mlflow.db")
    if not registry_exists(home):
        return None
    copy = sqlite_home(folder).prepare()
    registry_client(copy)
    with _registry(home) as rows, _registry(copy) as to:
        _copy_registry(rows, to)
    return copy.registry


def load_registry(folder: Path, home: Home) -> None:
    """Insert the rows of `mlflow.db` of a folder into the home's server, all of them or none.

    Raises:
        HomeUnusable: models are registered there already.
    """
    registry_client(home)
    engine = database_engine(home)
    with _registry(sqlite_home(folder)) as rows, _registry(home) as to:
        versions = _mlflow()["model_versions"]
        present, wanted = _count(to, versions), _count(rows, versions)
        if present == wanted and present:
            return  # a restore was interrupted after this
        if present:
            raise HomeUnusable(
                f"an empty registry is needed, but there are models in {engine.registry_address}"
            )
        _copy_registry(rows, to)
        for table in _mlflow().values():
            for column in table.primary_key.columns:
                if isinstance(column.type, sa.Integer) and column.autoincrement:
                    engine.continue_numbering(to, table.name, column.name)


def holds_models(home: Home) -> bool:
    """Whether a model version is registered."""
    if not registry_exists(home):
        return False
    with _registry(home) as connection:
        return _count(connection, _mlflow()["model_versions"]) > 0


def _copy_file(path: Path, copy: Path) -> Path | None:
    """SQLite's own copy of a database that others write to."""
    if not path.is_file():
        return None
    with (
        contextlib.closing(sqlite3.connect(path)) as live,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        live.execute("PRAGMA busy_timeout = 30000")
        live.backup(target)
    return copy


def _copy_registry(rows: sa.Connection, to: sa.Connection) -> None:
    tables = _mlflow()
    for table in reversed(tables.values()):  # MLflow fills some in a fresh registry
        to.execute(sa.delete(table))
    for table in tables.values():
        _copy(rows, to, table)


def _mlflow() -> dict[str, sa.Table]:
    """MLflow's tables by name, each after those that it refers to."""
    import mlflow.store.model_registry.dbmodels.models
    import mlflow.store.tracking.dbmodels.models  # noqa: F401 (both register tables with the metadata)
    from mlflow.store.db.base_sql_model import Base

    return {table.name: table for table in Base.metadata.sorted_tables}


def _copy(rows: sa.Connection, to: sa.Connection, table: sa.TableClause) -> None:
    result = rows.execution_options(stream_results=True).execute(sa.select(table)).mappings()
    for piece in result.partitions(PIECE):
        to.execute(sa.insert(table), [dict(row) for row in piece])


def _count(connection: sa.Connection, table: sa.TableClause) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


@contextlib.contextmanager
def _registry(home: Home) -> Iterator[sa.Connection]:
    """A transaction on the registry, which exists, that sees one state of it."""
    engine = database_engine(home)
    url = engine.registry_url(lambda _: None)
    connections = sa.create_engine(url, isolation_level="SERIALIZABLE")
    try:
        with connections.begin() as connection:
            yield connection
    except exc.DBAPIError as error:
        raise HomeUnusable(
            f"the registry {engine.registry_address} cannot be copied: {one_line(error.orig)}"
        ) from error
    finally:
        connections.dispose()
