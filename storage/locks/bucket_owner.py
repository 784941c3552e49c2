"""A bucket belongs to one price database: what its tables name is to be found there."""

from __future__ import annotations

import contextlib
import json
import secrets
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import exc

from storage.core.errors import HomeUnusable
from storage.core.files import write_atomic
from storage.prices.database import database_address, make_engine, shown

if TYPE_CHECKING:
    from storage.core.home import Home
    from storage.core.location import Location

MARK = "closecast.json"
OWN_ID = "storage-id"
WHO = "SELECT 'postgresql ' || system_identifier || ' ' || oid FROM pg_control_system(), pg_database"


def claim(home: Home, place: Location) -> None:
    """Prove that the place can be written, refuses to write twice, and belongs to the home's price database.

    One request, where all is well: the mark is there, and the server says so.

    Raises:
        HomeUnusable: one of them is not so.
    """
    mark, mine = place / MARK, {"closecast": 1, "database": _database_id(home)}
    content = (json.dumps(mine) + "\n").encode()
    if mark.create(content) and mark.create(content):
        with contextlib.suppress(HomeUnusable):
            mark.unlink()
        raise HomeUnusable(
            f"the server of {place} writes an object a second time that it was told not to (If-None-Match):"
            " commits would be lost, choose one that knows conditional writes"
        )
    try:
        theirs = json.loads(mark.read_bytes())
    except ValueError as error:
        raise HomeUnusable(f"{mark} is not closecast's: choose another prefix") from error
    if theirs != mine:
        raise HomeUnusable(
            f"{place} belongs to another price database than {_shown(home)}: choose another prefix, or delete"
            f" {mark} if the database was moved"
        )


def _shown(home: Home) -> str:
    return shown(database_address(home)) if home.on_postgresql else str(home.root)


def _database_id(home: Home) -> str:
    """What tells the database from every other: its server's own number, or one drawn for a home."""
    if not home.on_postgresql:
        path = home.root / OWN_ID
        if not path.is_file():
            write_atomic(path, f"sqlite {secrets.token_hex(16)}\n".encode())
        return path.read_text().strip()
    url = database_address(home)
    engine = make_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            query = sa.text(f"{WHO} WHERE datname = current_database()")
            return str(connection.scalar(query))
    except exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise HomeUnusable(f"the database {shown(url)} cannot be asked for its number: {reason}") from error
