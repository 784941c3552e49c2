"""The engine of a home's databases; only this module chooses it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import TYPE_CHECKING

from closecast.storage.core.errors import BadSetting
from closecast.storage.prices.engine_base import DatabaseEngine, is_current
from closecast.storage.prices.sqlite_engine import SqliteEngine

if TYPE_CHECKING:
    from closecast.storage.core.home import Home


def database_engine(home: Home) -> DatabaseEngine:
    """The engine of the home's databases: SQLite in the home, or that of CLOSECAST_DATABASE_URL.

    Raises:
        BadSetting: the variable is not an address of SQLite or PostgreSQL.
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
    # A relative file would be another one in each working folder.
    if backend == "sqlite" and re.match("/|file:/", url.database or ""):
        return SqliteEngine(home, url.set(drivername="sqlite"))
    if backend == "postgresql":
        from closecast.storage.prices.postgresql_engine import PostgresqlEngine

        return PostgresqlEngine(url)
    raise BadSetting(
        "CLOSECAST_DATABASE_URL must be sqlite:////folder/prices.db or an address such as"
        " postgresql+psycopg://host/database, with a login user:password@ before the host and an @ in it as"
        " %40; leave it unset for the home's own database"
    )


def require_current_schema(home: Home) -> None:
    """Refuse a price database that another release wrote, without SQLAlchemy where it is a file of the home.

    Raises:
        HomeUnusable: another release wrote it, or the server cannot be reached.
    """
    with contextlib.suppress(sqlite3.Error):  # a file that cannot be read is left to its reader
        is_current(database_engine(home))


def has_prices(home: Home) -> bool:
    """Whether there is a price database, also one that cannot be read."""
    try:
        return database_engine(home).stored_revision() is not None
    except sqlite3.Error:
        return True


def stored_products(home: Home) -> list[str]:
    """The products that have a series, by name, for a shell to complete; empty if none can be read."""
    return database_engine(home).products()
