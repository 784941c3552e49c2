"""Whatever was changed, is missing or contradicts itself is found and named."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from closecast.storage.backup.backup import back_up
from closecast.storage.core.errors import Damaged, HomeUnusable, StorageError
from closecast.storage.core.home import Home
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.storage.models.registry import Models
from closecast.storage.prices.decisions import Decision
from closecast.storage.prices.integrity import PriceRecords
from closecast.storage.prices.price_store import Prices
from closecast.storage.prices.raw_responses import keep_raw
from closecast.storage.tables import opening
from closecast.storage.tables.checksums import CHECKSUMS
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator, components
from closecast.storage.tables.scores import Scores
from closecast.storage.tables.sql import query
from closecast.storage.upkeep.compaction import compact_table
from closecast.storage.upkeep.references import light_rows
from closecast.tasks.prices.coinbase_responses import parse, read_rows
from closecast.tasks.prices.validation import check_candles
from closecast.tasks.report.page import write_report
from closecast.tasks.training.gate import Gate
from closecast.tasks.upkeep import verify
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import HORIZONS, MADE, Runs, day
from tests.helpers import BTC, NOW, deny
from tests.lived import DAYS
from tests.storage.tables.rows import ROWS, table

MODEL = f"closecast.{BTC}.calibrated"
CHANGED = f"candle 321 of {BTC} ({day(321)}) is not the one that was stored"


def findings(runs: Runs) -> list[str]:
    return verify_home(runs.home).findings


def sql(home: Home, name: str, *statements: str) -> None:
    """Change a database behind closecast's back: by somebody who drops the triggers first."""
    with contextlib.closing(sqlite3.connect(home.root / name)) as database, database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (trigger,) in triggers:
            database.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            database.execute(statement)


def append_candles(runs: Runs, candles: pd.DataFrame, source: str | None = None) -> None:
    with Prices(runs.home) as prices:
        source = source or prices.source_of(BTC)
        assert source
        prices.append(BTC, candles, source=source, observed_at=NOW, payload_sha256="ab" * 32)


def test_an_unchanged_home_has_no_findings(shared_runs: Runs, tmp_path: Path) -> None:
    result = verify_home(shared_runs.home)
    assert result.findings == []
    checked = result.checked
    assert checked["candles"] == 1000
    assert checked["forecasts"] == len(HORIZONS) * DAYS
    # Of the next day all but the newest, of three days ahead the first.
    assert checked["scores"] == DAYS - 1 + DAYS - 3
    assert checked["model versions"] == 1
    assert min(checked[kind] for kind in ("data versions", "components", "states of calibrator")) >= DAYS
    assert checked["files of models"] > 5
    assert checked["files of tables"] > 4 * DAYS
    (tmp_path / "scores" / "_delta_log").mkdir(parents=True)
    assert verify_home(Home(tmp_path)).findings == []


# Files


def stored_files(home: Home) -> list[Path]:
    """Every file whose every byte counts."""
    folders = [home.root / name for name in ("predictions", "scores", "calibrator", "components", "models")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if path.name != "_last_checkpoint")


@pytest.mark.parametrize("seed", range(8))
def test_one_changed_bit_is_found_and_its_file_named(shared_runs: Runs, seed: int) -> None:
    random = np.random.default_rng(seed)
    files = stored_files(shared_runs.home)
    path = files[random.integers(len(files))]
    before = path.read_bytes()
    changed = bytearray(before)
    changed[random.integers(len(before))] ^= 1 << int(random.integers(8))
    path.write_bytes(changed)
    try:
        lines = findings(shared_runs)
    finally:
        path.write_bytes(before)
    assert lines
    # A changed checksum accuses the file that it is of.
    assert path.name == CHECKSUMS or any(path.name in line or path.parent.name in line for line in lines)


def test_a_missing_file_is_named(shared_runs: Runs, tmp_path: Path) -> None:
    for path in stored_files(shared_runs.home)[::5]:
        shutil.move(path, tmp_path / "away")
        lines = findings(shared_runs)
        shutil.move(tmp_path / "away", path)
        assert any(path.name in line or path.parent.name in line for line in lines), path
    assert findings(shared_runs) == []


