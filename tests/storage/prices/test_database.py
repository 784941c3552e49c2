"""The connection: pragmas, migrations once however many start, and one line when it cannot be used."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from storage.core.errors import BadInput, BadSetting, HomeUnusable
from storage.core.home import Home
from storage.prices import database, engine_base
from storage.prices.database import Database
from storage.prices.engine_base import REVISIONS
from tests.helpers import end_in_a_migration

PROJECT = Path(__file__).parents[3]
SERIES = (
    "INSERT INTO series (product_id, source, after_candle_seq, started_at)"
    " VALUES ('BTC-USD', 'csv', 0, '2020-01-01T00:00:00+00:00')"
)


@contextlib.contextmanager
def opened(home: Home) -> Iterator[Database]:
    found = Database(home)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def read_only(home: Home, place: Path) -> Iterator[Home]:
    """The same home at another place, where it cannot be written."""
    place.mkdir()
    for words in (["--bind", str(home.root), str(place)], ["-o", "remount,ro,bind", str(place)]):
        done = subprocess.run(["mount", *words], capture_output=True)
        if done.returncode:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
            pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield Home(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def refusal(home: Home) -> str:
    with pytest.raises(HomeUnusable) as error, opened(home):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.sqlite
def test_the_pragmas_hold_on_every_connection(tmp_path: Path) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 30_000,
        "foreign_keys": 1,
        "recursive_triggers": 1,
    }
    with opened(Home(tmp_path)) as first, first.read() as one, first.read() as two, first.write() as three:
        for connection in (one, two, three):
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
            assert found == wanted


def test_the_known_head_is_the_newest_migration(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISIONS[-1]]
    with opened(Home(tmp_path)) as prices, prices.read() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == REVISIONS[-1]


def test_migrating_says_nothing_and_leaves_logging_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("alembic").level
    with opened(Home(tmp_path)):
        pass
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before
    assert not logging.getLogger("alembic").disabled
    assert capfd.readouterr() == ("", "")


@pytest.mark.sqlite
def test_a_later_start_does_without_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from storage.prices.database import Database; from storage.core.home import Home\n"
        "Database(Home(Path(sys.argv[1]))).close(); print('alembic' in sys.modules)"
    )
    outcomes = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
            cwd=PROJECT,
            check=True,
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ]
    assert [(done.stdout, done.stderr) for done in outcomes] == [("True\n", ""), ("False\n", "")]


@pytest.mark.sqlite
def test_a_database_that_lost_its_journal_mode_gets_it_back(tmp_path: Path) -> None:
    with opened(Home(tmp_path)):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "prices.db")) as plain:
        assert plain.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    with opened(Home(tmp_path)) as prices, prices.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


@pytest.mark.sqlite
def test_strange_folder_names_are_folder_names(tmp_path: Path) -> None:
    home = Home(tmp_path / "a:b=c %d#e ü")
    with opened(home):
        pass
    assert (home.root / "prices.db").is_file()


def test_the_address_may_point_elsewhere(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", f"sqlite:///{tmp_path / 'else.db'}")
    with opened(home):
        pass
    assert (tmp_path / "else.db").is_file()
    assert not (home.root / "prices.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "nosuch://host/db",
        "",
        "postgresql://joe:top@s3cret@127.0.0.1:1/db",
        "postgresql://joe:top@h:s3cret@127.0.0.1/db",
        "postgresql://joe:s3cret@127.0.0.1:1x/db",
    ],
)
def test_a_malformed_address_is_a_bad_setting(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadSetting, match="CLOSECAST_DATABASE_URL") as error:
        Database(Home(tmp_path, url))
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_write_that_fails_keeps_nothing(tmp_path: Path) -> None:
    with opened(Home(tmp_path)) as prices:
        with pytest.raises(BadInput, match="refuses a row"), prices.write() as connection:  # noqa: PT012
            connection.execute(sa.text(SERIES))
            connection.execute(sa.text(SERIES.replace("BTC-USD", "btc-usd")))
        with prices.read() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM series")) == 0


@pytest.mark.sqlite
def test_what_is_no_database_is_an_unusable_home(tmp_path: Path) -> None:
    (tmp_path / "prices.db").write_text("product,close\n" * 100)
    assert "file is not a database" in refusal(Home(tmp_path))
    (tmp_path / "prices.db").unlink()
    (tmp_path / "prices.db").mkdir()
    assert "unable to open database file" in refusal(Home(tmp_path))
    (tmp_path / "file").touch()
    assert "folder that can be written" in refusal(Home(tmp_path / "file" / "home"))


@pytest.mark.sqlite
def test_a_database_that_cannot_be_written_is_an_unusable_home(tmp_path: Path) -> None:
    with opened(Home(tmp_path)):
        pass
    # Root may write anywhere, so the refusal comes from the way it is opened.
    readonly = Home(tmp_path, f"sqlite:///file:{tmp_path / 'prices.db'}?mode=ro&uri=true")
    with (
        pytest.raises(HomeUnusable, match="readonly database"),
        opened(readonly) as prices,
        prices.write() as connection,
    ):
        connection.execute(sa.text(SERIES))


@pytest.mark.sqlite
def test_a_database_of_a_newer_closecast_is_left_alone(tmp_path: Path) -> None:
    with opened(Home(tmp_path)):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "prices.db")) as plain, plain:
        plain.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "of another closecast" in refusal(Home(tmp_path))


@pytest.mark.sqlite
def test_a_database_that_stays_locked_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(Home(tmp_path)):
        pass
    monkeypatch.setattr(engine_base, "BUSY_SECONDS", 0.1)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "prices.db", isolation_level=None)) as other,
        opened(Home(tmp_path)) as prices,
    ):
        other.execute("BEGIN IMMEDIATE")
        with prices.read() as connection:  # reading goes on beside a writer
            assert connection.scalar(sa.text("SELECT count(*) FROM series")) == 0
        with pytest.raises(HomeUnusable, match="held by another process"), prices.write():
            pass
        other.execute("ROLLBACK")
        with prices.write() as connection:
            connection.execute(sa.text(SERIES))


@pytest.mark.sqlite
def test_a_migration_killed_in_the_middle_has_not_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_in_a_migration(Home(tmp_path), monkeypatch)
    with contextlib.closing(sqlite3.connect(tmp_path / "prices.db")) as plain:
        assert plain.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    with opened(Home(tmp_path)) as prices, prices.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM closes")) == 0


def count_series(home: Home) -> int:
    with opened(home) as found, found.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM series").scalar_one()


@pytest.mark.sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_home_that_can_only_be_read_is_read(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    with opened(home) as found, found.write() as connection:
        connection.exec_driver_sql(SERIES)
    with read_only(home, tmp_path / "seen # 5% ü") as seen:
        assert count_series(seen) == 1
        with (
            opened(seen) as found,
            pytest.raises(HomeUnusable, match="readonly"),
            found.write() as connection,
        ):
            connection.exec_driver_sql(SERIES)
        assert {path.name for path in home.root.glob("prices*")} == {"prices.db"}
        (home.root / "prices.db-wal").touch()  # left empty by somebody
        assert count_series(seen) == 1


@pytest.mark.sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_what_still_stands_in_the_log_is_never_passed_over(tmp_path: Path) -> None:
    """Read with the log's index while a writer is there, refused when that is gone."""
    home = Home(tmp_path / "home").prepare()
    log = home.root / "prices.db-wal"
    with read_only(home, tmp_path / "seen") as seen:
        with opened(home) as found:
            with found.write() as connection:
                connection.exec_driver_sql(SERIES)
            kept = log.read_bytes()
            assert count_series(seen) == 1
        log.write_bytes(kept)
        assert "unable to open" in refusal(seen)
