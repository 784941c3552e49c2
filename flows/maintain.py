"""The upkeep of a home: few files, and nothing kept that nothing refers to."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from flows import clock
from flows.daily import speak_up
from flows.settings import home_at
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.upkeep.compaction import Compaction
from tasks.core.steps import FLOW
from tasks.upkeep.pruning import Unneeded, compact_step, compact_tables, prune_home, prune_step


@dataclass(frozen=True)
class Upkeep:
    """What became of each table, and what was pruned, or would be."""

    tables: tuple[Compaction, ...]
    pruned: tuple[Unneeded, ...]


def _run_name() -> str:
    return f"upkeep {clock.now():%Y-%m-%d}"


@flow(name="maintain", flow_run_name=_run_name, **FLOW)
def maintain(home: str | None = None, prune: bool = False) -> list[str]:
    """Compact the tables, and delete what nothing refers to when asked.

    Args:
        home: folder of everything made; CLOSECAST_HOME or the project's `data/` by default.
        prune: delete models and unfinished backtests that nothing refers to as well.

    Returns:
        What was pruned, a line each.
    """
    speak_up()
    place = prepare_home(home_at(home))
    compact_step.submit(place).result()
    if not prune:
        return []
    return [one.what for one in prune_step.submit(place, moment=clock.now()).result()]


def maintain_home(home: Home, *, prune: bool, dry_run: bool) -> Upkeep:
    """The same by hand, or a list of what it would do.

    Raises:
        StorageError: as `storage.upkeep.compaction.compact_table` and `tasks.upkeep.pruning.prune_home` say.
    """
    prepare_home(home)
    tables = compact_tables(home, dry_run=dry_run)
    pruned = prune_home(home, moment=clock.now(), dry_run=dry_run) if prune else []
    return Upkeep(tuple(tables), tuple(pruned))
