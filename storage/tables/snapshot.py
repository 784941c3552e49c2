"""Several tables as they were at one moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.core.errors import HomeBusy
from storage.core.s3_path import Location
from storage.tables.delta import open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

TRIES = 200


def cut(folders: Sequence[Location]) -> list[DeltaTable | None]:
    """Each table, None where there is none, so that there was a moment at which all of them were so.

    A table only ever grows: when none has a later version after the last was opened than it had before, all
    of them stood still in between.

    Raises:
        HomeBusy: runs write to them all the time.
        Damaged: one cannot be read.
    """
    before = [_version(table) for table in map(open_table, folders)]
    for _ in range(TRIES):
        tables = [open_table(folder) for folder in folders]
        now = [_version(table) for table in tables]
        if now == before:
            return tables
        before = now
        time.sleep(0.02)
    raise HomeBusy(f"runs write to {folders[0].parent} all the time: try again when they are done")


def _version(table: DeltaTable | None) -> int:
    return -1 if table is None else table.version()
