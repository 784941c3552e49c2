"""The configuration file: where it is found, what it may hold, and what overrides it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from closecast.flows.config import (
    Config,
    configured_backfill_days,
    configured_products,
    configured_profile,
    configured_source,
    read_config,
)
from closecast.flows.daily import configured_market
from closecast.flows.day import plan_day
from closecast.flows.settings import environment, home_at
from closecast.storage.core.errors import BadFile, BadInput, BadSetting
from tests.helpers import one_line

FULL = """
products = ["ETH-USD", "BTC-USD", "ETH-USD"]
source = "coinbase"
profile = "article"
home = "there"
backfill_days = 30
[settings]
epochs = 3
[engines]
database_url = "postgresql://user:secret@host/db"
storage_url = "s3://bucket"
dask_address = "tcp://host:8786"
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a configuration, and names it."""

    def make(text: str, name: str = "staging.toml") -> Path:
        file = tmp_path / "folder" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        monkeypatch.setenv("CLOSECAST_CONFIG", str(file))
        return file

    return make


def test_without_a_file_there_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config() == Config()
    assert (configured_products(), configured_source(), configured_backfill_days()) == (["BTC-USD"], None, 0)
    assert configured_profile() == ("calibrated", {})


def test_a_file_holds_where_nothing_else_does(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(FULL)
    assert configured_products() == ["ETH-USD", "BTC-USD"]
    assert (configured_source(), configured_backfill_days()) == ("coinbase", 30)
    assert configured_profile() == ("article", {"epochs": 3})
    home = home_at()
    assert (home.root, home.database_url) == (file.parent / "there", "postgresql://user:secret@host/db")
    assert (home.storage_url, environment().dask_address) == ("s3://bucket", "tcp://host:8786")
    assert environment().coinbase_url == "https://api.exchange.coinbase.com"
    # A variable goes before the file, an argument before both.
    monkeypatch.setenv("CLOSECAST_HOME", "/variable")
    monkeypatch.setenv("CLOSECAST_STORAGE_URL", "s3://other")
    monkeypatch.setenv("CLOSECAST_DATABASE_URL", "sqlite:///x.db")
    monkeypatch.setenv("CLOSECAST_COINBASE_URL", "http://127.0.0.1:1")
    home = home_at()
    assert (home.root, home.storage_url) == (Path("/variable"), "s3://other")
    assert (home.database_url, environment().coinbase_url) == ("sqlite:///x.db", "http://127.0.0.1:1")
    assert home_at("/argument").root == Path("/argument")
    assert configured_products(["LTC-USD"]) == ["LTC-USD"]
    assert (configured_source("csv"), configured_backfill_days(0)) == ("csv", 0)
    assert configured_profile(None, {"units": 4}) == ("article", {"epochs": 3, "units": 4})
    assert configured_profile("article", {"epochs": 1}) == ("article", {"epochs": 1})


def test_settings_hold_for_the_profile_that_the_file_names(write: Write) -> None:
    write('profile = "article"\n[settings]\nepochs = 3\n')
    assert configured_profile("calibrated") == ("calibrated", {})
    write("[settings]\nmembers = 5\n")
    assert configured_profile() == configured_profile("calibrated") == ("calibrated", {"members": 5})
    assert configured_profile("article") == ("article", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile = 'artcle'", r"not 'artcle' \(did you mean article\?\)"),
        ("[settings]\nmember = 5", r"no setting 'member' \(did you mean members\?\)"),
        ("[settings]\nmembers = 'x'", "setting members: needs a whole number from 1 to 25, not 'x'"),
    ],
)
def test_the_file_is_named_where_its_profile_or_a_setting_is_wrong(
    text: str, message: str, write: Write
) -> None:
    file = write(text)
    with pytest.raises(BadInput, match=f"^{file}: .*{message}"):
        configured_profile(None, {"seed": 3})
    assert configured_profile("article", {"epochs": 3}) == ("article", {"epochs": 3})


def test_a_file_may_begin_with_the_mark_of_an_editor(write: Write) -> None:
    write("\N{ZERO WIDTH NO-BREAK SPACE}source = 'sample'\n")
    assert read_config().source == "sample"


def test_flows_heed_it(write: Write, tmp_path: Path) -> None:
    write(FULL.partition("[engines]")[0])
    market = configured_market()
    assert (market.product_id, market.source) == ("ETH-USD", "coinbase")
    day = plan_day(market, None, None, None, None, None)
    assert (day.home.root, day.backfill_days) == (tmp_path / "folder" / "there", 30)
    assert (day.profile.name, day.profile.settings.epochs) == ("article", 3)


def test_the_file_of_the_working_folder_counts_unless_another_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write('profile = "article"\n', "closecast.toml")
    monkeypatch.chdir(here.parent)
    other = write('source = "csv"\n')
    assert (read_config().file, read_config().profile) == (other, None)
    monkeypatch.setenv("CLOSECAST_CONFIG", "")
    assert (read_config().file, read_config().profile) == (here, "article")
    monkeypatch.setenv("CLOSECAST_CONFIG", os.devnull)
    assert read_config() == Config()
    monkeypatch.delenv("CLOSECAST_CONFIG")
    monkeypatch.chdir(here.parent.parent)  # no folder above counts
    assert read_config() == Config()


def test_a_changed_file_is_read_again(write: Write) -> None:
    write('profile = "article"\n')
    assert configured_profile()[0] == "article"
    write("# calibrated\n")
    assert configured_profile()[0] == "calibrated"
    write("")
    assert read_config().profile is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prodcuts = []", r"no setting 'prodcuts' \(did you mean products\?\)"),
        (
            "[engines]\ndatabase = 'x'",
            r"no setting 'engines.database' \(did you mean engines.database_url\?\)",
        ),
        ("colour = 'red'", "no setting 'colour'; there are products, source, profile"),
        ("products = 'BTC-USD'", r"setting products: needs a list, such as \[\"BTC-USD\"\], not 'BTC-USD'"),
        ("products = ['btc-usd']", r"did you mean BTC-USD\?"),
        ("source = 'binance'", "setting source: needs sample or coinbase or csv, not 'binance'"),
        ("backfill_days = 400", "setting backfill_days: needs a whole number from 0 to 366, not 400"),
        ("backfill_days = true", "setting backfill_days: needs a whole number from 0 to 366, not True"),
        ("profile = ''", "setting profile: needs a text, not ''"),
        ("home = '~nosuchuser/x'", "the whole path is needed, not '~nosuchuser/x'"),
        ("settings = 3", r"setting settings: needs a table, which begins with a line \[settings\]"),
    ],
)
def test_invalid_files_are_refused_in_one_line_with_their_name(text: str, message: str, write: Write) -> None:
    file = write(text)
    with pytest.raises(BadInput, match=f"^{file}: .*{message}", check=one_line):
        home_at()


@pytest.mark.parametrize("value", ["['secret']", "{password = 'secret'}", "''"])
def test_an_address_is_never_quoted(value: str, write: Write) -> None:
    write(f"[engines]\ndatabase_url = {value}\n")
    with pytest.raises(BadSetting, match=r"engines.database_url: needs an address as a text$"):
        read_config()
    write("[engines]\ndatabase_url = 'secret'\n")
    assert "secret" not in repr(read_config())


def test_a_file_that_cannot_be_read_is_one_line(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("home = word\n")
    with pytest.raises(BadFile, match=rf"TOML is needed, but {file} is not TOML: Invalid value \(at line 1"):
        read_config()
    file.unlink()
    with pytest.raises(BadFile, match=f"there is none at {file}"):
        read_config()
    monkeypatch.setenv("CLOSECAST_CONFIG", str(file.parent))
    with pytest.raises(BadFile, match="is a folder"):
        read_config()
    monkeypatch.setenv("CLOSECAST_CONFIG", "relative.toml")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1")
    with pytest.raises(
        BadSetting, match="a run of a deployment needs an absolute path for its configuration"
    ):
        read_config()
