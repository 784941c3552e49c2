from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.storage.core.errors import BadProduct, HomeUnusable
from closecast.storage.core.home import Home, check_product_id, default_root, similar_product
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.delta import Table, TableSchema
from tests.helpers import PROJECT, one_line


@pytest.mark.parametrize(
    "bad",
    [
        "", "BTC", "BTCUSD", "btc-usd", "BTC-", "-USD", "BTC--USD", "BTC-USD-X", "BTC-USD\n", " BTC-USD",
        "../BTC-USD", "BTC/USD", "BTC-USD'", "ΒTC-USD", "BTC-١٢", "A" * 17 + "-USD", "x" * 10_000,
        "BTC-USD/../..", "BTC-USD\x00", "BTC‑USD", "BTC-USD'; DROP TABLE candles; --", "%2e%2e%2f", "BTC_USD",
        "-", "BTC-USD ", "BTC-USD?x=1", "BTC-USD#x", "~", "$(id)-USD", "`id`-USD",
    ],
)  # fmt: skip
def test_other_product_ids_are_refused_in_one_short_line(bad: str) -> None:
    with pytest.raises(BadProduct) as caught:
        check_product_id(bad)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@given(st.text(max_size=40) | st.text("AZ-09", max_size=40) | st.just("A" * 16 + "-" + "9" * 16))
@settings(derandomize=True)
def test_only_ids_of_the_form_pass(text: str) -> None:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    base, dash, quote = text.partition("-")
    if dash and all(0 < len(part) <= 16 and set(part) <= allowed for part in (base, quote)):
        assert check_product_id(text) == text
    else:
        with pytest.raises(BadProduct):
            check_product_id(text)


@pytest.mark.parametrize("text", ["btc-usd", "BTC/USD", "btc_usd", "BTC USD", "BTCUSD", " BTC-USD", "btcusd"])
def test_the_id_that_is_meant_is_asked_for(text: str) -> None:
    with pytest.raises(BadProduct, match=r"\(did you mean BTC-USD\?\)$"):
        check_product_id(text)


@pytest.mark.parametrize("text", ["", "BTC", "BTC-USD-X", "A" * 17 + "-USD", "BTC-١٢", "btc-usd" * 1000])
def test_no_hint_without_a_similar_id(text: str) -> None:
    with pytest.raises(BadProduct) as caught:
        check_product_id(text)
    assert "did you mean" not in str(caught.value)


def test_a_product_is_similar_to_another_spelling_and_not_to_another_coin() -> None:
    stored = ["BTC-EUR", "ETH-USD"]
    assert similar_product("BTC-EU", stored) == " (did you mean BTC-EUR?)"
    assert similar_product("BTC-USD", stored) == ""


def test_the_default_home_has_no_label_and_every_other_one_its_own(tmp_path: Path) -> None:
    assert Home(default_root()).label == ""
    staging, other = Home(tmp_path / "a" / "Staging"), Home(tmp_path / "b" / "Staging")
    assert re.fullmatch("staging-[0-9a-f]{4}", staging.label)
    assert staging.label != other.label
    (tmp_path / "a" / "Staging").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "Staging")
    assert Home(tmp_path / "link").label == staging.label
    assert re.fullmatch("home-[0-9a-f]{4}", Home(Path("/")).label)


def test_a_label_is_of_the_engines_and_not_of_their_passwords() -> None:
    urls = ("postgresql://me:secret@db:5432/closecast?sslmode=require", "s3://bucket/prod?region=eu")
    here = Home(default_root(), *urls)
    assert re.fullmatch("prod-[0-9a-f]{4}", here.label)
    changed = (urls[0].replace("secret", "new").replace("require", "prefer"), urls[1])
    assert Home(Path("/elsewhere"), *changed).label == here.label
    assert Home(default_root(), urls[0].replace("/closecast", "/staging"), urls[1]).label != here.label
    assert Home(default_root(), urls[0]).label != here.label


@pytest.mark.parametrize("taken", ["", "models", "locks"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path, taken: str) -> None:
    root = tmp_path / "home"
    (root / taken).parent.mkdir(exist_ok=True)
    (root / taken).write_text("a file")
    message = f"{root / taken} cannot be written: it is a file or below one.*--home"
    with pytest.raises(HomeUnusable, match=message, check=one_line):
        Home(root).prepare()


def test_the_default_is_the_projects_own_data_folder_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_root() == PROJECT / "data"
    monkeypatch.setattr("closecast.storage.core.home.PACKAGE", tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert default_root() == tmp_path / "share" / "closecast"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".local" / "share" / "closecast"


@pytest.mark.parametrize(
    "name", ["a?b", "a%41b", "%C3%BC", "a\nb", "a\tb", "a\x7fb", "a\\b", "a[b]", "a^b", "a|b", "a\udcffb"]
)
def test_a_path_that_tables_cannot_be_opened_by_is_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(HomeUnusable, match=r"a home without .* in its path is needed") as caught:
        Home(tmp_path / name).prepare()
    assert "--home or CLOSECAST_HOME" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "ü", "a#b", "100%", "a%zz", "it's", "a:b", "日", "a&b=c+d@e,f;g!h~"])
def test_a_home_of_any_other_name_works(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name).prepare()
    table = pa.table({"product_id": ["BTC-USD"], "day": [1]})
    schema = pa.schema([pa.field(field.name, field.type, nullable=False) for field in table.schema])
    days = Table(home.scores, TableSchema("scores", schema, key=("product_id", "day"), order_by=()))
    assert days.add(table.to_pylist()) == 1
    assert days.add(table.to_pylist()) == 0
    with Prices(home) as prices:
        assert prices.source_of("BTC-USD") is None
    assert Models(home).versions() == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_target_of_a_link_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "a%41").mkdir()
    home = Home(tmp_path / "home").prepare()
    (home.root / "scores").symlink_to(tmp_path / "a%41")
    with pytest.raises(HomeUnusable, match="'%41'"):
        home.prepare()
    (tmp_path / "link").symlink_to(tmp_path / "a%41")
    with pytest.raises(HomeUnusable, match="'%41'"):
        Home(tmp_path / "link").prepare()
