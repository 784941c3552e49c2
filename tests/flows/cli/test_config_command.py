"""`closecast config`: the values that hold, and where each is from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from closecast.flows.cli.commands import app
from closecast.storage.core.errors import BadSetting

FILE = """
products = ["ETH-USD"]
home = "there"
[settings]
members = 5
seed = 7
[engines]
database_url = "postgresql+psycopg://user:password@host/db?password=hidden&sslmode=require"
"""


@pytest.fixture(autouse=True)
def _variables() -> Iterator[None]:
    """A command sets CLOSECAST_CONFIG for its own process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "staging.toml"
    path.write_text(FILE)
    return path


def called(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def values(*words: str) -> dict[str, Any]:
    done = called(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_each_value_has_its_origin(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSECAST_COINBASE_URL", "http://127.0.0.1:1")
    printed = values("config", "--config", str(file), "--set", "seed=9", "--backfill-days", "0")
    assert printed["file"] == str(file)
    assert printed["values"] == {
        "products": {"value": ["ETH-USD"], "from": str(file)},
        "source": {"value": None, "from": "default"},
        "profile": {"value": "calibrated", "from": "default"},
        "settings.members": {"value": 5, "from": str(file)},
        "settings.seed": {"value": 9, "from": "flag --set"},
        "backfill_days": {"value": 0, "from": "flag --backfill-days"},
        "home": {"value": str(file.parent / "there"), "from": str(file)},
        "engines.coinbase_url": {
            "value": "http://127.0.0.1:1",
            "from": "environment variable CLOSECAST_COINBASE_URL",
        },
        "engines.database_url": {
            "value": "postgresql+psycopg://***@host/db?***",
            "from": str(file),
        },
        "engines.storage_url": {"value": None, "from": "default"},
        "engines.dask_address": {"value": None, "from": "default"},
    }


def test_a_flag_goes_before_a_variable_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOSECAST_HOME", "/variable")
    home = values("config", "--config", str(file))["values"]["home"]
    assert home == {"value": "/variable", "from": "environment variable CLOSECAST_HOME"}
    home = values("config", "--config", str(file), "--home", "/flag")["values"]["home"]
    assert home == {"value": "/flag", "from": "flag --home"}


def test_as_a_table(file: Path) -> None:
    done = called("--config", str(file), "config")  # before the command, too
    assert done.stdout.startswith(f"Configuration file: {file}\n")
    assert "not set" in done.stdout
    assert "word" not in done.stdout.replace("password=***", "")


def test_every_command_takes_the_option(file: Path) -> None:
    file.write_text("prodcuts = []\n")
    for words in (["predictions"], ["score"], ["versions"], ["sql", "select 1"], ["maintain"], ["run"]):
        done = called(*words, "--config", str(file))
        assert "did you mean products?" in str(done.exception), words


def test_the_settings_are_those_of_the_profile(file: Path) -> None:
    file.write_text("[settings]\nmemebrs = 5\n")
    assert "did you mean members?" in str(called("config", "--config", str(file)).exception)
    assert called("config", "--config", str(file), "--profile", "article").exit_code == 0


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("DATABASE_URL", "mysql://me:secret@host/db"),
        ("STORAGE_URL", "gs://me:secret@bucket"),
        ("COINBASE_URL", "ftp://me:secret@host"),
        ("DASK_ADDRESS", "me:secret@host"),
    ],
)
def test_what_is_no_address_is_refused_without_its_password(
    variable: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CLOSECAST_{variable}", address)
    refused = called("config", "--home", str(tmp_path / "home"))
    assert isinstance(refused.exception, BadSetting)
    assert "secret" not in str(refused.exception)
    assert not (tmp_path / "home").exists()


def test_an_empty_home_is_not_the_working_folder() -> None:
    refused = called("predictions", "--home", "")
    assert "the path of a folder is needed, not an empty text" in str(refused.exception)


def test_workers_are_of_this_machine_or_of_dask() -> None:
    refused = called("backtest", "--dask", "tcp://h:1", "--workers", "2")
    assert "workers are for this machine, and Dask at tcp://h:1 has others" in str(refused.exception)
