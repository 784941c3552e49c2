"""Everything stored against its checksums, and every reference against what it refers to.

References run from scores to forecasts, to models, to data versions, to candles, to the exchange's responses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from storage.core.candle_schema import FIGURES
from storage.core.errors import ClosecastError, Damaged
from storage.core.home import Home
from storage.core.progress import report_progress
from storage.models.mlflow_database import registry_integrity
from storage.models.registry import CHAMPION, Models, ModelVersion
from storage.prices.engine import database_engine
from storage.prices.integrity import (
    PriceRecords,
    changed_candles,
    misplaced_candles,
    named_digest,
    recorded_candles,
    report_damage,
    require_open_prices,
)
from storage.prices.raw_responses import read_raw
from storage.tables.schemas import TABLES
from storage.upkeep.file_integrity import bundle_files, fold_files, raw_responses, table_files
from storage.upkeep.references import Tables, failed_checks, light_rows
from tasks.core.settings import settings_digest
from tasks.forecast.publish import RunKey
from tasks.prices.coinbase_responses import parse, read_rows
from tasks.training.policy import Status
from tasks.training.registration import read_lineage
from tasks.upkeep.verify_references import REFERENCES

STATUSES = get_args(Status)
ROWS = {
    "predictions": "forecasts",
    "components": "components",
    "calibrator": "states of calibrator",
    "scores": "scores",
}
KEY = ("product_id", "profile", "data_version", "settings_version", "code_version", "horizon")
TEXTS = ("product_id", "profile", "model_version", "origin_day")
MODEL_VERSIONS = pa.schema([*((name, pa.string()) for name in TEXTS), ("is_champion", pa.bool_())])
DATA_VERSIONS = pa.schema(
    [("data_version", pa.string()), ("last_day", pa.date32()), ("last_close", pa.float64())]
)
CLOSES = pa.schema([("data_version", pa.string()), ("target_day", pa.date32()), ("close", pa.float64())])
PriceTables = tuple[pa.Table | None, pa.Table | None]
Row = dict[str, Any]


@dataclass
class Verification:
    """How many things of each kind were checked, and the findings, a line each."""

    checked: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, findings: Iterable[str] = ()) -> None:
        """Count things of a kind, and keep what was found wrong with them, once."""
        self.checked[kind] += count
        report_progress(kind, self.checked[kind])
        lines = [" ".join(finding.split()) for finding in findings]
        self.findings = list(dict.fromkeys([*self.findings, *lines]))


def verify_home(home: Home) -> Verification:
    """Check every checksum and every reference of a home; nothing is written.

    What refers is read before what it refers to, so that a run that goes on meanwhile causes no finding.
    `HomeUnusable` where a database cannot be opened: whether anything was changed is not known.
    """
    result = Verification()
    require_open_prices(home)
    for name in TABLES:
        result.add("files of tables", *table_files(home.table(name)))
    tables, unreadable = light_rows(home)
    result.add("files of tables", 0, unreadable)
    if tables["predictions"] is not None:
        tables["predictions"] = _with_expected_id(tables["predictions"])
    tables["model_versions"] = _check_models(home, result)
    tables["data_versions"], tables["closes"] = _check_prices(home, result, tables)
    result.add("backtests' files", *fold_files(home))
    for name, kind in ROWS.items():
        result.add(kind, len(tables[name] or ()))
    result.add("forecasts", 0, failed_checks(tables, REFERENCES))
    return result


def _with_expected_id(predictions: pa.Table) -> pa.Table:
    """The forecasts with the id that each must have; null for an origin that is no day."""
    days = predictions["origin_day"].cast(pa.string()).to_pylist()
    ids: list[str | None] = []
    for day, row in zip(days, predictions.select(KEY).to_pylist(), strict=True):
        horizon = row.pop("horizon")
        try:
            ids.append(RunKey(origin_day=date.fromisoformat(day), **row).prediction_id(horizon))
        except ValueError:
            ids.append(None)
    return predictions.append_column("expected_id", pa.array(ids, pa.string()))


# Models


def _check_models(home: Home, result: Verification) -> pa.Table | None:
    """Check the registry and the bundles; the table `model_versions`, None where it cannot be read."""
    damage = registry_integrity(home)
    result.add(
        "databases",
        int(database_engine(home).registry_exists()),
        [f"{home.registry}: {line}" for line in damage],
    )
    if damage:
        return None
    models = Models(home)
    try:
        versions = models.versions()
    except Damaged as error:
        result.add("model versions", 0, [str(error)])
        return None
    lost = [f"{name}: {alias} is version {number}, which is missing" for name, alias, number in models.lost()]
    result.add("model versions", 0, lost)
    for version in versions:
        files, findings = bundle_files(home, version)
        result.add("files of models", files, findings)
        result.add("model versions", 1, [] if findings else _version_findings(home, version))
    columns = [
        [version.product_id for version in versions],
        [version.profile for version in versions],
        [version.version for version in versions],
        [version.tags.get("origin_day", "") for version in versions],
        [CHAMPION in version.aliases for version in versions],
    ]
    return pa.table(columns, schema=MODEL_VERSIONS)


def _version_findings(home: Home, version: ModelVersion) -> Iterator[str]:
    """Compare the registry's tags of a version with its bundle."""
    subject = f"{version.name} version {version.version}"
    if version.tags.get("status") not in STATUSES:
        yield f"{subject}: its status is none of {', '.join(STATUSES)}"
    bundle = Models(home).open(version)
    try:
        lineage = read_lineage(bundle)
    except Damaged as error:
        yield str(error)
        return
    registered = {**version.tags, "product_id": version.product_id, "profile": version.profile}
    expected = {**lineage.tags(), "product_id": lineage.product_id, "profile": lineage.profile}
    for name, value in expected.items():
        if registered.get(name) != value:
            yield f"{subject}: the registry and the bundle differ in {name}"
    if lineage.settings_version != f"{version.profile}-{settings_digest(bundle.read_json('settings.json'))}":
        yield f"{subject}: its settings are not those of its settings_version"


