"""A changed bit or a missing file: `verify` finds it, or no answer changes; nothing ends in a traceback."""

from __future__ import annotations

import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from closecast.tasks.report.page import write_report
from closecast.tasks.upkeep.verification import Verification
from tests.helpers import BTC
from tests.lived import lived_runs
from tests.soak import faults
from tests.soak.faults import ANSWERS, WHEN, changes, deletions, expected_of, make_home, outcome, tried

# `make soak` has every deletion and thousands of changes, here there is one in three of a few.
LONG, EVERY = (3000, 1) if "SOAK" in os.environ else (60, 3)
FAST = ("predictions", "score", "versions", "report", "stored report")
pytestmark = pytest.mark.folder


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A home with a report, and its answers."""
    runs = lived_runs(tmp_path_factory, tmp_path_factory.mktemp("faults") / "home")
    write_report(runs.home, BTC, "calibrated", day=WHEN)
    return runs.home.root, expected_of(runs.home.root, FAST)


@pytest.mark.sqlite
@pytest.mark.parametrize("seed", range(8))
def test_a_changed_bit_is_found_or_changes_nothing(
    lived: tuple[Path, dict[str, str]], tmp_path: Path, seed: int
) -> None:
    root, expected = lived
    (fault,) = changes(root, 1, random.Random(seed))  # noqa: S311
    done = outcome(Path(shutil.copytree(root, tmp_path / "home")), fault, expected)
    assert done.broken == [], done


@pytest.mark.sqlite
@pytest.mark.engines
@pytest.mark.timeout(14400)
def test_thousands_of_faults(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    expected = expected_of(tmp_path / "home", ANSWERS)
    wanted = [*deletions(tmp_path / "home"), *changes(tmp_path / "home", LONG, random.Random(1))]  # noqa: S311
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda fault: tried(tmp_path / "home", fault, expected), wanted[::EVERY]))
    assert [one for one in done if one.broken] == []
    assert sum(bool(one.findings) for one in done) > len(done) / 2


def test_an_unseen_change_would_be_broken(
    lived: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other tests rest on: an answer that changes without a finding, and an error, are noticed."""
    root, expected = lived
    fault = faults.Fault("mlflow.db", "deletion")
    monkeypatch.setattr(faults, "verify_home", lambda home: Verification())
    home = Path(shutil.copytree(root, tmp_path / "home"))
    assert "versions changed, and verify finds nothing" in outcome(home, fault, expected).broken
    monkeypatch.setitem(ANSWERS, "score", lambda home: str(1 / 0))
    done = outcome(Path(shutil.copytree(root, tmp_path / "other")), fault, expected)
    assert any("ZeroDivisionError" in line for line in done.broken)
