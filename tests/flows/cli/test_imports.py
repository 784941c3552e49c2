"""What a command imports: its own module alone, and no library that its answer does not need."""

from __future__ import annotations

import pytest

from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from tests.calibrated import candles, forecast_by_hand, quick
from tests.helpers import home_with, modules_after

CLI = "closecast.flows.cli."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of 600 days with one forecast, whose day has not come."""
    home = home_with(tmp_path_factory.mktemp("imports") / "home", candles())
    Predictions(home).publish(forecast_by_hand(600, "ahead", profile=quick()).rows())
    return home


def loaded(*words: str) -> set[str]:
    """The modules that a command has imported when it is done."""
    return modules_after(
        "import contextlib, io\n"
        "from closecast.flows.cli.commands import app\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    app({list(words)!r}, standalone_mode=False)"
    )


def test_a_command_imports_its_own_module(home: Home) -> None:
    modules = loaded("predictions", "--home", str(home.root))
    names = {name.removeprefix(CLI) for name in modules if name.startswith(CLI)}
    assert {name for name in names if "command" in name} == {"commands", "result_commands"}
    assert not {"sqlalchemy", "pydantic", "filelock", "jinja2", "rich.table"} & modules
