"""Several tables as they were at one moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.core.errors import HomeBusy
from storage.core.location import Location
from storage.tables.delta import open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

TRIES = 200


def snapshot(folders: Sequence[Location]) -> list[DeltaTable | None]:
    """Each table, None where there is none, all as they were at one moment.

    Versions of a table only rise: when none has a later one after the last table was opened than before, all
    of them were unchanged in between.

    Raises:
        HomeBusy: runs write to them all the time.
        Damaged: one cannot be read.
    """
    before = [_version(table) for table in map(open_table, folders)]
    for _ in range(TRIES):
        tables = [open_table(folder) for folder in folders]
        versions = [_version(table) for table in tables]
        if versions == before:
            return tables
        before = versions
        time.sleep(0.02)
    raise HomeBusy(f"runs write to {folders[0].parent} all the time: try again when they are done")


def _version(table: DeltaTable | None) -> int:
    return -1 if table is None else table.version()
