"""How the commands read their options, and the home that they need."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pytest

from flows.cli.options import existing_home, parse_day, parse_settings
from storage.core.errors import BadDay, BadSetting, HomeUnusable


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


def test_a_home_of_an_earlier_commit_is_refused_in_one_line(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "prices.db") as prices:
        prices.execute("CREATE TABLE alembic_version (version_num TEXT)")
        prices.execute("INSERT INTO alembic_version VALUES ('0002')")
    prices.close()
    with pytest.raises(HomeUnusable, match=r"^.*import the prices again.*$"):
        existing_home(tmp_path)
