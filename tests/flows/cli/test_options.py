"""What the commands' options read of a text, and the home that they need."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from flows.cli.options import day_of, existing_home, settings_of
from storage.core.errors import BadDay, BadSetting, HomeUnusable


def test_settings_are_read_as_json_where_they_are_and_as_text_elsewhere() -> None:
    pairs = ["epochs=3", "learning_rate=1e-3", "pool_products=[]", " activation =sigmoid", "note=a=b", "x="]
    assert settings_of(pairs) == {
        "epochs": 3,
        "learning_rate": 0.001,
        "pool_products": [],
        "activation": "sigmoid",
        "note": "a=b",
        "x": "",
    }


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"--set needs NAME=VALUE, such as epochs=50, not 'epochs'"):
        settings_of(["seed=1", "epochs"])


def test_a_day_is_read_only_as_it_is_written_here() -> None:
    assert day_of("2019-10-17", "--as-of") == date(2019, 10, 17)
    assert day_of(None, "--as-of") is None
    for text in ("17.10.2019", "2019-02-29", "2019-10-17T00:00", "", "٢٠١٩-10-15"):
        with pytest.raises(BadDay, match=f"--from needs a day such as 2019-10-17, not '{text}'"):
            day_of(text, "--from")


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert existing_home(tmp_path).root == tmp_path
    with pytest.raises(HomeUnusable, match=r"there is no home at .*: make one with `closecast run`"):
        existing_home(tmp_path / "none")
    assert not (tmp_path / "none").exists()
