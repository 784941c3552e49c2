"""A home in which some days have passed: forecasts, scored, with calibrator states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.calibrated import LENIENT, MADE, Runs, made_home, quick
from tests.engines import copy_home
from tests.once import made_once, session_folder

DAYS = 4


def made_lived(folder: Path) -> Path:
    """The home with forecasts from days 600 to 603, for copying; made once for a folder."""

    def make(root: Path) -> None:
        runs = Runs(copy_home(made_home(folder), root), quick(**LENIENT))
        for number in range(MADE, MADE + DAYS):
            runs.live(number)

    made_once(folder / "lived", make)
    return folder / "lived"


def lived_runs(factory: pytest.TempPathFactory, home: Path) -> Runs:
    """A copy, in `home`, of a home with forecasts from days 600 to 603, made once a session."""
    return Runs(copy_home(made_lived(session_folder(factory)), home), quick(**LENIENT))
