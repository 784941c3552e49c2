"""Everything stored against what was recorded of it.

References run from scores to predictions, to models, to data versions, to candles, to the exchange's answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from storage.core.candle_schema import FIGURES
from storage.core.errors import ClosecastError, Damaged
from storage.core.home import Home
from storage.core.progress import report_progress
from storage.models.mlflow_database import registry_exists, registry_integrity
from storage.models.registry import Models
from storage.models.version import ModelVersion
from storage.prices.integrity import (
    Candles,
    PriceRecords,
    Version,
    agrees,
    changed_candles,
    damage_told_apart,
    in_another_series,
    is_whole,
    missing_pages,
    price_file,
    require_open_prices,
    state_at,
)
from storage.prices.raw_responses import read_raw
from storage.tables.delta import as_dataset, reading
from storage.tables.schemas import CALIBRATOR, COMPONENTS, PREDICTIONS, SCORES, TABLES
from storage.tables.snapshot import snapshot
from storage.upkeep.file_integrity import bundle_files, fold_files, lineage_of, raw_responses, table_files
from tasks.prices.coinbase_responses import parse, read_rows
from tasks.profiles.calibrated_settings import Recipe, settings_digest
from tasks.training.policy import Status
from tasks.upkeep.verify_references import (
    Closes,
    Rows,
    missing_champions,
    missing_scores,
    of_forecasts,
    of_ingredients,
    of_revisions,
    of_scores,
    of_trackers,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.core.location import Location

# Of a lineage, what stands in the registry as well: of every version, and of those that have it.
ALWAYS = ("data_version", "settings_version", "code_version", "weights_sha256")
OFTEN = (
    *("product_id", "profile", "training_kind", "git_commit", "recipe_version", "series"),
    *("origin_day", "trained_through"),
)
STATUSES = get_args(Status)


@dataclass
class Verified:
    """How many things of each kind were looked at, and what is wrong with them, a line each."""

    looked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, wrong: Sequence[str] = ()) -> None:
        """Count what was looked at, and keep what was found."""
        self.looked[kind] += count
        report_progress(kind, self.looked[kind])
        lines = [" ".join(line.split()) for line in wrong]
        self.wrong.extend(line for line in dict.fromkeys(lines) if line not in self.wrong)


def verify_home(home: Home) -> Verified:
    """Check every hash and every reference of a home; nothing is written.

    What refers is read before what it refers to, so that a run that goes on meanwhile finds nothing missing.

    Raises:
        HomeUnusable: a database cannot be opened; whether anything was changed is not known.
    """
    found = Verified()
    require_open_prices(home)
    for name in TABLES:
        found.add("files of tables", *table_files(home.table(name)))
    scored, tracked, beside, forecasts = _rows(home, found)
    versions = _versions(home, found)
    closes = _prices(home, found, needed=bool(forecasts))
    found.add("backtests' files", *fold_files(home))
    found.add("forecasts", len(forecasts), list(of_forecasts(forecasts, versions, closes)))
    found.add("forecasts", 0, list(of_revisions(forecasts)))
    found.add("model versions", 0, list(missing_champions(forecasts, versions)))
    found.add("components", len(beside), list(of_ingredients(beside, forecasts, tracked)))
    found.add("states of calibrator", len(tracked), list(of_trackers(tracked, forecasts)))
    found.add("scores", len(scored), list(of_scores(scored, forecasts, closes)))
    if scored or not home.scores.is_dir():  # what cannot be read was told
        found.add("scores", 0, list(missing_scores(tracked, scored)))
    return found


def _rows(home: Home, found: Verified) -> tuple[Rows, Rows, Rows, Rows]:
    """Scores, calibrator' states, components and forecasts at one moment; what cannot be read is told."""
    folders = (home.scores, home.calibrator, home.components, home.predictions)
    schemas = [schema.arrow for schema in (SCORES, CALIBRATOR, COMPONENTS, PREDICTIONS)]
    read: list[Rows] = []
    try:
        tables = snapshot(folders)
    except Damaged:  # told with its files
        return [], [], [], []
    for folder, table, schema in zip(folders, tables, schemas, strict=True):
        try:
            with reading(folder):
                rows = as_dataset(table, folder).to_table() if table else schema.empty_table()
            if lacking := [name for name in schema.names if name not in rows.column_names]:
                raise Damaged(
                    f"the table {folder} has the columns of another, it lacks {', '.join(lacking)}:"
                    " restore it from a backup"
                )
            read.append(_as_rows(rows, folder))
        except Damaged as error:
            found.add("files of tables", 0, [str(error)])
            read.append([])
    return read[0], read[1], read[2], read[3]


def _as_rows(rows: pa.Table, folder: Location) -> Rows:
    try:
        found: Rows = rows.to_pylist()
    except (OverflowError, ValueError) as error:
        raise Damaged(f"the table {folder} holds a day that is none: {error}") from error
    return found


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
    status, judged = version.tags.get("status"), version.profile == Recipe.name
    if status not in STATUSES and (judged or status is not None):  # the article's models have none
        yield f"{what}: its status is none of {', '.join(STATUSES)}"
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


def _prices(home: Home, found: Verified, *, needed: bool) -> Closes:
    """Check the candles and what stands for them; the closes of each whole data version."""
    found.add("raw answers", *raw_responses(home))
    file = price_file(home)
    if file is not None and not file.exists():  # opening it would make one
        found.add("databases", 0, [f"the price database {file} is missing"] if needed else [])
        return Closes(None if needed else {})
    try:
        with damage_told_apart(), PriceRecords(home) as records:
            return Closes(_of_candles(home, records, found))
    except (Damaged, ValueError) as error:  # a text where a day or a figure was
        found.add("candles", 0, [f"the price database cannot be read: {error}"])
        return Closes(None)


def _of_candles(home: Home, records: PriceRecords, found: Verified) -> dict[str, dict[date, float]]:
    broken = records.integrity()
    found.add("databases", 1, [f"the price database: {line}" for line in broken])
    by_version: dict[str, dict[date, float]] = {}
    checks, seen, bare = records.pages(), set[int](), dict[int, str]()
    for product_id in records.products():
        candles = records.candles(product_id)
        seen.update(candles.rows.seqs.tolist())
        bare |= {seq: f"{product_id} ({day})" for seq, day in missing_pages(candles, checks)}
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
        if fits and not agrees(version, state):
            found.add(
                "data versions", 0, [f"data version {version.data_version} has a row that says another"]
            )
        if fits:
            days = state.days.astype(object).tolist()
            closes = state.figures[:, FIGURES.index("close")].tolist()
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
