"""The SHA-256 of each file of a table, in a list beside them that `sha256sum -c` reads as well.

Delta knows its files by their names and sizes alone. The list grows after each commit; the next commit
records what a killed run did not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import unquote

from closecast.storage.core.location import Location

# Delta, PyArrow and pandas ignore a name that begins so.
CHECKSUMS = "_sha256sums"
LOG = "_delta_log"
# Of so many commits before the newest the records are completed.
LOOK_BACK = 20
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_COMMIT_FILE = re.compile(r"(\d{20})\.(json|checkpoint\.parquet)")


def read_checksums(folder: Location, *, after: int = -1) -> tuple[dict[str, str], list[str]]:
    """The recorded SHA-256 of each file, by its path in the folder; of two records the later one counts.

    Then the lines that are no records: cut short by a crash, or changed. With `after` the records of earlier
    commits may be left out.
    """
    return _parsed((folder / CHECKSUMS).read_lines(after=after))


def record_checksums(folder: Location, newest: int) -> None:
    """Record the files of the commit of that number, and of those just before it that are not recorded."""
    start = newest - LOOK_BACK
    recorded, malformed = read_checksums(folder, after=start)
    if malformed:
        prune_checksums(folder)
    log_files = (folder / LOG).files(after=f"{start:020d}" if start > 0 else None)
    late = {
        int(match[1])
        for path in log_files
        if (match := _COMMIT_FILE.fullmatch(path.name)) and f"{LOG}/{path.name}" not in recorded
    }
    for number in sorted(number for number in late if start < number <= newest):
        files = [path for path in commit_files(folder, number) if path.name != "_last_checkpoint"]
        lines = [f"{path.sha256()}  {path.relative_to(folder).as_posix()}" for path in files]
        (folder / CHECKSUMS).add_lines(number, lines)


def prune_checksums(folder: Location) -> None:
    """Make one list of all, without the files that are gone and malformed lines.

    A record that another process adds meanwhile may be lost: the next commit adds it again.
    """

    def pruned(lines: list[str]) -> list[str]:
        existing = {path.relative_to(folder).as_posix() for path in folder.files()}
        recorded, _ = _parsed(lines)
        return [f"{sha256}  {name}" for name, sha256 in sorted(recorded.items()) if name in existing]

    (folder / CHECKSUMS).rewrite_lines(pruned)


def commit_files(folder: Location, number: int) -> Iterator[Location]:
    """The data files that a commit adds, its log entry, and its checkpoint with the pointer to the newest."""
    entry, checkpoint = (
        folder / LOG / f"{number:020d}{suffix}" for suffix in (".json", ".checkpoint.parquet")
    )
    yield from added_files(folder, entry)
    yield entry
    if checkpoint.is_file():
        yield checkpoint
        yield folder / LOG / "_last_checkpoint"


def added_files(folder: Location, entry: Location) -> list[Location]:
    """The data files that a commit's log entry adds."""
    actions = [json.loads(line) for line in entry.read_bytes().splitlines()]
    return [folder / unquote(action["add"]["path"]) for action in actions if "add" in action]


def _parsed(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    recorded = {match[2]: match[1] for match in map(_LINE.fullmatch, lines) if match}
    return recorded, [line for line in lines if line and not _LINE.fullmatch(line)]
