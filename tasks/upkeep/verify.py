"""Checks all stored data against their checksums, and every reference against its target.

References run from scores to forecasts, to models, to data versions, to candles, to the exchange's responses.
Each check is in `Verification.surviving`, so the next one follows whatever happens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.home import Home
from closecast.storage.prices.decisions import Splits, in_units_of
from closecast.storage.prices.engine import database_engine
from closecast.storage.prices.integrity import (
    PriceRecords,
    changed_candles,
    misplaced_candles,
    named_digest,
    recorded_prices,
    report_damage,
    require_open_prices,
)
from closecast.storage.prices.price_tables import PriceTables
from closecast.storage.reports import Reports
from closecast.storage.tables.opening import PAGES
from closecast.storage.tables.schemas import TABLES
from closecast.storage.upkeep.file_integrity import (
    fold_files,
    raw_responses,
    read_commits,
    rows_of_folds,
    table_files,
)
from closecast.storage.upkeep.references import (
    Tables,
    failed_checks,
    light_rows,
    rows_of_backtests,
    versions_of_tables,
)
from closecast.tasks.forecast.publish import RunKey
from closecast.tasks.upkeep.verification import Verification
from closecast.tasks.upkeep.verify_models import check_models
from closecast.tasks.upkeep.verify_references import REFERENCES
from closecast.tasks.upkeep.verify_responses import changed_from_response, missing_in_response

ROWS = {
    "predictions": "forecasts",
    "components": "components",
    "calibrator": "states of calibrator",
    "scores": "scores",
}
# What the checks read beside the stored tables; each is None where it cannot be read.
MADE = ("model_versions", "data_versions", "closes", "folds", "pages", "versions", "backtests")
KEY = ("product_id", "profile", "data_version", "settings_version", "code_version", "horizon")
COMMITS = pa.schema([("recorded_by", pa.string()), ("name", pa.string()), ("version", pa.int64())])
PAGE_COUNTS = pa.schema([("product_id", pa.string()), ("profile", pa.string()), ("written", pa.int64())])
FOLDS = pa.schema([("backtest_id", pa.string()), ("made", pa.int64())])
DATA_VERSIONS = pa.schema(
    [("data_version", pa.string()), ("last_day", pa.date32()), ("last_close", pa.float64())]
)
CLOSES = pa.schema([("data_version", pa.string()), ("target_day", pa.date32()), ("close", pa.float64())])
Row = dict[str, Any]


def verify_home(home: Home) -> Verification:
    """Check every checksum and every reference of a home; nothing is written.

    What refers is read before what it refers to, so a run at the same time causes no finding.
    `HomeUnusable` if a database cannot be opened, because then it is unknown whether anything was changed.
    """
    result = Verification()
    require_open_prices(home)
    recorded = _check_files_of_tables(home, result)
    tables: Tables = dict.fromkeys((*ROWS, *MADE)) | {"recorded": recorded}
    with result.surviving("backtests' files", f"the folder {home.folds}"):
        tables["folds"] = pa.Table.from_pylist(rows_of_folds(home), FOLDS)
    with result.surviving("reports", f"the folder {home.reports}"):
        tables["pages"] = pa.Table.from_pylist(Reports(home).counts(), PAGE_COUNTS)
    with result.surviving("files of tables", f"the tables of {home.root}"):
        tables |= _read_tables(home, result)
        tables |= {"versions": versions_of_tables(home), "backtests": rows_of_backtests(home)}
    check_models(home, result, tables)
    _check_prices(home, result, tables)
    with result.surviving("backtests' files", f"the folder {home.folds}"):
        rows = tables["backtests"]
        result.add("backtests' files", *fold_files(home, rows["backtest_id"].to_pylist() if rows else ()))
    for name, kind in ROWS.items():
        result.add(kind, len(tables[name] or ()))
    with result.surviving("forecasts", "what refers to what"):
        result.add("forecasts", 0, failed_checks(tables, REFERENCES))
    with result.surviving("reports", f"the folder {home.reports}"):
        written = PAGES in recorded["name"].to_pylist()
        result.add("reports", *Reports(home).check(_pages(home, tables), written=written))
    return result


def _check_files_of_tables(home: Home, result: Verification) -> pa.Table:
    """Check the files of each table; the versions of tables that commits of others have recorded."""
    rows: list[Row] = []
    for name in TABLES:
        folder = home.table(name)
        with result.surviving("files of tables", f"the table {folder}"):
            result.add("files of tables", *table_files(folder))
            seen, findings = read_commits(folder)
            result.add("files of tables", 0, findings)
            rows += [{"recorded_by": name, "name": other, "version": v} for other, v in seen.items()]
    return pa.Table.from_pylist(rows, COMMITS)


def _read_tables(home: Home, result: Verification) -> Tables:
    """The rows of the tables as `light_rows`, with what is made of them; a table is None without them."""
    tables, unreadable = light_rows(home)
    result.add("files of tables", 0, unreadable)
    with result.surviving("forecasts", f"the table {home.predictions}"):
        if (predictions := tables.pop("predictions")) is not None:
            tables["predictions"] = _with_expected_id(predictions)
    return tables


def _pages(home: Home, tables: Tables) -> list[tuple[str, str]]:
    """Product and profile of each page that must exist: the run that scored a forecast wrote it first.

    None if machines share the tables: another machine may have run them.
    """
    forecasts, scores = tables["predictions"], tables["scores"]
    if home.is_elsewhere or not forecasts or not scores:
        return []
    scored = forecasts.filter(pc.is_in(forecasts["prediction_id"], scores["prediction_id"].unique()))
    pairs = scored.group_by(["product_id", "profile"]).aggregate([]).to_pylist()
    return [(pair["product_id"], pair["profile"]) for pair in pairs]


def _with_expected_id(predictions: pa.Table) -> pa.Table:
    """The forecasts with the id that each must have; null if the origin is not a day."""
    days = predictions["origin_day"].cast(pa.string()).to_pylist()
    ids: list[str | None] = []
    for day, row in zip(days, predictions.select(KEY).to_pylist(), strict=True):
        horizon = row.pop("horizon")
        try:
            ids.append(RunKey(origin_day=date.fromisoformat(day), **row).prediction_id(horizon))
        except ValueError:
            ids.append(None)
    return predictions.append_column("expected_id", pa.array(ids, pa.string()))


# Prices


def _check_prices(home: Home, result: Verification, tables: Tables) -> None:
    """Check the price database; where it can be read the tables get `data_versions` and `closes`."""
    with result.surviving("raw responses", f"the folder {home.raw}"):
        result.add("raw responses", *raw_responses(home))
    file = database_engine(home).file
    if file is not None and not file.exists():  # opening it would make one
        missing = [f"the price database {file} is missing"] if tables["predictions"] else []
        result.add("databases", 0, missing)
        return
    with result.surviving("candles", "the price database"), report_damage(), PriceRecords(home) as records:
        _check_candles(home, records, result, tables)
    with (
        result.surviving("quarantined rows", "the price database"),
        report_damage(),
        PriceTables(home) as prices,
    ):
        for product_id in prices.products():
            rows = prices.quarantined(product_id)
            result.add("quarantined rows", len(rows), missing_in_response(home, product_id, rows))


def _check_candles(home: Home, records: PriceRecords, result: Verification, tables: Tables) -> None:
    with result.surviving("databases", "the price database"), report_damage():
        result.add("databases", 1, (f"the price database: {line}" for line in records.integrity()))
    checks, seqs, without = records.pages(), set[int](), dict[int, str]()
    versions, closes, scored = list[Row](), list[Row](), _scored_days(tables)
    products, whole = records.products(), 0
    for product_id in products:
        with (
            result.surviving("candles", f"the series of {product_id} in the price database"),
            report_damage(),
        ):
            candles = records.candles(product_id)
            seqs.update(candles["seq"])
            unknown = candles.loc[~candles["seq"].isin(checks.keys()), ["seq", "day_utc"]].to_numpy()
            without |= {seq: f"{product_id} ({day.date()})" for seq, day in unknown}
            result.add("candles", len(candles), changed_candles(product_id, candles, checks))
            result.add("candles", 0, changed_from_response(home, product_id, candles))
            for data_version, days, figures, splits in _whole_versions(records, product_id, candles, result):
                close, name = dict(zip(days, figures, strict=True)), {"data_version": data_version}
                versions.append({**name, "last_day": days[-1], "last_close": figures[-1]})
                closes += [
                    {**name, "target_day": day, "close": outcome}
                    for day in scored[data_version] & close.keys()
                    for outcome in _outcomes(day, close[day], splits)
                ]
            whole += 1
    if whole == len(products):  # else what the others have would seem to be missing
        result.add("candles", 0, (f"candle {seq} is missing" for seq in sorted(checks.keys() - seqs)))
        recorded = records.pages() if without else {}  # a run that goes on meanwhile stored both
        lost = (f"candle {seq} of {one} is on no page" for seq, one in without.items() if seq not in recorded)
        result.add("candles", 0, lost)
        tables["data_versions"] = pa.Table.from_pylist(versions, DATA_VERSIONS)
        tables["closes"] = pa.Table.from_pylist(closes, CLOSES)


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
) -> Iterator[tuple[str, list[int], list[float], Splits]]:
    """Check a product's data versions; name, days since 1970, closes and splits of each intact one."""
    series, decisions = records.series(product_id), records.decisions(product_id)
    result.add("candles", 0, misplaced_candles(product_id, candles, series))
    for version in records.versions(product_id):
        name, prices = version.data_version, recorded_prices(candles, series, decisions, version)
        if prices is None:
            lost = f"data version {name} no longer matches the {version.rows} closes that it names"
            result.add("data versions", 1, [lost])
            continue
        recorded, stored = prices
        days = stored["day_utc"].to_numpy().astype("datetime64[D]")
        agrees = version.sha256 == named_digest(version) and version.through_day_utc == str(days[-1])
        other = [] if agrees else [f"the row of data version {name} contradicts its name"]
        result.add("data versions", 1, other)
        splits = recorded.splits(days[-1].item())
        yield name, days.astype("int64").tolist(), stored["close"].tolist(), splits


def _outcomes(day: int, close: float, splits: Splits) -> set[float]:
    """The possible values of a day's stored close in the units of a forecast's origin, days since 1970."""
    target = date(1970, 1, 1) + timedelta(days=day)
    origins = [target, *(split - timedelta(days=1) for split, _ in splits)]
    return {in_units_of(origin, close, target, splits) for origin in origins}
