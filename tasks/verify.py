"""Everything stored against what was recorded of it.

References run from scores to predictions, to models, to data versions, to candles, to the exchange's answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np

from storage.cut import cut
from storage.errors import ClosecastError, Damaged
from storage.file_checks import bundle_files, fold_files, lineage_of, raw_answers, table_files
from storage.files import read_raw
from storage.frames import FIGURES
from storage.home import Home
from storage.maintenance import TABLES
from storage.models import Models, ModelVersion
from storage.price_checks import (
    Candles,
    PriceRecords,
    Version,
    changed_candles,
    damage_told_apart,
    in_another_series,
    is_whole,
    price_file,
    refuse_closed_prices,
    state_at,
    without_page,
)
from storage.progress import tell
from storage.registry import registry_exists, registry_integrity
from storage.tables import reading
from tasks.answers import parse
from tasks.candle_rows import read_rows
from tasks.publish import prediction_key
from tasks.recipe import Recipe, settings_digest

# Of a lineage, what stands in the registry as well: of every version, and of those that have it.
ALWAYS = ("data_version", "settings_version", "code_version", "weights_sha256")
OFTEN = (
    *("product_id", "profile", "made_by", "git_commit", "recipe_version", "series"),
    *("origin_day", "seen_through"),
)


@dataclass
class Verified:
    """How many things of each kind were looked at, and what is wrong with them, a line each."""

    looked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, wrong: Sequence[str] = ()) -> None:
        """Count what was looked at, and keep what was found."""
        self.looked[kind] += count
        tell(kind, self.looked[kind])
        lines = [" ".join(line.split()) for line in wrong]
        self.wrong.extend(line for line in dict.fromkeys(lines) if line not in self.wrong)


@dataclass(frozen=True)
class _Closes:
    """Of each whole data version its closes by day; None where the prices cannot be read, which is told."""

    by_version: Mapping[str, Mapping[date, float]] | None

    def wrong_of(self, data_version: str) -> str:
        """What is said of a version that is not among them, empty where nothing can be said."""
        if self.by_version is None or data_version in self.by_version:
            return ""
        return f"its data version {data_version} is missing or changed"

    def of(self, data_version: str) -> Mapping[date, float] | None:
        """The closes of a version."""
        return (self.by_version or {}).get(data_version)


def verify_home(home: Home) -> Verified:
    """Check every hash and every reference of a home; nothing is written.

    What refers is read before what it refers to, so that a run that goes on meanwhile finds nothing missing.

    Raises:
        HomeUnusable: a database cannot be opened; whether anything was changed is not known.
    """
    found = Verified()
    refuse_closed_prices(home)
    for name in TABLES:
        found.add("files of tables", *table_files(getattr(home, name)))
    scored, tracked, beside, forecasts = _rows(home, found)
    versions = _versions(home, found)
    closes = _prices(home, found, needed=bool(forecasts))
    found.add("backtests' files", *fold_files(home))
    found.add("forecasts", len(forecasts), list(_of_forecasts(forecasts, versions, closes)))
    found.add("forecasts", 0, list(_of_revisions(forecasts)))
    found.add("ingredients", len(beside), list(_of_ingredients(beside, forecasts, tracked)))
    found.add("states of trackers", len(tracked), list(_of_trackers(tracked, forecasts)))
    found.add("scores", len(scored), list(_of_scores(scored, forecasts, closes)))
    return found


Rows = list[dict[str, Any]]


def _rows(home: Home, found: Verified) -> tuple[Rows, Rows, Rows, Rows]:
    """Scores, trackers' states, ingredients and forecasts at one moment; what cannot be read is told."""
    folders = (home.scores, home.trackers, home.ingredients, home.predictions)
    read: list[Rows] = []
    try:
        tables = cut(folders)
    except Damaged:  # told with its files
        return [], [], [], []
    for folder, table in zip(folders, tables, strict=True):
        try:
            with reading(folder):
                read.append(table.to_pyarrow_dataset().to_table().to_pylist() if table else [])
        except Damaged as error:
            found.add("files of tables", 0, [str(error)])
            read.append([])
    return read[0], read[1], read[2], read[3]


# Models


def _versions(home: Home, found: Verified) -> dict[tuple[str, str, str], ModelVersion] | None:
    """The versions by product, profile and number; None where they cannot be read, which is told."""
    broken = registry_integrity(home)
    found.add("databases", int(registry_exists(home)), [f"{home.registry}: {line}" for line in broken])
    if broken:
        return None
    models = Models(home)
    try:
        versions = models.versions()
    except Damaged as error:
        found.add("model versions", 0, [str(error)])
        return None
    lost = [f"{name}: {alias} is version {number}, which is missing" for name, alias, number in models.lost()]
    found.add("model versions", 0, lost)
    for version in versions:
        files, wrong = bundle_files(home, version)
        found.add("files of models", files, wrong)
        found.add("model versions", 1, [] if wrong else list(_of_version(home, version)))
    return {(one.product_id, one.profile, one.version): one for one in versions}


