from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.core.errors import BadQuery, ClosecastError
from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.tables import sql as asked
from storage.tables.delta import open_dataset
from storage.tables.predictions import PREDICTIONS, Predictions
from storage.tables.schemas import BACKTESTS, CALIBRATOR, COMPONENTS, backtests, calibrator, components
from storage.tables.scores import SCORES, Scores
from storage.tables.sql import CANDLES, CLOSES, QUARANTINE_SCHEMA, VIEWS, query
from storage.upkeep import compaction as maintenance
from storage.upkeep.compaction import compact_table
from tests.helpers import BTC, FIRST, NOW, PROJECT, made_up, publish_all, store

COUNTS = [30, 31, 0, 1, 2, 2, 2, 2]  # of the full home, in the order of VIEWS


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("empty")).prepare()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Thirty days, the last of them restated, a forecast, and what stands beside it."""
    home = Home(tmp_path_factory.mktemp("full")).prepare()
    frame = made_up(30)
    store(home, frame)
    restated = frame.tail(1).assign(close=frame["close"].iloc[-1] + 0.5)
    store(home, restated)
    point_only = {f"{side}_{level}": None for side in ("lower", "upper") for level in (50, 80, 95)}
    texts = ("model_version", "data_version", "settings_version", "code_version")
    row = {
        **dict.fromkeys(texts, "x"),
        **point_only,
        "prediction_id": "a",
        "product_id": BTC,
        "origin_day": FIRST + timedelta(days=29),
        "target_day": FIRST + timedelta(days=30),
        "horizon": 1,
        "profile": "article",
        "last_close": 1.0,
        "point": 2.0,
        "quantile_levels": None,
        "quantiles": [0.5, 1.5],
        "created_at": NOW,
        "flow_run_id": None,
    }
    Predictions(home).publish(row)
    put_beside(home, FIRST + timedelta(days=30))
    return home


def put_beside(home: Home, day: date) -> None:
    """Two components of the forecast `a`, two states of a tracker, two origins of a backtest, two scores."""
    same: dict[str, object] = {"product_id": BTC, "target_day": day}
    low, high = [float(n) for n in range(23)], [float(n + 100) for n in range(23)]
    beside = {**same, "prediction_id": "a", "sigma": 0.03, "calibrator_version": "t0"}
    pairs = (("ensemble", low), ("garch", high))
    components(home).add([{**beside, "component": name, "quantiles": q} for name, q in pairs])
    state = {**same, "profile": "calibrated", "recipe_version": "r", "revision": 0, "created_at": NOW}
    first = {**state, "calibrator_version": "t0", "quantile_offsets": low}
    calibrator(home).add(
        [first, {**first, "calibrator_version": "t1", "previous_version": "t0", "quantile_offsets": high}]
    )
    tested = {**same, "backtest_id": "b", "profile": "calibrated", "fold": 0, "model": "m", "origin_day": day}
    figures = {"last_close": 9.0, "close": 10.0, "point": 11.0, "created_at": NOW}
    outcomes = (("lstm", low), ("ewma", None))
    backtests(home).add([{**tested, **figures, "component": name, "quantiles": q} for name, q in outcomes])
    score = {**same, "prediction_id": "a", "scored_at": NOW}
    closes = (("@30:ab", 10.0), ("@31:ab", 10.5))
    Scores(home).add([{**score, "data_version": BTC + name, "close": close} for name, close in closes])


def rows(home: Home, sql: str) -> list[tuple[object, ...]]:
    table = query(home, sql)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize("which", ["empty", "full"])
def test_all_views_are_there(which: str, request: pytest.FixtureRequest) -> None:
    home: Home = request.getfixturevalue(which)
    assert sorted(name for (name,) in rows(home, "SHOW TABLES")) == sorted(VIEWS)
    listed = rows(home, "SELECT table_name FROM information_schema.tables ORDER BY 1")
    assert [name for (name,) in listed] == sorted(VIEWS)
    schemas = (CLOSES, CANDLES, QUARANTINE_SCHEMA, PREDICTIONS, SCORES, COMPONENTS, CALIBRATOR, BACKTESTS)
    for name, schema in zip(VIEWS, schemas, strict=True):
        columns = rows(
            home,
            "FROM information_schema.columns SELECT column_name"
            f" WHERE table_name = '{name}' ORDER BY ordinal_position",
        )
        assert [column for (column,) in columns] == schema.names
        assert query(home, f"FROM {name}").column_names == schema.names
        described = [found[0] for found in rows(home, f"DESCRIBE {name}")]
        assert described == schema.names


def test_the_counts_on_an_empty_home_and_on_a_full_one(empty: Home, full: Home) -> None:
    for name, count in zip(VIEWS, COUNTS, strict=True):
        assert rows(empty, f"FROM {name} SELECT count(*)") == [(0,)]
        assert rows(full, f"FROM {name} SELECT count(*)") == [(count,)]


@pytest.mark.parametrize("which", ["empty", "full"])
def test_the_columns_have_one_type_whether_there_are_rows_or_not(
    which: str, request: pytest.FixtureRequest
) -> None:
    home: Home = request.getfixturevalue(which)
    sql = "SELECT product_id, target_day, point, created_at, quantiles, horizon FROM predictions"
    kinds = [str(field.type).replace("large_", "") for field in query(home, sql).schema]
    assert kinds[:3] == ["string", "date32[day]", "double"]
    assert kinds[3].startswith("timestamp[us, tz=")
    assert kinds[4:] == ["list<l: double>", "int32"]
    with Prices(home) as prices:
        assert prices.table("candles").schema == CANDLES
        assert prices.table("closes").schema == CLOSES


@pytest.mark.parametrize(
    "name",
    ["closes", "CLOSES", '"closes"', "query_table('clo' || 'ses')", "query('from ' || 'clos' || 'es')"],
)
def test_a_view_holds_its_rows_however_it_is_named(full: Home, name: str) -> None:
    assert rows(full, f"FROM {name} SELECT count(*)") == [(30,)]


def test_real_questions(full: Home) -> None:
    days = rows(full, "SELECT min(day_utc), max(day_utc) FROM closes WHERE product_id = 'BTC-USD'")
    assert days == [(FIRST, FIRST + timedelta(days=29))]
    restated = rows(
        full,
        "SELECT day_utc, count(*) FROM candles GROUP BY day_utc HAVING count(*) > 1 ORDER BY day_utc",
    )
    assert restated == [(FIRST + timedelta(days=29), 2)]
    joined = rows(
        full,
        "WITH p AS (SELECT * FROM predictions WHERE product_id = 'BTC-USD' AND"
        " target_day > DATE '2019-01-01')"
        " SELECT p.target_day, c.close > 0, p.quantiles[2] FROM p JOIN closes c"
        " ON c.product_id = p.product_id AND c.day_utc = p.origin_day",
    )
    assert joined == [(FIRST + timedelta(days=30), True, 1.5)]
    assert rows(full, "SELECT count(*) FROM closes a JOIN closes b USING (day_utc)") == [(30,)]
    assert rows(full, "-- a note\nselect 1 as one;") == [(1,)]
    assert rows(full, "FROM closes SELECT count(*)") == [(30,)]


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT method FROM components WHERE quantiles[12] > 50", [("garch",)]),
        ("SELECT method, quantiles[12] FROM components WHERE method = 'ensemble'", [("ensemble", 11.0)]),
        ("SELECT count(*) FROM components WHERE product_id = 'ETH-USD'", [(0,)]),
        ("SELECT calibrator_version FROM calibrator WHERE previous_version IS NULL", [("t0",)]),
        ("SELECT quantile_offsets[23] FROM calibrator WHERE quantile_offsets[1] = 100", [(122.0,)]),
        ("SELECT method FROM backtests WHERE method > 'ewma' OR method = 'garch'", [("lstm",)]),
        ("SELECT method FROM backtests WHERE backtest_id = 'b' AND quantiles IS NULL", [("ewma",)]),
        ("SELECT method, close FROM backtests WHERE len(quantiles) = 23", [("lstm", 10.0)]),
        ("SELECT close FROM scores WHERE data_version LIKE '%@31:%' AND covered_80 IS NULL", [(10.5,)]),
        ("SELECT max(close) FROM scores JOIN predictions USING (product_id, prediction_id)", [(10.5,)]),
        ("SELECT i.method FROM components i JOIN predictions p USING (prediction_id)"
         " WHERE p.target_day = DATE '2019-01-31' AND i.sigma < .1 ORDER BY 1",
         [("ensemble",), ("garch",)]),
        ("SELECT count(*) FROM backtests WHERE origin_day BETWEEN '2019-01-31' AND '2019-02-01'", [(2,)]),
    ],
)  # fmt: skip
def test_questions_about_what_stands_beside(
    full: Home, empty: Home, sql: str, answer: list[tuple[object, ...]]
) -> None:
    assert rows(full, sql) == answer
    assert [row for row in rows(empty, sql) if any(row)] == []


def test_columns_of_one_name_are_told_apart(full: Home) -> None:
    table = query(
        full, "SELECT p.product_id, c.product_id, 1 AS product_id_1, 2 FROM predictions p, closes c"
    )
    assert table.column_names == ["product_id", "product_id_1", "product_id_1_1", "2"]
    assert table.to_pylist()[0] == {"product_id": BTC, "product_id_1": BTC, "product_id_1_1": 1, "2": 2}


FOREIGN = [
    "",
    "   ;",
    "-- only a note",
    "selec 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW closes",
    "SELECT * FROM nowhere",
    "SELECT nothing FROM closes",
    "SELECT ?",
    "SELECT 1 +",
    "SELECT '" + "x" * 3000,
    "INSERT INTO closes VALUES (1)",
    "UPDATE closes SET close = 1",
    "DELETE FROM predictions",
    "DROP VIEW predictions",
    "CREATE TABLE t (a int)",
    "CREATE VIEW closes AS SELECT 1",
    "WITH a AS (DELETE FROM predictions RETURNING *) SELECT * FROM a",
    "ATTACH '{file}' AS other",
    "ATTACH '{home}/prices.db' (TYPE sqlite)",
    "COPY closes TO '{out}'",
    "COPY (SELECT 1) TO '{out}'",
    "EXPORT DATABASE '{out}'",
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM read_json('{file}')",
    "SELECT * FROM read_parquet('{home}/predictions/*/*.parquet')",
    "SELECT * FROM glob('{home}/*')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM sqlite_scan('{home}/prices.db', 'candles')",
    "SELECT * FROM delta_scan('{home}/predictions')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "FROM query('COPY closes TO ''{out}''')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET memory_limit = '1GB'",
    "RESET ALL",
    "PRAGMA database_list; SELECT 1",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "EXPLAIN SELECT 1",
    "BEGIN",
    "CHECKPOINT",
    "USE memory",
    "VACUUM",
    "SELECT * FROM frame",
]


@pytest.mark.parametrize("sql", FOREIGN)
def test_anything_else_is_refused_in_one_line_and_changes_nothing(
    sql: str, full: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = made_up(3)  # in reach of a library that looks for names in Python's own frames
    assert len(frame) == 3
    file, out = tmp_path / "secret.csv", tmp_path / "out"
    file.write_text("a\nsecret\n")
    with pytest.raises(BadQuery) as caught:
        query(full, sql.format(file=file, home=full.root, out=out))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_an_answer_that_is_too_large_is_refused(full: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MAX_BYTES", 2**20)
    assert query(full, "SELECT * FROM range(100000)").num_rows == 100_000
    with pytest.raises(BadQuery, match="at most 1 MB, this one has more: ask for fewer rows"):
        query(full, "SELECT * FROM range(100000000000)")


def test_the_views_are_as_before_after_all_of_that(full: Home) -> None:
    assert [rows(full, f"FROM {name} SELECT count(*)")[0][0] for name in VIEWS] == COUNTS


def many(home: Home, products: tuple[str, ...], days: int) -> list[Path]:
    """Forecasts of consecutive days in files of eight rows to a group, a file a product."""
    point_only = {f"{side}_{level}": None for side in ("lower", "upper") for level in (50, 80, 95)}
    texts = ("model_version", "data_version", "settings_version", "code_version", "flow_run_id")
    same = {**dict.fromkeys(texts, "x"), **point_only, "horizon": 1, "profile": "article", "created_at": NOW}
    same |= {"last_close": 1.0, "quantile_levels": None, "quantiles": None}
    for first in (0, days // 2):
        for product in products:
            publish_all(home, [
                {**same, "prediction_id": f"{product} {n}", "product_id": product, "point": float(n)}
                | {"origin_day": FIRST + timedelta(days=n), "target_day": FIRST + timedelta(days=n + 1)}
                for n in range(first, first + days // 2)
            ])  # fmt: skip
    compact_table(home, "predictions")
    dataset = open_dataset(home.predictions)
    assert dataset is not None
    return [home.predictions / path for path in sorted(dataset.files)]


COUNTED = "SELECT count(*), min(point) FROM predictions WHERE "
APRIL = "target_day BETWEEN DATE '2019-04-01' AND DATE '2019-04-30'"


@pytest.mark.parametrize("hurt", ["gone", "damaged"])
@pytest.mark.parametrize(
    "test",
    [
        f"product_id = 'BTC-USD' AND {APRIL}",
        "product_id = 'BTC-USD' AND date_trunc('month', target_day) = DATE '2019-04-01'",
        "product_id = 'BTC-USD' AND year(target_day) = 2019 AND month(target_day) = 4",
        f"product_id IN ('BTC-USD', 'XRP-USD') AND {APRIL}",
    ],
)
def test_a_question_about_one_product_reads_no_other_partition(tmp_path: Path, test: str, hurt: str) -> None:
    home = Home(tmp_path).prepare()
    btc, eth = many(home, (BTC, "ETH-USD"), 120)
    assert "BTC-USD" in str(btc)
    if hurt == "gone":
        eth.unlink()
    else:
        eth.write_bytes(bytes(eth.stat().st_size))
    assert rows(home, COUNTED + test) == [(30, 89.0)]
    with pytest.raises(ClosecastError):
        query(home, COUNTED + APRIL)


def test_a_question_about_a_month_reads_no_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "GROUP_ROWS", 8)
    home = Home(tmp_path).prepare()
    (path,) = many(home, (BTC,), 120)
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == 15
    place = pq.read_schema(path).names.index("target_day")
    with path.open("r+b") as file:
        for group in map(metadata.row_group, range(15)):
            days = group.column(place).statistics
            if days.max < date(2019, 4, 1) or days.min > date(2019, 4, 30):
                for column in map(group.column, range(group.num_columns)):
                    file.seek(column.dictionary_page_offset or column.data_page_offset)
                    file.write(b"\xff" * column.total_compressed_size)
    assert rows(home, COUNTED + APRIL) == [(30, 89.0)]
    with pytest.raises(ClosecastError):
        query(home, "SELECT point FROM predictions WHERE target_day < DATE '2019-02-01'")


def test_the_scan_of_one_query_is_of_one_state(full: Home) -> None:
    """A view scanned twice is read once: nothing that comes between shows in half of an answer."""
    found = rows(full, "SELECT count(*) FROM (SELECT * FROM candles EXCEPT SELECT * FROM candles)")
    assert found == [(0,)]


def test_odd_types_come_back_as_a_table(empty: Home) -> None:
    sql = "SELECT INTERVAL 1 MONTH, 1::HUGEINT, uuid(), 'x'::BLOB, {'a': 1}, NULL, DATE '1-1-1' AS day"
    table = query(empty, sql)
    assert isinstance(table, pa.Table)
    assert table.to_pylist()[0]["day"] == date(1, 1, 1)


@pytest.mark.sqlite
def test_a_home_that_cannot_be_used_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "prices.db").write_text("no database at all, but long enough to look like one" * 100)
    with pytest.raises(ClosecastError) as caught:
        query(Home(tmp_path), "SELECT 1")
    assert not isinstance(caught.value, BadQuery)
    assert "\n" not in str(caught.value)


def test_it_loads_neither_tensorflow_nor_mlflow(empty: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.core.home import Home;"
        " from storage.tables.sql import query;"
        f" assert query(Home(Path({str(empty.root)!r})), 'from predictions select count(*)').num_rows == 1;"
        " assert not {'tensorflow', 'keras', 'mlflow', 'prefect'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)
