"""Pruning and compaction of a home.

An item is unused if no stored row and no later decision refers to it: a model version, a bundle that no
version names, a backtest that nobody will finish, a draft of a killed run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.dataset as ds

from closecast.storage.core.errors import Damaged, HomeBusy
from closecast.storage.core.files import old_drafts, remove
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import backtest_lock, product_lock, tables_lock
from closecast.storage.models.registry import Models, ModelVersion
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import DAILY_TABLES, TABLES, backtests
from closecast.storage.upkeep.compaction import (
    Compaction,
    compact_table,
    files_of,
    last_touched,
    models_of,
    orphaned_bundles,
    remove_bundle,
)
from closecast.tasks.core.steps import step

log = logging.getLogger("closecast.maintain")

# An interrupted backtest can be continued for so long.
MAX_BACKTEST_AGE = timedelta(days=30)
MAX_DRAFT_AGE = timedelta(days=1)
# With more data files of a product a run compacts; a weekly schedule leaves seven.
MAX_FILES = 8


@dataclass(frozen=True)
class UnusedItem:
    """Something to delete: a path, with its model version if it is registered."""

    description: str
    path: Path
    version: ModelVersion | None = None


@step(timeout_seconds=3600)
def compact_tables(
    home: Home, names: Iterable[str] = TABLES, *, dry_run: bool = False, wait_seconds: float = 900.0
) -> list[Compaction]:
    """Compact tables of the home, by default all; see `closecast.storage.upkeep.compaction.compact_table`."""
    compactions = []
    for name in names:
        if done := compact_table(home, name, dry_run=dry_run, wait_seconds=wait_seconds):
            compactions.append(done)
            text = "%s: %d data files, %d before; %d deleted that were unused for 30 days"
            log.info(text, name, done.files_after, done.files_before, done.deleted)
    return compactions


@step(timeout_seconds=600, run_name="{product_id}")
def keep_few_files(home: Home, product_id: str) -> list[Compaction]:
    """Compact the tables that have many files of a product, unless another process compacts.

    So days do not become slower, even if nobody runs `closecast maintain`.
    """
    names = [name for name in DAILY_TABLES if files_of(home, name, product_id) > MAX_FILES]
    try:
        return compact_tables(home, names, wait_seconds=0)
    except HomeBusy:  # the next run tries again
        return []


@step(timeout_seconds=3600)
def prune_home(home: Home, *, moment: datetime, dry_run: bool = False) -> list[UnusedItem]:
    """Delete unused model versions, bundles, backtests and drafts, or only list them; returns them.

    A version is deleted from the registry before its bundle is: after a kill in between, every registered
    version is complete, and the next call finds the orphaned bundle. Each product's lock is held while its
    models are examined and deleted, so that no run starts to refer to one.
    """
    if dry_run:
        models = [item for model in models_of(home) for item in unused_models(home, *model)]
        return [*models, *unused_backtests(home, moment), *old_draft_files(home, moment)]
    deleted: list[UnusedItem] = []
    with tables_lock(home):  # a backup needs what it has listed
        for product_id, profile in models_of(home):
            with product_lock(home, product_id):
                deleted += _delete(home, unused_models(home, product_id, profile))
        for item in unused_backtests(home, moment):
            # Another process may continue it, or have continued it since.
            with contextlib.suppress(HomeBusy), backtest_lock(home, item.path.name, wait_seconds=0):
                deleted += _delete(home, [item] if item in unused_backtests(home, moment) else [])
        deleted += _delete(home, old_draft_files(home, moment))
    return deleted


def _delete(home: Home, items: Sequence[UnusedItem]) -> Sequence[UnusedItem]:
    models = Models(home)
    for item in items:
        if item.version:
            models.delete(item.version)
        if item.path.parent.parent == home.models:
            remove_bundle(home, item.path)
        else:
            remove(item.path)
        log.info("deleted %s", item.description)
    return items


def unused_models(home: Home, product_id: str, profile: str) -> list[UnusedItem]:
    """The unused versions of one model, oldest first, then the bundles that no version names.

    `Damaged` if forecasts name versions that the registry lacks, so that it cannot be trusted.
    """
    versions = sorted(Models(home).versions(product_id, profile), key=lambda one: one.order)
    rows = Predictions(home).read(ds.field("profile") == profile, ["model_version"], product_id)
    forecasting = set(rows["model_version"].drop_null().unique().to_pylist())
    if missing := forecasting - {version.version for version in versions}:
        raise Damaged(
            f"forecasts of closecast.{product_id}.{profile} name version {min(missing, key=int)}, which"
            f" {home.registry} does not have: restore it from a backup before pruning"
        )
    needed = needed_versions(versions, forecasting)
    unused = []
    for version in versions:
        if version.version not in needed:
            tags = [version.tags.get(name) for name in ("status", "training_kind", "origin_day")]
            facts = f"{version.name} version {version.version} ({', '.join(tag for tag in tags if tag)})"
            unused.append(UnusedItem(facts, home.models / version.name / version.bundle, version))
    return unused + [
        UnusedItem(f"the folder {bundle.name} of closecast.{product_id}.{profile}", bundle)
        for bundle in orphaned_bundles(home, product_id, profile)
    ]


def needed_versions(versions: Iterable[ModelVersion], forecasting: set[str]) -> set[str]:
    """The numbers of one model's versions that something refers to, or that a decision depends on.

    Those are: of stored forecasts (`forecasting`), with an alias, or pending; of each recipe and series of
    prices the newest of all, the newest accepted one, which forecasts, the newest refit, from which
    `policy.decide` counts its periods, and the newest one rolled back, which delays fine-tuning; and the
    parents of all these.
    """
    versions = sorted(versions, key=lambda one: one.order)
    needed, newest = set(forecasting), dict[tuple[str | None, ...], str]()
    for version in versions:
        tags, status = version.tags, version.tags.get("status")
        if version.aliases or status == "pending":
            needed.add(version.version)
        group = (tags.get("recipe_version"), tags.get("series"))
        newest[*group, "any"] = version.version
        if status in ("accepted", "rolled-back"):
            newest[*group, status] = version.version
        if tags.get("training_kind") == "refit":
            newest[*group, "refit"] = version.version
    needed.update(newest.values())
    parents = {version.version: version.tags.get("parent", "none") for version in versions}
    for number in tuple(needed):
        while (number := parents.get(number, "none")) != "none":
            needed.add(number)
    return needed


def unused_backtests(home: Home, moment: datetime) -> list[UnusedItem]:
    """Folders of backtests that are not in the table and were not written to for 30 days."""
    finished = set(backtests(home).read(None, ["backtest_id"])["backtest_id"].unique().to_pylist())
    return [
        UnusedItem(f"the unfinished backtest {folder.name}", folder)
        for folder in sorted(home.folds.glob("*"))
        if folder.is_dir() and not folder.is_symlink() and folder.name not in finished
        if moment - last_touched(folder) > MAX_BACKTEST_AGE
    ]


def old_draft_files(home: Home, moment: datetime) -> list[UnusedItem]:
    """Drafts of files of killed runs, older than a day."""
    drafts = old_drafts(home.root, (moment - MAX_DRAFT_AGE).timestamp())
    return [UnusedItem(f"the draft {path.relative_to(home.root)}", path) for path in drafts]