def _of_version(home: Home, version: ModelVersion) -> Iterator[str]:
    """Whether the registry says of a version what its bundle says."""
    what = f"{version.name} version {version.version}"
    lineage, bundle = lineage_of(home, version), Models(home).open(version)
    known = {**version.tags, "product_id": version.product_id, "profile": version.profile}
    for name, said in _tags_of(lineage).items():
        if known.get(name) != said:
            yield f"{what}: the registry and the bundle name another {name}"
    if "settings.json" in bundle.manifest:
        said = f"{version.profile}-{settings_digest(bundle.read_json('settings.json'))}"
        if said != lineage.get("settings_version"):
            yield f"{what}: its settings are not those of its settings_version"


def _tags_of(lineage: Mapping[str, Any]) -> dict[str, str]:
    """What the registry has to say of a version whose bundle holds that lineage."""
    tags = {name: str(lineage.get(name)) for name in ALWAYS}
    tags |= {name: str(lineage[name]) for name in OFTEN if lineage.get(name)}
    if "parent" in lineage:
        tags["parent"] = lineage["parent"] or "none"
    if "pooled_data_versions" in lineage:
        tags["pooled"] = ",".join(lineage["pooled_data_versions"]) or "none"
    return tags


# Prices


def _prices(home: Home, found: Verified, *, needed: bool) -> _Closes:
    """Check the candles and what stands for them; the closes of each whole data version."""
    found.add("raw answers", *raw_answers(home))
    file = price_file(home)
    if file is not None and not file.exists():  # opening it would make one
        found.add("databases", 0, [f"the price database {file} is missing"] if needed else [])
        return _Closes(None if needed else {})
    try:
        with damage_told_apart(), PriceRecords(home) as records:
            return _Closes(_of_candles(home, records, found))
    except (Damaged, ValueError) as error:  # a text where a day or a figure was
        found.add("candles", 0, [f"the price database cannot be read: {error}"])
        return _Closes(None)


def _of_candles(home: Home, records: PriceRecords, found: Verified) -> dict[str, dict[date, float]]:
    broken = records.integrity()
    found.add("databases", 1, [f"the price database: {line}" for line in broken])
    by_version: dict[str, dict[date, float]] = {}
    checks, seen, bare = records.pages(), set[int](), dict[int, str]()
    for product_id in records.products():
        candles = records.candles(product_id)
        seen.update(candles.rows.seqs.tolist())
        bare |= {seq: f"{product_id} ({day})" for seq, day in without_page(candles, checks)}
        by_version |= _of_product(home, records, candles, checks, found)
    lost = sorted(checks.keys() - seen)
    found.add("candles", 0, [f"candle {seq} is missing" for seq in lost])
    later = records.pages() if bare else {}  # a run that goes on meanwhile stored both
    bare = {seq: what for seq, what in bare.items() if seq not in later}
    found.add("candles", 0, [f"candle {seq} of {what} was stored with no page" for seq, what in bare.items()])
    return by_version


def _of_product(
    home: Home,
    records: PriceRecords,
    candles: Candles,
    checks: Mapping[int, int],
    found: Verified,
) -> dict[str, dict[date, float]]:
    """Check one product's candles and data versions; the closes of those that are whole."""
    product_id = candles.product_id
    changed = changed_candles(candles, checks)
    lines = [f"candle {seq} of {product_id} ({day}) is not the one that was stored" for seq, day in changed]
    found.add("candles", len(candles.rows.seqs), lines)
    found.add("candles", 0, list(_of_answers(home, candles)))
    series, whole = records.series(product_id), dict[str, dict[date, float]]()
    found.add("candles", 0, list(in_another_series(candles, series)))
    for version in records.versions(product_id):
        state = state_at(candles, series, version)
        fits = is_whole(version, state)
        found.add("data versions", 1, [] if fits else [_not_whole(version)])
        if fits:
            days = state.days.astype(object).tolist()
            closes = state.figures[:, FIGURES.index("close_usd")].tolist()
            whole[version.data_version] = dict(zip(days, closes, strict=True))
    return whole


def _not_whole(version: Version) -> str:
    return (
        f"data version {version.data_version} no longer stands for the {version.rows} closes it was made of"
    )


