"""What the tests share: a Prefect of their own, and made-up candles."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pandas as pd
import pytest
from hypothesis import settings

from closecast.storage.core.home import Home
from closecast.tasks.profiles import figures
from tests import once
from tests.helpers import made_up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tests.calibrated import Runs

_SCRATCH = pytest.StashKey[str]()

IGNORED = [
    # A plug-in of Apprise, which Prefect's notifications use.
    "ignore:'imghdr' is deprecated:DeprecationWarning",
    # Keras 3.15 asks TensorFlow's variables for an array in NumPy 2's words, which they do not understand.
    "ignore:__array__ implementation doesn't accept a copy keyword"
    ":DeprecationWarning:keras.src.backend.tensorflow.core",
    # Prefect's background threads draw random numbers while a strategy is at work, which is not to blame.
    "ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which engines the homes of the tests are on."""
    parser.addoption("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.addoption("--engines", action="store_true", help="also the tests that start servers")
    parser.addoption("--storage", choices=("folder", "s3"), default="folder")


def pytest_configure(config: pytest.Config) -> None:
    """Set Prefect up before anything imports it: nothing of the user's own is read or touched."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "CLOSECAST_"))]:
        del os.environ[name]
    # How long an example takes is the machine's.
    settings.register_profile("closecast", deadline=None)
    settings.load_profile("closecast")
    config.stash[_SCRATCH] = tempfile.mkdtemp(prefix="closecast-tests-")
    os.environ["PREFECT_HOME"] = config.stash[_SCRATCH]
    if "SSL_CERT_FILE" not in os.environ:
        # Each client of Prefect's loads all authorities, for 30 ms; no test is on HTTPS.
        one = Path(config.stash[_SCRATCH], "authority.pem")
        end = "-----END CERTIFICATE-----\n"
        one.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
        os.environ["SSL_CERT_FILE"] = str(one)
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    # Steps are called here without a flow around them as well.
    os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)
    config.addinivalue_line(
        "markers", "engines: starts servers or a browser of its own, or takes long (--engines)"
    )
    config.addinivalue_line("markers", "documents: does what the pages show (make docs)")
    config.addinivalue_line("markers", "recorded: makes the recorded forecasts again (make recorded)")
    config.addinivalue_line("markers", "sqlite: says something of SQLite alone")
    config.addinivalue_line("markers", "folder: says something of tables in a folder alone")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """What collecting imports stays, so the garbage collector never searches it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# In this order: those that wait for processes and servers, each beside some that compute.
SLOW_FILES = (
    # of the engines
    *("test_upsert_machine.py", "test_alerts.py", "test_deployment.py", "test_machines.py", "test_dask.py"),
    *("test_faults.py", "test_installed.py", "test_signals.py", "test_crowd.py"),
    # of all tests
    *("test_closecast.py", "test_verify.py", "test_exchange_worst.py"),
    *("test_killed.py", "test_young.py", "test_walk_forward.py"),
    *("test_hostile_disk.py", "test_page.py", "test_day.py"),
    *("test_security.py", "test_forward.py", "test_trainer.py"),
    *("test_products.py", "test_backtest.py", "test_selection.py"),
    *("test_daily_prefect.py", "test_twin.py", "test_file_reader.py"),
    *("test_workers.py", "test_growth.py", "test_publish.py", "test_terminal.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first, so that no core waits for the last one.

    What is said of another engine than the chosen one is left out.
    """
    if not items[:1] or not items[0].config.getoption("--engines"):
        kept = [item for item in items if not item.get_closest_marker("engines")]
        if len(kept) < len(items):
            items[0].config.hook.pytest_deselected(items=[item for item in items if item not in kept])
            items[:] = kept
    other = {"sqlite": "--database", "folder": "--storage"}
    for item in items:
        for name, option in other.items():
            if item.get_closest_marker(name) and item.config.getoption(option) != name:
                item.add_marker(pytest.mark.skip(reason=f"of {name} alone"))
    order = {name: number for number, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take away what Prefect kept, and end the servers."""
    if "tests.engines" in sys.modules:
        sys.modules["tests.engines"].stop_servers()
    atexit.register(gc.unfreeze)  # DuckDB prints what is left at the end
    shutil.rmtree(config.stash[_SCRATCH], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def engines(request: pytest.FixtureRequest) -> Iterator[None]:
    """The homes of the tests on the engines that were asked for; SQLite and a folder are the homes' own."""
    database, storage = (request.config.getoption(option) for option in ("--database", "--storage"))
    if (database, storage) == ("sqlite", "folder"):
        yield
        return
    from tests.engines import homes_on

    with homes_on(database, storage):
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_registry_is_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes two seconds for its tables: it makes them once, and other homes get a copy of the file.

    Not so in the processes that tests start, which make their own as a user's do.
    """
    from closecast.storage.models import mlflow_database

    make = mlflow_database._make_tables

    def copy(url: str) -> None:
        if not url.startswith("sqlite:///"):
            make(url)
            return
        made = once.session_folder(tmp_path_factory) / "mlflow.db"
        once.made_once(made, lambda path: make(f"sqlite:///{path}"))
        shutil.copyfile(made, url.removeprefix("sqlite:///"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_database, "_make_tables", copy)
        yield


@pytest.fixture(scope="session", autouse=True)
def _processes_are_forked_from_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Loading the big libraries takes it ten seconds."""
    once.share_forkserver(once.session_folder(tmp_path_factory))


@pytest.fixture(scope="session", autouse=True)
def png_of() -> Iterator[Callable[[Figure], bytes]]:
    """Each training draws figures, and rendering one takes a sixth of a second: here one is of no pixels.

    Not so in the processes that tests start, nor in the figures' own tests, which take this function.
    """
    real = figures._png
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_png", lambda figure: b"\x89PNG\r\n\x1a\n")
        yield real


@pytest.fixture(autouse=True)
def _no_more_databases(request: pytest.FixtureRequest) -> Iterator[None]:
    """Those of the test's own homes go with it."""
    if request.config.getoption("--database") == "sqlite" or "tmp_path" not in request.fixturenames:
        yield
        return
    from tests.engines import postgresql

    folder = request.getfixturevalue("tmp_path")
    yield
    postgresql().forget(folder)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server for the session, by its API's address; it takes 10 s to start, so there is one."""
    with once.prefect_server(once.session_folder(tmp_path_factory)) as api:
        yield api


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Runs:
    """A home of some days, each with its forecast and score."""
    from tests.lived import lived_runs

    return lived_runs(tmp_path_factory, tmp_path / "home")


@pytest.fixture(scope="session")
def walk() -> Callable[..., pd.DataFrame]:
    """Makes `days` daily candles up to the day `last`."""

    def make(last: date, *, days: int = 60, seed: int = 7) -> pd.DataFrame:
        return made_up(days, last - timedelta(days=days - 1), seed=seed)

    return make
