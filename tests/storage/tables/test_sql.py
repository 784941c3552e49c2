from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closecast.storage.core.candle_schema import PRICE_VIEWS, arrow_schema
from closecast.storage.core.errors import BadQuery, ClosecastError, Damaged
from closecast.storage.core.home import Home
from closecast.storage.core.location import Location
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables import sql
from closecast.storage.tables.schemas import TABLES
from closecast.storage.tables.sql import VIEWS, query
from closecast.storage.upkeep import compaction
from closecast.storage.upkeep.compaction import compact_table
from tests.helpers import BTC, FIRST, made_up, one_line, publish_all, store
from tests.storage.tables.rows import ROWS, forecast, table

COUNTS = [30, 31, 0, 0, 1, 1, 1, 1, 1]  # of the full home, in the order of VIEWS


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("empty")).prepare()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Thirty days, the last of them restated, a forecast, and a row of each other table."""
    home = Home(tmp_path_factory.mktemp("full")).prepare()
    frame = made_up(30)
    store(home, frame)
    store(home, frame.tail(1).assign(close=frame["close"].iloc[-1] + 0.5))
    table(home, "predictions").add([{**forecast("a", 29, quantiles=[0.5, 1.5]), "revision": 0}])
    for name in ("scores", "components", "calibrator", "backtests"):
        table(home, name).add([ROWS[name]])
    return home


def rows(home: Home, sql: str) -> list[tuple[Any, ...]]:
    result = query(home, sql)
    return list(zip(*(column.to_pylist() for column in result.columns), strict=True))


@pytest.mark.parametrize("kind", ["empty", "full"])
def test_all_views_are_there(kind: str, request: pytest.FixtureRequest) -> None:
    home: Home = request.getfixturevalue(kind)
    assert [name for (name,) in rows(home, "SHOW TABLES")] == sorted(VIEWS)
    prices = {name: arrow_schema(columns) for name, columns in PRICE_VIEWS.items()}
    schemas = prices | {name: schema.arrow for name, schema in TABLES.items()}
    assert tuple(schemas) == VIEWS[: len(COUNTS)]
    for name, schema in schemas.items():
        table = query(home, f"FROM {name}")
        assert table.column_names == schema.names
        assert table.num_rows == (COUNTS[VIEWS.index(name)] if kind == "full" else 0)
    # The columns have one type, whether there are rows or not.
    sql = "SELECT product_id, target_day, point, created_at, quantiles, horizon FROM predictions"
    kinds = [str(field.type).replace("large_", "") for field in query(home, sql).schema]
    assert kinds[:3] == ["string", "date32[day]", "double"]
    assert kinds[3].startswith("timestamp[us, tz=")
    assert kinds[4:] == ["list<l: double>", "int32"]
    with Prices(home) as stored:
        for name in ("candles", "closes"):
            assert stored.table(name).schema == schemas[name]


@pytest.mark.parametrize(
    "name",
    ["closes", "CLOSES", '"closes"', "query_table('clo' || 'ses')", "query('from ' || 'clos' || 'es')"],
)
def test_a_view_holds_its_rows_however_it_is_named(full: Home, name: str) -> None:
    assert rows(full, f"FROM {name} SELECT count(*)") == [(30,)]


def test_views_are_joined_with_each_other_and_with_themselves(full: Home) -> None:
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
    same = "SELECT count(*) FROM (SELECT * FROM candles EXCEPT SELECT * FROM candles)"
    assert rows(full, same) == [(0,)]


def test_repeated_column_names_are_numbered(full: Home) -> None:
    table = query(
        full, "SELECT p.product_id, c.product_id, 1 AS product_id_1, 2 FROM predictions p, closes c"
    )
    assert table.column_names == ["product_id", "product_id_1", "product_id_1_1", "2"]
    assert table.to_pylist()[0] == {"product_id": BTC, "product_id_1": BTC, "product_id_1_1": 1, "2": 2}


NOT_ONE_SELECT = [
    "",
    "-- only a note",
    "selec 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW closes",
    "SELECT * FROM nowhere",
    "SELECT ?",
    "SELECT '" + "x" * 3000,
    "INSERT INTO closes VALUES (1)",
    "DELETE FROM predictions",
    "DROP VIEW predictions",
    "CREATE TABLE t (a int)",
    "WITH a AS (DELETE FROM predictions RETURNING *) SELECT * FROM a",
    "ATTACH '{file}' AS other",
    "ATTACH '{home}/prices.db' (TYPE sqlite)",
    "COPY closes TO '{out}'",
    "COPY (SELECT 1) TO '{out}'",
    "EXPORT DATABASE '{out}'",
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_json('{file}')",
    "SELECT * FROM read_parquet('{home}/predictions/*/*.parquet')",
    "SELECT * FROM glob('{home}/*')",
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
    "PRAGMA database_list; SELECT 1",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "EXPLAIN SELECT 1",
    "BEGIN",
    "SELECT * FROM frame",
]


@pytest.mark.parametrize("sql", NOT_ONE_SELECT)
def test_anything_but_one_select_is_refused_in_one_line(
    sql: str, full: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = made_up(3)  # in reach of a library that looks for names in Python's own frames
    assert len(frame) == 3
    file, out = tmp_path / "secret.csv", tmp_path / "out"
    file.write_text("a\nsecret\n")
    with pytest.raises(BadQuery, match=r"^.{,500}$", check=one_line):
        query(full, sql.format(file=file, home=full.root, out=out))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_a_result_that_is_too_large_is_refused(full: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MAX_BYTES", 2**20)
    assert query(full, "SELECT * FROM range(100000)").num_rows == 100_000
    with pytest.raises(BadQuery, match="at most 1 MB, this one is larger: select fewer rows"):
        query(full, "SELECT * FROM range(100000000000)")


def many(home: Home, products: tuple[str, ...], days: int) -> list[Location]:
    """Forecasts of consecutive days in one file a product."""
    for first in (0, days // 2):
        for product in products:
            publish_all(home, [
                forecast(f"{product} {n}", n, product, point=float(n))
                for n in range(first, first + days // 2)
            ])  # fmt: skip
    compact_table(home, "predictions")
    dataset = table(home, "predictions").snapshot().dataset
    return [home.predictions / path for path in sorted(dataset.files)]


COUNTED = "SELECT count(*), min(point) FROM predictions WHERE "
APRIL = "target_day BETWEEN DATE '2019-04-01' AND DATE '2019-04-30'"


@pytest.mark.parametrize("damage", ["gone", "not Parquet"])
def test_a_query_of_one_product_reads_no_other_partition(home: Home, damage: str) -> None:
    btc, eth = many(home, (BTC, "ETH-USD"), 120)
    assert "BTC-USD" in str(btc)
    if damage == "gone":
        eth.unlink()
    else:
        eth.put(bytes(1000))
    for where in (
        f"product_id = 'BTC-USD' AND {APRIL}",
        "product_id = 'BTC-USD' AND date_trunc('month', target_day) = DATE '2019-04-01'",
        "product_id = 'BTC-USD' AND year(target_day) = 2019 AND month(target_day) = 4",
        f"product_id IN ('BTC-USD', 'XRP-USD') AND {APRIL}",
    ):
        assert rows(home, COUNTED + where) == [(30, 89.0)]
    twice = f"{COUNTED}{APRIL} UNION ALL {COUNTED}{APRIL}"
    for statement in (COUNTED + APRIL, *[twice] * 20):  # DuckDB fails, now and then Arrow's stream
        with pytest.raises(Damaged, match="the table predictions cannot be read: run `closecast verify`"):
            query(home, statement)


@pytest.mark.folder
def test_a_query_of_a_month_reads_no_other_rows(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "GROUP_ROWS", 8)
    path = Path(str(*many(home, (BTC,), 120)))
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


def test_unusual_types_come_back_as_a_table(empty: Home) -> None:
    sql = "SELECT INTERVAL 1 MONTH, 1::HUGEINT, uuid(), 'x'::BLOB, {'a': 1}, NULL, DATE '1-1-1' AS day"
    table = query(empty, sql)
    assert isinstance(table, pa.Table)
    assert table.to_pylist()[0]["day"] == date(1, 1, 1)


@pytest.mark.sqlite
def test_a_home_that_cannot_be_used_is_no_bad_query(tmp_path: Path) -> None:
    (tmp_path / "prices.db").write_text("no database at all, but long enough to look like one" * 100)
    with pytest.raises(ClosecastError, check=one_line) as caught:
        query(Home(tmp_path), "SELECT 1 FROM closes")
    assert not isinstance(caught.value, BadQuery)


def test_the_error_for_an_unknown_view_lists_the_views(empty: Home) -> None:
    listed = f"there are {', '.join(VIEWS)}$"
    with pytest.raises(BadQuery, match=rf"^there is no view prices; {listed}"):
        query(empty, "select * from prices")
    with pytest.raises(
        BadQuery, match=rf"^there is no view Prediction \(did you mean predictions\?\); {listed}"
    ):
        query(empty, "select * from Prediction join closes using (product_id)")
    with pytest.raises(BadQuery, match=r"the query fails: Catalog Error: .*nosuch"):
        query(empty, "select nosuch(1) from closes")
