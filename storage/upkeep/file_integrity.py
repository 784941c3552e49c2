"""Files against their recorded checksums: of tables, bundles, backtests' models and raw responses."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator

from closecast.storage.core.errors import BadFile, ClosecastError, Damaged
from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.storage.models.bundles import Bundle, shared_bundle
from closecast.storage.models.registry import ModelVersion
from closecast.storage.prices.raw_responses import raw_sha256s, read_raw
from closecast.storage.tables.checksums import CHECKSUMS, LOG, added_files, read_checksums
from closecast.storage.tables.opening import data_files, open_table, read_versions

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def table_files(folder: Location) -> tuple[int, list[str]]:
    """Check a table's files; returns their number and the findings.

    Commits after the newest recorded one are those of a run that was killed, or goes on: the next one records
    them.
    """
    folder = folder.resolve()  # as Delta names its files
    log = folder / LOG
    if not log.is_dir():
        return 0, _lost_log(folder)
    recorded, malformed = read_checksums(folder)
    names = [path.name for path in log.files()]
    entries, checkpoints = _numbered(log, names, _ENTRY), _numbered(log, names, _CHECKPOINT)
    findings = [f"{folder / CHECKSUMS} has a line that is not a checksum: {one!r:.200}" for one in malformed]
    findings += _list_findings(folder, recorded, entries, checkpoints)
    data: list[Location] = []
    try:
        table = open_table(folder)
        data = data_files(folder, table) if table else []
        findings += [] if table or recorded else _lost_log(folder)
    except Damaged as error:
        findings.append(str(error))
    newest = max((int(match[1]) for name in recorded if (match := _ENTRY.search(name))), default=-1)
    new = {path for number, path in entries.items() if number > newest}
    for entry in tuple(new):
        try:
            entry.check_regular()
            new.update(added_files(folder, entry))
        except Damaged as error:
            findings.append(str(error))
        except (ValueError, LookupError, TypeError):
            findings.append(f"{entry} is not an entry of a log")
    new |= {path for number, path in checkpoints.items() if number >= newest}
    checksums = {folder / name: sha256 for name, sha256 in recorded.items()}
    paths = sorted({*entries.values(), *checkpoints.values(), *data} - (new - checksums.keys()), key=str)
    for path in paths:
        findings += _file_findings(path, checksums.get(path))
    return len(paths), findings


def read_commits(folder: Location) -> tuple[dict[str, int], list[str]]:
    """The highest versions of other tables that a table's commits were made after, and findings.

    These name the commits that removed rows, which closecast never does. `table_files` reports log entries
    that cannot be read.
    """
    seen, findings = dict[str, int](), list[str]()
    log = folder.resolve() / LOG
    entries = _numbered(log, [path.name for path in log.files()] if log.is_dir() else [], _ENTRY)
    for _, entry in sorted(entries.items()):
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, OSError):
            for action in map(json.loads, entry.read_bytes().splitlines()):
                if action.get("remove", {}).get("dataChange"):
                    findings.append(f"the commit {entry} removed rows from the table, or put it back")
                for other, version in read_versions(action.get("commitInfo", {})).items():
                    seen[other] = max(version, seen.get(other, version))
    return seen, [*dict.fromkeys(findings)]


def _numbered(log: Location, names: Iterable[str], pattern: re.Pattern[str]) -> dict[int, Location]:
    return {int(match[1]): log / name for name in names if (match := pattern.fullmatch(name))}


def _lost_log(folder: Location) -> list[str]:
    """The finding that a table has data and no log, which is written before the first data."""
    files = [
        path
        for path in folder.files()
        if CHECKSUMS in (path.name, path.parent.name) or path.suffix == ".parquet"
    ]
    if not files:
        return []
    return [f"the table {folder} holds files ({len(files)}) and no log of them: {LOG} is missing"]


def _list_findings(
    folder: Location, recorded: dict[str, str], entries: dict[int, Location], checkpoints: dict[int, Location]
) -> Iterator[str]:
    """Check the list of checksums: that it is there, and so are the log entries that it names."""
    if not recorded and max(entries, default=0) > 0:  # a new table's first commit is recorded after it
        yield f"{folder / CHECKSUMS} is missing"
    for name in recorded:
        first, _, rest = name.partition("/")
        entry = _ENTRY.fullmatch(rest) if first == LOG else None
        checkpoint = _CHECKPOINT.fullmatch(rest)
        if not (entry or checkpoint if first == LOG else name.endswith(".parquet")):
            yield f"{folder / CHECKSUMS} names {name!r:.200}, which is not a file of a table"
        # A checkpoint makes the entries before it superfluous.
        if entry and int(entry[1]) > max(checkpoints, default=-1) and int(entry[1]) not in entries:
            yield f"{folder / name} is missing"


def _file_findings(path: Location, recorded: str | None) -> list[str]:
    if recorded is None:
        return [f"{path} has no recorded SHA-256"]
    try:
        path.check_regular()
        sha256 = path.sha256()
    except Damaged as error:
        return [str(error)]
    except BadFile:
        return [f"{path} is missing"]
    return [] if sha256 == recorded else [f"{path} is not the file that was stored"]


def bundle_files(home: Home, version: ModelVersion) -> tuple[int, list[str]]:
    """Check the files of a version's bundle; returns their number and the findings."""
    try:
        return Bundle(shared_bundle(home, version.name, version.bundle), version.manifest_sha256).check()
    except Damaged as error:
        return 1, [str(error)]


def fold_files(home: Home, backtest_ids: Iterable[str]) -> tuple[int, list[str]]:
    """Check the models and states that backtests keep; returns the number of files and the findings.

    Each backtest with rows must have some, unless machines share the rows.
    """
    count, findings = 0, list[str]()
    for name in _kept_backtests(home):
        for _, files, lines in BacktestCache(home, name).check():
            count, findings = count + files, findings + lines
    for name in () if home.is_elsewhere else sorted(backtest_ids):
        if not BacktestCache(home, name).folder.is_dir():
            findings.append(f"{home.folds / name} is missing, the models of a backtest that has rows")
    return count, findings


def rows_of_folds(home: Home) -> list[dict[str, object]]:
    """The rows that each backtest's walk has made so far, without backtests that cannot be read."""
    rows: list[dict[str, object]] = []
    for name in _kept_backtests(home):
        with contextlib.suppress(Damaged, LookupError, TypeError):
            state = BacktestCache(home, name).last_state()
            rows += [{"backtest_id": name, "made": state["rows"]}] if state else []
    return rows


def _kept_backtests(home: Home) -> list[str]:
    return sorted(name for name in LocalPath(home.folds).folder_names() if not name.startswith("."))


def raw_responses(home: Home) -> tuple[int, list[str]]:
    """Check the exchange's raw responses, which are named by their digests; their number and the findings."""
    digests, findings = raw_sha256s(home), list[str]()
    for sha256 in digests:
        try:
            read_raw(home, sha256)
        except ClosecastError as error:
            findings.append(str(error))
    return len(digests), findings
