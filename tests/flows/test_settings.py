from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.settings import (
    PROFILES,
    Article,
    Market,
    environment,
    home_at,
    market_of,
    profile_named,
)
from storage.core.errors import BadProduct, BadSetting, ClosecastError
from storage.core.home import PROJECT
from tests.helpers import SMALL

ARTICLE = {
    "lookback": 5,
    "horizon": 1,
    "train_share": 0.8,
    "scaler_fit": "train",
    "bridge_gaps": True,
    "units": 64,
    "activation": "sigmoid",
    "leaky_slope": 0.5,
    "dropout": 0.1,
    "learning_rate": 1e-4,
    "batch_size": 5,
    "epochs": 50,
    "shuffle": False,
    "validation_split": 0.1,
    "seed": 2020,
}


def refused(kind: type[ClosecastError], call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **more)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    return said


def test_every_field_has_the_articles_value() -> None:
    assert profile_named("article").model_dump(mode="json") == ARTICLE
    assert set(SMALL) == set(ARTICLE)
    assert list(PROFILES) == ["article", "calibrated"]
    assert profile_named("article").name == "article"


def test_fields_are_set_otherwise_and_then_stay() -> None:
    recipe = profile_named("article", {"epochs": 3, "scaler_fit": "all"})
    assert (recipe.epochs, recipe.scaler_fit, recipe.units) == (3, "all", 64)
    with pytest.raises(ValidationError):
        recipe.epochs = 4  # type: ignore[misc]


def test_the_version_is_a_digest_of_every_field() -> None:
    plain = Article().version
    assert plain.startswith("article-")
    assert profile_named("article", {"epochs": 50, "learning_rate": 0.0001}).version == plain
    other = {
        "lookback": 6,
        "train_share": 0.7,
        "scaler_fit": "all",
        "bridge_gaps": False,
        "units": 32,
        "activation": "tanh",
        "leaky_slope": 0.3,
        "dropout": 0.2,
        "learning_rate": 1e-3,
        "batch_size": 6,
        "epochs": 51,
        "shuffle": True,
        "validation_split": 0.2,
        "seed": 2021,
    }
    assert set(other) == set(ARTICLE) - {"horizon"}  # which has one value only
    versions = {plain, *(profile_named("article", {name: value}).version for name, value in other.items())}
    assert len(versions) == 15


def test_the_version_is_the_same_in_every_process() -> None:
    program = "from flows.settings import Article; print(Article().version)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=PROJECT, capture_output=True, text=True
    )
    assert done.stdout.strip() == Article().version


def test_a_profile_goes_through_json() -> None:
    recipe = profile_named("article", {"learning_rate": 0.1 + 0.2})
    again = profile_named("article", json.loads(json.dumps(recipe.model_dump(mode="json"))))
    assert again == recipe
    assert again.version == recipe.version


@pytest.mark.parametrize(
    ("name", "said"),
    [("artcile", "did you mean article?"), ("", "the profiles are article"), ("x" * 500, "the profiles are")],
)
def test_unknown_profiles(name: str, said: str) -> None:
    assert said in refused(BadSetting, profile_named, name)


def test_a_misspelt_setting_names_its_neighbour() -> None:
    said = refused(BadSetting, profile_named, "article", {"epoch": 3})
    assert "no setting 'epoch' (did you mean epochs?)" in said
    assert "learning_rate" in said
    refused(BadSetting, profile_named, "article", {"name": "x"})
    refused(BadSetting, profile_named, "article", {"version": "x"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", "many"),
        ("epochs", None),
        ("horizon", 2),
        ("lookback", 0),
        ("train_share", 1.0),
        ("train_share", 0.0),
        ("validation_split", 0.0),
        ("validation_split", 1e-17),  # so near to nothing that no series would be long enough
        ("train_share", 1 - 1e-12),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("learning_rate", float("nan")),
        ("leaky_slope", float("inf")),
        ("activation", "softmax"),
        ("scaler_fit", "test"),
        ("seed", -1),
        ("seed", 2**32),
        ("batch_size", 10**12),
        ("shuffle", "perhaps"),
        ("units", "x" * 1000),
    ],
)
def test_values_out_of_range(field: str, value: object) -> None:
    assert f"setting {field}: " in refused(BadSetting, profile_named, "article", {field: value})


def test_markets() -> None:
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


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "COINBASE_URL", "DATABASE_URL", "STORAGE_URL"):
        monkeypatch.setenv(f"CLOSECAST_{name}", "")
    assert home_at().root == PROJECT / "data"
    assert environment().coinbase_url.startswith("https://")
    assert home_at().database_url is None


def test_misspelt_variables_and_addresses_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("CLOSECAST_HOEM", "x")
        assert "did you mean CLOSECAST_HOME?" in refused(BadSetting, home_at)
    with monkeypatch.context() as patch:
        patch.setenv("CLOSECAST_STORAGE_URL", "ftp://bucket")
        assert "must be s3://BUCKET" in refused(BadSetting, environment)
    environment()


def test_a_home_is_a_whole_path_without_links_being_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert home_at("here").root == tmp_path / "here"
    assert home_at(Path("a/../b")).root == tmp_path / "b"
    assert home_at("~/data").root == tmp_path / "user" / "data"
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert home_at("link").root == tmp_path / "link"
    assert not list((tmp_path).glob("here"))  # nothing is made


def test_reading_settings_loads_nothing_heavy() -> None:
    program = (
        "import sys; import flows.settings; flows.settings.environment();"
        " assert not {'tensorflow', 'keras', 'mlflow', 'prefect', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)
