"""What the tests share: a Prefect of their own, and made-up candles."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import pandas as pd
import pytest

from storage.frames import candle_frame

_SCRATCH = pytest.StashKey[str]()

IGNORED = [
    # Keras 3.15 asks TensorFlow's variables for an array in NumPy 2's words, which they do not understand.
    "ignore:__array__ implementation doesn't accept a copy keyword"
    ":DeprecationWarning:keras.src.backend.tensorflow.core",
    # Prefect's background threads draw random numbers while a strategy is at work, which is not to blame.
    "ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning",
]


def pytest_configure(config: pytest.Config) -> None:
    """Set Prefect up before anything imports it: nothing of the user's own is read or touched."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "CLOSECAST_"))]:
        del os.environ[name]
    config.stash[_SCRATCH] = tempfile.mkdtemp(prefix="closecast-tests-")
    os.environ["PREFECT_HOME"] = config.stash[_SCRATCH]
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    # Steps are called here without a flow around them as well.
    os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)
    config.addinivalue_line("markers", "engines: starts PostgreSQL or an S3 server of its own (--engines)")


SLOW_FILES = ("test_closecast.py", "test_deployment.py", "test_daily_prefect.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first, so that one core does not wait for the other's last one."""
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take away what Prefect kept."""
    shutil.rmtree(config.stash[_SCRATCH], ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server for the session; it takes 10 s to start, so there is one."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture(scope="session")
def walk() -> Callable[..., pd.DataFrame]:
    """Makes a random walk of `days` daily candles up to the day `last`."""

    def make(last: date, *, days: int = 60, seed: int = 7) -> pd.DataFrame:
        close = 1000.0 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, days)))
        opened = np.concatenate([[1000.0], close[:-1]])
        return candle_frame(
            {
                "day_utc": pd.date_range(end=str(last), periods=days, unit="s"),
                "open_usd": opened,
                "high_usd": np.maximum(opened, close) * 1.01,
                "low_usd": np.minimum(opened, close) * 0.99,
                "close_usd": close,
                "volume": 10.0,
            }
        )

    return make
