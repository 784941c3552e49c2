"""Whatever was changed, is missing or contradicts itself is found, and named."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.core.errors import Damaged, HomeUnusable
from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.models.registry import Models
from storage.prices.integrity import PriceRecords
from storage.prices.price_store import Prices
from storage.prices.raw_responses import keep_raw
from storage.tables.checksums import CHECKSUMS
from storage.tables.predictions import Predictions
from storage.tables.schemas import SCORES, calibrator, components
from storage.tables.scores import Scores
from storage.upkeep.compaction import compact_table
from tasks.upkeep import verify
from tasks.upkeep.verify import verify_home
from tests.calibrated import Runs, day
from tests.helpers import BTC, NOW
from tests.lived import DAYS, lived_runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A home that tests only read, or put right again."""
    return lived_runs(tmp_path_factory, tmp_path_factory.mktemp("verify") / "home")


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    return lived_runs(tmp_path_factory, tmp_path / "home")


def wrong(runs: Runs) -> list[str]:
    return verify_home(runs.home).wrong


def sql(home: Home, name: str, *statements: str) -> None:
    """Change a database behind closecast's back: by somebody who takes the triggers away first."""
    with contextlib.closing(sqlite3.connect(home.root / name)) as database, database:
        for (trigger,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            database.execute(statement)


def score_again(runs: Runs, number: int) -> None:
    """A score of the first forecast by another data version, with a close that is not in it."""
    row = Scores(runs.home).read().to_pylist()[0]
    another = {"close": row["close"] + number, "data_version": runs.data(number)}
    assert Scores(runs.home).add([{**row, **another, "scored_at": NOW + timedelta(days=number)}]) == 1


def test_an_untouched_home_is_whole_and_everything_was_looked_at(whole: Runs) -> None:
    found = verify_home(whole.home)
    assert found.wrong == []
    assert found.looked["candles"] == 1000
    assert found.looked["forecasts"] == DAYS
    assert found.looked["scores"] == DAYS - 1
    assert found.looked["model versions"] == 1
    assert min(found.looked[kind] for kind in ("data versions", "components", "states of calibrator")) >= DAYS
    assert found.looked["files of models"] > 5
    assert found.looked["files of tables"] > 4 * DAYS


def kept_files(home: Home) -> list[Path]:
    """Every file whose every byte counts."""
    tables = [
        path
        for name in ("predictions", "scores", "calibrator", "components")
        for path in (home.root / name).rglob("*")
    ]
    found = [path for path in (*tables, *home.models.rglob("*")) if path.is_file()]
    return sorted(path for path in found if path.name != "_last_checkpoint")


@pytest.mark.parametrize("seed", range(40))
def test_one_changed_bit_anywhere_is_found_and_its_file_named(whole: Runs, seed: int) -> None:
    draw = np.random.default_rng(seed)
    files = kept_files(whole.home)
    path = files[draw.integers(len(files))]
    before = path.read_bytes()
    changed = bytearray(before)
    changed[draw.integers(len(before))] ^= 1 << int(draw.integers(8))
    path.write_bytes(changed)
    try:
        found = wrong(whole)
    finally:
        path.write_bytes(before)
    assert found
    # A changed line of the list accuses the file that it is of.
    assert path.name == CHECKSUMS or any(path.name in line or path.parent.name in line for line in found)


def test_a_missing_file_is_named(whole: Runs, tmp_path: Path) -> None:
    for path in kept_files(whole.home):
        shutil.move(path, tmp_path / "away")
        found = wrong(whole)
        shutil.move(tmp_path / "away", path)
        assert any(path.name in line or path.parent.name in line for line in found), path
    assert wrong(whole) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("close", "close + 0.01"),
        ("volume", "NULL"),
        ("high", "high * 2"),
        ("source", "'coinbose'"),
    ],
)
def test_a_changed_candle_is_named(runs: Runs, column: str, value: str) -> None:
    sql(runs.home, "prices.db", f"UPDATE candles SET {column} = {value} WHERE seq = 321")  # noqa: S608
    assert f"candle 321 of {BTC} ({day(321)}) is not the one that was stored" in wrong(runs)


def test_a_deleted_candle_is_named_and_what_stood_on_it(runs: Runs) -> None:
    sql(runs.home, "prices.db", "DELETE FROM candles WHERE seq = 600")
    found = "\n".join(wrong(runs))
    assert "candle 600 is missing" in found
    assert "no longer stands for the 600 closes" in found
    assert "its data version" in found


