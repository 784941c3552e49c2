"""What a home holds, whether it is whole, and what killed runs have left in it."""

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

from storage.core.errors import ClosecastError
from storage.core.home import Home
from storage.models.bundles import MANIFEST, Bundle
from storage.models.version import CHAMPION
from storage.tables.delta import open_table
from storage.tables.sql import query
from tasks.upkeep.verify import verify_home

TABLES = ("predictions", "scores", "components", "calibrator")
KEYS = {
    "predictions": ("product_id", "prediction_id"),
    "scores": ("product_id", "prediction_id", "close"),
    "components": ("product_id", "prediction_id", "component"),
    "calibrator": ("product_id", "calibrator_version"),
    "candles": ("seq",),
}
# What differs between two runs of the same day.
# Of a candle also the answer that it came with: after a first page was stored, others are cut elsewhere.
# `verify_home` holds each candle against its own answer.
OF_THE_RUN = {"created_at", "scored_at", "observed_at", "flow_run_id", "payload_sha256"}
# And between two trainings: a file's date; a commit that somebody makes to the project meanwhile.
OF_THE_FILE = {"manifest_sha256", "git_commit"}
UNNAMED = "Parquet file that no commit names"
Rows = list[dict[str, Any]]
Contents = dict[str, Any]


@contextlib.contextmanager
def copied(home: Home) -> Iterator[Home]:
    """A copy, so that looking at a home mends nothing in it: SQLite tidies up after a kill when opened."""
    with tempfile.TemporaryDirectory(prefix="closecast-look-") as folder:
        place = Path(folder) / "home"
        if home.root.exists():
            shutil.copytree(home.root, place)
        else:  # the run was killed before it had made any
            place.mkdir()
        yield Home(place)


def contents(home: Home) -> Contents:
    """Everything that a forecast is or comes from, but for what a run's moment and name are."""
    found: Contents = {}
    for name in KEYS:
        rows = query(home, f"select * from {name}").to_pylist()  # noqa: S608 (a name of ours)
        kept = [{key: value for key, value in row.items() if key not in OF_THE_RUN} for row in rows]
        found[name] = sorted(kept, key=lambda row: json.dumps(row, default=str, sort_keys=True))
    found["versions"] = {
        number: {key: value for key, value in row.items() if key not in OF_THE_FILE}
        for number, row in versions(home).items()
    }
    return found


def versions(home: Home) -> dict[str, dict[str, str]]:
    """The tags of every model version by name and number, and its aliases; as the registry has them."""
    if not home.registry.is_file():
        return {}
    found: dict[str, dict[str, str]] = {}
    with contextlib.closing(sqlite3.connect(home.registry)) as registry:
        for name, number in registry.execute("select name, version from model_versions"):
            found[f"{name}/{number}"] = {"aliases": ""}
        for name, number, key, value in registry.execute(
            "select name, version, key, value from model_version_tags"
        ):
            found[f"{name}/{number}"][key] = value
        aliases = "select name, version, alias from registered_model_aliases order by alias"
        for name, number, alias in registry.execute(aliases):
            found[f"{name}/{number}"]["aliases"] += f"{alias} "
    return found


def damage(home: Home) -> list[str]:
    """What is not whole: a database, a table, a model that can be loaded, a champion; rows that are doubled.

    Holds at any moment, also right after a kill.
    """
    found = [
        f"{name}: {said}" for name in ("prices.db", "mlflow.db") if (said := _integrity(home.root / name))
    ]
    try:
        for name, key in KEYS.items():
            rows = query(home, f"select {', '.join(key)} from {name}").to_pylist()  # noqa: S608
            twice = [row for row, times in Counter(tuple(row.values()) for row in rows).items() if times > 1]
            found += [f"{name}: {row} is there twice" for row in twice]
        asked = "select product_id, profile, target_day from predictions where revision = 0"
        days = Counter(tuple(row.values()) for row in query(home, asked).to_pylist())
        found += [
            f"predictions: {day} was published {times} times" for day, times in days.items() if times > 1
        ]
        asked = "select prediction_id from predictions except select prediction_id from components"
        found += [f"predictions: {row} has no components" for row in query(home, asked).to_pylist()]
        asked = "select prediction_id from scores except select prediction_id from predictions"
        found += [f"scores: {row} is of no forecast" for row in query(home, asked).to_pylist()]
    except ClosecastError as error:
        found.append(f"cannot be read: {error}")
    for name, tags in versions(home).items():
        found += _not_whole(home, name, tags)
    return [*found, *verify_home(home).findings]


