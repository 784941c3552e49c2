"""Upkeep of a home: tables of few files, and nothing that is not used."""

from __future__ import annotations

from flows import clock
from flows.daily import show_log_lines
from flows.flow import flow
from flows.settings import home_at
from storage.locks.bucket_owner import prepare_home
from tasks.core.steps import run_step
from tasks.upkeep.pruning import compact_tables, prune_home


@flow(name="maintain", flow_run_name=lambda: f"upkeep {clock.now():%Y-%m-%d}")
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
