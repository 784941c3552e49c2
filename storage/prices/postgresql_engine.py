# ruff: noqa: D102 (the protocol documents the methods)
"""PostgreSQL: one server holds the prices, the locks and the model registry of all machines."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from closecast.storage.core.errors import HomeUnusable
from closecast.storage.prices import engine_base as base

log = logging.getLogger("closecast.locks")

CONNECT_SECONDS = 10
COMPLETION_SECONDS = 2
# Names the write lock; any number does, if it stays the same.
WRITE_LOCK = 20_150_720
# A lock's name as PostgreSQL's number; another schema of the database has its own.
LOCK_KEY = "hashtextextended('closecast ' || current_schema() || ' ' || :name, 0)"
TRY_LOCK = sa.text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")
UNLOCK = sa.text(f"SELECT pg_advisory_unlock({LOCK_KEY})")
# A machine that loses its power closes no connection: the server probes after 30 s, then four times more, and
# frees the locks a minute and a half after it last heard from it.
KEEPALIVE = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 15", "tcp_keepalives_count = 4")
IDENTITY = (
    "SELECT 'postgresql ' || system_identifier || ' ' || oid FROM pg_control_system(), pg_database"
    " WHERE datname = current_database()"
)
# MLflow migrates its tables with Alembic, too, whose own table has one name: it needs a schema of its own.
REGISTRY, REGISTRY_DRAFT = "closecast_mlflow", "closecast_mlflow_draft"


class PostgresqlEngine:
    """The engine of a home whose CLOSECAST_DATABASE_URL names a PostgreSQL server."""

    file: Path | None = None

    def __init__(self, url: sa.URL) -> None:
        # The driver that is installed with closecast, also for an address of Prefect's, which names another.
        self._url = url.set(drivername="postgresql+psycopg")
        self.address = self._url.set(query={}).render_as_string()
        self.registry_address = self.address

    def connect(self) -> sa.Engine:
        """SQLAlchemy's engine: a reader sees one state throughout, one writer is at work at a time."""
        engine = _create(self._url)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def stored_revision(self) -> str | None:
        with self._session("the price database") as connection:
            if not _has(connection, "to_regclass", "alembic_version"):
                return None
            return str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))

    def products(self) -> list[str]:
        options = {
            "connect_timeout": COMPLETION_SECONDS,
            "options": f"-c statement_timeout={COMPLETION_SECONDS}s -c default_transaction_read_only=on",
        }
        with contextlib.suppress(HomeUnusable), self._session("completion", **options) as connection:
            if _has(connection, "to_regclass", "series"):
                return list(connection.scalars(sa.text(base.PRODUCTS)))
        return []

    def integrity(self, _connection: sa.Connection, _parts: Sequence[str]) -> list[str]:
        return []  # the server looks after its files

    def continue_numbering(self, connection: sa.Connection, table: str, column: str) -> None:
        names = {"table": table, "column": column}
        sequence = connection.scalar(sa.text("SELECT pg_get_serial_sequence(:table, :column)"), names)
        highest = sa.select(sa.func.max(sa.column(column, sa.Integer))).select_from(sa.table(table))
        if sequence and (number := connection.scalar(highest)):
            connection.execute(sa.select(sa.func.setval(sequence, number)))

    def identity(self) -> str:
        with self._session("the owner of the bucket") as connection:
            return str(connection.scalar(sa.text(IDENTITY)))

    @contextlib.contextmanager
    def lock(self, name: str, activity: str, wait_seconds: float) -> Iterator[None]:
        """Hold an advisory lock, which all machines see and which ends with its connection."""
        with contextlib.ExitStack() as stack:
            with self._explained(f"the lock for this {activity}"):
                # No transaction: a lock held for an hour must not hold anything else.
                engine = _create(self._url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
                connection = stack.enter_context(engine.connect())
                for setting in KEEPALIVE:
                    connection.exec_driver_sql(f"SET {setting}")

                def acquire() -> bool:
                    return bool(connection.scalar(TRY_LOCK, {"name": name}))

                base.wait_for(acquire, activity, self.address, wait_seconds)
            yield
            try:
                connection.scalar(UNLOCK, {"name": name})
            except exc.DBAPIError as error:  # its rows hold without a lock: their keys are unique
                log.warning(
                    "the lock of this %s was lost before its end: %s", activity, base.one_line(error.orig)
                )

    def registry_exists(self) -> bool:
        with self._session("the model registry") as connection:
            return _has(connection, "to_regnamespace", REGISTRY)

    def registry_rows(self, queries: Sequence[str], values: Mapping[str, str]) -> list[list[Any]]:
        with self._session("the model registry") as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            if not _has(connection, "to_regnamespace", REGISTRY):
                return [[] for _ in queries]
            connection.exec_driver_sql(f"SET LOCAL search_path = {REGISTRY}")
            return [[tuple(row) for row in connection.execute(sa.text(query), values)] for query in queries]

    def registry_url(self, create: Callable[[str], None]) -> str:
        """MLflow's address, with its password; its tables are made in a draft schema, then renamed."""
        if not self.registry_exists():
            with self.lock("registry", "setup of the model registry", base.SETUP_SECONDS):
                if not self.registry_exists():
                    self._create_registry(create)
        return self._schema_url(REGISTRY)

    def _create_registry(self, create: Callable[[str], None]) -> None:
        with self._session("the model registry") as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {REGISTRY_DRAFT} CASCADE")
            connection.exec_driver_sql(f"CREATE SCHEMA {REGISTRY_DRAFT}")
        create(self._schema_url(REGISTRY_DRAFT))
        with self._session("the model registry") as connection:
            connection.exec_driver_sql(f"ALTER SCHEMA {REGISTRY_DRAFT} RENAME TO {REGISTRY}")

    def _schema_url(self, schema: str) -> str:
        given = self._url.query.get("options", "")
        options = f"{given if isinstance(given, str) else given[-1]} -csearch_path={schema}".strip()
        return self._url.update_query_dict({"options": options}).render_as_string(hide_password=False)

    @contextlib.contextmanager
    def _session(self, what: str, **connect_args: Any) -> Iterator[sa.Connection]:
        """A transaction on a connection of its own."""
        engine = _create(self._url, poolclass=sa.NullPool, connect_args=connect_args)
        with self._explained(what), engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            reason = base.one_line(error.orig)
            raise HomeUnusable(
                f"{what} needs the database {self.address}: {reason}; repair it, then try again"
            ) from error


def _create(url: sa.URL, **options: Any) -> sa.Engine:
    defaults = {"connect_timeout": CONNECT_SECONDS, "application_name": "closecast"}
    return base.create_engine(url, **options | {"connect_args": defaults | options.get("connect_args", {})})


def _has(connection: sa.Connection, function: str, name: str) -> bool:
    return connection.scalar(sa.select(getattr(sa.func, function)(name))) is not None


def _begin(connection: sa.Connection) -> None:
    if base.is_write(connection):
        # One writer at a time, as with SQLite: a comparison with the stored rows holds until the commit.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {base.BUSY_SECONDS * 1000:.0f}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
