from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from closecast.flows.cli.commands import app
from closecast.storage.core.errors import ClosecastError
from tests.helpers import made_up, to_csv
from tests.markets import closes_only, redenomination

OLD, EVENT = "OLD-EUR", 30
DAY = "2019-01-31"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with closes of 31 days, whose last one is quarantined."""
    (tmp_path / "old.csv").write_bytes(to_csv(closes_only(redenomination(made_up(EVENT + 1), EVENT))))
    call(tmp_path / "home", "import", str(tmp_path / "old.csv"), "--product", OLD)
    return tmp_path / "home"


def call(home: Path, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--home", str(home)], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def listed(home: Path, *words: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(call(home, "quarantine", *words, "--json"))
    return rows


def test_a_day_is_listed_decided_and_taken_back(home: Path) -> None:
    (row,) = listed(home)
    assert (row["product_id"], row["day_utc"], row["status"]) == (OLD, DAY, "quarantined")
    assert "more than 3 a day" in row["reason"]
    text = call(home, "quarantine", "--product", OLD, "--split", f"{DAY}:1/1000")
    assert f"{OLD}, {DAY}: a split, the prices before it are multiplied by 0.001. Known to" in text
    assert f"`closecast quarantine --product {OLD} --undo {DAY}` reverses this." in text
    (split,) = listed(home, "--product", OLD)
    assert (split["status"], split["factor"], split["known_from"], split["decided_by"]) == (
        *("split", 0.001, DAY, "user"),
    )
    call(home, "quarantine", "--product", OLD, "--undo", DAY)
    assert listed(home)[0]["status"] == "rejected"
    done = json.loads(call(home, "quarantine", "--product", OLD, "--accept", DAY, "--json"))
    assert done["decision"]["kind"] == "accepted"
    again = call(home, "quarantine", "--product", OLD, "--accept", DAY)
    assert "this is already so, nothing was recorded" in again
    sql = "select kind from price_decisions order by seq"
    assert [row["kind"] for row in json.loads(call(home, "sql", sql, "--json"))] == [
        *("split", "rejected", "accepted"),
    ]
    assert "accepted" in call(home, "quarantine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accept", DAY], "one day of one product: give --product and one such option"),
        (["--product", OLD, "--accept", DAY, "--reject", DAY], "one day of one product"),
        (["--known-from", DAY], "--known-from goes with"),
        (["--product", OLD, "--split", DAY], "a split needs DAY:FACTOR, such as 2019-10-17:1/1000"),
        (["--product", OLD, "--split", f"{DAY}:1/0"], "a split needs DAY:FACTOR"),
        (["--product", OLD, "--split", f"{DAY}:nan"], "a split needs DAY:FACTOR"),
        (["--product", OLD, "--split", f"{DAY}:1000"], "did you mean 0.001"),
        (["--product", OLD, "--accept", "2019-01-30"], "not quarantined"),
        (["--product", "NEW-EUR", "--accept", DAY], "NEW-EUR is not in"),
        (["--product", OLD, "--reject", DAY, "--known-from", str(date(2030, 1, 1))], "can be known from"),
    ],
)
def test_impossible_decisions_are_refused(home: Path, words: list[str], message: str) -> None:
    before = listed(home)
    with pytest.raises(ClosecastError, match=message) as error:
        call(home, "quarantine", *words)
    assert "\n" not in str(error.value)
    assert listed(home) == before


def test_listing_writes_nothing_and_refuses_an_unknown_product(tmp_path: Path, home: Path) -> None:
    (tmp_path / "new").mkdir()
    assert listed(tmp_path / "new") == []
    assert not [*(tmp_path / "new").iterdir()]
    with pytest.raises(ClosecastError, match=f"XYZ-USD is not in .* it has {OLD}"):
        listed(home, "--product", "XYZ-USD")
