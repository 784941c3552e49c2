"""Upkeep of a home: compaction of its tables, and deletion of what is unused."""

from __future__ import annotations

from closecast.flows import clock
from closecast.flows.daily import begin_run
from closecast.flows.flow import finished, flow
from closecast.flows.settings import prepared_home
from closecast.tasks.core.steps import run_step
from closecast.tasks.upkeep.pruning import compact_tables, prune_home


@flow(name="maintain", flow_run_name=lambda: f"upkeep {clock.now():%Y-%m-%d}")
def maintain(home: str | None = None, prune: bool = False) -> list[str]:
    """Compact the tables, and delete what is unused if `prune` is set; returns what was deleted.

    Args:
        home: folder of all data; by default CLOSECAST_HOME or the project's `data/`.
        prune: also delete models, backtests and drafts that nothing refers to.
    """
    data_home = prepared_home(home)
    begin_run(data_home)
    run_step(compact_tables, data_home)
    items = run_step(prune_home, data_home, moment=clock.now()) if prune else []
    return finished([item.description for item in items])