def test_compacted_tables_are_checked_too(runs: Runs) -> None:
    for name in ("predictions", "scores", "calibrator", "components"):
        assert compact_table(runs.home, name)
    assert findings(runs) == []
    part = next((runs.home.root / "predictions").rglob("*.zstd.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"X")
    assert any(part.name in line for line in findings(runs))


@pytest.mark.folder
def test_a_gap_in_a_log_is_told_without_the_structures_of_delta(runs: Runs) -> None:
    folder = runs.home.root / "predictions"
    (folder / "_delta_log" / f"{2:020d}.json").unlink()
    reason = "Kernel error: Generic delta kernel error: Expected contiguous commit files, but found gap"
    assert f"the table {folder} cannot be read: restore it from a backup ({reason})" in findings(runs)


@pytest.mark.parametrize("missing", [[], [CHECKSUMS], [f"product_id={BTC}"]])
def test_a_table_without_its_log_is_found(runs: Runs, missing: list[str]) -> None:
    folder = runs.home.root / "scores"
    for name in ("_delta_log", *missing):
        (folder / name).rename(runs.home.root / f"away-{name}")
    (line,) = findings(runs)
    assert line.startswith(f"the table {folder.resolve()} holds files")
    assert "_delta_log is missing" in line


def test_swapped_tables_are_named(runs: Runs) -> None:
    root = runs.home.root
    (root / "scores").rename(root / "away")
    (root / "calibrator").rename(root / "scores")
    (root / "away").rename(root / "calibrator")
    lines = "\n".join(findings(runs))
    for name in ("scores", "calibrator"):
        assert f"the table {root / name} has the columns of another" in lines


def test_a_changed_last_line_of_checksums_hides_no_file(runs: Runs) -> None:
    """A commit that is not recorded is of a killed run; its recorded files are checked all the same."""
    folder = runs.home.root / "predictions"
    lines = (folder / CHECKSUMS).read_text().splitlines(keepends=True)
    assert lines[-1].endswith(".json\n")
    (folder / CHECKSUMS).write_text("".join(lines).replace(lines[-1], f"{lines[-1][:-2]}o\n"))
    (line,) = findings(runs)
    assert line.startswith(f"{folder.resolve() / CHECKSUMS} names '_delta_log/")
    (folder / CHECKSUMS).unlink()
    assert f"{folder.resolve() / CHECKSUMS} is missing" in findings(runs)
    (folder / CHECKSUMS).write_text("".join(lines[:-1]))
    assert findings(runs) == []
    newest = folder / lines[-2].split()[1]
    assert newest.suffix == ".parquet"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    assert any(f"{newest.name} is not the file that was stored" in line for line in findings(runs))


def pipe_in_place_of(path: Path) -> Path:
    path.unlink()
    os.mkfifo(path)
    return path


@pytest.mark.folder
@pytest.mark.sqlite
@pytest.mark.parametrize(
    "pattern",
    [
        *("predictions/*/*.parquet", "scores/_delta_log/*0.json", "components/_delta_log/*4.json"),
        *("models/*/*/manifest.json", "models/*/*/*.weights.h5", "prices.db", "mlflow.db"),
    ],
)
def test_a_pipe_in_place_of_a_file_is_one_finding_and_never_opened(runs: Runs, pattern: str) -> None:
    path = pipe_in_place_of(next(runs.home.root.glob(pattern)))
    (line,) = findings(runs)
    assert line.startswith(str(path))
    assert "not a regular file" in line
    with pytest.raises(StorageError, match=r"regular file|is missing, but the registry names it"):
        back_up(runs.home, runs.home.root / "backup.tar")


@pytest.mark.folder
def test_a_pipe_after_the_newest_commit_is_one_finding(runs: Runs) -> None:
    newest = max((runs.home.root / "predictions" / "_delta_log").glob("*.json"))
    pipe = newest.with_name(f"{int(newest.stem) + 1:020d}.json")
    os.mkfifo(pipe)
    assert findings(runs) == [f"{pipe} is not a regular file: restore it from a backup"]


@pytest.mark.folder
def test_a_pipe_in_place_of_a_data_file_ends_each_reader_in_one_line(runs: Runs) -> None:
    path = pipe_in_place_of(next(runs.home.root.glob("predictions/*/*.parquet")))
    line = f"{path.name} is not a regular file: restore it from a backup$"
    with pytest.raises(Damaged, match=line):
        Predictions(runs.home).between()
    with pytest.raises(Damaged, match=line):
        query(runs.home, "from predictions")
    with pytest.raises(Damaged, match=line):
        compact_table(runs.home, "predictions")


def test_models_of_backtests_are_checked(home: Home) -> None:
    folds = BacktestCache(home, "b" * 32)
    with folds.draft("m1") as draft:
        draft.write_json("calibration.json", {"levels": [0.5]})
    (folds.folder / ".draft-half").mkdir()
    (folds.folder / ".draft-half" / "manifest.json").write_bytes(b"half")
    result = verify_home(home)
    assert (result.checked["backtests' files"], result.findings) == (2, [])
    (folds.folder / "m1" / "calibration.json").write_bytes(b'{"levels": [0.6]}\n')
    again = "the next run of the backtest makes it again"
    changed = f"{folds.folder / 'm1' / 'calibration.json'} is not the file that was stored: {again}"
    assert verify_home(home).findings == [changed]
    (folds.folder / "m1" / "manifest.json").write_bytes(b"{")
    assert any("m1 is not a complete model" in line for line in verify_home(home).findings)
    folds.write("fold-0", {"rows": 3})
    shutil.rmtree(folds.folder / "m1")
    lost = f"backtest {'b' * 32} has 0 rows, but its folds made 3"
    assert verify_home(home).findings == [lost]
    figures = folds.folder / "fold-0.json"
    figures.write_bytes(figures.read_bytes().replace(b"3", b"4", 1))
    (line,) = verify_home(home).findings
    assert line.startswith(f"{figures} cannot be used: it is not the file that was stored")
    pipe_in_place_of(figures)
    (line,) = verify_home(home).findings
    assert line.startswith(f"{figures} cannot be used: it is not a regular file")


# Prices


def test_a_deleted_candle_and_its_data_versions_are_named(runs: Runs) -> None:
    version = runs.data(601)
    sql(runs.home, "prices.db", f"DELETE FROM data_versions WHERE data_version = '{version}'")  # noqa: S608
    lost = [line for line in findings(runs) if f"its data version {version} is missing or changed" in line]
    assert [line.split()[0] for line in lost] == [*["forecast"] * len(HORIZONS), "score"]
    sql(runs.home, "prices.db", "DELETE FROM candles WHERE seq = 600")
    lines = "\n".join(findings(runs))
    assert "candle 600 is missing" in lines
    assert "no longer matches the 600 closes" in lines


def test_a_candle_that_is_on_no_page_is_named(runs: Runs) -> None:
    others = "product_id, open, high, low, close, volume, source, observed_at, payload_sha256"
    copied = f"SELECT '2031-01-01', {others} FROM candles WHERE seq = 5"  # noqa: S608
    sql(runs.home, "prices.db", f"INSERT INTO candles (day_utc, {others}) {copied}")
    assert findings(runs) == [f"candle 1001 of {BTC} (2031-01-01) is on no page"]


def test_a_candle_stored_during_the_check_is_no_finding(
    runs: Runs, walk: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the pages and that of the candles."""
    products = PriceRecords.products

    def store_first(records: PriceRecords) -> list[str]:
        append_candles(runs, walk(day(1001), days=1))
        return products(records)

    monkeypatch.setattr(PriceRecords, "products", store_first)
    assert findings(runs) == []


def test_candles_in_another_series_or_none_are_one_finding(runs: Runs) -> None:
    sql(runs.home, "prices.db", "UPDATE series SET source = 'stooq'")
    (line,) = findings(runs)
    assert line.startswith(f"1000 of the candles of {BTC}, numbers 1 to 1000, came from")
    assert line.endswith("are in a series of stooq")
    sql(runs.home, "prices.db", "DELETE FROM series")
    assert any(line.endswith("are in no series") for line in findings(runs))


def test_a_replaced_source_is_no_finding(runs: Runs, walk: Callable[..., pd.DataFrame]) -> None:
    """Nor is a series without a candle: its first page was refused, twice."""
    with Prices(runs.home) as prices:
        prices.start_series("ETH-USD", "csv", started_at=NOW)
        for source in ("other", "another"):
            prices.start_series(BTC, source, started_at=NOW, replace=True)
    append_candles(runs, walk(day(30), days=30), "another")
    with Prices(runs.home) as prices:
        prices.start_series(BTC, "other", started_at=NOW, replace=True)
    assert findings(runs) == []


def test_prices_that_are_missing_or_no_database_are_one_finding(runs: Runs) -> None:
    file = runs.home.root / "prices.db"
    file.write_bytes(b"no database" * 1000)
    (line,) = findings(runs)
    assert "file is not a database" in line
    file.unlink()
    assert findings(runs) == [f"the price database {file} is missing"]
    assert not file.exists()


def test_a_price_database_that_cannot_be_opened_is_an_error(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closecast.storage.prices.engine_base.BUSY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(runs.home.root / "prices.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HomeUnusable, match="held by another process"):
            verify_home(runs.home)
    (runs.home.root / "prices.db").unlink()
    (runs.home.root / "prices.db").mkdir()
    with pytest.raises(HomeUnusable, match="unable to open"):
        verify_home(runs.home)


def test_broken_databases_are_named_in_one_line_each(runs: Runs) -> None:
    for name in ("prices.db", "mlflow.db"):
        path = runs.home.root / name
        data = bytearray(path.read_bytes())
        data[4096 * 3 : 4096 * 5] = bytes(8192)
        path.write_bytes(data)
    lines = findings(runs)
    assert any("price" in line for line in lines)
    assert any("mlflow.db" in line for line in lines)
    assert all("\n" not in line for line in lines)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("name", "change", "finding"),
    [
        ("prices.db", "UPDATE candles SET source = CAST(x'ff41' AS TEXT) WHERE seq = 5", "Could not decode"),
        ("prices.db", "UPDATE candles SET day_utc = 'D2020-08-2' WHERE seq = 5", "Failed to parse string"),
        ("mlflow.db", "UPDATE model_version_tags SET value = CAST(x'ff41' AS TEXT)", "Could not decode"),
        (
            "mlflow.db",
            "UPDATE model_version_tags SET value = NULL WHERE key = 'gate'",
            "version 1 cannot be read",
        ),
    ],
)
def test_a_check_that_cannot_read_something_is_a_finding_and_the_others_follow(
    runs: Runs, name: str, change: str, finding: str
) -> None:
    sql(runs.home, name, "PRAGMA ignore_check_constraints = 1", change)
    first = next((runs.home.root / "scores").glob("*/*.parquet"))
    first.write_bytes(first.read_bytes()[:-9] + b"123456789")
    lines = findings(runs)
    assert any(finding in line for line in lines)
    assert any(first.name in line for line in lines)
    (runs.home.folds / "b" / "m1").mkdir(parents=True)
    assert any("m1 is not a complete model" in line for line in findings(runs))  # of a later check


def test_a_table_that_may_not_be_read_is_named_and_the_other_checks_follow(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next((runs.home.root / "scores").glob("*/*.parquet"))
    first.write_bytes(first.read_bytes()[:-9] + b"123456789")
    deny(monkeypatch, runs.home.root / "predictions")
    deny(monkeypatch, runs.home.folds)
    lines = findings(runs)
    assert any("predictions cannot be read" in line and "correct its rights" in line for line in lines)
    assert any(first.name in line for line in lines)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        *(
            (f"UPDATE candles SET {change} WHERE seq = 321", CHANGED)  # noqa: S608
            for change in ("close = close + 0.01", "volume = NULL", "high = high * 2", "source = 'x'")
        ),
        ("DROP VIEW closes", "the price database: closes is missing"),
        ("DROP TABLE quarantine", "the price database: quarantine is missing"),
        ("DROP INDEX candles_newest", "the price database: candles_newest is missing"),
        ("UPDATE data_versions SET sha256 = '0'", "contradicts its name"),
        ("UPDATE data_versions SET through_day_utc = '2031-12-31'", "contradicts its name"),
        ("UPDATE pages SET last_candle_seq = last_candle_seq + 1", "has another number of checks"),
    ],
)
def test_each_part_of_the_price_database_is_checked(runs: Runs, change: str, finding: str) -> None:
    sql(runs.home, "prices.db", change)
    assert any(finding in line for line in findings(runs))


@pytest.fixture
def fetched(tmp_path: Path, walk: Callable[..., pd.DataFrame]) -> Home:
    """Three candles of the exchange, with the response that they came with."""
    home = Home(tmp_path / "fetched").prepare()
    candles = walk(day(3), days=3)
    moments = candles["day_utc"].astype("int64").tolist()
    figures = candles[["low", "high", "open", "close", "volume"]].to_numpy().tolist()
    rows = [[moment, *row] for moment, row in zip(moments, figures, strict=True)]
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        sha256 = keep_raw(home, str(rows[::-1]).encode())
        prices.append(BTC, candles, source="coinbase", observed_at=NOW, payload_sha256=sha256)
        prices.data_version(BTC, day(3), created_at=NOW)
    return home


def test_candles_of_the_exchange_are_compared_with_its_response(fetched: Home) -> None:
    assert verify_home(fetched).findings == []
    # Whoever changes the candle and its page and its data version cannot change the response.
    sql(fetched, "prices.db", "UPDATE candles SET volume = 11 WHERE seq = 2", "DELETE FROM pages")
    line = f"the candle of {BTC} of {day(2)} is not in the response that it came with"
    assert line in verify_home(fetched).findings


def test_a_changed_or_missing_response_is_named(fetched: Home) -> None:
    path = next((fetched.root / "raw").glob("*/*"))
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    (line,) = verify_home(fetched).findings
    assert line.startswith(f"the raw response {path} cannot be read: ")
    path.unlink()
    missing = f"the raw response {path} cannot be read: No such file or directory; restore it from a backup"
    assert verify_home(fetched).findings == [missing]


def test_quarantined_rows_of_the_exchange_are_compared_with_its_response(
    home: Home, walk: Callable[..., pd.DataFrame]
) -> None:
    rows = walk(day(4), days=4)[["day_utc", "low", "high", "open", "close", "volume"]].to_numpy().tolist()
    page = [[int(moment.timestamp()), *figures] for moment, *figures in rows]
    page[3][1:5] = [1000 * price for price in page[3][1:5]]  # a jump
    page[1][4] = "unreadable"
    payload = json.dumps(page).encode()
    candles, rejected = read_rows(parse(payload), day(1), day(4))
    checked = check_candles(candles, last_finished_day=day(4))
    quarantined = pd.concat([rejected, checked.quarantined], ignore_index=True)
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        observed: Any = {"source": "coinbase", "observed_at": NOW, "payload_sha256": keep_raw(home, payload)}
        assert prices.append(BTC, checked.accepted, quarantined=quarantined, **observed).quarantined == 2
    assert verify_home(home).findings == []
    assert verify_home(home).checked["quarantined rows"] == 2
    sql(home, "prices.db", "UPDATE quarantine SET raw = raw || ' ' WHERE seq = 1")
    sql(home, "prices.db", f"UPDATE quarantine SET day_utc = '{day(5)}' WHERE seq = 2")  # noqa: S608
    assert verify_home(home).findings == [
        f"the quarantined row of {BTC} of {day(2)} is not in the response that it came with",
        f"the quarantined row of {BTC} of {day(5)} is not in the response that it came with",
    ]
    next(home.root.glob("raw/*/*")).unlink()
    (line,) = verify_home(home).findings
    assert line.endswith("No such file or directory; restore it from a backup")


@pytest.mark.parametrize(
    "change",
    [
        *("UPDATE price_decisions SET factor = 0.3", "UPDATE price_decisions SET known_from = '2031-01-01'"),
        *("UPDATE price_decisions SET kind = 'rejected', factor = NULL", "DELETE FROM price_decisions"),
    ],
)
def test_a_changed_decision_is_found_by_the_data_versions_that_know_it(fetched: Home, change: str) -> None:
    with Prices(fetched) as prices:
        prices.decide(BTC, Decision(day(2), "split", day(2), "user", 0.5), decided_at=NOW)
        version = prices.data_version(BTC, day(3), created_at=NOW)
    assert verify_home(fetched).findings == []
    sql(fetched, "prices.db", change)
    lost = f"data version {version} no longer matches the 3 closes that it names"
    assert verify_home(fetched).findings == [lost]


# Models


def test_a_missing_model_version_is_named_once_per_forecast(runs: Runs) -> None:
    models = Models(runs.home)
    models.delete(models.version(BTC, "calibrated", "1"))
    missing = sum("its model version 1 is missing" in line for line in findings(runs))
    assert missing == len(HORIZONS) * DAYS


def test_a_damaged_or_missing_twin_is_named(runs: Runs) -> None:
    (twin,) = (runs.home.root / "models").rglob("twin/member-1.weights.h5")
    content = twin.read_bytes()
    for put in (content[:-1] + b"X", b"", None):
        if put is None:
            twin.unlink()
        else:
            twin.write_bytes(put)
        (line,) = findings(runs)
        assert "twin/member-1.weights.h5" in line
    twin.write_bytes(content)
    assert findings(runs) == []


TAGS = (
    *("data_version", "origin_day", "training_kind", "recipe_version", "series"),
    *("trained_through", "parent", "pooled", "code_version"),
    *("twin_trained_through", "twin_weights_sha256"),
)


def test_each_tag_of_the_registry_is_compared_with_the_bundle(runs: Runs) -> None:
    models = Models(runs.home)
    version = models.version(BTC, "calibrated", "1")
    lines = {f"{MODEL} version 1: the registry and the bundle differ in {name}" for name in TAGS}
    models.mark(version, dict.fromkeys(TAGS, "2001-01-01"))
    assert lines <= set(findings(runs))
    for name in TAGS:
        models.client.delete_model_version_tag(version.name, "1", name)
    assert lines <= set(findings(runs))


def test_a_model_with_forecasts_needs_a_champion_and_a_status(runs: Runs) -> None:
    sql(runs.home, "mlflow.db", "UPDATE registered_model_aliases SET version = 7 WHERE alias = 'champion'")
    assert findings(runs) == [
        f"{MODEL}: champion is version 7, which is missing",
        f"{MODEL} has forecasts and model versions, but no champion",
    ]
    sql(runs.home, "mlflow.db", "DELETE FROM registered_model_aliases")
    assert findings(runs) == [f"{MODEL} has forecasts and model versions, but no champion"]
    sql(runs.home, "mlflow.db", "UPDATE model_version_tags SET value = 'rejected' WHERE key = 'status'")
    assert any(
        line.startswith(f"{MODEL} version 1: its status is none of pending,") for line in findings(runs)
    )


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (("model_version_tags", "value = 'refused'", "key = 'status'"), "it is the champion, but its status"),
        (("model_version_tags", "value = 'not judged'", "key = 'gate'"), "its gate says 'not judged'"),
        (("model_version_tags", "value = 'a'", "key = 'key'"), "its key is not the one"),
        (("tags", "value = 'a'", "key = 'key'"), "its key is not the one"),
        (("params", "value = '9'", "key = 'units'"), "MLflow's run and the bundle differ in units"),
        (("metrics", "value = 9", "key = 'network_1_loss'"), "the bundle differ in network_1_loss"),
        (("metrics", "value = 9", "key LIKE '%best_val_loss'"), "twin_network_1_best_val_loss"),
    ],
)
def test_registry_and_bundle_of_a_version_are_compared(
    runs: Runs, change: tuple[str, str, str], finding: str
) -> None:
    table, value, where = change
    sql(runs.home, "mlflow.db", f"UPDATE {table} SET {value} WHERE {where}")  # noqa: S608
    assert any(finding in line and line.startswith(MODEL) for line in findings(runs))


def test_the_gates_figures_are_compared_with_the_status(runs: Runs) -> None:
    models = Models(runs.home)
    gate = Gate(day(1), day(400), 365, 0.5, 0.4, 0.8, 1.05, passed=True)
    version = models.version(BTC, "calibrated", "1")
    models.mark(version, {**gate.tags(), "gate_champion": "1", "gate": str(gate)}, gate.metrics())
    assert Gate.from_tags(models.version(BTC, "calibrated", "1").tags) == gate
    assert findings(runs) == []
    models.mark(version, {"gate_passed": "False"})
    assert any("and the gate's figures say refused" in line for line in findings(runs))
    models.mark(version, {"gate_passed": "True", "gate_ratio": "0.7"})
    lines = findings(runs)
    assert any("the gate's figures in its tags and in its run differ" in line for line in lines)
    models.mark(version, {"gate_ratio": "none"})
    assert any("version 1 cannot be read (ValueError" in line for line in findings(runs))


@pytest.mark.sqlite
@pytest.mark.parametrize("change", ["empty", "DELETE FROM alembic_version", "DROP TABLE runs"])
def test_a_file_that_is_no_registry_is_named_and_not_changed(runs: Runs, change: str) -> None:
    if change == "empty":
        runs.home.registry.write_bytes(b"")
    else:
        sql(runs.home, "mlflow.db", change)
    before = runs.home.registry.read_bytes()
    assert findings(runs) == [f"{runs.home.registry}: holds no model registry"]
    assert runs.home.registry.read_bytes() == before


def test_a_bundle_that_is_no_plain_folder_is_refused(runs: Runs) -> None:
    models = Models(runs.home)
    version = models.version(BTC, "calibrated", "1")
    for bundle in ("../elsewhere", "/etc", ".draft", ""):
        models.mark(version, {"bundle": bundle})
        with pytest.raises(Damaged, match="needs the name of a folder"):
            models.champion(BTC, "calibrated")
        (line,) = findings(runs)
        assert "needs the name of a folder" in line
    models.client.delete_model_version_tag(MODEL, "1", "bundle")
    assert any("needs the name of a folder" in line for line in findings(runs))


def test_a_foreign_file_in_a_bundle_is_found(runs: Runs) -> None:
    bundle = next(runs.home.models.glob("*/*"))
    (bundle / "extra.pkl").write_bytes(b"cos\nsystem\n")
    assert findings(runs) == [f"{bundle / 'extra.pkl'} does not belong to its bundle"]


# Tables that were put back


@pytest.mark.folder
def test_a_table_put_back_to_an_earlier_state_is_named(runs: Runs, tmp_path: Path) -> None:
    names = ("predictions", "scores", "calibrator", "components")
    for name in names:
        shutil.copytree(runs.home.root / name, tmp_path / "earlier" / name)
    runs.live(MADE + DAYS)
    runs.score(MADE + DAYS + 1)
    write_report(runs.home, BTC, "calibrated", day=day(MADE + DAYS))
    assert findings(runs) == []
    page = f"the page of {BTC} by calibrated was written with {DAYS + 1} forecasts, but there are {DAYS}"
    for name in names:
        folder, now = runs.home.root / name, tmp_path / "now" / name
        shutil.move(folder, now)
        assert any(line.startswith(f"the table {name} is at commit -1") for line in findings(runs))
        shutil.copytree(tmp_path / "earlier" / name, folder)
        lines = findings(runs)
        assert any(line.startswith(f"the table {name} is at commit") for line in lines)
        assert (page in lines) == (name == "predictions")
        shutil.rmtree(folder)
        shutil.move(now, folder)
    assert findings(runs) == []


@pytest.mark.folder
def test_folders_that_are_deleted_together_are_named(runs: Runs) -> None:
    """The commits of other tables name them."""
    table(runs.home, "backtests").add([ROWS["backtests"]])
    page = write_report(runs.home, BTC, "calibrated", day=day(MADE + DAYS))
    (runs.home.folds / "b").mkdir(parents=True)
    opening._opened.clear()  # as in the next process
    runs.live(MADE + DAYS)
    assert findings(runs) == []
    for name in ("backtests", "folds", "reports", "locks"):
        shutil.rmtree(runs.home.root / name)
    lines = findings(runs)
    assert "the table backtests is at commit -1, but predictions was written after its commit 1" in lines
    assert f"{page} is missing: `closecast report` writes it again" in lines


@pytest.mark.folder
def test_a_commit_that_takes_rows_out_is_named(runs: Runs) -> None:
    table = DeltaTable(runs.home.root / "predictions")
    table.restore(table.version() - 1)
    entry = runs.home.root / "predictions" / "_delta_log" / f"{table.version():020d}.json"
    assert f"the commit {entry} removed rows from the table, or put it back" in findings(runs)


# References between rows


def test_a_forecast_that_contradicts_itself_is_named(runs: Runs) -> None:
    table = Predictions(runs.home)
    row = table.read().to_pylist()[0]
    changed = {"prediction_id": "f" * 32, "last_close": row["last_close"] + 1, "model_version": "8"}
    table.publish([row | changed])
    ends = {f"{side}_{level}": None for side in ("lower", "upper") for level in (50, 80, 95)}
    table.publish([row | ends | {"prediction_id": "c" * 32, "quantiles": None, "quantile_levels": None}])
    components(runs.home).add([components(runs.home).read().to_pylist()[0] | {"prediction_id": "c" * 32}])
    lines = findings(runs)
    subject = f"of {BTC} for {row['target_day']}: "
    for finding in (
        f"forecast {'f' * 32} {subject}its id is not the digest of what it was made from",
        f"forecast {'f' * 32} {subject}its data version does not end with its last close",
        f"forecast {'f' * 32} {subject}its model version 8 is missing",
        f"forecast {'f' * 32} {subject}it has no components",
        f"forecast {'c' * 32} {subject}it has components, but no quantiles",
    ):
        assert finding in lines


def test_dangling_states_and_components_are_named(runs: Runs) -> None:
    state = calibrator(runs.home).read().to_pylist()[-1]
    lost = {"calibrator_version": "x:1", "previous_version": "x:0", "prediction_id": "d" * 32, "revision": 9}
    calibrator(runs.home).add([state | lost])
    component = components(runs.home).read().to_pylist()[0]
    components(runs.home).add([component | {"component": "lstm2", "calibrator_version": "x:7"}])
    assert findings(runs) == [
        f"component lstm2 of forecast {component['prediction_id']}: state x:7 is missing",
        f"state x:1 of {BTC}'s calibrator: the previous state, x:0, is missing",
        f"state x:1 of {BTC}'s calibrator: its forecast {'d' * 32} is missing",
        f"state x:1 of {BTC}'s calibrator: its forecast {'d' * 32} has no score",
    ]


def test_scores_that_contradict_their_forecast_or_close_are_named(runs: Runs) -> None:
    row = Scores(runs.home).between().to_pylist()[0]
    Scores(runs.home).add([{**row, "prediction_id": "f" * 32}])
    # By another data version, with a close that is not in it.
    other = {"close": row["close"] + 605, "data_version": runs.data(605)}
    assert Scores(runs.home).add([{**row, **other, "scored_at": NOW + timedelta(days=605)}]) == 1
    subject = f"score of forecast {row['prediction_id']} for {row['target_day']}: "
    assert findings(runs) == [
        f"score of forecast {'f' * 32} for {row['target_day']}: there is no such forecast",
        f"{subject}its error is not the forecast less the close",
        f"{subject}its close is not the one of its data version",
    ]


def replaced(table: pa.Table, column: str, value: object) -> pa.Table:
    """The table with one value in all rows of a column."""
    values = pa.array([value] * table.num_rows, table.schema.field(column).type)
    return table.set_column(table.schema.get_field_index(column), column, values)


@pytest.mark.parametrize(
    ("name", "change", "finding"),
    [
        ("predictions", ("origin_day", 2**31 - 1), "its id is not the digest of what it was made from"),
        ("predictions", ("origin_day", 0), "its model was trained on later days"),
        ("predictions", ("prediction_id", "a"), f"forecast a is in the table {len(HORIZONS) * DAYS} times"),
        ("predictions", ("revision", 1), "have the revisions 1"),
        ("scores", ("target_day", 2**31 - 1), "there is no such forecast"),
        ("scores", None, "was scored 2 times at once with one data version"),
    ],
)
def test_rows_that_no_commit_could_write_are_named(
    shared_runs: Runs, monkeypatch: pytest.MonkeyPatch, name: str, change: Any, finding: str
) -> None:
    def changed(home: Home) -> Any:
        tables, unreadable = light_rows(home)
        rows = tables[name]
        tables[name] = replaced(rows, *change) if change else pa.concat_tables([rows, rows])
        return tables, unreadable

    monkeypatch.setattr(verify, "light_rows", changed)
    assert any(finding in line for line in findings(shared_runs))