def _integrity(path: Path) -> str:
    """What SQLite finds wrong; nothing where there is no file yet."""
    if not path.is_file():
        return ""
    with contextlib.closing(sqlite3.connect(path)) as database:
        said = database.execute("PRAGMA integrity_check").fetchall()
        broken = database.execute("PRAGMA foreign_key_check").fetchall()
    return "" if said == [("ok",)] and not broken else f"{said[:3]} {broken[:3]}"


def _not_whole(home: Home, name: str, tags: dict[str, str]) -> list[str]:
    model, _, _ = name.partition("/")
    try:
        folder = home.models / model / tags["bundle"]
        bundle = Bundle(folder, tags["manifest_sha256"])
        bundle.verify()
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        if files != {*bundle.manifest, MANIFEST}:
            return [f"{name} has files that its manifest does not name: {sorted(files)}"]
        if CHAMPION in tags["aliases"].split() and tags["status"] != "accepted":
            return [f"{name} is the champion and was {tags['status']}"]
    except (ClosecastError, KeyError) as error:
        return [f"{name} is registered and not whole: {error!r}"]
    return []


def differences(found: Contents, wanted: Contents) -> list[str]:
    """Where two homes do not hold the same, to the last bit."""
    said = []
    for name in KEYS:
        ours, theirs = found[name], wanted[name]
        more = [row for row in ours if row not in theirs]
        less = [row for row in theirs if row not in ours]
        if more or less or len(ours) != len(theirs):
            counts = f"{name}: {len(ours)} rows, undisturbed {len(theirs)}"
            said.append(f"{counts}; only here {more[:2]}, lacking {less[:2]}")
    for number in {*found["versions"], *wanted["versions"]}:
        one, other = found["versions"].get(number), wanted["versions"].get(number)
        if one != other:
            said.append(f"version {number}: {one}, undisturbed {other}")
    return said


def leftovers(home: Home) -> Counter[str]:
    """What nothing refers to, by kind."""
    return Counter(kind for kind, _ in _left(home))


def leftover_files(home: Home) -> list[Path]:
    """The same as paths."""
    return [path for _, path in _left(home)]


def _left(home: Home) -> Iterator[tuple[str, Path]]:
    known = {f"{name.partition('/')[0]}/{tags['bundle']}" for name, tags in versions(home).items()}
    for folder in home.models.glob("*/*"):
        if folder.name.startswith(".draft-"):
            yield "draft of a model", folder
        elif str(folder.relative_to(home.models)) not in known:
            yield "bundle without a version", folder
    for kind, paths in (
        ("draft of a file", home.raw.rglob("*.tmp")),
        ("draft of a registry", home.root.glob(".mlflow-draft*")),
        ("journal", home.root.glob("*-journal")),
    ):
        yield from ((kind, path) for path in paths)
    for name in TABLES:
        folder = getattr(home, name)
        named = named_files(folder)
        data = (path for path in folder.rglob("*.parquet") if path.parent.name != "_delta_log")
        yield from ((UNNAMED, path) for path in data if str(path.relative_to(folder)) not in named)
        log = (folder / "_delta_log").glob("*")
        yield from (("draft of a commit", path) for path in log if not _of_the_log(path.name))


def _of_the_log(name: str) -> bool:
    number, _, rest = name.partition(".")
    return name == "_last_checkpoint" or (number.isdecimal() and rest in ("json", "checkpoint.parquet"))


def named_files(folder: Path) -> set[str]:
    """The data files that a table's log has ever named, in its commits or its newest state."""
    found: set[str] = set()
    for entry in (folder / "_delta_log").glob("*.json"):
        actions = (json.loads(line) for line in entry.read_text(encoding="utf-8").splitlines())
        found |= {unquote(action["add"]["path"]) for action in actions if "add" in action}
    table = open_table(folder)
    if table is not None:
        found |= {str(Path(uri).relative_to(folder)) for uri in table.file_uris()}
    return found
