"""PostgreSQL: two machines on one database, locks that end with their connection, rights."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from closecast.storage.core.errors import BadSetting, HomeBusy, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import product_lock, tables_lock
from closecast.storage.prices import schema
from closecast.storage.prices.database import Database
from closecast.storage.prices.engine import stored_products
from closecast.storage.prices.engine_base import REVISIONS
from closecast.storage.prices.price_store import Prices
from tests.engines import ADMIN, PASSWORD, PostgreSQL, postgresql
from tests.helpers import BTC, FIRST, NOW, made_up, store

LOCKS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"

pytestmark = pytest.mark.engines


@pytest.fixture
def server() -> PostgreSQL:
    return postgresql()


@pytest.fixture
def home(server: PostgreSQL, tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path / "one", server.database_for(tmp_path / "one")).prepare()
    server.forget(tmp_path)


@pytest.fixture
def other(home: Home, tmp_path: Path) -> Home:
    """Another machine: its own home, the same database."""
    return replace(home, root=tmp_path / "two").prepare()


@pytest.fixture
def plain(server: PostgreSQL, home: Home) -> Iterator[psycopg.Connection]:
    with server.connect(str(sa.make_url(home.database_url or "").database)) as connection:
        yield connection


def test_tables_and_columns_have_comments(home: Home, plain: psycopg.Connection) -> None:
    store(home, made_up(3))
    of_table = "SELECT obj_description(%s::regclass)"
    of_columns = (
        "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0"
    )
    for table in schema.TABLES:
        (description,) = plain.execute(of_table, [table.name]).fetchone()
        assert description == schema.DESCRIPTIONS[table.name]
        comments: dict[str, str] = dict(plain.execute(of_columns, [table.name]).fetchall())
        assert list(comments) == table.c.keys()
        assert all(comments.values())


def test_the_same_rows_have_the_same_digest_on_both_engines(home: Home, tmp_path: Path) -> None:
    frame = made_up(400, seed=3)
    frame.loc[3, ["open", "volume"]] = [0.1 + 0.2, float("nan")]
    frame.loc[4, ["open", "high", "low", "close"]] = [5e-324, 1e299, 1 / 3, 1e10]
    frame.loc[5, ["open", "volume"]] = [1e-5, 0.0]
    lite = Home(tmp_path / "lite", f"sqlite:///{tmp_path / 'lite.db'}")
    assert store(home, frame) == store(lite, frame)
    with Prices(home) as ours, Prices(lite) as theirs:
        for name in ("candles", "closes"):
            assert ours.table(name) == theirs.table(name)


def test_a_shell_completes_the_products_of_the_server(home: Home) -> None:
    short = replace(home, database_url=(home.database_url or "").replace("+psycopg", ""))
    assert stored_products(short) == []  # before the first migration
    store(short, made_up(3))
    store(home, made_up(3), product_id="ADA-USD", source="100 % of %s")
    assert stored_products(home) == ["ADA-USD", BTC]
    with Prices(home) as prices:
        assert prices.source_of("ADA-USD") == "100 % of %s"


def test_machines_that_start_at_once_migrate_once(server: PostgreSQL, tmp_path: Path) -> None:
    url, barrier = server.database_for(tmp_path), threading.Barrier(6)

    def start(number: int) -> None:
        barrier.wait()
        Database(Home(tmp_path / str(number), url)).close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    with server.connect(str(sa.make_url(url).database)) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISIONS[-1],)]
    server.forget(tmp_path)


def test_a_reader_sees_one_state_throughout(home: Home) -> None:
    store(home, made_up(3))
    with contextlib.closing(Database(home)) as one, one.read() as connection:
        count = sa.text("SELECT count(*) FROM candles")
        assert connection.scalar(count) == 3
        store(home, made_up(5))
        assert connection.scalar(count) == 3


def test_machines_wait_for_each_other(home: Home, other: Home) -> None:
    with product_lock(home, BTC):
        with (
            pytest.raises(HomeBusy, match=r"\*\*\*@127") as caught,
            product_lock(other, BTC, wait_seconds=0.1),
        ):
            pass
        with product_lock(other, "ETH-USD", wait_seconds=0.1), tables_lock(other, wait_seconds=0.1):
            pass
    assert PASSWORD not in str(caught.value)
    with product_lock(other, BTC, wait_seconds=0.1):
        pass


def test_the_lock_is_freed_with_its_connection(
    home: Home, other: Home, plain: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with product_lock(home, BTC):
        ((pid,),) = plain.execute(LOCKS).fetchall()
        activity = "SELECT state, backend_xmin FROM pg_stat_activity WHERE pid = %s"
        assert plain.execute(activity, (pid,)).fetchall() == [("idle", None)]  # and no transaction
        plain.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with product_lock(other, BTC, wait_seconds=5):
            pass
    assert "was lost before its end" in caplog.text
    assert plain.execute(LOCKS).fetchall() == []


def test_an_error_under_the_lock_is_raised_unchanged(home: Home) -> None:
    wrong = sa.exc.OperationalError("SELECT 1", {}, Exception("of something else"))
    with pytest.raises(sa.exc.OperationalError), product_lock(home, BTC):
        raise wrong
    with product_lock(home, BTC, wait_seconds=0.1):
        pass


def test_a_role_without_rights_is_refused_in_one_line(
    server: PostgreSQL, home: Home, plain: psycopg.Connection
) -> None:
    store(home, made_up(3))
    admin = server.connect(str(sa.make_url(home.database_url or "").database), user=ADMIN)
    admin.execute("CREATE ROLE looker LOGIN PASSWORD 'p'")
    try:
        plain.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker")
        url = sa.make_url(home.database_url or "").set(username="looker", password="p")  # noqa: S106
        looker = replace(home, database_url=url.render_as_string(hide_password=False))
        with Prices(looker) as prices:
            assert prices.last_day(BTC)
            with pytest.raises(HomeUnusable, match="permission denied"):
                prices.start_series("ETH-USD", "csv", started_at=NOW)
    finally:
        admin.execute("DROP OWNED BY looker")
        admin.execute("DROP ROLE looker")
        admin.close()


def test_a_missing_server_and_a_wrong_password_are_one_line(home: Home) -> None:
    url: Any = sa.make_url(home.database_url or "")
    for wrong in (url.set(port=9), url.set(password="wrong-" + PASSWORD), url.set(database="none")):
        elsewhere = replace(home, database_url=wrong.render_as_string(hide_password=False))
        for use in (Database, tables_lock):
            with pytest.raises(HomeUnusable) as caught, use(elsewhere):
                pass
            assert "\n" not in str(caught.value)
            assert PASSWORD not in str(caught.value)


def test_a_missing_driver_is_named_with_its_remedy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(BadSetting, match=r"closecast\[postgresql\]"):
        Database(home)


def test_gaps_in_the_row_numbers_do_no_harm(home: Home) -> None:
    """A page that was refused leaves a gap in PostgreSQL's numbers."""
    store(home, made_up(5))
    with (
        contextlib.closing(Database(home)) as one,
        contextlib.suppress(ZeroDivisionError),
        one.write() as connection,
    ):
        connection.exec_driver_sql("SELECT nextval('candles_seq_seq')")
        raise ZeroDivisionError
    frame = made_up(9)
    frame.loc[2, "close"] += 1
    store(home, frame)
    with Prices(home) as prices:
        assert len(prices.days(BTC)) == 9
        seqs = prices.table("candles")["seq"].to_pylist()
        assert max(seqs) == len(seqs) + 1
        prices.prices_at(prices.data_version(BTC, FIRST, created_at=NOW))
