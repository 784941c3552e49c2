"""A home in which some days have passed: forecasts, scored, with calibrator states."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from closecast.storage.core.home import Home
from tests.calibrated import LENIENT, MADE, Runs, made_home, quick
from tests.engines import copy_home

DAYS = 4


@functools.cache
def made_lived(folder: Path) -> Path:
    """The home with forecasts from days 600 to 603, for copying; made once for a folder."""
    root = folder / "lived"
    copy_home(made_home(folder), root)
    runs = Runs(Home(root), quick(**LENIENT))
    for number in range(MADE, MADE + DAYS):
        runs.live(number)
    return root


def lived_runs(factory: pytest.TempPathFactory, home: Path) -> Runs:
    """A copy, in `home`, of a home with forecasts from days 600 to 603, made once a session."""
    return Runs(copy_home(made_lived(factory.getbasetemp()), home), quick(**LENIENT))
