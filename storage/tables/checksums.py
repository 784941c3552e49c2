"""The SHA-256 of each file of a table, in a list beside them that `sha256sum -c` reads as well.

Delta knows its files by their names and sizes alone. The list is added to after each commit; what a run
that was killed in between has not added, the next commit adds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from storage.core.errors import BadFile, HomeUnusable
from storage.core.files import fsync_folder, sha256_file, write_atomic
from storage.core.s3_path import Location, S3Path, lines_in_bucket

# A name that begins so is nobody's data to Delta, PyArrow and pandas.
CHECKSUMS = "_sha256sums"
LOG = "_delta_log"
AnyPlace = TypeVar("AnyPlace", Path, S3Path)
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def read_checksums(folder: Location) -> dict[str, str]:
    """The recorded SHA-256 of each file, by its path in the folder; of two records the later one counts."""
    found = [match.groups() for line in _lines(folder) if (match := _LINE.fullmatch(line))]
    return {name: sha256 for sha256, name in found}


def unreadable_checksums(folder: Location) -> list[str]:
    """The lines of the list that are none: cut short by a crash, or changed."""
    return [line for line in _lines(folder) if line and not _LINE.fullmatch(line)]


def _lines(folder: Location) -> list[str]:
    if isinstance(folder, S3Path):
        return lines_in_bucket(folder / CHECKSUMS)
    try:
        return (folder / CHECKSUMS).read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []


def record_checksums(folder: Path) -> None:
    """Record every commit that is not recorded yet, with the data files and the checkpoint it brought.

    Raises:
        HomeUnusable: the list cannot be written.
    """
    if unreadable_checksums(folder):
        prune_checksums(folder)
    known = read_checksums(folder)
    log = folder / LOG
    new = [*log.glob("*.json"), *log.glob("*.checkpoint.parquet")]
    new = [path for path in new if path.relative_to(folder).as_posix() not in known]
    for entry in [path for path in new if path.suffix == ".json"]:
        new += [
            path for path in added_files(folder, entry) if path.relative_to(folder).as_posix() not in known
        ]
    if not known:  # a table from before there were sums
        new += folder.glob("*/**/*.parquet")
    # A commit's entry comes after its files: where a crash cuts the lines short, it is the one that lacks.
    found = sorted({path for path in new if path.is_file()}, key=lambda path: (path.parent == log, path))
    _append(folder, found)


def prune_checksums(folder: Path) -> None:
    """Forget the files that are gone, and lines that are none.

    What another process adds meanwhile may be lost: the next commit records it again.
    """
    lines = [
        f"{sha}  {name}\n" for name, sha in sorted(read_checksums(folder).items()) if (folder / name).exists()
    ]
    write_atomic(folder / CHECKSUMS, "".join(lines).encode())


def added_files(folder: AnyPlace, entry: AnyPlace) -> list[AnyPlace]:
    """The data files that a commit's log entry adds."""
    actions = [json.loads(line) for line in entry.read_text(encoding="utf-8").splitlines()]
    return [folder / unquote(action["add"]["path"]) for action in actions if "add" in action]


def _append(folder: Path, paths: Iterable[Path]) -> None:
    try:
        lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
        # Unbuffered and at the file's end, so that two processes at once do not mix their lines.
        with (folder / CHECKSUMS).open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
            cut = end and file.read(1) != b"\n"  # by a crash in the middle of a line
            file.write((("\n" if cut else "") + "".join(lines)).encode())
            os.fsync(file.fileno())
        if not end:
            fsync_folder(folder)
    except (OSError, BadFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise HomeUnusable(
            f"{folder / CHECKSUMS} cannot be written: {reason}; make room, or choose another --home"
        ) from error
