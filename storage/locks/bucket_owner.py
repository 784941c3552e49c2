"""A home made ready to be written; its bucket belongs to one price database, to which its tables refer."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from storage.core.errors import HomeUnusable
from storage.prices.engine import database_engine, require_current_schema

if TYPE_CHECKING:
    from storage.core.home import Home
    from storage.core.location import Location

OWNER_FILE = "closecast.json"


def prepare_home(home: Home, *, restoring: bool = False) -> Home:
    """Make the home's folders, and prove that this release may write to them, its database and its bucket.

    With `restoring`, continue where a restore was interrupted.

    Raises:
        HomeUnusable: a folder cannot be written, another release wrote the price database, or the bucket
            cannot be used or belongs to another price database.
        BadSetting: an address of the home is malformed.
    """
    bucket = home.shared if home.is_shared else None  # first: a malformed address makes no folder
    home.prepare(restoring=restoring)
    require_current_schema(home)
    if bucket is not None:
        claim_bucket(home, bucket)
    return home


def claim_bucket(home: Home, bucket: Location) -> None:
    """Prove that the bucket can be written, refuses to write twice, and belongs to the home's price database.

    One request where all is well: the owner file exists, and the server reports that.

    Raises:
        HomeUnusable: one of them is not so.
    """
    engine, file = database_engine(home), bucket / OWNER_FILE
    owner = {"closecast": 1, "database": engine.identity()}
    content = (json.dumps(owner) + "\n").encode()
    if file.create(content) and file.create(content):
        with contextlib.suppress(HomeUnusable):
            file.unlink()
        raise HomeUnusable(
            f"the server of {bucket} writes an object a second time although it must not (If-None-Match):"
            " commits would be lost, choose a server that supports conditional writes"
        )
    try:
        stored = json.loads(file.read_bytes())
    except ValueError as error:
        raise HomeUnusable(f"{file} is not closecast's: choose another prefix") from error
    if stored != owner:
        own = engine.address if engine.file is None else home.root
        raise HomeUnusable(
            f"{bucket} belongs to another price database than {own}: choose another prefix, or delete"
            f" {file} if the database was moved"
        )