def test_a_data_version_that_is_gone_is_missed(runs: Runs) -> None:
    version = runs.data(601)
    sql(runs.home, "prices.db", f"DELETE FROM data_versions WHERE data_version = '{version}'")  # noqa: S608
    assert sum(f"its data version {version} is missing or changed" in line for line in wrong(runs)) == 2


INSERTED = (
    "INSERT INTO candles (product_id, day_utc, open, high, low, close, volume, source,"
    " observed_at, payload_sha256) SELECT product_id, '{}', open, high, low, close, volume,"
    " source, observed_at, payload_sha256 FROM candles WHERE seq = 5"
)


def test_a_candle_that_no_page_brought_is_named(runs: Runs) -> None:
    sql(runs.home, "prices.db", INSERTED.format("2031-01-01"))
    assert wrong(runs) == [f"candle 1001 of {BTC} (2031-01-01) was stored with no page"]


def test_a_run_that_stores_meanwhile_is_no_fault(
    runs: Runs, walk: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the pages and the one at the candles."""
    products = PriceRecords.products

    def stored_first(records: PriceRecords) -> list[str]:
        with Prices(runs.home) as prices:
            source = prices.source_of(BTC)
            assert source
            later = walk(day(1001), days=1)
            prices.append(BTC, later, source=source, observed_at=NOW, payload_sha256="ab" * 32)
        return products(records)

    monkeypatch.setattr(PriceRecords, "products", stored_first)
    assert wrong(runs) == []


def test_candles_of_another_source_than_their_series_are_told_in_one_line(runs: Runs) -> None:
    sql(runs.home, "prices.db", "UPDATE series SET source = 'stooq'")
    (line,) = wrong(runs)
    assert line.startswith(f"1000 of the candles of {BTC}, numbers 1 to 1000, came from")
    assert line.endswith("stand in a series of stooq")


def test_candles_without_a_series_are_found(runs: Runs) -> None:
    sql(runs.home, "prices.db", "DELETE FROM series")
    assert any(line.endswith("stand in no series") for line in wrong(runs))


def test_a_source_that_was_replaced_is_no_fault(runs: Runs, walk: Callable[..., pd.DataFrame]) -> None:
    """Nor is a series that got no candle: its first page was refused, twice."""
    with Prices(runs.home) as prices:
        prices.start_series("ETH-USD", "csv", started_at=NOW)
        for source in ("other", "another"):
            prices.start_series(BTC, source, started_at=NOW, replace=True)
        candles = walk(day(30), days=30)
        prices.append(BTC, candles, source="another", observed_at=NOW, payload_sha256="ab" * 32)
        prices.start_series(BTC, "other", started_at=NOW, replace=True)
    assert wrong(runs) == []


def test_a_price_database_that_is_gone_is_told_alone_and_not_made(runs: Runs) -> None:
    (runs.home.root / "prices.db").unlink()
    assert wrong(runs) == [f"the price database {runs.home.root / 'prices.db'} is missing"]
    assert not (runs.home.root / "prices.db").exists()


def test_prices_that_are_no_database_are_told_alone(runs: Runs) -> None:
    (runs.home.root / "prices.db").write_bytes(b"no database" * 1000)
    (line,) = wrong(runs)
    assert "file is not a database" in line


def test_a_price_database_that_cannot_be_opened_is_no_damage(runs: Runs) -> None:
    (runs.home.root / "prices.db").unlink()
    (runs.home.root / "prices.db").mkdir()
    with pytest.raises(HomeUnusable, match="unable to open"):
        verify_home(runs.home)


def test_a_database_that_is_held_is_no_damage(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.prices.engine_base.BUSY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(runs.home.root / "prices.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HomeUnusable, match="held by another process"):
            verify_home(runs.home)


def test_a_model_version_that_is_gone_is_missed(runs: Runs) -> None:
    models = Models(runs.home)
    models.delete(models.version(BTC, "calibrated", "1"))
    assert sum("its model version 1 is missing" in line for line in wrong(runs)) == DAYS


def test_a_registry_that_says_otherwise_than_the_bundle_is_found(runs: Runs) -> None:
    models = Models(runs.home)
    models.mark(models.version(BTC, "calibrated", "1"), {"data_version": "BTC-USD@7:ab"})
    assert any("the registry and the bundle name another data_version" in line for line in wrong(runs))


@pytest.mark.parametrize(
    "name",
    [
        "origin_day",
        "training_kind",
        "recipe_version",
        "series",
        "trained_through",
        "parent",
        "pooled",
        "code_version",
    ],
)
def test_every_tag_that_the_bundle_knows_is_held_against_it(runs: Runs, name: str) -> None:
    models = Models(runs.home)
    version = models.version(BTC, "calibrated", "1")
    said = f"{version.name} version 1: the registry and the bundle name another {name}"
    models.mark(version, {name: "2001-01-01"})
    assert said in wrong(runs)
    models.client.delete_model_version_tag(version.name, "1", name)
    assert said in wrong(runs)


def test_a_version_of_another_product_s_is_found(runs: Runs) -> None:
    sql(
        runs.home,
        "mlflow.db",
        *(
            f"UPDATE {table} SET name = 'closecast.ETH-USD.calibrated'"  # noqa: S608
            for table in (
                "registered_models",
                "model_versions",
                "model_version_tags",
                "registered_model_aliases",
            )
        ),
    )
    shutil.move(
        runs.home.models / "closecast.BTC-USD.calibrated", runs.home.models / "closecast.ETH-USD.calibrated"
    )
    assert any("the registry and the bundle name another product_id" in line for line in wrong(runs))


def test_an_alias_of_a_version_that_is_not_there_is_found(runs: Runs) -> None:
    sql(runs.home, "mlflow.db", "UPDATE registered_model_aliases SET version = 7 WHERE alias = 'champion'")
    model = f"closecast.{BTC}.calibrated"
    assert wrong(runs) == [
        f"{model}: champion is version 7, which is missing",
        f"{model} has forecast, and the registry names no champion of it",
    ]


def test_a_model_that_forecast_has_a_champion_and_a_status(runs: Runs) -> None:
    sql(runs.home, "mlflow.db", "DELETE FROM registered_model_aliases")
    model = f"closecast.{BTC}.calibrated"
    assert wrong(runs) == [f"{model} has forecast, and the registry names no champion of it"]
    sql(runs.home, "mlflow.db", "UPDATE model_version_tags SET value = 'rejected' WHERE key = 'status'")
    assert any(line.startswith(f"{model} version 1: its status is none of pending,") for line in wrong(runs))


@pytest.mark.sqlite
@pytest.mark.parametrize("change", ["empty", "DELETE FROM alembic_version", "DROP TABLE runs"])
def test_a_file_that_is_no_registry_is_named_and_left_as_it_was(runs: Runs, change: str) -> None:
    if change == "empty":
        runs.home.registry.write_bytes(b"")
    else:
        sql(runs.home, "mlflow.db", change)
    before = runs.home.registry.read_bytes()
    assert wrong(runs) == [f"{runs.home.registry}: holds no model registry"]
    assert runs.home.registry.read_bytes() == before


@pytest.mark.parametrize("bundle", ["../elsewhere", "/etc", "..", ".draft", "a/b", ""])
def test_a_bundle_that_is_no_plain_folder_is_refused(runs: Runs, bundle: str) -> None:
    models = Models(runs.home)
    models.mark(models.version(BTC, "calibrated", "1"), {"bundle": bundle})
    with pytest.raises(Damaged, match="needs the name of a folder"):
        models.champion(BTC, "calibrated")
    (line,) = wrong(runs)
    assert "needs the name of a folder" in line


def test_a_file_put_into_a_bundle_is_found(runs: Runs) -> None:
    bundle = next(runs.home.models.glob("*/*"))
    (bundle / "extra.pkl").write_bytes(b"cos\nsystem\n")
    assert wrong(runs) == [f"{bundle / 'extra.pkl'} does not belong to its bundle"]


def test_a_forecast_under_a_name_that_is_not_its_own_is_found(runs: Runs) -> None:
    row = Predictions(runs.home).read().to_pylist()[0]
    Predictions(runs.home).publish([{**row, "prediction_id": "f" * 32}])
    assert any("its id is not the digest" in line for line in wrong(runs))


def test_a_score_of_nothing_and_one_of_another_close_are_found(runs: Runs) -> None:
    row = Scores(runs.home).read().to_pylist()[0]
    Scores(runs.home).add([{**row, "prediction_id": "e" * 32}])
    score_again(runs, 605)
    found = "\n".join(wrong(runs))
    assert "there is no such forecast" in found
    assert "its error is not the forecast less the close" in found
    assert "its close is not the one of its data version" in found


def test_a_database_that_is_broken_is_told_in_one_line_each(runs: Runs) -> None:
    for name in ("prices.db", "mlflow.db"):
        path = runs.home.root / name
        data = bytearray(path.read_bytes())
        data[4096 * 3 : 4096 * 5] = bytes(8192)
        path.write_bytes(data)
    found = wrong(runs)
    assert any("price" in line for line in found)
    assert any("mlflow.db" in line for line in found)
    assert all("\n" not in line for line in found)


def test_after_compaction_everything_is_still_vouched_for(runs: Runs) -> None:
    for name in ("predictions", "scores", "calibrator", "components"):
        assert compact_table(runs.home, name)
    assert wrong(runs) == []
    part = next((runs.home.predictions).rglob("*.zstd.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"X")
    assert any(part.name in line for line in wrong(runs))


def test_a_table_without_its_list_is_found_and_the_next_commit_makes_it(runs: Runs) -> None:
    (runs.home.scores / CHECKSUMS).unlink()
    assert f"{runs.home.scores / CHECKSUMS} is missing" in wrong(runs)
    score_again(runs, 605)
    assert not any(CHECKSUMS in line or "recorded" in line for line in wrong(runs))


@pytest.mark.parametrize("left", ["all", "data", "an empty log"])
def test_a_table_that_lost_its_log_is_found(runs: Runs, left: str) -> None:
    folder = runs.home.scores
    assert isinstance(folder, Path)
    shutil.rmtree(folder / "_delta_log")
    if left != "all":
        (folder / CHECKSUMS).unlink()
    if left == "an empty log":
        (folder / "_delta_log").mkdir()
    (line,) = wrong(runs)
    assert line.startswith(f"the table {folder.resolve()} holds files")
    assert "_delta_log is missing" in line


def test_a_list_of_sums_without_a_table_is_found(runs: Runs) -> None:
    folder = runs.home.scores
    assert isinstance(folder, Path)
    for path in folder.iterdir():
        if path.name != CHECKSUMS:
            shutil.rmtree(path)
    assert any(f"the table {folder.resolve()} holds files (1)" in line for line in wrong(runs))


def test_an_empty_folder_of_a_table_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "scores" / "_delta_log").mkdir(parents=True)
    (tmp_path / "calibrator").mkdir()
    assert verify_home(Home(tmp_path)).wrong == []


def test_tables_in_each_other_s_place_are_named(runs: Runs) -> None:
    root = runs.home.root
    (root / "scores").rename(root / "away")
    (root / "calibrator").rename(root / "scores")
    (root / "away").rename(root / "calibrator")
    found = "\n".join(wrong(runs))
    for name in ("scores", "calibrator"):
        assert f"the table {root / name} has the columns of another" in found


def test_a_commit_that_was_not_recorded_is_no_fault_and_is_recorded_next(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("storage.tables.delta.record_checksums", killed)
        with pytest.raises(KeyboardInterrupt):
            score_again(runs, 605)
    assert not any("recorded" in line for line in wrong(runs))
    score_again(runs, 606)
    recorded = (runs.home.scores / CHECKSUMS).read_text()
    assert all(path.name in recorded for path in runs.home.scores.rglob("*.parquet"))


@pytest.fixture
def fetched(tmp_path: Path, walk: Callable[..., pd.DataFrame]) -> Home:
    """Three candles of the exchange, with the answer that they came with."""
    home = Home(tmp_path / "fetched").prepare()
    candles = walk(day(3), days=3)
    rows: list[Any] = [
        [int(row.day_utc.timestamp()), row.low, row.high, row.open, row.close, row.volume]
        for row in candles.itertuples()
    ]
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW)
        sha256 = keep_raw(home, str(rows[::-1]).encode())
        prices.append(
            BTC,
            candles,
            source="coinbase",
            observed_at=NOW,
            payload_sha256=sha256,
        )
        prices.data_version(BTC, day(3), created_at=NOW)
    return home


def test_candles_of_the_exchange_are_held_against_its_answer(fetched: Home) -> None:
    assert verify_home(fetched).wrong == []
    # Whoever changes the candle, its check and its data version has the answer against him.
    sql(fetched, "prices.db", "UPDATE candles SET volume = 11 WHERE seq = 2", "DELETE FROM pages")
    assert (
        f"the candle of {BTC} of {day(2)} is not in the answer that it came with"
        in verify_home(fetched).wrong
    )


def test_an_answer_that_was_changed_or_is_gone_is_named(fetched: Home) -> None:
    path = next(fetched.raw.glob("*/*"))
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    found = verify_home(fetched).wrong
    assert any(path.name in line for line in found)
    path.unlink()
    assert any("the raw answer" in line and "came with it" in line for line in verify_home(fetched).wrong)


def test_the_models_of_backtests_are_looked_at_too(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    folds = BacktestCache(home, "b" * 32)
    with folds.draft("m1") as draft:
        draft.write_json("calibration.json", {"levels": [0.5]})
    (folds.folder / ".draft-half").mkdir()
    (folds.folder / ".draft-half" / "manifest.json").write_bytes(b"half")
    found = verify_home(home)
    assert (found.looked["backtests' files"], found.wrong) == (2, [])
    (folds.folder / "m1" / "calibration.json").write_bytes(b'{"levels": [0.6]}\n')
    assert any("calibration.json is not the file" in line for line in verify_home(home).wrong)
    (folds.folder / "m1" / "manifest.json").write_bytes(b"{")
    assert any("manifest.json cannot be read" in line for line in verify_home(home).wrong)


def test_the_list_s_last_line_cannot_be_bent_to_hide_a_file(runs: Runs) -> None:
    """A commit that is not recorded is a killed run's; its files that are recorded are held against that."""
    folder = runs.home.predictions
    lines = (folder / CHECKSUMS).read_text().splitlines(keepends=True)
    assert lines[-1].endswith(".json\n")
    (folder / CHECKSUMS).write_text("".join(lines).replace(lines[-1], f"{lines[-1][:-2]}o\n"))
    assert len(found := wrong(runs)) == 1
    assert found[0].startswith(f"{folder.resolve() / CHECKSUMS} names '_delta_log/")
    (folder / CHECKSUMS).write_text("".join(lines[:-1]))
    assert wrong(runs) == []
    newest = folder / lines[-2].split()[1]
    assert newest.suffix == ".parquet"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    assert any(f"{newest.name} is not the file that was stored" in line for line in wrong(runs))


def test_scores_that_are_gone_are_missed(runs: Runs) -> None:
    shutil.rmtree(runs.home.scores)
    found = wrong(runs)
    assert len(found) == DAYS - 1
    assert all(line.endswith("was scored, and has no score") for line in found)


def test_a_day_that_is_none_is_told_with_its_table(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        column_names = SCORES.arrow.names

        def to_table(self) -> Rows:
            return self

        def to_pylist(self) -> None:
            raise OverflowError("days=-2147465464; must have magnitude <= 999999999")

    read = verify.as_dataset
    monkeypatch.setattr(
        verify,
        "as_dataset",
        lambda table, folder: Rows() if folder == runs.home.scores else read(table, folder),
    )
    assert f"the table {runs.home.scores} holds a day that is none: days=-2147465464; must have" in " ".join(
        wrong(runs)
    )


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP VIEW closes", "the price database: closes is missing"),
        ("DROP TABLE quarantine", "the price database: quarantine is missing"),
        ("DROP INDEX candles_newest", "the price database: candles_newest is missing"),
        ("UPDATE data_versions SET sha256 = '0'", "has a row that says another"),
        ("UPDATE data_versions SET through_day_utc = '2031-12-31'", "has a row that says another"),
        ("UPDATE pages SET last_candle_seq = last_candle_seq + 1", "has another number of checks"),
    ],
)
def test_what_else_stands_in_the_price_database_is_looked_at(runs: Runs, change: str, said: str) -> None:
    sql(runs.home, "prices.db", change)
    assert any(said in line for line in wrong(runs))


