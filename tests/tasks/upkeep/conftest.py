from __future__ import annotations

import pytest

from tests.calibrated import Runs
from tests.lived import lived_runs


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A home of some days that tests only read, or put right again."""
    return lived_runs(tmp_path_factory, tmp_path_factory.mktemp("shared") / "home")
