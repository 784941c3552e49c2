from __future__ import annotations

from pathlib import Path

import pytest

from closecast.storage.core.home import Home
from tests.calibrated import Runs
from tests.lived import lived_runs


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    """A home of some days, each with its forecast and score."""
    return lived_runs(tmp_path_factory, tmp_path / "home")