# Prices


def _check_prices(home: Home, result: Verification, tables: Tables) -> PriceTables:
    """Check the price database; the tables `data_versions` and `closes`, None where it cannot be read."""
    result.add("raw responses", *raw_responses(home))
    file = database_engine(home).file
    if file is not None and not file.exists():  # opening it would make one
        missing = [f"the price database {file} is missing"] if tables["predictions"] else []
        result.add("databases", 0, missing)
        return None, None
    try:
        with report_damage(), PriceRecords(home) as records:
            return _check_candles(home, records, result, tables)
    except (Damaged, ValueError) as error:  # text in place of a day or a figure
        result.add("candles", 0, [f"the price database cannot be read: {error}"])
        return None, None


def _check_candles(home: Home, records: PriceRecords, result: Verification, tables: Tables) -> PriceTables:
    result.add("databases", 1, (f"the price database: {line}" for line in records.integrity()))
    checks, seqs, without_page = records.pages(), set[int](), dict[int, str]()
    versions, closes, scored = list[Row](), list[Row](), _scored_days(tables)
    for product_id in records.products():
        candles = records.candles(product_id)
        seqs.update(candles["seq"])
        for seq, day in candles.loc[~candles["seq"].isin(checks.keys()), ["seq", "day_utc"]].to_numpy():
            without_page[seq] = f"{product_id} ({day.date()})"
        result.add("candles", len(candles), changed_candles(product_id, candles, checks))
        result.add("candles", 0, _response_findings(home, product_id, candles))
        for data_version, days, figures in _whole_versions(records, product_id, candles, result):
            close, name = dict(zip(days, figures, strict=True)), {"data_version": data_version}
            versions.append({**name, "last_day": days[-1], "last_close": figures[-1]})
            closes += [
                {**name, "target_day": day, "close": close[day]}
                for day in scored[data_version] & close.keys()
            ]
    result.add("candles", 0, (f"candle {seq} is missing" for seq in sorted(checks.keys() - seqs)))
    recorded = records.pages() if without_page else {}  # a run that goes on meanwhile stored both
    unrecorded = {seq: candle for seq, candle in without_page.items() if seq not in recorded}
    result.add("candles", 0, (f"candle {seq} of {name} is on no page" for seq, name in unrecorded.items()))
    return pa.Table.from_pylist(versions, DATA_VERSIONS), pa.Table.from_pylist(closes, CLOSES)


def _scored_days(tables: Tables) -> Mapping[str, set[int]]:
    """The target days, since 1970, of the scores by each data version."""
    days = defaultdict[str, set[int]](set)
    if scores := tables["scores"]:
        columns = scores["data_version"], scores["target_day"].cast(pa.int32())
        for data_version, day in zip(*(column.to_pylist() for column in columns), strict=True):
            days[data_version].add(day)
    return days


def _whole_versions(
    records: PriceRecords, product_id: str, candles: pd.DataFrame, result: Verification
) -> Iterator[tuple[str, list[int], list[float]]]:
    """Check a product's data versions; name, days since 1970 and closes of each whole one."""
    series = records.series(product_id)
    result.add("candles", 0, misplaced_candles(product_id, candles, series))
    for version in records.versions(product_id):
        name, stored = version.data_version, recorded_candles(candles, series, version)
        if stored is None:
            lost = f"data version {name} no longer stands for the {version.rows} closes it was made of"
            result.add("data versions", 1, [lost])
            continue
        days = stored["day_utc"].to_numpy().astype("datetime64[D]")
        agrees = version.sha256 == named_digest(version) and version.through_day_utc == str(days[-1])
        other = [] if agrees else [f"the row of data version {name} contradicts its name"]
        result.add("data versions", 1, other)
        yield name, days.astype("int64").tolist(), stored["close"].tolist()


def _response_findings(home: Home, product_id: str, candles: pd.DataFrame) -> Iterator[str]:
    """Compare each of the exchange's candles with the response that it came with."""
    for payload, own in candles[candles["source"] == "coinbase"].groupby("payload_sha256", sort=False):
        try:
            response = parse(read_raw(home, str(payload)))
        except ClosecastError as error:
            yield f"{error}: candles of {product_id} came with it"
            continue
        rows, _ = read_rows(response, own["day_utc"].min().date(), own["day_utc"].max().date())
        expected = {row[0]: row[1:] for row in rows.itertuples(index=False, name=None)}
        for day, *row in own[["day_utc", *FIGURES]].itertuples(index=False, name=None):
            if not np.array_equal(np.array(expected.get(day, ()), "float64"), row, equal_nan=True):
                yield f"the candle of {product_id} of {day.date()} is not in the response that it came with"
