"""The connection to the price database: its pragmas, its transactions, its migrations."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import event, exc

from storage.core.errors import BadInput, BadSetting, HomeUnusable

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from storage.core.home import Home

MIGRATIONS = Path(__file__).parent / "migrations"
# The newest migration, known without importing Alembic: a start on a finished database costs milliseconds.
HEAD = "0002"
BUSY_SECONDS = 30
CONNECT_SECONDS = 10
MIGRATION_SECONDS = 120
# Names the write lock on PostgreSQL; any number does, if it stays the same.
WRITE_LOCK = 20_150_720
NO_RIGHT = "42501"


class Database:
    """One engine on the price database, migrated to `HEAD`; close it when done."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._url = database_address(home)
        self._frozen = _frozen(self._url)
        self._engine = make_engine(self._url, **({"creator": self._frozen} if self._frozen else {}))
        if self._sqlite:
            event.listen(self._engine, "connect", _set_pragmas)
            event.listen(self._engine, "begin", _begin_sqlite)
            self._reader = self._engine
        else:
            event.listen(self._engine, "begin", _begin_postgresql)
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._writer = self._engine.execution_options(closecast_write=True)
        try:
            self._migrate_once()
        except BaseException:
            self.close()
            raise

    @property
    def _sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database throughout.

        Raises:
            HomeUnusable: the database cannot be used.
        """
        with self._explained(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its first statement; all of it is kept, or nothing.

        Raises:
            HomeUnusable: the database is locked for too long, not writable, or no database.
            BadInput: a row breaks a rule of its table.
        """
        with self._explained(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError as error:
            reason = str(error.orig).partition("\n")[0]
            raise BadInput(f"the price database refuses a row: {reason}; nothing was kept") from error
        except (exc.ProgrammingError, exc.DataError) as error:
            if sqlstate(error) != NO_RIGHT:
                raise  # a mistake of ours, not of the home
            raise self._unusable(error.orig) from error
        except exc.DatabaseError as error:
            raise self._unusable(error.orig) from error
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, reason: object) -> HomeUnusable:
        where = self._url.database if self._sqlite else shown(self._url)
        return unusable("price database", where, reason, waited=BUSY_SECONDS)

    def _migrate_once(self) -> None:
        if self._is_current():
            return
        self._home.prepare()
        lock = FileLock(self._home.locks / "prices.lock", timeout=MIGRATION_SECONDS)
        try:
            with lock:
                if not self._is_current():
                    self._migrate()
        except Timeout as error:
            raise self._unusable("locked") from error
        except OSError as error:
            raise self._unusable(error.strerror or error) from error

    def _is_current(self) -> bool:
        if self._sqlite and not Path(self._url.database or "").is_file():
            return False  # connecting would make the file
        with self.read() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar() if self._sqlite else None
            if mode != "wal" and self._sqlite and not self._frozen:
                return False
            if not sa.inspect(connection).has_table("alembic_version"):
                return False
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == HEAD

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        if self._sqlite:
            self._use_wal()
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            # One write transaction for all of it: killed in the middle, nothing has happened.
            with self.write() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise self._unusable(f"it was made by a newer closecast ({error})") from error

    def _use_wal(self) -> None:
        # Under the file lock: two processes that switch a fresh file at once refuse each other at once,
        # whatever the busy time-out. The mode stays with the file.
        with self._explained():
            raw = self._engine.raw_connection()
            try:
                mode = raw.cursor().execute("PRAGMA journal_mode = WAL").fetchone()[0]
            finally:
                raw.close()
        if mode != "wal":
            raise self._unusable(
                f"a file on a local disk is needed, one that can keep a write-ahead log, not {mode}"
            )


