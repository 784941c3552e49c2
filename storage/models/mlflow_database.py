"""MLflow's database: its client, with one-line database errors."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from closecast.storage.core.errors import HomeUnusable
from closecast.storage.core.progress import announced
from closecast.storage.prices.engine import database_engine
from closecast.storage.prices.engine_base import is_damaged, unusable

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from closecast.storage.core.home import Home

BUSY_SECONDS = 20  # for which MLflow itself waits for a locked database
TABLES = {"alembic_version", "registered_models", "model_versions", "runs"}


def registry_client(home: Home) -> MlflowClient:
    """MLflow's client on the home's own registry, which is made on first use.

    `HomeUnusable` if it cannot be made or, from any method of the client, not be read or written.
    """
    engine = database_engine(home)
    _load_mlflow()
    with _explained(engine.registry_address):
        client = _mlflow(engine.registry_url(_make_tables))
    return cast("MlflowClient", _Explaining(client, engine.registry_address))


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Raise one line in place of MLflow's own error where its database is full, locked, damaged or gone."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy import exc

    mistakes = (exc.IntegrityError, exc.DataError, exc.ProgrammingError)  # ours, not of the home
    try:
        yield
    except (MlflowException, exc.DatabaseError) as error:
        cause = error.__cause__ if isinstance(error, MlflowException) else error
        if not isinstance(cause, exc.DatabaseError) or isinstance(cause, mistakes):
            raise
        raise unusable("model registry", address, cause.orig, BUSY_SECONDS) from error


class _Explaining:
    """MLflow's client, with each method `_explained`."""

    def __init__(self, client: MlflowClient, address: str) -> None:
        self._client, self._address = client, address

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            with _explained(self._address):
                return method(*args, **options)

        return call


def registry_integrity(home: Home) -> list[str]:
    """The problems that SQLite reports of the registry's file; none if the home has no such file.

    `HomeUnusable` if it cannot be opened: its content may be unchanged.
    """
    if not home.registry.is_file():
        return []
    try:
        with contextlib.closing(
            sqlite3.connect(f"{home.registry.absolute().as_uri()}?mode=ro", uri=True)
        ) as database:
            lines = [str(line) for (line,) in database.execute("PRAGMA integrity_check")]
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            # MLflow fills an empty file, and refuses one of no revision.
            revisions = "SELECT count(*) FROM alembic_version"
            if lines == ["ok"] and not (names >= TABLES and database.execute(revisions).fetchone() == (1,)):
                return ["holds no model registry"]
            return [line for line in lines if line != "ok"]
    except sqlite3.Error as error:
        if is_damaged(error):
            return [str(error)]
        raise HomeUnusable(
            f"the model registry {home.registry} cannot be read: {error}; let the process that holds it"
            " finish, or check the rights of its folder, then try again"
        ) from error


def _make_tables(url: str) -> None:
    _mlflow(url).search_registered_models()


def _mlflow(url: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=url, registry_uri=url)


@functools.cache
def _load_mlflow() -> None:
    with announced("loading MLflow"):
        import mlflow.tracking  # noqa: F401

    for name in ("mlflow", "alembic"):  # the import sets its own levels
        logging.getLogger(name).setLevel(logging.WARNING)
    # It writes a traceback to standard error of what `_explained` reports.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
