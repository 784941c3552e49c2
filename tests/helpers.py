"""What several tests share: made-up closes, small settings, processes that can be killed."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.candle_schema import candle_frame
from closecast.storage.core.home import Home
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.delta import Table
from closecast.storage.tables.schemas import PREDICTIONS

PROJECT = Path(__file__).parents[1]
SHARED = PROJECT.parent / "shared" / "data"
ARTICLE_FILE = SHARED / "article_bitcoin.csv"
needs_prices = pytest.mark.skipif(not SHARED.is_dir(), reason="the real prices are not beside the project")

BTC = "BTC-USD"
FIRST = date(2019, 1, 1)
NOW = datetime(2020, 1, 31, 0, 15, tzinfo=UTC)
SHA = "ab" * 32
# Settings of the article that train in a moment.
SMALL: dict[str, Any] = {"lookback": 3, "units": 4, "learning_rate": 0.001, "epochs": 2}


def modules_after(program: str) -> set[str]:
    """The modules that a process of its own has loaded when the program, which prints nothing, is over."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return set(done.stdout.split())


def made_up(days: int = 60, first: date = FIRST, *, seed: int = 1) -> pd.DataFrame:
    """A candle frame of consecutive days: closes that wander about 4000, open to volume around them."""
    draw = np.random.default_rng(seed)
    close = np.round(4000 * np.exp(np.cumsum(draw.normal(0, 0.03, days))), 2)
    figures = {"open": close - 1, "high": close + 5, "low": close - 5, "close": close}
    when = [pd.Timestamp(first + timedelta(days=n)) for n in range(days)]
    return candle_frame({"day_utc": when, **figures, "volume": draw.uniform(1, 9, days)})


def without(frame: pd.DataFrame, first: date, last: date) -> pd.DataFrame:
    """The frame less the days of an inclusive span."""
    inside = frame["day_utc"].between(pd.Timestamp(first), pd.Timestamp(last))
    return frame[~inside].reset_index(drop=True)


def store(
    home: Home,
    frame: pd.DataFrame,
    *,
    through: date | None = None,
    product_id: str = BTC,
    source: str = "csv",
) -> str:
    """Append candles to the product's series and name the data version."""
    with Prices(home) as prices:
        prices.start_series(product_id, source, started_at=NOW)
        prices.append(product_id, frame, source=source, observed_at=NOW, payload_sha256=SHA)
        last = through or frame["day_utc"].iloc[-1].date()
        return prices.data_version(product_id, last, created_at=NOW)


def home_with(root: Path, frame: pd.DataFrame) -> Home:
    home = Home(root).prepare()
    store(home, frame)
    return home


def publish_all(home: Home, rows: list[dict[str, Any]]) -> None:
    """Publish forecasts of different days in one commit, where one each would take a tenth of a second."""
    table = Table(home.predictions, PREDICTIONS)
    assert table.add([{"revision": 0, **row} for row in rows]) == len(rows)


def _train(root: Path) -> tuple[str, str]:
    from closecast.tasks.prices.ingest import IngestRequest, read_stored
    from closecast.tasks.profiles.article import ArticleProfile
    from closecast.tasks.training.selection import select_model

    home = Home(root).prepare()
    data_version = store(home, made_up())
    prices = read_stored(home, IngestRequest(BTC, None, NOW, NOW.date()))
    return data_version, select_model(home, ArticleProfile(SMALL), prices).version


def trained_home(factory: pytest.TempPathFactory, place: Path) -> tuple[Home, str, str]:
    """A home with 60 days and the article trained on them once a session; data and model version."""
    from tests.engines import copy_home
    from tests.once import made_once, session_folder

    root = session_folder(factory) / "trained"
    data_version, version = made_once(root, _train)
    return copy_home(root, place), data_version, version


def to_csv(frame: pd.DataFrame) -> bytes:
    """The frame as a file that the CSV reader takes."""
    return frame.rename(columns={"day_utc": "date"}).to_csv(index=False).encode()


def deny(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Refuse a folder's names and what lies in it, as its rights would for anybody but root."""

    def refused(path: Any = ".", *arguments: Any, call: Callable[..., Any], **options: Any) -> Any:
        refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        if isinstance(path, str | Path):
            below = Path(path).is_relative_to(folder)
            if below and (call is scandir or Path(path) != folder):
                raise refusal
        return call(path, *arguments, **options)

    scandir = os.scandir
    for name in ("scandir", "stat"):
        patch.setattr(os, name, functools.partial(refused, call=getattr(os, name)))


def synced_paths(patch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are synced to the disk from now on, in their order; none of them is."""
    paths: list[str] = []
    patch.setattr(os, "fsync", lambda handle: paths.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    return paths


def die(*_: object, **__: object) -> None:
    """End this process as a power cut would: no clean-up of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: Any, name: str, *, call: int = 1, after: bool = False) -> None:
    """Let this process die where that function of the owner's is called, or just after, at the given call."""
    setattr(owner, name, ending(getattr(owner, name), die, call=call, after=after))


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error)


def interrupt(*_: object, **__: object) -> None:
    """End the work as Ctrl-C would."""
    raise KeyboardInterrupt


def ending(
    honest: Callable[..., Any], end: Callable[[], None], *, call: int, after: bool = False
) -> Callable[..., Any]:
    """The function, of which the given call ends the work, before or after it has done its own."""
    calls = itertools.count(1)

    def step(*args: Any, **more: Any) -> Any:
        is_last = next(calls) == call
        result = honest(*args, **more) if after or not is_last else None
        if is_last:
            end()
        return result

    return step
