"""What the commands print: the words for people, and all of it as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli.output import print_reproduced, print_upkeep, print_verified, with_home
from flows.maintain import Upkeep
from storage.upkeep.compaction import Compaction
from tasks.upkeep.pruning import UnusedItem
from tasks.upkeep.reproduce import Compared, Reproduced
from tasks.upkeep.verify import Verification

ROW: dict[str, Any] = {"product_id": "BTC-USD", "target_day": "2019-10-18"}
APART = Reproduced(
    ROW,
    figures=(Compared("point", (100.0,), (101.0,)), Compared("lower_80", (90.0,), (90.0,))),
    weights=(),
    others={"keras": ("3.1", "3.2")},
)


def test_what_came_out_otherwise_is_told_with_the_versions_that_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_reproduced(APART, "ab12", as_json=False)
    said = capsys.readouterr().out
    assert "BTC-USD, close of 2019-10-18: forecast ab12 made again" in " ".join(said.split())
    lines = [line.split() for line in said.splitlines()]
    assert ["point", "1", "apart", "by", "0.01"] in lines
    assert ["lower_80", "1", "the", "same", "bits"] in lines
    assert said.endswith("keras: 3.1 then, 3.2 now\n")


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_reproduced(APART, "ab12", as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "prediction_id": "ab12",
        "same": False,
        "compared": [
            {"name": "point", "figures": 1, "same": False, "apart": 0.01},
            {"name": "lower_80", "figures": 1, "same": True, "apart": 0.0},
        ],
        "others": {"keras": {"then": "3.1", "now": "3.2"}},
    }


def test_upkeep_says_what_it_would_do_and_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    upkeep = Upkeep((Compaction("scores", 7, 1, 3),), (UnusedItem("model version 4", Path("models")),))
    print_upkeep(upkeep, prune=True, dry_run=True, as_json=False)
    planned = capsys.readouterr().out
    print_upkeep(upkeep, prune=True, dry_run=False, as_json=False)
    done = capsys.readouterr().out
    assert ["scores", "7"] in [line.split() for line in planned.splitlines()]
    assert "would delete model version 4" in planned
    assert ["scores", "7", "1", "3"] in [line.split() for line in done.splitlines()]
    assert "\ndeleted model version 4\n" in done
    print_upkeep(Upkeep((), ()), prune=True, dry_run=False, as_json=False)
    assert "nothing to delete" in capsys.readouterr().out


def test_everything_wrong_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = Verification()
    found.add("candles", 1200, ["a candle\nwas changed"])
    print_verified(found, as_json=False)
    said = capsys.readouterr().out
    assert ["candles", "1,200"] in [line.split() for line in said.splitlines()]
    assert said.endswith("WRONG: a candle was changed\n")
    print_verified(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "checked": {"candles": 1200},
        "findings": ["a candle was changed"],
    }


def test_what_a_message_tells_to_do_is_told_for_the_home_that_was_named() -> None:
    said = "there is none: make one with `closecast run --product ADA-USD`, or `closecast import`"
    assert with_home(said, ["closecast", "report"]) == said
    for words in (["closecast", "report", "--home", "/my homes/a"], ["closecast", "--home=/my homes/a"]):
        found = with_home(said, words)
        assert "`closecast run --product ADA-USD --home '/my homes/a'`" in found
        assert "`closecast import --home '/my homes/a'`" in found
