"""The upkeep of a home: few files in its Delta tables, old versions for thirty days; folders to remove."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from storage.core.errors import HomeUnusable
from storage.core.files import check_no_links
from storage.core.home import PRODUCT_ID, Home
from storage.core.logs import native_stderr_to_log
from storage.core.s3_path import Location, S3Path
from storage.locks.locks import tables_lock
from storage.models.bundles import MANIFEST
from storage.models.bundles_s3 import place_of
from storage.models.registry import Models
from storage.models.version import registered_name
from storage.tables.checksums import LOG, prune_checksums
from storage.tables.checksums_s3 import merge_checksums
from storage.tables.delta import KEEPING, KEPT_DAYS, attempt, open_table, sync_commit, writing

if TYPE_CHECKING:
    from deltalake import DeltaTable

TABLES = ("predictions", "scores", "components", "calibrator", "backtests")
# A file of this size is left as it is, so that tidying rewrites no more than that much of a partition.
FULL_BYTES = 32 * 2**20
# A group is read whole or not at all, by the days and products that its rows have.
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
    """Compact a table's small files, make a checkpoint, and let go of what is older than thirty days.

    Whoever reads by Delta's log sees each row once at any moment, while this is going on and after it; a
    plain reader of the folder's Parquet files sees compacted rows again until the old files are deleted.
    Rows that are added meanwhile are kept.

    Args:
        home: prepared.
        name: one of `TABLES`.
        dry_run: count the files, change nothing.
        wait_seconds: how long to wait for somebody else who is at it.

    Returns:
        None when there is no table yet.

    Raises:
        HomeUnusable: the table cannot be written.
        HomeBusy: others compact_table it for too long, or write to it all the time.
        Damaged: it cannot be read.
    """
    if dry_run or open_table(getattr(home, name)) is None:
        return _counted(home, name)
    with tables_lock(home, wait_seconds=wait_seconds):
        return _tidied(home, name)


def _counted(home: Home, name: str) -> Compaction | None:
    table = open_table(getattr(home, name))
    files = count_files(table) if table else 0
    return Compaction(name, files, files, 0) if table else None


def _tidied(home: Home, name: str) -> Compaction:
    folder: Location = getattr(home, name)
    before = count_files(_now(folder))
    attempt(folder, _keep_long, folder)
    attempt(folder, _compact, folder)
    deleted = attempt(folder, _let_go, folder)
    return Compaction(name, before, count_files(_now(folder)), deleted)


def count_files(table: DeltaTable) -> int:
    """How many data files the table's newest state is made of."""
    return len(table.file_uris())


def files_of(home: Home, name: str, product_id: str) -> int:
    """How many data files hold a product's rows of a table: a run adds one."""
    table = open_table(getattr(home, name))
    return len(table.file_uris(file_pruning_predicate=[("product_id", "=", product_id)])) if table else 0


def models_of(home: Home) -> list[tuple[str, str]]:
    """Product and profile of every registered model and of every folder under `models/`, sorted."""
    found = {(version.product_id, version.profile) for version in Models(home).versions()}
    names = [folder.name for folder in home.models.glob("closecast.*.*") if not folder.is_symlink()]
    if home.bucket is not None:
        names += [prefix.name for prefix in (home.bucket / "models").iterdir()]
    for name in names:
        product_id, _, profile = name.removeprefix("closecast.").rpartition(".")
        if PRODUCT_ID.fullmatch(product_id):  # anything else is not ours
            found.add((product_id, profile))
    return sorted(found)


def orphaned_bundles(home: Home, product_id: str, profile: str) -> list[Path]:
    """Folders of a model that no version names: of runs that were killed between folder and registry.

    A run that is at work has one as well: where they are to be removed, hold the product's lock.
    """
    named = {version.bundle for version in Models(home).versions(product_id, profile)}
    parent = home.models / registered_name(product_id, profile)
    found = {path for path in parent.glob("*") if path.is_dir() and path.name not in named}
    if home.bucket is not None:
        shared = home.bucket / "models" / parent.name
        found |= {parent / prefix.name for prefix in shared.iterdir() if prefix.name not in named}
    # What a link leads to is somebody else's.
    return [] if parent.is_symlink() else sorted(path for path in found if not path.is_symlink())


def last_touched(folder: Path) -> datetime:
    """When something in a folder was last written, by the clock of the disk."""
    newest = folder.stat().st_mtime
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a draft that is given its name
            newest = max(newest, path.stat().st_mtime)
    return datetime.fromtimestamp(newest, UTC)


def remove_bundle(home: Home, folder: Path) -> None:
    """Remove a bundle from the home, and from the bucket if there is one; its manifest first.

    Raises:
        HomeUnusable: it cannot be removed.
    """
    if home.bucket is not None:
        place = place_of(home.bucket, folder.parent.name, folder.name)
        (place / MANIFEST).unlink()
        for path in place.files():
            path.unlink()
    remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder and all in it, or a file; killed on the way, the next time removes the rest.

    Raises:
        HomeUnusable: it cannot be removed.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            if folder.is_file():
                folder.unlink()
            else:
                shutil.rmtree(folder)
    except OSError as error:
        raise HomeUnusable(
            f"{folder} cannot be removed: {error.strerror or error}; mend its rights"
        ) from error


def _keep_long(folder: Location) -> None:
    """Tell a table that was made before it had to, how long it keeps what was compacted away."""
    table = _now(folder)
    if KEEPING.items() <= table.metadata().configuration.items():
        return
    with writing(folder):
        before = table.version()
        table.alter.set_table_properties(KEEPING)
        _sync_since(folder, table, before)


def _compact(folder: Location) -> None:
    """Delta's own compaction: one commit that moves rows to fewer files, and changes none.

    The caller holds `tables_lock`: Delta 1.6 lets two compactions of the same files both succeed, even in
    the name of one application transaction, and then each row is there twice.
    """
    from deltalake import WriterProperties

    table = _now(folder)
    with writing(folder):
        before = table.version()
        how = WriterProperties(compression="ZSTD", max_row_group_size=GROUP_ROWS)
        with native_stderr_to_log():  # on a full disk Delta panics in a thread, beside the error it raises
            table.optimize.compact(target_size=FULL_BYTES, writer_properties=how)
        _sync_since(folder, table, before)


def _let_go(folder: Location) -> int:
    """Checkpoint the log, drop what expired of it, and delete what is out of use for thirty days.

    A full vacuum, which finds the files of killed runs as well: a file that no commit names yet is young.
    """
    table = _now(folder)
    if isinstance(folder, Path):
        check_no_links(*folder.rglob("*"))  # a vacuum would go through them
    with writing(folder):
        # What was recorded of a checkpoint stays true: none is written a second time.
        if not (folder / LOG / f"{table.version():020d}.checkpoint.parquet").is_file():
            table.create_checkpoint()
        sync_commit(folder, table.version())
        table.cleanup_metadata()
        before = table.version()
        gone = table.vacuum(retention_hours=24 * KEPT_DAYS, dry_run=False, full=True)
        _sync_since(folder, table, before)
    if isinstance(folder, S3Path):
        merge_checksums(folder)
    else:
        prune_checksums(folder)
    return len(gone)


def _now(folder: Location) -> DeltaTable:
    table = open_table(folder)
    assert table is not None  # noqa: S101 (`compact_table` has seen it, and no table is ever taken away)
    return table


def _sync_since(folder: Location, table: DeltaTable, version: int) -> None:
    """Make every commit after `version` durable: none may be missing below one that is there."""
    for number in range(version + 1, table.version() + 1):
        sync_commit(folder, number)
