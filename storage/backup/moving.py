"""The parts of a restored backup that go to a server or a bucket instead of into the home."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from storage.backup.archive import DATABASES
from storage.backup.transfer import holds_models, holds_prices, load_prices, load_registry
from storage.core.errors import HomeUnusable
from storage.core.location import LocalPath, Location
from storage.prices.engine import database_engine
from storage.tables.checksums import CHECKSUMS, LOG
from storage.tables.schemas import TABLES

if TYPE_CHECKING:
    from storage.core.home import Home

SHARED = (*TABLES, "models", "raw")


def require_unused(home: Home) -> None:
    """Check that the home's server and its bucket are empty.

    Raises:
        HomeUnusable: one of them is not.
    """
    if database_engine(home).file is None and (holds_prices(home) or holds_models(home)):
        raise HomeUnusable("an empty database is needed, but there are prices or models in it: name another")
    for name in SHARED if _moves(home) else ():
        if (home.shared / name).is_dir():
            raise HomeUnusable(
                f"an empty prefix is needed, but there is {home.shared / name}: name another in"
                " CLOSECAST_STORAGE_URL"
            )


def move_out(staging: Path, home: Home) -> None:
    """Move the parts that machines share out of an unpacked backup; a second call does no harm.

    The prices come last: nothing refers to the rest before they are there.

    Raises:
        HomeUnusable: the database or the bucket cannot be written.
    """
    if _moves(home):
        for name in SHARED:
            _upload(staging / name, home.shared / name)
        for name in TABLES:
            shutil.rmtree(staging / name, ignore_errors=True)
    if database_engine(home).file is None:
        if (staging / "mlflow.db").is_file():
            load_registry(staging, home)
        if (staging / "prices.db").is_file():
            load_prices(staging, home)
        for name in DATABASES:
            (staging / name).unlink(missing_ok=True)


def _moves(home: Home) -> bool:
    return home.shared != LocalPath(home.root)


def _upload(folder: Path, target: Location) -> None:
    """Upload every file of a folder, the log of a table after its data, entry by entry."""
    files = sorted(LocalPath(folder).files(), key=lambda path: (LOG in path.relative_to(folder).parts, path))
    entries = [path.stem for path in files if path.parent == folder / LOG and path.stem.isdecimal()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name == CHECKSUMS:
            (target / name).add_lines(int(max(entries, default="0")), path.read_text().splitlines())
        else:
            (target / name).put(path.read_bytes())
