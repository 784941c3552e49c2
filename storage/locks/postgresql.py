"""Locks that several machines share: PostgreSQL's advisory ones, each held by a connection of its own."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import exc

from storage.core.errors import HomeBusy, HomeUnusable
from storage.prices.database import database_address, make_engine, shown

if TYPE_CHECKING:
    from storage.core.home import Home

log = logging.getLogger("closecast.locks")

# A name's number in PostgreSQL's space of locks; those of another schema of the database are others.
KEY = "hashtextextended('closecast ' || current_schema() || ' ' || :name, 0)"
TRY = sa.text(f"SELECT pg_try_advisory_lock({KEY})")
FREE = sa.text(f"SELECT pg_advisory_unlock({KEY})")
# A machine that lost its power says no goodbye: the server asks after 30 s, then four times more, and frees
# what it held a minute and a half after its last word.
ASKING = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 15", "tcp_keepalives_count = 4")
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0


@contextlib.contextmanager
def advisory_lock(home: Home, name: str, what: str, wait_seconds: float) -> Iterator[None]:
    """Hold the lock of that name for all machines that use the home's database.

    It is freed when the connection ends, however it ends: with the block, the process, the machine.

    Raises:
        HomeBusy: somebody else held it for all of `wait_seconds`.
        HomeUnusable: the database cannot be reached.
    """
    url = database_address(home)
    # No pool, and no transaction: a lock held for an hour must not hold anything else.
    engine = make_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with contextlib.ExitStack() as stack:
        with _explained(what, shown(url)):
            connection = stack.enter_context(engine.connect())
            for setting in ASKING:
                connection.exec_driver_sql(f"SET {setting}")
            _acquire(connection, name, what, wait_seconds, shown(url))
        yield
        _free(connection, name, what)


@contextlib.contextmanager
def _explained(what: str, where: str) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise HomeUnusable(
            f"the lock for this {what} needs the database {where}: {reason}; mend it, then try again"
        ) from error


def _acquire(connection: sa.Connection, name: str, what: str, wait_seconds: float, where: str) -> None:
    """Ask until it is ours: waiting in the database would hold a snapshot that nobody may vacuum past."""
    deadline, pause = time.monotonic() + wait_seconds, FIRST_PAUSE
    while not connection.scalar(TRY, {"name": name}):
        if pause == FIRST_PAUSE:
            log.info("another %s is going on at %s: waiting for it", what, where)
        left = deadline - time.monotonic()
        if left <= 0:
            raise HomeBusy(
                f"another {what} has been going on for {wait_seconds:.0f} s at {where}:"
                " try again when it is done"
            )
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _free(connection: sa.Connection, name: str, what: str) -> None:
    """Give it back; a connection that was lost has given it back long ago.

    What was written since then stands: the keys of its rows hold without a lock.
    """
    try:
        connection.scalar(FREE, {"name": name})
    except exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        log.warning("the lock of this %s was lost before its end: %s", what, reason)
