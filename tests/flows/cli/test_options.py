"""How the commands read their options, and the home that they need."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from closecast.flows.cli.options import existing_home, parse_day, parse_settings
from closecast.storage.core.errors import BadDay, BadProduct, BadSetting, HomeUnusable
from closecast.storage.core.home import Home
from tests.helpers import made_up, store


def test_a_setting_is_read_as_json_where_it_is_json_and_as_text_elsewhere() -> None:
    pairs = ["epochs=3", "learning_rate=1e-3", "pool_products=[]", " activation =sigmoid", "note=a=b", "x="]
    assert parse_settings(pairs) == {
        "epochs": 3,
        "learning_rate": 0.001,
        "pool_products": [],
        "activation": "sigmoid",
        "note": "a=b",
        "x": "",
    }
    with pytest.raises(BadSetting, match=r"--set needs NAME=VALUE, such as epochs=50, not 'epochs'"):
        parse_settings(["seed=1", "epochs"])


def test_a_day_has_one_form() -> None:
    assert parse_day("2019-10-17") == date(2019, 10, 17)
    for text in ("17.10.2019", "2019-02-29", "2019-10-17T00:00", "", "٢٠١٩-10-15"):
        with pytest.raises(BadDay, match=f"a day such as 2019-10-17 is needed, not '{text}'"):
            parse_day(text)


def test_a_product_must_be_in_the_home(home: Home) -> None:
    with pytest.raises(BadProduct, match=r"^BTC-EUR is not in .*; it has no product yet: make a run"):
        existing_home(home.root, "BTC-EUR")
    assert not (home.root / "prices.db").exists()
    for number in range(12):
        store(home, made_up(2), product_id=f"C{number:02}-EUR")
    assert existing_home(home.root, "C03-EUR").root == home.root
    with pytest.raises(BadProduct, match=r"did you mean C\d\d-EUR\?\); it has C00-EUR, .* and 2 more: "):
        existing_home(home.root, "C99-EUR")


@pytest.mark.sqlite
def test_a_database_that_cannot_be_read_is_not_taken_for_one_without_the_product(tmp_path: Path) -> None:
    (tmp_path / "prices.db").write_text("product,close\n" * 100)
    with pytest.raises(HomeUnusable, match="file is not a database"):
        existing_home(tmp_path, "BTC-EUR")
