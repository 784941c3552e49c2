"""The environment of a run, and the profiles and markets that a command line names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.settings import environment, home_at, market_of
from storage.core.errors import BadProduct, BadSetting, ClosecastError
from storage.core.home import PROJECT
from tasks.prices.sources import Market
from tasks.profiles.named import profile_class, profile_named, profile_names


def refused(kind: type[ClosecastError], call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_a_profile_has_its_settings_by_name() -> None:
    profile = profile_named("article", {"epochs": 3, "scaler_fit": "all"})
    settings: Any = profile.settings
    assert (profile.name, settings.epochs, settings.scaler_fit) == ("article", 3, "all")
    assert settings.units == 64
    with pytest.raises(ValidationError):
        settings.epochs = 4
    assert profile_names()[:2] == ["article", "calibrated"]


def test_the_version_is_a_digest_of_every_setting() -> None:
    plain = profile_named("article")
    assert plain.version.startswith("article-")
    fields = plain.settings.model_dump(mode="json")
    assert profile_named("article", fields).version == plain.version
    changed = {
        **{name: value + 1 for name, value in fields.items() if type(value) is int},
        **{name: value / 2 for name, value in fields.items() if type(value) is float},
        **{name: not value for name, value in fields.items() if type(value) is bool},
        "scaler_fit": "all",
        "activation": "tanh",
    }
    assert set(changed) == set(fields)
    versions = {profile_named("article", {name: value}).version for name, value in changed.items()}
    assert len(versions | {plain.version}) == len(changed) + 1
    program = "from tasks.profiles.named import profile_named; print(profile_named('article').version)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=PROJECT, capture_output=True, text=True
    )
    assert done.stdout.strip() == plain.version  # in every process


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("artcile", "did you mean article?"),
        ("", "the profiles are article"),
        ("x" * 500, "the profiles are"),
        ("no_such_package.module:Class", "cannot be imported: ModuleNotFoundError"),
        ("tests.helpers:made_up", "needs a name of its own"),
        ("tasks.profiles.article:ArticleProfile", "needs a name of its own"),
    ],
)
def test_an_unknown_profile_is_refused(name: str, message: str) -> None:
    assert message in refused(BadSetting, profile_class, name)


def test_a_misspelt_setting_names_the_closest() -> None:
    message = refused(BadSetting, profile_named, "article", {"epoch": 3})
    assert "no setting 'epoch' (did you mean epochs?)" in message
    assert "learning_rate" in message
    refused(BadSetting, profile_named, "article", {"name": "x"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", None),
        ("lookback", 0),
        ("train_share", 0.0),
        ("validation_split", 1e-17),  # so near to nothing that no series would be long enough
        ("train_share", 1 - 1e-12),
        ("dropout", 1.0),
        ("learning_rate", float("inf")),
        ("activation", "softmax"),
        ("seed", 2**32),
        ("batch_size", 10**12),
        ("units", "x" * 1000),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    assert f"setting {field}: " in refused(BadSetting, profile_named, "article", {field: value})


def test_a_market_checks_its_fields() -> None:
    assert market_of() == Market()
    market = market_of(product_id="ETH-USD", source="csv", csv=Path("x.csv"), on_duplicate="last")
    assert (market.product_id, market.source, market.on_duplicate) == ("ETH-USD", "csv", "last")
    assert "BTC-USD" in refused(BadProduct, market_of, product_id="btcusd")
    refused(BadProduct, market_of, product_id="../BTC-USD")
    assert "setting source" in refused(BadSetting, market_of, source="binance")
    assert "setting colour" in refused(BadSetting, market_of, colour="red")
    with pytest.raises(ValidationError):
        Market(product_id="btcusd")
    with pytest.raises(ValidationError):
        market.source = "sample"  # type: ignore[misc]


def test_the_environment_moves_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment().coinbase_url == "https://api.exchange.coinbase.com"
    assert home_at().root == PROJECT / "data"
    monkeypatch.setenv("CLOSECAST_HOME", str(tmp_path))
    monkeypatch.setenv("CLOSECAST_COINBASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CLOSECAST_DATABASE_URL", "sqlite:///x.db")
    monkeypatch.setenv("CLOSECAST_STORAGE_URL", "s3://bucket/prefix")
    assert environment().coinbase_url == "http://127.0.0.1:1"
    home = home_at()
    assert (home.root, home.database_url) == (tmp_path, "sqlite:///x.db")
    assert home.storage_url == "s3://bucket/prefix"
    assert home_at(tmp_path / "given").root == tmp_path / "given"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "COINBASE_URL", "DATABASE_URL", "STORAGE_URL"):
        monkeypatch.setenv(f"CLOSECAST_{name}", "")
    assert home_at().root == PROJECT / "data"
    assert environment().coinbase_url.startswith("https://")
    assert home_at().database_url is None


def test_misspelt_variables_and_other_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("CLOSECAST_HOEM", "x")
        assert "did you mean CLOSECAST_HOME?" in refused(BadSetting, home_at)
    with monkeypatch.context() as patch:
        patch.setenv("CLOSECAST_STORAGE_URL", "ftp://bucket")
        assert "must be s3://BUCKET" in refused(BadSetting, environment)
    environment()


def test_a_home_is_an_absolute_path_with_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert home_at("here").root == tmp_path / "here"
    assert home_at(Path("a/../b")).root == tmp_path / "b"
    assert home_at("~/data").root == tmp_path / "user" / "data"
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert home_at("link").root == tmp_path / "link"
    assert not list((tmp_path).glob("here"))  # no folder is made
