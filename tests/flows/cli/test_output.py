"""What the commands print, for people and as JSON."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cli.output import print_reproduction, print_upkeep, print_verification, with_home
from flows.maintain import Upkeep
from storage.upkeep.compaction import Compaction
from tasks.upkeep.pruning import UnusedItem
from tasks.upkeep.reproduce import Comparison, Reproduction
from tasks.upkeep.verify import Verification

FORECAST: Any = SimpleNamespace(product_id="BTC-USD", first=SimpleNamespace(target_day=date(2019, 10, 18)))
DIFFERENT = Reproduction(
    FORECAST,
    figures=(Comparison("point", (100.0,), (101.0,)), Comparison("lower_80", (90.0,), (90.0,))),
    weights=(),
    changed_versions={"keras": ("3.1", "3.2")},
)


def test_a_reproduction_shows_each_difference_and_the_changed_versions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_reproduction(DIFFERENT, "ab12", as_json=False)
    printed = capsys.readouterr().out
    assert "BTC-USD, close of 2019-10-18: forecast ab12 made again" in " ".join(printed.split())
    lines = [line.split() for line in printed.splitlines()]
    assert ["point", "1", "differs", "by", "0.01"] in lines
    assert ["lower_80", "1", "the", "same", "bits"] in lines
    assert printed.endswith("keras: 3.1 then, 3.2 now\n")
    print_reproduction(DIFFERENT, "ab12", as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "prediction_id": "ab12",
        "same": False,
        "compared": [
            {"name": "point", "figures": 1, "same": False, "distance": 0.01},
            {"name": "lower_80", "figures": 1, "same": True, "distance": 0.0},
        ],
        "changed_versions": {"keras": {"then": "3.1", "now": "3.2"}},
    }


def test_upkeep_shows_what_it_would_do_and_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    item = UnusedItem("model version 4", Path("models"))
    upkeep = Upkeep((Compaction("scores", 7, 1, 3),), (item,))
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


def test_verify_lists_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    result = Verification()
    result.add("candles", 1200, ["a candle\nwas changed"])
    print_verification(result, as_json=False)
    printed = capsys.readouterr().out
    assert ["candles", "1,200"] in [line.split() for line in printed.splitlines()]
    assert printed.endswith("WRONG: a candle was changed\n")
    print_verification(result, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "checked": {"candles": 1200},
        "findings": ["a candle was changed"],
    }


def test_advised_commands_name_the_home_of_the_command_line() -> None:
    message = "there is none: make one with `closecast run --product ADA-USD`, or `closecast import`"
    assert with_home(message, ["closecast", "report"]) == message
    for words in (["closecast", "report", "--home", "/my homes/a"], ["closecast", "--home=/my homes/a"]):
        advice = with_home(message, words)
        assert "`closecast run --product ADA-USD --home '/my homes/a'`" in advice
        assert "`closecast import --home '/my homes/a'`" in advice
