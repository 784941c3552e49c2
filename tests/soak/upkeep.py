"""A month passes over a home, and `closecast maintain --prune` is run."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from storage.core.home import Home
from tasks.upkeep.pruning import compact_tables, prune_home
from tests.soak.homes import leftover_files

MONTH = timedelta(days=31)


def age(home: Home) -> None:
    """Give leftovers of killed runs the age at which they are deleted."""
    then = (datetime.now(UTC) - MONTH).timestamp()
    for path in leftover_files(home):
        os.utime(path, (then, then))


def maintained(home: Home) -> None:
    """Do what the command does."""
    compact_tables(home)
    prune_home(home, moment=datetime.now(UTC))
