"""The units and their environment: what they may write to is where everything is kept, and nothing else."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path, PurePosixPath

import prefect.settings
import pytest

from tests.helpers import PROJECT

FOLDER = PROJECT / "docs" / "systemd"
STATE = PurePosixPath("/var/lib/closecast")
UNITS = sorted(FOLDER.glob("*.service"))


def service(unit: Path) -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd heeds the case
    parser.read_string(unit.read_text(encoding="utf-8"))
    return dict(parser["Service"])


def environment() -> dict[str, str]:
    lines = (FOLDER / "environment").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def test_every_variable_is_a_setting_of_prefect_or_ours() -> None:
    for name in environment():
        if name.startswith("PREFECT_"):
            assert getattr(prefect.settings, name) is not None  # an AttributeError where there is no such
        else:
            assert name in ("DO_NOT_TRACK", "CLOSECAST_HOME")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_writes_to_its_state_folder_only_and_all_that_is_written_lies_there(unit: Path) -> None:
    said = service(unit)
    assert said["ProtectSystem"] == "strict"
    assert said["ExecStart"].startswith("/opt/closecast/.venv/bin/prefect ")
    assert PurePosixPath("/var/lib") / said["StateDirectory"] == STATE
    given = environment()
    # The page of Prefect would go to where Prefect is installed: it was missing, and the server went on.
    written = ("PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY", "CLOSECAST_HOME")
    for name in written:
        assert STATE in PurePosixPath(given[name]).parents, name
    assert [name for name, value in given.items() if value.startswith("/")] == [*written]


def test_the_units_are_there() -> None:
    assert [unit.stem for unit in UNITS] == ["closecast-worker", "prefect-server"]
