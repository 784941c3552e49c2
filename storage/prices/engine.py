"""Which engine a home's databases are on: chosen here, and asked nowhere else."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from storage.core.errors import BadSetting
from storage.prices.engine_base import DatabaseEngine, is_current
from storage.prices.sqlite_engine import SqliteEngine

if TYPE_CHECKING:
    from storage.core.home import Home


def database_engine(home: Home) -> DatabaseEngine:
    """The engine of the home's databases: SQLite in the home, or that of CLOSECAST_DATABASE_URL.

    Raises:
        BadSetting: the variable holds no address of SQLite or PostgreSQL.
    """
    if home.database_url is None:
        return SqliteEngine(home)  # without SQLAlchemy, which is slow to load
    import sqlalchemy as sa

    try:
        url = sa.make_url(home.database_url)
        # An @ in the host is part of a password, which no message may show.
        backend = "" if "@" in (url.host or "") else url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):  # their texts quote the address
        backend = ""
    if backend == "sqlite":
        return SqliteEngine(home, url)
    if backend == "postgresql":
        from storage.prices.postgresql_engine import PostgresqlEngine

        return PostgresqlEngine(url)
    raise BadSetting(
        "CLOSECAST_DATABASE_URL must be an address such as postgresql+psycopg://user@host/database or"
        " sqlite:////folder/prices.db, an @ of a password written as %40; leave it unset for the home's own"
        " database"
    )


def require_current_schema(home: Home) -> None:
    """Refuse a price database that another release wrote, without SQLAlchemy where it is a file of the home.

    Raises:
        HomeUnusable: another release wrote it, or the server cannot be reached.
    """
    with contextlib.suppress(sqlite3.Error):  # a file that cannot be read is left to its reader
        is_current(database_engine(home))


def stored_products(home: Home) -> list[str]:
    """The products that have a series, by name, for a shell to complete; empty where none can be read."""
    return database_engine(home).products()
