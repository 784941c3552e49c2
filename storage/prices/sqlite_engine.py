# ruff: noqa: D102 (the protocol documents the methods)
"""SQLite: the databases are files of the home, its locks are lock files."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from closecast.storage.core.errors import HomeUnusable, reason_of
from closecast.storage.core.files import check_regular, fsync_folder, write_atomic
from closecast.storage.prices import engine_base as base

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from closecast.storage.core.home import Home


class SqliteEngine:
    """The engine of a home whose `prices.db` is SQLite, in the home or at the path of `url`."""

    def __init__(self, home: Home, url: sa.URL | None = None) -> None:
        self._home, self._url = home, url
        self._file = home.root / "prices.db" if url is None else Path(url.database or "")
        self.file: Path | None = self._file
        self.address = str(self._file)
        self.registry_address = str(home.registry)

    def connect(self) -> sa.Engine:
        """SQLAlchemy's engine, its pragmas and its own BEGIN on each connection."""
        import sqlalchemy as sa

        # Not by way of text: a folder's name may hold `?` or `%`.
        url = self._url or sa.URL.create("sqlite", database=str(self._file))
        immutable = {"creator": self._open} if self._is_immutable() else {}
        engine = base.create_engine(url, **immutable)
        sa.event.listen(engine, "connect", self._set_pragmas)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _set_pragmas(self, connection: DBAPIConnection, _record: object) -> None:
        # The driver would begin transactions late and of the wrong kind; `_begin` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {base.BUSY_SECONDS * 1000:.0f}")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # Without it REPLACE deletes a row without running the triggers.
        cursor.execute("PRAGMA recursive_triggers = ON")
        # The mode stays with the file: only the first connection, under the migration's lock, changes it.
        mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        cursor.close()
        if mode != "wal" and not self._is_immutable():
            reason = f"a file on a local disk is needed, one that can keep a write-ahead log, not {mode}"
            raise base.unusable("price database", self.address, reason, 0)

    def _is_immutable(self) -> bool:
        """Whether the file is in a folder that cannot be written, and is the whole database.

        To read a database that has a write-ahead log, SQLite makes a file beside it. Where it cannot, and the
        log is empty or missing, the file alone is the database, and may be read as one that nobody changes.
        """
        file = self._file.resolve()
        if os.access(file.parent, os.W_OK) or not file.is_file():
            return False
        log, index = (file.with_name(f"{file.name}-{suffix}") for suffix in ("wal", "shm"))
        return not log.exists() or not (log.stat().st_size or index.exists())

    def _open(self, timeout: float = 1) -> sqlite3.Connection:
        """A connection that makes no file and, in a folder that cannot be written, needs none."""
        mode = "mode=ro&immutable=1" if self._is_immutable() else "mode=rw"
        address = f"{self._file.resolve().as_uri()}?{mode}"
        return sqlite3.connect(address, uri=True, timeout=timeout, check_same_thread=False)

    def stored_revision(self) -> str | None:
        check_regular(self._file)
        if not self._file.is_file():
            return None
        with contextlib.closing(self._open(base.BUSY_SECONDS)) as connection:
            named = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
            if connection.execute(named).fetchone() == (0,):
                return None
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None

    def products(self) -> list[str]:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._open()) as connection:
            return [str(product_id) for (product_id,) in connection.execute(base.PRODUCTS)]
        return []

    def integrity(self, connection: sa.Connection, parts: Sequence[str]) -> list[str]:
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
        missing = [f"{part} is missing" for part in parts if part not in names]
        return missing + [str(line) for line in lines if line != "ok"]

    def continue_numbering(self, connection: sa.Connection, table: str, column: str) -> None:
        """Do nothing: SQLite's next number follows the highest one by itself."""

    def identity(self) -> str:
        path = self._home.root / "storage-id"
        if not path.is_file():
            write_atomic(path, f"sqlite {secrets.token_hex(16)}\n".encode())
        return path.read_text().strip()

    @contextlib.contextmanager
    def lock(self, name: str, activity: str, wait_seconds: float) -> Iterator[None]:
        from filelock import FileLock, Timeout  # loads asyncio, which reading does without

        lock = FileLock(self._home.locks / f"{name}.lock", thread_local=False)

        def acquire() -> bool:
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
            return lock.is_locked

        try:
            base.wait_for(acquire, activity, self._home.root, wait_seconds)
        except OSError as error:  # also for a link: a lock is never taken on a file elsewhere
            raise HomeUnusable(
                f"the lock file {lock.lock_file} cannot be used: {reason_of(error)}; delete it or"
                " correct its permissions"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def registry_exists(self) -> bool:
        return self._home.registry.is_file()

    def registry_rows(self, queries: Sequence[str], values: Mapping[str, str]) -> list[list[Any]]:
        if not self.registry_exists():
            return [[] for _ in queries]
        try:
            # Not read-only: the journal of a killed writer is to be rolled back.
            address = f"{self._home.registry.absolute().as_uri()}?mode=rw"
            with contextlib.closing(
                sqlite3.connect(address, uri=True, timeout=base.BUSY_SECONDS)
            ) as registry:
                registry.execute("BEGIN")
                return [registry.execute(query, values).fetchall() for query in queries]
        except sqlite3.Error as error:
            raise base.unusable("model registry", self.registry_address, error, base.BUSY_SECONDS) from error

    def registry_url(self, create: Callable[[str], None]) -> str:
        """MLflow's address; its tables are made beside the file, which is then renamed.

        MLflow makes them in some forty transactions: two processes at once, or a kill in between, break them.
        """
        registry = self._home.registry
        url = f"sqlite:///{registry}"
        if registry.is_file():
            return url
        with self.lock("registry", "setup of the model registry", base.SETUP_SECONDS):
            try:
                if not registry.is_file():
                    draft = registry.with_name(".mlflow-draft.db")
                    for path in (draft, draft.with_name(f"{draft.name}-journal")):
                        path.unlink(missing_ok=True)
                    create(f"sqlite:///{draft}")
                    draft.replace(registry)
                    fsync_folder(registry.parent)
            except OSError as error:
                raise HomeUnusable(f"{registry} cannot be made: {reason_of(error)}") from error
        return url


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if base.is_write(connection) else "BEGIN")
