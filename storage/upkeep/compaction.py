"""Upkeep of a home's tables and folders: few files, thirty days of old versions, nothing orphaned."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from closecast.storage.core.files import remove
from closecast.storage.core.home import PRODUCT_ID, Home
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.core.logs import native_stderr_to_log
from closecast.storage.locks.locks import tables_lock
from closecast.storage.models.bundles import MANIFEST, shared_bundle
from closecast.storage.models.registry import Models, registered_name
from closecast.storage.tables.checksums import LOG, prune_checksums
from closecast.storage.tables.delta import KEPT_DAYS, attempt, sync_commit, writing
from closecast.storage.tables.opening import check_data_files, open_table, opened

if TYPE_CHECKING:
    from deltalake import DeltaTable

# A file of this size stays as it is, so that a compaction rewrites no more than that much of a partition.
FULL_BYTES = 32 * 2**20
# A row group is read whole or not at all, by the days and products that its rows have.
GROUP_ROWS = 1024


@dataclass(frozen=True)
class Compaction:
    """A table's data files before and after, and how many files older than thirty days were deleted."""

    table: str
    files_before: int
    files_after: int
    deleted: int


def compact_table(
    home: Home, name: str, *, dry_run: bool = False, wait_seconds: float = 900.0
) -> Compaction | None:
    """Compact a table's small files, write a checkpoint, and vacuum what is older than thirty days.

    Readers by Delta's log see each row once at any moment; plain readers of the folder's Parquet files see
    compacted rows twice until the old files are deleted. Rows that are added meanwhile are kept.

    With `dry_run` the files are counted alone; None when there is no table yet. `HomeBusy` if another upkeep
    took longer than `wait_seconds`, or others write to the table all the time.
    """
    folder = home.table(name)
    table = open_table(folder)
    if table is None:
        return None
    if dry_run:
        return Compaction(name, len(table.file_uris()), len(table.file_uris()), 0)
    with tables_lock(home, wait_seconds=wait_seconds):
        before = len(_open(folder).file_uris())
        attempt(folder, _compact, folder)
        deleted = attempt(folder, _vacuum, folder)
        return Compaction(name, before, len(_open(folder).file_uris()), deleted)


def files_of(home: Home, name: str, product_id: str) -> int:
    """How many data files have a product's rows of a table; each run adds one."""
    state = opened(home.table(name))
    return (
        len(state.delta.file_uris(file_pruning_predicate=[("product_id", "=", product_id)])) if state else 0
    )


def models_of(home: Home) -> list[tuple[str, str]]:
    """Product and profile of every registered model and of every folder under `models/`, sorted."""
    models = {(version.product_id, version.profile) for version in Models(home).versions()}
    for folder in (LocalPath(home.models), home.shared / "models"):
        for name in folder.folder_names():
            product_id, _, profile = name.removeprefix("closecast.").rpartition(".")
            if name.startswith("closecast.") and PRODUCT_ID.fullmatch(product_id):
                models.add((product_id, profile))
    return sorted(models)


def orphaned_bundles(home: Home, product_id: str, profile: str) -> list[Path]:
    """Bundles that no version names, left by runs that were killed between folder and registry.

    A working run has one, too: hold the product's lock to remove them.
    """
    named = {version.bundle for version in Models(home).versions(product_id, profile)}
    folder = home.models / registered_name(product_id, profile)
    if folder.is_symlink():  # somebody else's
        return []
    shared = home.shared / "models" / folder.name
    bundles = {*LocalPath(folder).folder_names(), *shared.folder_names()}
    return sorted(folder / name for name in bundles - named)


def last_touched(folder: Path) -> datetime:
    """When something in a folder was last written, by the clock of the disk."""
    newest = folder.stat().st_mtime
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a draft that is given its name
            newest = max(newest, path.stat().st_mtime)
    return datetime.fromtimestamp(newest, UTC)


def remove_bundle(home: Home, folder: Path) -> None:
    """Remove a bundle from the home and from where machines share it; its manifest first."""
    shared = shared_bundle(home, folder.parent.name, folder.name)
    if shared != LocalPath(folder):
        for path in sorted(shared.files(), key=lambda path: path.name != MANIFEST):
            path.unlink()
    remove(folder)


def _compact(folder: Location) -> None:
    """Delta's own compaction: one commit that moves rows to fewer files, and changes none.

    The caller holds `tables_lock`: Delta 1.6 lets two compactions of the same files both succeed, even with
    the same application transaction, and then each row is there twice.
    """
    from deltalake import WriterProperties

    table = _open(folder)
    check_data_files(folder, table)
    with writing(folder):
        before = table.version()
        properties = WriterProperties(compression="ZSTD", max_row_group_size=GROUP_ROWS)
        with native_stderr_to_log():  # on a full disk Delta panics in a thread, beside the error it raises
            table.optimize.compact(target_size=FULL_BYTES, writer_properties=properties)
        _sync_since(folder, table, before)


def _vacuum(folder: Location) -> int:
    """Checkpoint the log, drop what expired of it, and delete files that are out of use for thirty days.

    A full vacuum, which deletes the files of killed runs as well: a file that no commit names yet is young.
    """
    table = _open(folder)
    folder.check_no_links(deep=True)  # a vacuum would follow them
    with writing(folder):
        # A checkpoint is written once, so that its recorded checksum stays right.
        if not (folder / LOG / f"{table.version():020d}.checkpoint.parquet").is_file():
            table.create_checkpoint()
        sync_commit(folder, table.version())
        table.cleanup_metadata()
        before = table.version()
        deleted = table.vacuum(retention_hours=24 * KEPT_DAYS, dry_run=False, full=True)
        _sync_since(folder, table, before)
    prune_checksums(folder)
    return len(deleted)


def _open(folder: Location) -> DeltaTable:
    table = open_table(folder)
    assert table is not None  # noqa: S101 (`compact_table` has opened it, and no table is ever deleted)
    return table


def _sync_since(folder: Location, table: DeltaTable, version: int) -> None:
    """Make every commit after `version` durable: none may be missing below one that is there."""
    for number in range(version + 1, table.version() + 1):
        sync_commit(folder, number)