def test_states_that_lead_nowhere_are_found(runs: Runs) -> None:
    row = calibrator(runs.home).read().to_pylist()[-1]
    lost = {"calibrator_version": "x:1", "previous_version": "x:0", "prediction_id": "d" * 32, "revision": 9}
    calibrator(runs.home).add([row | lost])
    beside = components(runs.home).read().to_pylist()[0]
    components(runs.home).add([beside | {"component": "lstm2", "calibrator_version": "x:7"}])
    forecast = Predictions(runs.home).read().to_pylist()[0]
    Predictions(runs.home).publish([{**forecast, "prediction_id": "c" * 32}])
    found = "\n".join(wrong(runs))
    assert "the state before it, x:0, is missing" in found
    assert f"its forecast {'d' * 32} is missing" in found
    assert "state x:7 is missing" in found
    assert f"forecast {'c' * 32} has no components" in found


def test_an_empty_home_is_whole(tmp_path: Path) -> None:
    assert verify_home(Home(tmp_path)).wrong == []


def test_a_version_without_its_folder_says_so(runs: Runs) -> None:
    models = Models(runs.home)
    models.client.delete_model_version_tag(models.version(BTC, "calibrated", "1").name, "1", "bundle")
    with pytest.raises(Damaged, match="no bundle of"):
        models.versions()
    assert any("the registry has no bundle of" in line for line in wrong(runs))
