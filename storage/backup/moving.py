"""What of a restored backup goes to PostgreSQL and to a bucket, instead of into the home."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from storage.backup.transfer import holds_models, holds_prices, load_prices, load_registry
from storage.core.errors import HomeUnusable
from storage.core.location import LocalPath, Location
from storage.prices.engine import database_engine
from storage.tables.checksums import CHECKSUMS, LOG
from storage.tables.schemas import TABLES

if TYPE_CHECKING:
    from storage.core.home import Home


def require_unused(home: Home) -> None:
    """Refuse a database or a bucket that holds something.

    Raises:
        HomeUnusable: it does.
    """
    if database_engine(home).file is None and (holds_prices(home) or holds_models(home)):
        raise HomeUnusable("an empty database is needed, but there are prices or models in it: name another")
    if not home.is_shared:
        return
    for name in (*TABLES, "models", "raw"):
        if (home.shared / name).is_dir():
            raise HomeUnusable(
                f"an empty prefix is needed, but there is {home.shared / name}: name another in"
                " CLOSECAST_STORAGE_URL"
            )


def move_out(staging: Path, home: Home) -> None:
    """Move what machines share out of an unpacked backup; the same again does no harm.

    The prices come last, since with them the rest is referred to.

    Raises:
        HomeUnusable: the database or the bucket cannot be written.
    """
    if home.is_shared:
        for name in (*TABLES, "models", "raw"):
            _upload(staging / name, home.shared / name)
        for name in TABLES:
            shutil.rmtree(staging / name, ignore_errors=True)
    if database_engine(home).file is None:
        if (staging / "mlflow.db").is_file():
            load_registry(staging, home)
        if (staging / "prices.db").is_file():
            load_prices(staging, home)
        for name in ("mlflow.db", "prices.db", "locks", "logs"):
            path = staging / name
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def _upload(folder: Path, place: Location) -> None:
    """Put every file of a folder there, the log of a table after its data, entry by entry."""
    files = sorted(LocalPath(folder).files(), key=lambda path: (LOG in path.relative_to(folder).parts, path))
    entries = [path.stem for path in files if path.parent == folder / LOG and path.stem.isdecimal()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name == CHECKSUMS:
            (place / name).add_lines(int(max(entries, default="0")), path.read_text().splitlines())
        else:
            (place / name).put(path.read_bytes())