def database_address(home: Home) -> sa.URL:
    """Where the price database is: SQLite in the home, or what CLOSECAST_DATABASE_URL says.

    Raises:
        BadSetting: that is no address of SQLite or PostgreSQL.
    """
    if home.database_url is None:
        # Not by way of text: a folder's name may hold `?` or `%`.
        return sa.URL.create("sqlite", database=str(home.root / "prices.db"))
    try:
        url = sa.make_url(home.database_url)
        if "@" in (url.host or ""):  # part of a password then, which no message may show
            raise _no_address()
        if url.get_backend_name() in ("sqlite", "postgresql"):
            # The driver that is meant, not SQLAlchemy's older default.
            return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    except (exc.ArgumentError, ValueError):  # whose words hold what they could not read
        raise _no_address() from None
    raise _no_address()


def _no_address() -> BadSetting:
    return BadSetting(
        "CLOSECAST_DATABASE_URL must be an address such as postgresql+psycopg://user@host/database or"
        " sqlite:////folder/prices.db, an @ of a password written as %40; leave it unset for the home's own"
        " database"
    )


def _frozen(url: sa.URL) -> Callable[[], sqlite3.Connection] | None:
    """How to open a database of SQLite in a folder that cannot be written; None where the usual way does.

    To read a database that has a write-ahead log, SQLite makes a file beside it. Where it cannot, and the log
    is empty or not there, the file alone is the whole database, and may be read as one that nobody changes.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    file = Path(url.database).resolve()
    if os.access(file.parent, os.W_OK) or not file.is_file():
        return None
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and (log.stat().st_size or file.with_name(f"{file.name}-shm").exists()):
        return None
    address = f"{file.as_uri()}?mode=ro&immutable=1"
    return lambda: sqlite3.connect(address, uri=True, check_same_thread=False)


def make_engine(url: sa.URL, **how: Any) -> sa.Engine:
    """SQLAlchemy's engine for that address; nothing is connected yet.

    Raises:
        BadSetting: its driver is not installed.
    """
    if url.get_backend_name() == "postgresql":
        how["connect_args"] = {"connect_timeout": CONNECT_SECONDS, "application_name": "closecast"} | dict(
            how.get("connect_args", {})
        )
    try:
        return sa.create_engine(url, **how)
    except (exc.ArgumentError, ImportError) as error:
        raise BadSetting(
            f"CLOSECAST_DATABASE_URL names a database that cannot be reached from here ({error}); install its"
            " driver (pip install 'closecast[postgresql]') or leave it unset"
        ) from error


def unusable(what: str, where: object, reason: object, *, waited: int) -> HomeUnusable:
    """What is said of a database that is held by somebody, for so many seconds, or fails otherwise."""
    text = " ".join(str(reason).split())
    if "locked" in text or "lock timeout" in text:
        return HomeUnusable(
            f"the {what} {where} is held by another process (waited {waited} s);"
            " let it finish, then try again"
        )
    return HomeUnusable(
        f"closecast needs a {what} that it can read and write at {where}: {text};"
        " mend it or choose another home with --home or CLOSECAST_HOME"
    )


def is_broken(reason: object) -> bool:
    """Whether SQLite finds no database in a file, or a damaged one, rather than one that it cannot open."""
    code = getattr(reason, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def shown(url: sa.URL) -> str:
    """The address without its password, fit for a message."""
    return url.set(query={}).render_as_string()


def sqlstate(error: exc.DBAPIError) -> str | None:
    """PostgreSQL's five letters for what went wrong, None from SQLite."""
    return getattr(error.orig, "sqlstate", None)


def _set_pragmas(connection: DBAPIConnection, _record: object) -> None:
    # The driver would begin transactions late and of the wrong kind; `_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    # Without it REPLACE deletes a row behind the back of the triggers.
    cursor.execute("PRAGMA recursive_triggers = ON")
    cursor.close()


def _writes(connection: sa.Connection) -> bool:
    return bool(connection.get_execution_options().get("closecast_write"))


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _begin_postgresql(connection: sa.Connection) -> None:
    # One writer at a time, as with SQLite: what is compared with the stored rows stays true until the commit.
    if _writes(connection):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {BUSY_SECONDS * 1000:.0f}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
