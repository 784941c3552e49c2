"""The model registry in PostgreSQL: a schema of MLflow's own in the database of the prices.

So all machines have one champion. A schema, because MLflow's tables and ours are both migrated by Alembic,
whose table has one name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import exc

from storage.core.errors import HomeUnusable
from storage.locks.postgresql import advisory_lock
from storage.prices.database import database_address, make_engine, shown

if TYPE_CHECKING:
    from storage.core.home import Home

SCHEMA = "closecast_mlflow"
DRAFT = "closecast_mlflow_draft"
MAKING_SECONDS = 120


def schema_exists(home: Home) -> bool:
    """Whether the registry was made.

    Raises:
        HomeUnusable: the database cannot be reached.
    """
    with _connected(home) as connection:
        return _exists(connection)


def registry_address(home: Home, *, make: Callable[[str], None]) -> str:
    """The registry's address, with its password; made on first use.

    MLflow's own way to make its tables is some forty transactions, and breaks when two go it at once or one
    is killed on it: it is gone in a schema beside, which then gets its name in one statement.

    Args:
        home: whose database it is in.
        make: makes MLflow's tables at an address.

    Raises:
        HomeBusy: another machine has been making it for too long.
        HomeUnusable: it cannot be made there.
    """
    if not schema_exists(home):
        with advisory_lock(home, "registry", "making of the registry", MAKING_SECONDS):
            with _connected(home) as connection:
                if _exists(connection):
                    return _address(home, SCHEMA)
                connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {DRAFT} CASCADE")
                connection.exec_driver_sql(f"CREATE SCHEMA {DRAFT}")
            make(_address(home, DRAFT))
            with _connected(home) as connection:
                connection.exec_driver_sql(f"ALTER SCHEMA {DRAFT} RENAME TO {SCHEMA}")
    return _address(home, SCHEMA)


def _exists(connection: sa.Connection) -> bool:
    return connection.scalar(sa.text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}) is not None


def _address(home: Home, schema: str) -> str:
    url = database_address(home)
    given = url.query.get("options", "")
    options = f"{given if isinstance(given, str) else given[-1]} -csearch_path={schema}".strip()
    return url.update_query_dict({"options": options}).render_as_string(hide_password=False)


@contextlib.contextmanager
def _connected(home: Home) -> Iterator[sa.Connection]:
    url = database_address(home)
    engine = make_engine(url, poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    except exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise HomeUnusable(
            f"the model registry needs the database {shown(url)}: {reason}; mend it, then try again"
        ) from error
