"""MLflow's database: of a home, or beside its prices in PostgreSQL; whole or not there."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock, Timeout

from storage.core.errors import HomeBusy, HomeUnusable
from storage.core.files import fsync_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from storage.core.home import Home

MAKING_SECONDS = 120
BUSY_SECONDS = 20  # MLflow's own patience with a database that somebody holds


def registry_exists(home: Home) -> bool:
    """Whether a version was ever registered here; nothing is made.

    Raises:
        HomeUnusable: the database cannot be reached.
    """
    if not home.on_postgresql:
        return home.registry.is_file()
    from storage.models.mlflow_postgresql import schema_exists

    return schema_exists(home)


def registry_client(home: Home) -> MlflowClient:
    """MLflow's client on the home's own registry, which is made on first use.

    Raises:
        HomeBusy: another process has been making it for too long.
        HomeUnusable: it cannot be made there, or, from any method of the client, not be read or written.
    """
    if home.on_postgresql:
        from storage.models.mlflow_postgresql import registry_address
        from storage.prices.database import database_address, shown

        where = shown(database_address(home))
        with explained(where):
            return _client(registry_address(home, make=_make_tables), where)
    if "?" in str(home.root):
        raise HomeUnusable(
            f"a home without a question mark in its path is needed, not {home.root}:"
            " the address of its registry would end there; choose another with --home or CLOSECAST_HOME"
        )
    try:
        with explained(str(home.registry)):
            if not home.registry.is_file():
                _make(home)
            return _client(home.mlflow_url, str(home.registry))
    except Timeout as error:
        raise HomeBusy(
            f"another run has been making {home.registry} for {MAKING_SECONDS} s: try again when it is done"
        ) from error
    except OSError as error:
        raise HomeUnusable(f"{home.registry} cannot be made: {error.strerror or error}") from error


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """One line in place of what MLflow makes of a database that fails it.

    Args:
        where: the database is, without a password.

    Raises:
        HomeUnusable: it is full, held, damaged or gone.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy import exc

    ours = (exc.IntegrityError, exc.DataError, exc.ProgrammingError)  # mistakes, not of the home
    try:
        yield
    except (MlflowException, exc.DatabaseError) as error:
        cause = error.__cause__ if isinstance(error, MlflowException) else error
        if not isinstance(cause, exc.DatabaseError) or isinstance(cause, ours):
            raise
        from storage.prices.database import unusable

        raise unusable("model registry", where, cause.orig, waited=BUSY_SECONDS) from error


class _Explaining:
    """MLflow's client, each of whose methods says in one line when its database fails it."""

    def __init__(self, client: MlflowClient, where: str) -> None:
        self._client, self._where = client, where

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def asked(*words: Any, **more: Any) -> Any:
            with explained(self._where):
                return method(*words, **more)

        return asked


def registry_integrity(home: Home) -> list[str]:
    """What SQLite finds wrong with the registry's file; nothing where there is none, or no SQLite.

    Raises:
        HomeUnusable: it cannot be opened, and what is in it may be as it was.
    """
    if home.on_postgresql or not home.registry.is_file():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{home.registry.as_uri()}?mode=ro", uri=True)) as database:
            found = [str(line) for (line,) in database.execute("PRAGMA integrity_check")]
            if found == ["ok"]:
                found = [] if _is_registry(database) else ["holds no model registry"]
    except sqlite3.Error as error:
        from storage.prices.database import is_broken

        if is_broken(error):
            return [str(error)]
        raise HomeUnusable(
            f"the model registry {home.registry} cannot be read: {error}; let whoever holds it finish,"
            " or see to the rights of its folder, then try again"
        ) from error
    return found


def _is_registry(database: sqlite3.Connection) -> bool:
    """Whether MLflow takes the file for its own: it fills an empty one, and refuses one of no revision."""
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"alembic_version", "registered_models", "model_versions", "runs"} <= names:
        return False
    return bool(database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,))


def _make(home: Home) -> None:
    """Make the tables beside their place, then rename: MLflow's own way there is some forty transactions.

    Two processes that go it at once break it for both, and so does one that is killed on the way.
    """
    with FileLock(home.locks / "registry.lock", timeout=MAKING_SECONDS):
        if home.registry.is_file():
            return
        draft = home.registry.with_name(".mlflow-draft.db")
        for left in (draft, draft.with_name(f"{draft.name}-journal")):
            left.unlink(missing_ok=True)
        _make_tables(f"sqlite:///{draft}")
        draft.replace(home.registry)
        fsync_folder(home.root)


def _make_tables(url: str) -> None:
    _mlflow(url).search_registered_models()


def _client(url: str, where: str) -> MlflowClient:
    return cast("MlflowClient", _Explaining(_mlflow(url), where))


def _mlflow(url: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # the import sets its own levels
        logging.getLogger(name).setLevel(logging.WARNING)
    # It writes a traceback to standard error of what `explained` says.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=url, registry_uri=url)