def _of_answers(home: Home, candles: Candles) -> Iterator[str]:
    """Whether each of the exchange's candles stands in the answer that it came with."""
    for number, (source, _, payload) in enumerate(candles.seen):
        if source != "coinbase":
            continue
        mine = candles.source == number
        days, figures = candles.rows.days[mine], candles.rows.figures[mine]
        try:
            answer = parse(read_raw(home, payload))
        except ClosecastError as error:
            yield f"{error}: candles of {candles.product_id} came with it"
            continue
        said, _ = read_rows(answer, days.min().item(), days.max().item())
        known = {row[0].date(): row[1:] for row in said.itertuples(index=False, name=None)}
        for day, row in zip(days.astype(object).tolist(), figures, strict=True):
            if not np.array_equal(np.array(known.get(day, ()), "float64"), row, equal_nan=True):
                yield f"the candle of {candles.product_id} of {day} is not in the answer that it came with"


# Forecasts and what refers to them


def _of_forecasts(
    rows: Rows, versions: Mapping[tuple[str, str, str], ModelVersion] | None, closes: _Closes
) -> Iterator[str]:
    for row in rows:
        what = f"forecast {row['prediction_id']} of {row['product_id']} for {row['target_day']}"
        names = ("product_id", "profile", "data_version", "settings_version", "code_version")
        if (
            prediction_key(origin=row["origin_day"], **{name: row[name] for name in names})
            != row["prediction_id"]
        ):
            yield f"{what}: its id is not the digest of what it says it was made from"
        known = closes.of(row["data_version"])
        if lost := closes.wrong_of(row["data_version"]):
            yield f"{what}: {lost}"
        elif known and (
            known.get(row["origin_day"]) != row["last_close_usd"] or max(known) > row["origin_day"]
        ):
            yield f"{what}: its data version does not end with its last close"
        if versions is None:
            continue
        version = versions.get((row["product_id"], row["profile"], row["model_version"]))
        if version is None:
            yield f"{what}: its model version {row['model_version']} is missing"
        elif version.tags.get("origin_day", "") > row["origin_day"].isoformat():
            yield f"{what}: its model was trained on later days"


def _of_revisions(rows: Rows) -> Iterator[str]:
    """Whether each target day's forecasts are numbered from 0 on, and no id comes twice."""
    for name, count in Counter(row["prediction_id"] for row in rows).items():
        if count > 1:
            yield f"forecast {name} stands in the table {count} times"
    days: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        day = (row["product_id"], row["profile"], row["target_day"])
        days.setdefault(day, []).append(row["revision"])
    for (product_id, profile, target), revisions in days.items():
        if sorted(revisions) != list(range(len(revisions))):
            numbers = ", ".join(map(str, sorted(revisions)))
            yield f"the {profile} forecasts of {product_id} for {target} have the revisions {numbers}"


def _of_ingredients(rows: Rows, forecasts: Rows, tracked: Rows) -> Iterator[str]:
    states = {row["tracker_version"] for row in tracked}
    beside = {row["prediction_id"] for row in rows}
    for row in rows:
        if row["tracker_version"] is not None and row["tracker_version"] not in states:
            yield f"ingredients of forecast {row['prediction_id']}: state {row['tracker_version']} is missing"
    for row in forecasts:
        if row["profile"] == Recipe.name and row["prediction_id"] not in beside:
            yield f"forecast {row['prediction_id']} has no ingredients"


def _of_trackers(rows: Rows, forecasts: Rows) -> Iterator[str]:
    states = {row["tracker_version"] for row in rows}
    ids = {row["prediction_id"] for row in forecasts}
    for row in rows:
        what = f"state {row['tracker_version']} of {row['product_id']}'s tracker"
        if row["previous_version"] is not None and row["previous_version"] not in states:
            yield f"{what}: the state before it, {row['previous_version']}, is missing"
        if row["prediction_id"] is not None and row["prediction_id"] not in ids:
            yield f"{what}: its forecast {row['prediction_id']} is missing"


def _of_scores(rows: Rows, forecasts: Rows, closes: _Closes) -> Iterator[str]:
    known = {row["prediction_id"]: row for row in forecasts}
    for row in rows:
        what = f"score of forecast {row['prediction_id']} for {row['target_day']}"
        forecast = known.get(row["prediction_id"])
        if forecast is None or forecast["target_day"] != row["target_day"]:
            yield f"{what}: there is no such forecast"
            continue
        if forecast["point_usd"] - row["close_usd"] != row["error_usd"]:
            yield f"{what}: its error is not the forecast less the close"
        known_closes = closes.of(row["data_version"])
        if lost := closes.wrong_of(row["data_version"]):
            yield f"{what}: {lost}"
        elif known_closes and known_closes.get(row["target_day"]) != row["close_usd"]:
            yield f"{what}: its close is not the one of its data version"
    twice = Counter((row["prediction_id"], row["close_usd"], row["data_version"]) for row in rows)
    for (name, _, _), count in twice.items():
        if count > 1:
            yield f"forecast {name} was scored {count} times by one data version"
