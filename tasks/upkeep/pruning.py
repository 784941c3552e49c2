"""What keeps a home small: tables of few files, and no model that nothing refers to."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.dataset as ds
from prefect import task

from storage.core.errors import Damaged, HomeBusy
from storage.core.files import old_drafts
from storage.core.home import Home
from storage.locks.locks import backtest_lock, product_lock, tables_lock
from storage.models.registry import Models
from storage.models.version import ModelVersion
from storage.tables.predictions import Predictions
from storage.tables.schemas import DAILY_TABLES, TABLES, backtests
from storage.upkeep.compaction import (
    Compaction,
    compact_table,
    files_of,
    last_touched,
    models_of,
    orphaned_bundles,
    remove,
    remove_bundle,
)
from tasks.core.steps import STEP

log = logging.getLogger("closecast.maintain")

# So long an interrupted backtest may be gone on with.
UNFINISHED = timedelta(days=30)
# So many data files of a product a day may have to open; a schedule that compacts each week leaves seven.
MANY_FILES = 16


@dataclass(frozen=True)
class Unneeded:
    """Something that nothing refers to: what it is, and the folder that goes with it."""

    what: str
    folder: Path
    version: ModelVersion | None = None


def compact_tables(
    home: Home, names: Iterable[str] = TABLES, *, dry_run: bool = False, wait_seconds: float = 900.0
) -> list[Compaction]:
    """Compact those tables of the home, every one by default; see `storage.upkeep.compaction.compact_table`."""
    answers = (compact_table(home, name, dry_run=dry_run, wait_seconds=wait_seconds) for name in names)
    found = [tidied for tidied in answers if tidied]
    for one in found:
        log.info(
            "%s: %d data files, %d before; %d deleted that were out of use for 30 days",
            one.table,
            one.files_after,
            one.files_before,
            one.deleted,
        )
    return found


def keep_few_files(home: Home, product_id: str) -> list[Compaction]:
    """Compact the tables to which many runs of a product added a file each, unless somebody is at it.

    So a day costs what another does, also where nobody runs `closecast maintain`.
    """
    many = [name for name in DAILY_TABLES if files_of(home, name, product_id) > MANY_FILES]
    try:
        return compact_tables(home, many, wait_seconds=0)
    except HomeBusy:  # the next run looks again
        return []


def prune_home(home: Home, *, moment: datetime, dry_run: bool = False) -> list[Unneeded]:
    """Delete model versions, bundles and unfinished backtests that nothing refers to; the list of them.

    A version goes out of the registry before its bundle goes: killed in between, what is registered is
    whole, and the next time finds the folder. Each product's lock is held while its models are looked at
    and deleted, so that no run is about to refer to one.

    Args:
        home: prepared.
        moment: of the call; a backtest is unfinished for good when nothing was written to it for 30 days.
        dry_run: list, and delete nothing.

    Raises:
        Damaged: forecasts name versions that the registry does not have.
        HomeBusy: a run of the product goes on for too long.
        HomeUnusable: a folder cannot be removed.
    """
    if dry_run:
        models = [unneeded_models(home, *model) for model in models_of(home)]
        return [*itertools.chain(*models), *unneeded_backtests(home, moment), *unneeded_drafts(home, moment)]
    found: list[Unneeded] = []
    with tables_lock(home):  # a backup that is being taken needs what it has seen
        for product_id, profile in models_of(home):
            with product_lock(home, product_id):
                found += _taken_away(home, unneeded_models(home, product_id, profile))
        for one in unneeded_backtests(home, moment):
            # Somebody may go on with it at this moment, or have done so since.
            with contextlib.suppress(HomeBusy), backtest_lock(home, one.folder.name, wait_seconds=0):
                found += _taken_away(home, [one] if one in unneeded_backtests(home, moment) else [])
        found += _taken_away(home, unneeded_drafts(home, moment))
    return found


def _taken_away(home: Home, found: Sequence[Unneeded]) -> Sequence[Unneeded]:
    models = Models(home)
    for one in found:
        if one.version is not None:
            models.delete(one.version)
        if one.folder.parent.parent == home.models:
            remove_bundle(home, one.folder)
        else:
            remove(one.folder)
        log.info("deleted %s", one.what)
    return found


def unneeded_models(home: Home, product_id: str, profile: str) -> list[Unneeded]:
    """Versions of one model that nothing refers to, oldest first, then the folders that no version names.

    Raises:
        Damaged: forecasts name versions that the registry does not have, so that it cannot be trusted.
    """
    models = Models(home)
    versions = models.versions(product_id, profile)
    used = used_versions(home, product_id, profile)
    if lost := used - {version.version for version in versions}:
        raise Damaged(
            f"forecasts of closecast.{product_id}.{profile} name version {min(lost, key=int)}, which"
            f" {home.registry} does not have: restore it from a backup before pruning"
        )
    needed = needed_versions(versions, used)
    found = [
        Unneeded(_described(one), home.models / one.name / one.bundle, one)
        for one in sorted(versions, key=_order)
        if one.version not in needed
    ]
    strays = orphaned_bundles(home, product_id, profile)
    return found + [
        Unneeded(f"the folder {stray.name} of closecast.{product_id}.{profile}", stray) for stray in strays
    ]


def used_versions(home: Home, product_id: str, profile: str) -> set[str]:
    """The numbers of the versions that a stored forecast was made with."""
    rows = Predictions(home).read(ds.field("profile") == profile, ["model_version"], product_id)
    return set(rows["model_version"].unique().to_pylist())


def needed_versions(versions: Iterable[ModelVersion], used: set[str]) -> set[str]:
    """The numbers of one model's versions that something refers to, or that a decision depends on.

    Those are: of stored forecasts, with an alias, or not judged yet; and of each recipe and series of
    prices the newest accepted one, which forecasts, the newest one, the newest refit, from which
    `policy.decide` counts its periods, and the newest one rolled back, which holds off fine-tuning; then
    whatever the kept ones were fine-tuned from.
    """
    versions = list(versions)
    needed = {
        one.version
        for one in versions
        if one.version in used or one.aliases or one.tags.get("status") == "pending"
    }
    groups: dict[tuple[str | None, ...], list[ModelVersion]] = {}
    for one in sorted(versions, key=_order):
        groups.setdefault((one.tags.get("recipe_version"), one.tags.get("series")), []).append(one)
    counts: list[Callable[[ModelVersion], bool]] = [
        lambda _: True,
        lambda one: one.tags.get("status") == "accepted",
        lambda one: one.tags.get("training_kind") == "refit",
        lambda one: one.tags.get("status") == "rolled-back",
    ]
    for group in groups.values():
        for counted in counts:
            needed |= {one.version for one in [one for one in group if counted(one)][-1:]}
    parents = {one.version: one.tags.get("parent", "none") for one in versions}
    for version in tuple(needed):
        while (version := parents.get(version, "none")) != "none":
            needed.add(version)
    return needed


def unneeded_backtests(home: Home, moment: datetime) -> list[Unneeded]:
    """Folders of backtests without a row in the table, nothing written to them for 30 days."""
    known = set(backtests(home).read(None, ["backtest_id"])["backtest_id"].unique().to_pylist())
    folders = sorted(path for path in home.folds.glob("*") if path.is_dir() and path.name not in known)
    folders = [path for path in folders if not path.is_symlink()]
    return [
        Unneeded(f"the unfinished backtest {folder.name}", folder)
        for folder in folders
        if moment - last_touched(folder) > UNFINISHED
    ]


def unneeded_drafts(home: Home, moment: datetime) -> list[Unneeded]:
    """Drafts of files that killed runs have left, older than a day."""
    drafts = old_drafts(home.root, (moment - timedelta(days=1)).timestamp())
    return [Unneeded(f"the draft {path.relative_to(home.root)}", path) for path in drafts]


def _order(version: ModelVersion) -> tuple[str, int]:
    return version.tags.get("origin_day", ""), int(version.version)


def _described(version: ModelVersion) -> str:
    tags = version.tags
    said = [tags.get("status"), tags.get("training_kind"), tags.get("origin_day")]
    return f"{version.name} version {version.version} ({', '.join(word for word in said if word)})"


compact_step = task(name="compact-tables", task_run_name="compact-tables", timeout_seconds=3600, **STEP)(
    compact_tables
)
few_files_step = task(
    name="keep-few-files", task_run_name="keep-few-files {product_id}", timeout_seconds=600, **STEP
)(keep_few_files)
prune_step = task(name="prune-models", task_run_name="prune-models", timeout_seconds=3600, **STEP)(prune_home)
