"""MLflow's database: of a home, or beside its prices in PostgreSQL; whole or not there."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from storage.errors import HomeBusy, HomeUnusable
from storage.files import fsync_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from storage.home import Home

MAKING_SECONDS = 120


def registry_exists(home: Home) -> bool:
    """Whether a version was ever registered here; nothing is made.

    Raises:
        HomeUnusable: the database cannot be reached.
    """
    if not home.on_postgresql:
        return home.registry.is_file()
    from storage.registry_server import schema_exists

    return schema_exists(home)


def registry_client(home: Home) -> MlflowClient:
    """MLflow's client on the home's own registry, which is made on first use.

    Raises:
        HomeBusy: another process has been making it for too long.
        HomeUnusable: it cannot be made there.
    """
    if home.on_postgresql:
        from storage.registry_server import registry_address

        return _client(registry_address(home, make=_make_tables))
    if "?" in str(home.root):
        raise HomeUnusable(
            f"a home without a question mark in its path is needed, not {home.root}:"
            " the address of its registry would end there; choose another with --home or CLOSECAST_HOME"
        )
    try:
        if not home.registry.is_file():
            _make(home)
    except Timeout as error:
        raise HomeBusy(
            f"another run has been making {home.registry} for {MAKING_SECONDS} s: try again when it is done"
        ) from error
    except OSError as error:
        raise HomeUnusable(f"{home.registry} cannot be made: {error.strerror or error}") from error
    return _client(home.mlflow_url)


def registry_integrity(home: Home) -> list[str]:
    """What SQLite finds wrong with the registry's file; nothing where there is none, or no SQLite."""
    if home.on_postgresql or not home.registry.is_file():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{home.registry.as_uri()}?mode=ro", uri=True)) as database:
            found = [str(line) for (line,) in database.execute("PRAGMA integrity_check")]
    except sqlite3.Error as error:
        return [str(error)]
    return [] if found == ["ok"] else found


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
    _client(url).search_registered_models()


def _client(url: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # the import sets its own levels
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=url, registry_uri=url)
