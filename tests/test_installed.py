"""closecast installed as a wheel, in an environment and a folder that know nothing of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from closecast.flows.clock import last_complete_day
from closecast.storage.core.home import Home
from closecast.storage.core.provenance import code_version
from closecast.storage.tables.predictions import Predictions
from tests.exchange import Exchange, shift
from tests.helpers import PROJECT, made_up
from tests.serve_demo import Platform

pytestmark = [pytest.mark.timeout(400), pytest.mark.engines]

QUICK = ("--set", "epochs=1", "--set", "units=4", "--set", "members=1")


class Installed:
    """An environment with the wheel, and a user's folder with packages of the rooms' names."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.python = str(folder / "env" / "bin" / "python")
        venv.create(folder / "env", with_pip=False, symlinks=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
        # This environment's dependencies, but not its closecast: an editable one is not found by a path.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps"]
        subprocess.run([*command, str(wheel)], check=True)
        self.folder, self.home = folder / "work", folder / "share" / "closecast"
        for room in ("flows", "tasks", "storage"):
            (self.folder / room).mkdir(parents=True)
            (self.folder / room / "__init__.py").write_text(
                "raise RuntimeError('these are the user's own')\n"
            )
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PREFECT_", "CLOSECAST_"))
        }
        self.environment = {
            **inherited,
            "XDG_DATA_HOME": str(folder / "share"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        }

    def run(self, *words: str) -> str:
        """The output of a program of the environment."""
        command = [str(Path(self.python).parent / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders in the source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_symlink() or (PROJECT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


SOURCES = (
    "closecast",
    "flows",
    "tasks",
    "storage",
    "data/sample",
    "*.yaml",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed(tmp_path_factory.mktemp("installed"), wheel)
    installed.run("closecast", "run", *QUICK)
    return installed


def test_the_wheel_holds_one_package_and_all_its_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"closecast"}
    listed = subprocess.run(
        ["git", "ls-files", "flows", "tasks", "storage"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert {f"closecast/{name}" for name in listed.stdout.splitlines()} <= set(names)
    assert {"closecast/prefect.yaml", "closecast/automations.yaml", "closecast/py.typed"} <= set(names)


def test_the_first_forecast_is_made_from_the_sample_in_the_users_data_folder(installed: Installed) -> None:
    (row,) = json.loads(installed.run("closecast", "predictions", "--horizon", "1", "--json"))
    assert row["code_version"] == code_version()  # the same code, from the wheel as from the checkout
    assert (installed.home / "prices.db").is_file()
    assert sorted(path.name for path in installed.folder.iterdir()) == ["flows", "storage", "tasks"]
    version = json.loads(installed.run("closecast", "versions", "--json"))[0]
    assert version["git_commit"] is None
    assert installed.run("closecast", "reproduce", row["prediction_id"])


@pytest.mark.parametrize("command", ["report", "verify", "score", "maintain", "versions"])
def test_commands_work_from_any_folder(installed: Installed, command: str) -> None:
    installed.run("closecast", command)


def test_a_users_own_packages_of_the_same_names_hide_nothing(installed: Installed) -> None:
    installed.run("python", "-c", "import closecast.flows.daily, closecast.tasks.report.page")


def test_a_project_without_the_source_deploys_and_runs(installed: Installed, tmp_path: Path) -> None:
    installed.run("closecast", "init", str(tmp_path / "project"))
    candles = shift(made_up(420), last_complete_day())

    def quick(deployment: dict[str, Any]) -> None:
        deployment["schedules"] = []
        if deployment["name"] == "daily":
            deployment["parameters"]["settings"] = {"epochs": 1, "units": 4, "members": 1}

    with (
        Exchange({"BTC-USD": candles}) as exchange,
        Platform(
            tmp_path / "platform", exchange.url, python=installed.python, project=tmp_path / "project"
        ) as platform,
    ):
        platform.environment = {
            name: value for name, value in platform.environment.items() if name != "PYTHONPATH"
        }
        platform.deploy(quick)
        platform.start_worker()
        run = platform.wait(platform.run(), seconds=240)
        assert run.state is not None
        assert run.state.is_completed(), f"{run.state}\n{platform.tail('worker')}"
    assert Predictions(Home(platform.home)).between(horizon=1).num_rows == 1
