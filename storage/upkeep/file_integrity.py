"""Whether files are what was recorded of them: of the tables, the bundles, the folds and the raw answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from storage.core.errors import BadFile, ClosecastError, Damaged
from storage.core.files import sha256_file
from storage.core.home import Home
from storage.core.location import Location
from storage.models.bundles import MANIFEST, Bundle, shared_files
from storage.models.registry import Models
from storage.models.version import ModelVersion
from storage.prices.raw_responses import raw_sha256s, read_raw
from storage.tables.checksums import CHECKSUMS, LOG, added_files, read_checksums, unreadable_checksums
from storage.tables.delta import open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def table_files(folder: Location) -> tuple[int, list[str]]:
    """How many files of a table were looked at, and what is wrong with them, a line each.

    Commits newer than every recorded one are those of a run that was killed, or is going on: the next one
    records them.
    """
    return _table_files(folder.resolve())  # as Delta names its files


def data_files(folder: Location, table: DeltaTable) -> list[Any]:
    """The data files that a table's state is made of, as places below its resolved folder."""
    return [folder.located(uri) for uri in table.file_uris()]


def _table_files(folder: Any) -> tuple[int, list[str]]:
    log = folder / LOG
    if not log.is_dir():
        return 0, _without_log(folder)
    recorded = read_checksums(folder)
    entries = {int(found[1]): path for path in log.files() if (found := _ENTRY.fullmatch(path.name))}
    marks = {int(found[1]): path for path in log.files() if (found := _CHECKPOINT.fullmatch(path.name))}
    newest = max((int(found[1]) for name in recorded if (found := _ENTRY.search(name))), default=-1)
    # Of a table that was just made the first commit is the first to be recorded.
    wrong = [] if recorded or max(entries, default=0) == 0 else [f"{folder / CHECKSUMS} is missing"]
    wrong += [
        f"{folder / CHECKSUMS} has a line that is none: {line!r:.200}"
        for line in unreadable_checksums(folder)
    ]
    wrong += [
        f"{folder / CHECKSUMS} names {name!r:.200}, which is no file of a table"
        for name in recorded
        if not _of_a_table(name)
    ]
    wrong += [f"{path} is missing" for path in _lost(folder, recorded, entries, marks)]
    try:
        table = open_table(folder)
        used = data_files(folder, table) if table else []
        wrong += [] if table or recorded else _without_log(folder)
    except Damaged as error:
        used, wrong = [], [*wrong, str(error)]
    late = {path for number, path in entries.items() if number > newest}
    late |= {path for entry in tuple(late) for path in added_files(folder, entry)}
    late |= {path for number, path in marks.items() if number >= newest}
    late = {path for path in late if path.relative_to(folder).as_posix() not in recorded}
    looked = sorted({*entries.values(), *marks.values(), *used} - late)
    for path in looked:
        wrong += _wrong(path, recorded.get(path.relative_to(folder).as_posix()))
    return len(looked), wrong


def _of_a_table(name: str) -> bool:
    """Whether a file of a table may have that name: an entry or a checkpoint of its log, or data."""
    first, _, rest = name.partition("/")
    if first == LOG:
        return bool(_ENTRY.fullmatch(rest) or _CHECKPOINT.fullmatch(rest))
    return name.endswith(".parquet")


def _without_log(folder: Any) -> list[str]:
    """A table's log is written before its first data: what has data and no log has lost it."""
    if not folder.is_dir():
        return []
    left = [
        path
        for path in folder.files()
        if CHECKSUMS in (path.name, path.parent.name) or path.suffix == ".parquet"
    ]
    return (
        [f"the table {folder} holds files ({len(left)}) and no log of them: {LOG} is missing"] if left else []
    )


def _lost(
    folder: Any, recorded: dict[str, str], entries: dict[int, Any], marks: dict[int, Any]
) -> Iterator[Location]:
    """Recorded commits that are gone, but for those that a checkpoint has made superfluous."""
    superfluous = max(marks, default=-1)
    for name in recorded:
        found = _ENTRY.search(name)
        if found and int(found[1]) > superfluous and int(found[1]) not in entries:
            yield folder / name


def _wrong(path: Location, recorded: str | None) -> list[str]:
    if recorded is None:
        return [f"{path} has no recorded SHA-256"]
    try:
        now = path.sha256()
    except BadFile:
        return [f"{path} is missing"]
    return [] if now == recorded else [f"{path} is not the file that was stored"]


def bundle_files(home: Home, version: ModelVersion) -> tuple[int, list[str]]:
    """How many files of a version's bundle were looked at, and what is wrong with them."""
    looked, wrong = shared_files(home, version.name, version.bundle, version.manifest_sha256)
    if wrong:
        return looked, wrong
    try:
        bundle = Models(home).open(version)
    except Damaged as error:
        return 1, [str(error)]
    return _files_of(bundle)


def fold_files(home: Home) -> tuple[int, list[str]]:
    """The same for every model that a backtest keeps."""
    looked, wrong = 0, list[str]()
    for manifest in sorted(home.folds.glob(f"*/*/{MANIFEST}")):
        if manifest.parent.name.startswith("."):
            continue
        try:
            files, found = _files_of(Bundle(manifest.parent, sha256_file(manifest)))
        except (BadFile, Damaged, ValueError) as error:
            files, found = 1, [f"{manifest} cannot be read: {error}"]
        looked, wrong = looked + files, wrong + found
    return looked, wrong


def _files_of(bundle: Bundle) -> tuple[int, list[str]]:
    wrong = []
    for name in bundle.manifest:
        try:
            bundle.path(name)
        except Damaged as error:
            wrong.append(str(error))
    known = {bundle.folder / name for name in (*bundle.manifest, MANIFEST)}
    foreign = sorted(path for path in bundle.folder.rglob("*") if path.is_file() and path not in known)
    return len(known), wrong + [f"{path} does not belong to its bundle" for path in foreign]


def lineage_of(home: Home, version: ModelVersion) -> dict[str, str]:
    """The lineage that a version's bundle holds, empty where it cannot be read."""
    try:
        found = json.loads(Models(home).open(version).read("lineage.json"))
    except (Damaged, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def raw_responses(home: Home) -> tuple[int, list[str]]:
    """How many kept answers of the exchange were looked at, and which are not what their name says."""
    looked, wrong = 0, list[str]()
    for sha256 in raw_sha256s(home):
        looked += 1
        try:
            read_raw(home, sha256)
        except ClosecastError as error:
            wrong.append(str(error))
    return looked, wrong
