"""What the commands print, for people and as JSON."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.actions import Upkeep
from flows.cli.output import print_reproduction, print_upkeep, with_home
from storage.upkeep.compaction import Compaction
from tasks.upkeep.pruning import UnusedItem
from tasks.upkeep.reproduce import Comparison, Reproduction

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
    upkeep = Upkeep((Compaction("scores", 7, 1, 3),), (UnusedItem("model version 4", Path("models")),))
    for dry_run, files, deleted in (
        (True, ["scores", "7"], "would delete model version 4"),
        (False, ["scores", "7", "1", "3"], "deleted model version 4"),
    ):
        print_upkeep(upkeep, prune=True, dry_run=dry_run, as_json=False)
        lines = capsys.readouterr().out.splitlines()
        assert files in [line.split() for line in lines]
        assert deleted in lines


def test_advised_commands_name_the_home_of_the_command_line() -> None:
    message = "there is none: make one with `closecast run --product ADA-USD`, or `closecast import`"
    assert with_home(message, ["closecast", "report"]) == message
    for words in (["closecast", "report", "--home", "/my homes/a"], ["closecast", "--home=/my homes/a"]):
        advice = with_home(message, words)
        assert "`closecast run --product ADA-USD --home '/my homes/a'`" in advice
        assert "`closecast import --home '/my homes/a'`" in advice
