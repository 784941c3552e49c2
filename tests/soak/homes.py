"""The contents of a home, their damage, and the leftovers of killed runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from closecast.storage.core.errors import ClosecastError
from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath
from closecast.storage.models.registry import CHAMPION
from closecast.storage.tables.opening import open_table
from closecast.storage.tables.schemas import DAILY_TABLES, TABLES
from closecast.storage.tables.sql import query
from closecast.tasks.upkeep.verify import verify_home

KEYS = {name: TABLES[name].key for name in DAILY_TABLES} | {
    "scores": ("product_id", "prediction_id", "close"),
    "candles": ("seq",),
}
# Columns that differ between two runs of the same day. So does a candle's response: after a first page was
# stored, later pages begin elsewhere. `verify_home` compares each candle with its own response.
RUN_COLUMNS = {"created_at", "scored_at", "observed_at", "flow_run_id", "payload_sha256"}
# Tags that differ between two trainings: HDF5 files hold their date; the project may get a commit meanwhile.
TRAINING_TAGS = {"manifest_sha256", "git_commit"}
ORPHANED = "orphaned Parquet file"
Rows = list[dict[str, Any]]
Contents = dict[str, Any]


@contextlib.contextmanager
def copied(home: Home) -> Iterator[Home]:
    """A copy, so that a check repairs nothing: SQLite rolls a killed transaction back when opened."""
    with tempfile.TemporaryDirectory(prefix="closecast-copy-") as folder:
        root = Path(folder) / "home"
        if home.root.exists():
            shutil.copytree(home.root, root)
        else:  # the run was killed before it made any
            root.mkdir()
        yield Home(root)


def contents(home: Home) -> Contents:
    """All rows and model versions, without what differs between two runs of the same day."""
    result: Contents = {}
    for name in KEYS:
        rows = query(home, f"select * from {name}").to_pylist()  # noqa: S608 (a name of ours)
        kept = [{key: value for key, value in row.items() if key not in RUN_COLUMNS} for row in rows]
        result[name] = sorted(kept, key=lambda row: json.dumps(row, default=str, sort_keys=True))
    result["versions"] = {
        number: {key: value for key, value in row.items() if key not in TRAINING_TAGS}
        for number, row in versions(home).items()
    }
    return result


def versions(home: Home) -> dict[str, dict[str, str]]:
    """The registry's tags and aliases of every model version, by name and number."""
    if not home.registry.is_file():
        return {}
    result: dict[str, dict[str, str]] = {}
    with contextlib.closing(sqlite3.connect(home.registry)) as registry:
        for name, number in registry.execute("select name, version from model_versions"):
            result[f"{name}/{number}"] = {"aliases": ""}
        for name, number, key, value in registry.execute(
            "select name, version, key, value from model_version_tags"
        ):
            result[f"{name}/{number}"][key] = value
        aliases = "select name, version, alias from registered_model_aliases order by alias"
        for name, number, alias in registry.execute(aliases):
            result[f"{name}/{number}"]["aliases"] += f"{alias} "
    return result


def damage(home: Home) -> list[str]:
    """What contradicts itself: findings of `verify_home`, duplicate rows, a champion that was not accepted.

    There is none at any moment, also right after a kill.
    """
    findings = []
    try:
        for name, key in KEYS.items():
            rows = query(home, f"select {', '.join(key)} from {name}").to_pylist()  # noqa: S608
            counts = Counter(tuple(row.values()) for row in rows)
            findings += [
                f"{name}: {row} is there {count} times" for row, count in counts.items() if count > 1
            ]
    except ClosecastError as error:
        findings.append(f"cannot be read: {error}")
    findings += [
        f"{name} is the champion and was {tags.get('status')}"
        for name, tags in versions(home).items()
        if CHAMPION in tags["aliases"].split() and tags.get("status") != "accepted"
    ]
    return [*findings, *verify_home(home).findings]


def differences(actual: Contents, expected: Contents) -> list[str]:
    """The differences between two homes' contents, to the last bit."""
    lines = []
    for name in KEYS:
        ours, theirs = actual[name], expected[name]
        more = [row for row in ours if row not in theirs]
        less = [row for row in theirs if row not in ours]
        if more or less or len(ours) != len(theirs):
            counts = f"{name}: {len(ours)} rows, undisturbed {len(theirs)}"
            lines.append(f"{counts}; only here {more[:2]}, lacking {less[:2]}")
    for number in {*actual["versions"], *expected["versions"]}:
        one, other = actual["versions"].get(number), expected["versions"].get(number)
        if one != other:
            lines.append(f"version {number}: {one}, undisturbed {other}")
    return lines


def leftovers(home: Home) -> Counter[str]:
    """How many files nothing refers to, by kind."""
    return Counter(kind for kind, _ in _leftovers(home))


def leftover_files(home: Home) -> list[Path]:
    """The same as paths."""
    return [path for _, path in _leftovers(home)]


def _leftovers(home: Home) -> Iterator[tuple[str, Path]]:
    registered = {f"{name.partition('/')[0]}/{tags['bundle']}" for name, tags in versions(home).items()}
    for folder in home.models.glob("*/*"):
        if folder.name.startswith(".draft-"):
            yield "draft of a model", folder
        elif str(folder.relative_to(home.models)) not in registered:
            yield "bundle without a version", folder
    root = home.root
    for kind, paths in (
        ("draft of a file", (root / "raw").rglob("*.tmp")),
        ("draft of a registry", root.glob(".mlflow-draft*")),
        ("journal", root.glob("*-journal")),
    ):
        yield from ((kind, path) for path in paths)
    for name in DAILY_TABLES:
        folder = LocalPath(home.root / name)
        named = named_files(folder)
        data = (path for path in folder.rglob("*.parquet") if path.parent.name != "_delta_log")
        yield from ((ORPHANED, path) for path in data if str(path.relative_to(folder)) not in named)
        log = (folder / "_delta_log").glob("*")
        yield from (("draft of a commit", path) for path in log if not _of_the_log(path.name))


def _of_the_log(name: str) -> bool:
    number, _, rest = name.partition(".")
    return name == "_last_checkpoint" or (number.isdecimal() and rest in ("json", "checkpoint.parquet"))


def named_files(folder: LocalPath) -> set[str]:
    """The data files that a table's log names, in any commit or its newest state."""
    names: set[str] = set()
    for entry in (folder / "_delta_log").glob("*.json"):
        actions = (json.loads(line) for line in entry.read_text(encoding="utf-8").splitlines())
        names |= {unquote(action["add"]["path"]) for action in actions if "add" in action}
    table = open_table(folder)
    if table is not None:
        names |= {str(Path(uri).relative_to(folder)) for uri in table.file_uris()}
    return names
