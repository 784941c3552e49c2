# ruff: noqa: D102 (the comments document the methods)
"""What both database engines share: their protocol, the schema's revisions, messages, waiting for a lock."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from closecast.storage.core.errors import BadSetting, HomeBusy, HomeUnusable

if TYPE_CHECKING:
    import sqlalchemy as sa

log = logging.getLogger("closecast.locks")

# Every revision that this release opens, the last one current: listed here because Alembic is slow to load.
REVISIONS = ("prices_2",)
BUSY_SECONDS = 30
SETUP_SECONDS = 120
# SHMSIZE is of the index that lies beside a write-ahead log while it is read.
FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE)
PRODUCTS = "SELECT DISTINCT product_id FROM series ORDER BY product_id"


class DatabaseEngine(Protocol):
    """The databases of one home: the prices, the locks beside them and the model registry.

    `file` is that of the price database, None on a server that machines share; the addresses show no
    password.
    """

    file: Path | None
    address: str
    registry_address: str

    # A connection with the option `closecast_write` begins with the write lock.
    def connect(self) -> sa.Engine: ...
    def stored_revision(self) -> str | None: ...  # of the schema; None if there is none, and none is made
    def products(self) -> list[str]: ...  # with a series, by name; empty if they cannot be read at once
    # The problems of the database's file, among them those of its `parts` that are missing.
    def integrity(self, connection: sa.Connection, parts: Sequence[str]) -> list[str]: ...
    # Let the next row number follow the highest one, after rows were inserted with theirs.
    def continue_numbering(self, connection: sa.Connection, table: str, column: str) -> None: ...
    def identity(self) -> str: ...  # that tells this database from every other
    # Hold the lock `name` until the block or the process ends; messages name the `activity`.
    def lock(self, name: str, activity: str, wait_seconds: float) -> AbstractContextManager[None]: ...
    def registry_exists(self) -> bool: ...
    # The rows of each query on one state of MLflow's tables; none if there are no tables yet.
    def registry_rows(self, queries: Sequence[str], values: Mapping[str, str]) -> list[list[Any]]: ...
    # MLflow's address, with its password; `create` makes MLflow's tables at an address on first use.
    def registry_url(self, create: Callable[[str], None]) -> str: ...


def create_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """SQLAlchemy's engine for an address; `BadSetting` if the driver is missing."""
    import sqlalchemy as sa

    try:
        return sa.create_engine(url, **options)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise BadSetting(
            f"CLOSECAST_DATABASE_URL names a database that cannot be reached from here ({error}); install its"
            " driver (pip install 'closecast[postgresql]') or leave it unset"
        ) from error


def is_write(connection: sa.Connection) -> bool:
    """Whether the transaction that begins is to hold the write lock."""
    return bool(connection.get_execution_options().get("closecast_write"))


def is_current(engine: DatabaseEngine) -> bool:
    """Whether the price database has the current schema; `HomeUnusable` if another release wrote it."""
    revision = engine.stored_revision()
    if revision is not None and revision not in REVISIONS:
        raise HomeUnusable(
            f"the price database {engine.address} has the schema {revision!r:.40} of another closecast, and"
            f" {REVISIONS[-1]!r} is needed; name another home with --home or CLOSECAST_HOME and import the"
            " prices again"
        )
    return revision == REVISIONS[-1]


def unusable(database: str, address: str, reason: object, wait_seconds: float) -> HomeUnusable:
    """The error for a database that another process locks, or that fails for another reason."""
    text = one_line(reason)
    if "locked" in text or "lock timeout" in text:
        return HomeUnusable(
            f"the {database} {address} is held by another process (waited {wait_seconds} s);"
            " let it finish, then try again"
        )
    if getattr(reason, "sqlite_errorcode", None) in FULL:
        return HomeUnusable(
            f"the disk of the {database} {address} is full ({text}), and even to read it a little room is"
            " needed: make room, then try again"
        )
    return HomeUnusable(
        f"closecast needs a {database} that it can read and write at {address}: {text};"
        " repair it or choose another home with --home or CLOSECAST_HOME"
    )


def one_line(reason: object) -> str:
    """A driver's message in one line."""
    return " ".join(str(reason).split())


def is_damaged(reason: object) -> bool:
    """Whether SQLite reports a damaged file or no database in it, rather than one that it cannot open.

    An error of its own has no code: a text that is not UTF-8. SQLITE_ERROR is a table that lost its name.
    """
    code = getattr(reason, "sqlite_errorcode", 0) & 0xFF
    damaged = (0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(reason, sqlite3.DatabaseError) and code in damaged


def wait_for(acquire: Callable[[], bool], activity: str, address: object, wait_seconds: float) -> None:
    """Try a lock until it is acquired: waiting in the database would hold a snapshot and block its vacuum."""
    if acquire():
        return
    log.info("another %s is in progress in %s: waiting for it", activity, address)
    deadline, pause = time.monotonic() + wait_seconds, 0.02
    while not acquire():
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise HomeBusy(
                f"another {activity} has been in progress for {wait_seconds:.0f} s in {address}:"
                " try again when it is done"
            )
        time.sleep(min(pause, remaining))
        pause = min(pause * 1.5, 1.0)
