"""Upkeep of a home: tables of few files, and nothing that is not used."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from flows import clock
from flows.daily import speak_up
from flows.settings import home_at
from storage.core.home import Home
from storage.upkeep.compaction import Compaction
from tasks.core.steps import FLOW
from tasks.upkeep.pruning import UnusedItem, compact_step, compact_tables, prune_home, prune_step


@dataclass(frozen=True)
class Upkeep:
    """The compaction of each table, and what was pruned, or would be."""

    tables: tuple[Compaction, ...]
    pruned: tuple[UnusedItem, ...]


@flow(name="maintain", flow_run_name=lambda: f"upkeep {clock.now():%Y-%m-%d}", **FLOW)
def maintain(home: str | None = None, prune: bool = False) -> list[str]:
    """Compact the tables, and delete what is not used if `prune` is set; returns what was deleted.

    Args:
        home: folder of everything stored; by default CLOSECAST_HOME or the project's `data/`.
        prune: also delete models, backtests and drafts that nothing refers to.
    """
    speak_up()
    prepared = home_at(home).prepare()
    compact_step.submit(prepared).result()
    items = prune_step.submit(prepared, moment=clock.now()).result() if prune else []
    return [item.description for item in items]


def maintain_home(home: Home, *, prune: bool, dry_run: bool) -> Upkeep:
    """Maintain a home without Prefect, or list what that would do; raises what the two steps raise."""
    tables = compact_tables(home.prepare(), dry_run=dry_run)
    pruned = prune_home(home, moment=clock.now(), dry_run=dry_run) if prune else []
    return Upkeep(tuple(tables), tuple(pruned))
