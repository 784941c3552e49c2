"""The connection to the price database: its transactions, its migrations, its errors in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa
from sqlalchemy import exc

from closecast.storage.core.errors import BadInput
from closecast.storage.prices import engine_base as base
from closecast.storage.prices.engine import database_engine

if TYPE_CHECKING:
    from closecast.storage.core.home import Home

MIGRATIONS = Path(__file__).parent / "migrations"
NO_RIGHT = "42501"  # PostgreSQL's SQLSTATE


class Database:
    """One engine on the price database, with the current schema: `with Database(home) as database: ...`.

    Raises:
        HomeUnusable: the database cannot be used, or another release wrote it.
        BadSetting: CLOSECAST_DATABASE_URL cannot be used.
    """

    def __init__(self, home: Home) -> None:
        self.engine = database_engine(home)
        self._reader = self.engine.connect()
        self._writer = self._reader.execution_options(closecast_write=True)
        try:
            if not self._is_current():
                home.prepare()
                with self.engine.lock("prices", "migration of the price database", base.SETUP_SECONDS):
                    self._migrate()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database throughout."""
        with self._explained(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its first statement; it commits all or nothing.

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
            raise BadInput(f"the price database refuses a row: {reason}; nothing was stored") from error
        except (exc.DatabaseError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, exc.DatabaseError) else error
            mistake = isinstance(error, (exc.ProgrammingError, exc.DataError))
            if mistake and getattr(cause, "sqlstate", None) != NO_RIGHT:
                raise  # ours, not of the home
            raise base.unusable("price database", self.engine.address, cause, base.BUSY_SECONDS) from error

    def _is_current(self) -> bool:
        with self._explained():
            return base.is_current(self.engine)

    def _migrate(self) -> None:
        if self._is_current():
            return  # another process has migrated it meanwhile
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        # One write transaction for all of it: killed in the middle, nothing has happened.
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
