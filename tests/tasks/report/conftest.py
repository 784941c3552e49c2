from __future__ import annotations

from pathlib import Path

import pytest

from closecast.storage.core.home import Home
from closecast.tasks.report.context import ReportContext, read_context
from tests.helpers import BTC
from tests.pages import DAY, full_home


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with forecasts, scores and a model, which tests only read."""
    return full_home(tmp_path_factory, tmp_path_factory.mktemp("full") / "home")


@pytest.fixture(scope="module")
def context(full: Home) -> ReportContext:
    return read_context(full, BTC, "calibrated", DAY)


@pytest.fixture
def copied(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Home:
    """Another such home, for a test to change."""
    return full_home(tmp_path_factory, tmp_path / "copy")
