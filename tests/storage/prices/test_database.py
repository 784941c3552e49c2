"""The connection: pragmas, migrations, foreign schemas, and one line where it cannot be used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.config import Config
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

from closecast.flows.cli.commands import app
from closecast.storage.core.errors import BadSetting, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.locks.bucket_owner import prepare_home
from closecast.storage.prices import engine_base
from closecast.storage.prices.database import MIGRATIONS, Database
from closecast.storage.prices.engine import database_engine, stored_products
from closecast.storage.prices.engine_base import REVISIONS
from tests.helpers import PROJECT, interrupt, made_up, store

SERIES = (
    "INSERT INTO series (product_id, source, after_candle_seq, started_at)"
    " VALUES ('BTC-USD', 'csv', 0, '2020-01-01T00:00:00+00:00')"
)


@contextlib.contextmanager
def read_only(home: Home, mount: Path) -> Iterator[Home]:
    """The same home, mounted read-only at another path."""
    mount.mkdir()
    try:
        for options in (["--bind", str(home.root), str(mount)], ["-o", "remount,ro,bind", str(mount)]):
            done = subprocess.run(["mount", *options], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        yield Home(mount)
    finally:
        subprocess.run(["umount", "-l", str(mount)], capture_output=True)


def refusal(home: Home) -> str:
    with pytest.raises(HomeUnusable) as error, Database(home):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def count_series(home: Home) -> int:
    with Database(home) as database, database.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM series").scalar_one()


@pytest.mark.sqlite
def test_the_pragmas_hold_on_every_connection(tmp_path: Path) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 30_000,
        "foreign_keys": 1,
        "recursive_triggers": 1,
    }
    home = Home(tmp_path / "a:b=c %d#e ü")  # special characters are part of the name
    with (
        Database(home) as database,
        database.read() as first,
        database.read() as second,
        database.write() as third,
    ):
        for connection in (first, second, third):
            pragmas = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
            assert pragmas == wanted
    assert (home.root / "prices.db").is_file()


def test_the_last_listed_revision_is_the_newest_migration(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISIONS[-1]]
    with Database(Home(tmp_path)) as database, database.read() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == REVISIONS[-1]


def test_an_address_moves_the_database_out_of_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", f"sqlite:///{tmp_path / 'else where.db'}")
    assert stored_products(home) == []
    store(home, made_up(3), product_id="ETH-USD")
    assert (tmp_path / "else where.db").is_file()
    assert not (home.root / "prices.db").exists()
    assert stored_products(home) == ["ETH-USD"]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me@host/db",
        "postgres://me@host/db",
        "nonsense",
        "nosuch://host/db",
        "sqlite://",
        "sqlite:///relative.db",
        "",
        "postgresql://joe:top@s3cret@127.0.0.1:1/db",
        "postgresql://joe:top@h:s3cret@127.0.0.1/db",
        "postgresql://joe:s3cret@127.0.0.1:1x/db",
    ],
)
def test_a_malformed_address_is_a_bad_setting_and_shows_no_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadSetting, match="CLOSECAST_DATABASE_URL") as error:
        Database(Home(tmp_path, url))
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.sqlite
def test_a_file_that_is_no_database_makes_the_home_unusable(tmp_path: Path) -> None:
    (tmp_path / "prices.db").write_text("product,close\n" * 100)
    assert "file is not a database" in refusal(Home(tmp_path))
    assert stored_products(Home(tmp_path)) == []
    (tmp_path / "prices.db").unlink()
    (tmp_path / "prices.db").mkdir()
    assert "unable to open database file" in refusal(Home(tmp_path))
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(Home(tmp_path / "file" / "home"))


@pytest.mark.sqlite
def test_a_database_that_cannot_be_written_makes_the_home_unusable(tmp_path: Path) -> None:
    Database(Home(tmp_path)).close()
    # Root may write anywhere, so the refusal comes from the way it is opened.
    readonly = Home(tmp_path, f"sqlite:///file:{tmp_path / 'prices.db'}?mode=ro&uri=true")
    with (
        pytest.raises(HomeUnusable, match="readonly database"),
        Database(readonly) as database,
        database.write() as connection,
    ):
        connection.execute(sa.text(SERIES))


COMMANDS = (
    *("run --source sample", "predictions", "sql SELECT", "score", "backtest", "versions", "verify"),
    *("rollback --product BTC-USD", "report", "maintain", "backup new.tar"),
)


def make_old_database(folder: Path, revision: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "prices.db")) as plain, plain:
        plain.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        plain.execute("INSERT INTO alembic_version VALUES (?)", (revision,))


@pytest.mark.sqlite
@pytest.mark.parametrize("revision", ["0002", "prices_1", "9999"])
def test_a_database_of_another_release_is_refused_and_not_changed(tmp_path: Path, revision: str) -> None:
    make_old_database(tmp_path, revision)
    before = (tmp_path / "prices.db").read_bytes()
    message = refusal(Home(tmp_path))
    assert f"has the schema '{revision}'" in message
    assert "'prices_2' is needed; name another home with --home or CLOSECAST_HOME and import" in message
    with pytest.raises(HomeUnusable, match="of another closecast"):
        prepare_home(Home(tmp_path))
    assert (tmp_path / "prices.db").read_bytes() == before


@pytest.mark.sqlite
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_the_home_of_another_release(tmp_path: Path, command: str) -> None:
    make_old_database(tmp_path, "0002")
    result = CliRunner().invoke(app, [*command.split(), "--home", str(tmp_path)])
    assert isinstance(result.exception, HomeUnusable), result.output
    assert "has the schema '0002' of another closecast" in str(result.exception)


@pytest.mark.sqlite
def test_later_starts_load_no_alembic_or_driver_and_completion_no_sqlalchemy(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    for product in ("ETH-USD", "ADA-USD"):
        store(home, made_up(3), product_id=product)
    before = (home.root / "prices.db").read_bytes()
    code = (
        "import sys; from pathlib import Path; from closecast.storage.core.home import Home\n"
        "from closecast.storage.prices.engine import require_current_schema, stored_products\n"
        "home = Home(Path(sys.argv[1])); require_current_schema(home); print(stored_products(home))\n"
        "assert 'sqlalchemy' not in sys.modules\n"
        "from closecast.storage.prices.price_store import Prices\n"
        "from closecast.storage.locks.locks import product_lock\n"
        "with product_lock(home, 'BTC-USD'), Prices(home) as prices: prices.source_of('BTC-USD')\n"
        "assert not {'alembic', 'psycopg', 'obstore'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(home.root)]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert done.stdout == "['ADA-USD', 'ETH-USD']\n"
    assert (home.root / "prices.db").read_bytes() == before


def test_a_missing_home_or_server_has_no_products(tmp_path: Path) -> None:
    assert stored_products(Home(tmp_path / "nowhere", f"sqlite:///{tmp_path / 'nowhere' / 'p.db'}")) == []
    assert not (tmp_path / "nowhere").exists()
    assert stored_products(Home(tmp_path, "postgresql+psycopg://nobody@127.0.0.1:9/none")) == []


@pytest.mark.parametrize("driver", ["", "+asyncpg", "+psycopg2", "+psycopg"])
def test_an_address_with_the_driver_of_another_program_is_read_with_ours(driver: str, tmp_path: Path) -> None:
    postgresql = database_engine(Home(tmp_path, f"postgresql{driver}://me@host/prices"))
    assert postgresql.registry_address == "postgresql+psycopg://me@host/prices"


def test_a_file_of_sqlite_is_opened_whatever_the_driver_in_its_address(tmp_path: Path) -> None:
    home = Home(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
    Database(home).close()
    assert stored_products(home) == []


def test_a_locked_database_is_reported_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_base, "BUSY_SECONDS", 0.2)
    with Database(Home(tmp_path)) as one, Database(Home(tmp_path)) as two:
        with one.write():
            with two.read() as connection:  # reading goes on beside a writer
                assert connection.scalar(sa.text("SELECT count(*) FROM series")) == 0
            with pytest.raises(HomeUnusable, match="held by another process"), two.write():
                pass
        with two.write() as connection:
            connection.execute(sa.text(SERIES))


@pytest.mark.sqlite
def test_a_migration_killed_in_the_middle_has_not_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(op, "execute", interrupt)  # makes the views, after the tables
        with pytest.raises(KeyboardInterrupt):
            Database(Home(tmp_path))
    with contextlib.closing(sqlite3.connect(tmp_path / "prices.db")) as plain:
        assert plain.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert count_series(Home(tmp_path)) == 0


@pytest.mark.sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_read_only_home_is_read(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    with Database(home) as database, database.write() as connection:
        connection.exec_driver_sql(SERIES)
    with read_only(home, tmp_path / "mounted # 5% ü") as mounted:
        assert count_series(mounted) == 1
        with (
            Database(mounted) as database,
            pytest.raises(HomeUnusable, match="readonly"),
            database.write() as connection,
        ):
            connection.exec_driver_sql(SERIES)
        assert {path.name for path in home.root.glob("prices*")} == {"prices.db"}
        (home.root / "prices.db-wal").touch()  # an empty log, as a crash may leave it
        assert count_series(mounted) == 1


@pytest.mark.sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_read_only_home_never_ignores_the_write_ahead_log(tmp_path: Path) -> None:
    """It is read with the log's index while a writer runs, and refused when the index is gone."""
    home = Home(tmp_path / "home").prepare()
    log = home.root / "prices.db-wal"
    with read_only(home, tmp_path / "mounted") as mounted:
        with Database(home) as database:
            with database.write() as connection:
                connection.exec_driver_sql(SERIES)
            content = log.read_bytes()
            assert count_series(mounted) == 1
        log.write_bytes(content)
        assert "unable to open" in refusal(mounted)
