"""Prepares a home for writing; its bucket belongs to one price database, to which its tables refer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from closecast.storage.prices.engine import database_engine, require_current_schema

if TYPE_CHECKING:
    from closecast.storage.core.home import Home


def prepare_home(home: Home, *, restoring: bool = False) -> Home:
    """Make the home's folders, and prove that this release may write to them, its database and its bucket.

    With `restoring`, continue where a restore was interrupted.

    Raises:
        HomeUnusable: a folder cannot be written, another release wrote the price database, or the bucket
            cannot be used or belongs to another price database.
        BadSetting: an address of the home is malformed.
    """
    shared, engine = home.shared, database_engine(home)  # first: a malformed address makes no folder
    home.prepare(restoring=restoring)
    require_current_schema(home)
    shared.claim(engine.identity, engine.address)
    return home
