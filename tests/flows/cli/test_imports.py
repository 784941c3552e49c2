"""What a command imports: its own module alone, and no library that its answer does not need."""

from __future__ import annotations

from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from tests.calibrated import forecast_by_hand, quick
from tests.helpers import modules_after

CLI = "closecast.flows.cli."


def test_a_command_imports_its_own_module(home: Home) -> None:
    Predictions(home).publish(forecast_by_hand(600, "ahead", profile=quick()).rows())
    modules = modules_after(
        "import contextlib, io\n"
        "from closecast.flows.cli.commands import app\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    app(['predictions', '--home', {str(home.root)!r}], standalone_mode=False)"
    )
    names = {name.removeprefix(CLI) for name in modules if name.startswith(CLI)}
    assert {name for name in names if "command" in name} == {"commands", "result_commands"}
    assert not {"sqlalchemy", "pydantic", "filelock", "jinja2", "rich.table"} & modules
