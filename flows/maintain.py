"""Upkeep of a home: tables of few files, and nothing that is not used."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from flows import clock
from flows.daily import show_log_lines
from flows.settings import home_at
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.upkeep.compaction import Compaction
from tasks.core.steps import FLOW, run_step
from tasks.upkeep.pruning import UnusedItem, compact_tables, prune_home


@dataclass(frozen=True)
class Upkeep:
    """The compaction of each table, and what was pruned, or would be."""

    tables: tuple[Compaction, ...]
    pruned: tuple[UnusedItem, ...]


@flow(name="maintain", flow_run_name=lambda: f"upkeep {clock.now():%Y-%m-%d}", **FLOW)
def maintain(home: str | None = None, prune: bool = False) -> list[str]:
    """Compact the tables, and delete what is unused if `prune` is set; returns what was deleted.

    Args:
        home: folder of everything stored; by default CLOSECAST_HOME or the project's `data/`.
        prune: also delete models, backtests and drafts that nothing refers to.
    """
    show_log_lines()
    prepared = prepare_home(home_at(home))
    run_step(compact_tables, prepared)
    items = run_step(prune_home, prepared, moment=clock.now()) if prune else []
    return [item.description for item in items]


def maintain_home(home: Home, *, prune: bool, dry_run: bool) -> Upkeep:
    """Maintain a home without Prefect, or list what that would do."""
    tables = compact_tables(prepare_home(home), dry_run=dry_run)
    pruned = prune_home(home, moment=clock.now(), dry_run=dry_run) if prune else []
    return Upkeep(tuple(tables), tuple(pruned))
