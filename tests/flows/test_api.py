"""`import closecast` in scripts and notebooks: what it gives, takes and leaves behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import closecast
from closecast.flows import embedded
from closecast.flows.arguments import check_path, parse_any_day
from closecast.storage.core.errors import BadDay, BadFile, BadSetting
from closecast.storage.core.home import Home
from closecast.storage.tables.schemas import PREDICTIONS
from tests.calibrated import MADE, Runs, day
from tests.helpers import BTC, PROJECT, made_up, one_line, to_csv

LOGGERS = [logging.getLogger(name) for name in (None, "closecast", "prefect")]


def left_behind() -> list[Any]:
    """What a run could leave changed in its process."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("PREFECT", "CLOSE"))}
    return [
        *((log.handlers.copy(), log.level, log.propagate) for log in LOGGERS),
        *(variables, [*warnings.filters]),
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "closes.csv"
    path.write_bytes(to_csv(made_up(70)))
    return path


@pytest.mark.usefixtures("prefect_server")
def test_a_run_in_a_notebook_and_in_threads(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home, made = str(tmp_path / "home"), {}
    prepared = Home(tmp_path / "home").prepare()
    with embedded.session(prepared, verbose=False):
        embedded._load_prefect(prepared)  # gives Prefect's own logger a handler, once
    before = left_behind()

    def run(as_of: Any, **more: Any) -> None:
        made[as_of] = closecast.run(BTC, as_of=as_of, home=home, **more)

    async def cell() -> None:
        run("2019-03-09", csv=file)

    asyncio.run(cell())  # a notebook's cells run in an event loop
    assert left_behind() == before
    assert capfd.readouterr() == ("", "")
    first = made["2019-03-09"]
    assert (first.origin_day, first.profile) == (dt.date(2019, 3, 9), "calibrated")
    assert "written to the table (published" in (Path(home) / "logs" / "closecast.log").read_text()

    # The same again is the stored one; the newest day is the file's.
    threads = [threading.Thread(target=run, args=(as_of,)) for as_of in (np.datetime64("2019-03-09"), None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[np.datetime64("2019-03-09")] == first
    assert made[None].origin_day == dt.date(2019, 3, 11)
    assert left_behind() == before
    run(dt.date(2019, 3, 9), verbose=True)
    assert "nothing new; the forecast for 2019-03-10 is already stored" in capfd.readouterr().out


@pytest.mark.usefixtures("prefect_server")
def test_a_failed_run_leaves_nothing_behind_either(tmp_path: Path) -> None:
    before = left_behind()
    with pytest.raises(closecast.ClosecastError, match="the sample has BTC-USD, not ETH-USD"):
        closecast.run("ETH-USD", source="sample", home=tmp_path)
    assert left_behind() == before


def test_the_lines_reach_the_caller_by_the_callers_levels(tmp_path: Path) -> None:
    home, log = Home(tmp_path / "home").prepare(), logging.getLogger("closecast.daily")
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    def work() -> list[str]:
        lines.clear()
        with embedded.session(home, verbose=False):
            log.debug("detail")
            log.info("line")
            log.warning("warning")
        return lines.copy()

    root, ours, handler = logging.getLogger(), logging.getLogger("closecast"), Lines()
    before, level, own_level = root.handlers.copy(), root.level, ours.level
    root.handlers[:] = [handler]
    ours.setLevel(logging.NOTSET)  # a command that an earlier test has called sets its own
    try:
        root.setLevel(logging.WARNING)
        assert work() == ["warning"]
        root.setLevel(logging.INFO)
        assert work() == ["line", "warning"]
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        ours.setLevel(own_level)
    text = (home.logs / "closecast.log").read_text()
    assert text.count("DEBUG closecast.daily: detail") == text.count("INFO closecast.daily: line") == 2


@pytest.mark.engines
def test_without_a_server_one_is_started_for_the_process(file: Path, tmp_path: Path) -> None:
    program = f"""
import asyncio, logging, os, time
import closecast
before = dict(os.environ)
def run(**more):
    home = {str(tmp_path / "home")!r}
    return closecast.run("BTC-USD", home=home, **more)
async def cell():
    return run(as_of="2019-03-09", csv={str(file)!r}), run(as_of="2019-03-10")
print(*asyncio.run(cell()))
print([name for name in os.environ if name.startswith("PREFECT") and name not in before])
print(logging.getLogger().handlers, logging.getLogger("closecast").handlers)
"""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    variables |= {"HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=variables, capture_output=True, text=True
    )
    assert done.stderr == ""
    forecasts, *rest = done.stdout.splitlines()
    assert forecasts.count("<Forecast BTC-USD 2019-0") == 2
    assert rest == ["[]", "[] []"]


def test_frames_have_real_dates(runs: Runs) -> None:
    runs.publish(MADE)
    runs.live(MADE + 4)
    frame = closecast.predictions(BTC, home=runs.home.root)
    assert list(frame.columns) == PREDICTIONS.arrow.names
    types = frame.dtypes.astype(str)
    assert types["target_day"] == types["origin_day"] == "datetime64[s]"
    assert types["created_at"] == "datetime64[us, UTC]"
    assert len(frame) == 6
    last = pd.Timestamp(day(MADE + 5))
    assert len(closecast.predictions(first=last, home=str(runs.home.root))) == 4
    assert closecast.predictions(horizon=7, home=runs.home.root)["horizon"].tolist() == [7, 7]
    assert closecast.predictions(profile="article", home=runs.home.root).dtypes.equals(frame.dtypes)

    scores = closecast.scores(home=runs.home.root)
    assert scores["target_day"].tolist() == [pd.Timestamp(day(MADE + ahead)) for ahead in (1, 3)]
    assert scores[["profile", "horizon", "revision"]].to_numpy().tolist() == [
        ["calibrated", ahead, 0] for ahead in (1, 3)
    ]
    assert scores.dtypes.astype(str)[["covered_80", "crps"]].tolist() == ["boolean", "float64"]
    assert (scores["point"] - scores["close"] - scores["error"]).abs().max() == 0
    assert closecast.scores(horizon=3, last=day(MADE + 2), home=runs.home.root).empty


def test_a_model_is_named_by_its_number_or_its_alias(runs: Runs) -> None:
    by_default = closecast.load_model(home=runs.home.root)
    assert repr(by_default) == (
        f"<Model closecast.BTC-USD.calibrated version 1: refit on closes up to {day(MADE)}>"
    )
    for version in ("champion", "1", 1):
        model = closecast.load_model(BTC, "calibrated", version=version, home=runs.home.root)
        assert model.lineage == by_default.lineage
    for version in ("chamion", 7, 0):
        with pytest.raises(closecast.ClosecastError, match=rf"has no version {version}; it has 1, champion$"):
            closecast.load_model(version=version, home=runs.home.root)
    with pytest.raises(closecast.ClosecastError, match="has no version yet"):
        closecast.load_model(profile="article", home=runs.home.root)


@pytest.mark.parametrize(
    "value",
    [
        "2019-10-17",
        dt.date(2019, 10, 17),
        dt.datetime(2019, 10, 17, tzinfo=dt.UTC),
        np.datetime64("2019-10-17"),
        pd.Timestamp("2019-10-17"),
        pd.Timestamp("2019-10-17", tz="UTC"),
    ],
)
def test_a_day_has_many_forms(value: Any) -> None:
    assert parse_any_day(value) == dt.date(2019, 10, 17)
    assert type(parse_any_day(value)) is dt.date


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("17.10.2019", "a day such as 2019-10-17 is needed"),
        (pd.NaT, "a day is needed"),
        (np.datetime64("NaT"), "a day is needed"),
        (20191017, "a day is needed"),
        (np.datetime64("2019-10"), "a day is needed, not the month or year 2019-10"),
        (pd.Timestamp("2019-10-17 12:00"), "not the moment 2019-10-17 12:00:00"),
        (pd.Timestamp("2019-10-17", tz="Asia/Tokyo"), "not the moment 2019-10-17 00:00:00\\+09:00"),
    ],
)
def test_malformed_days_are_refused(value: Any, message: str) -> None:
    with pytest.raises(closecast.ClosecastError, match=message):
        parse_any_day(value)


def test_a_path_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert check_path("home", "~/data") == Path("/somebody/data")
    assert check_path("home", Path("data")) == Path("data")
    with pytest.raises(BadFile, match="the whole path is needed, not '~nosuchuser/data'"):
        check_path("home", "~nosuchuser/data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"product_id": "btc-usd"}, "did you mean BTC-USD"),
        ({"product_id": ""}, "product ids look like BTC-USD .* not ''"),
        ({"product_id": ["BTC-USD"]}, r"product_id needs a text, not \['BTC-USD'\]"),
        ({"profile": ""}, "the profiles are article, calibrated, not ''"),
        ({"settings": {1: 2}}, "settings need names with values"),
        ({"as_of": "2999-01-01"}, "2999-01-01 is not over"),
        ({"settings": {"memebrs": 1}}, "did you mean members"),
        ({"settings": ["members"]}, "settings need names with values"),
        ({"profile": "artcle"}, "did you mean article"),
        ({"profile": 5}, "profile needs a text, not 5"),
        ({"source": "binance"}, "needs sample or coinbase or csv"),
        ({"csv": "/nowhere.csv"}, "there is none at /nowhere.csv"),
        ({"csv": 5}, "csv needs a path, not 5"),
        ({"home": ""}, "home needs a path, not ''"),
        ({"backfill_days": 400}, "needs a whole number from 0 to 366, not 400"),
        ({"backfill_days": "3"}, "needs a whole number from 0 to 366, not '3'"),
    ],
)
@pytest.mark.usefixtures("prefect_server")
def test_a_bad_argument_is_one_line(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(closecast.ClosecastError, match=message, check=one_line):
        closecast.run(**{"home": tmp_path / "home", **arguments})


@pytest.mark.parametrize("read", [closecast.predictions, closecast.scores])
def test_a_bad_argument_of_a_reading_function_is_one_line(read: Any, tmp_path: Path) -> None:
    wrong: Any = 5
    with pytest.raises(BadDay, match="the last day must be 2019-10-18, the first day, or later, not 2019"):
        read(first="2019-10-18", last="2019-10-17", home=tmp_path)
    with pytest.raises(BadSetting, match="profile needs a text, not 5"):
        read(profile=wrong, home=tmp_path)
    with pytest.raises(BadSetting, match="dask needs a text, not 5"):
        closecast.backtest(dask=wrong, home=tmp_path)


def test_workers_need_a_script_that_they_can_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"needs to be a file, with its own calls below `if __name__ == \"__main__\":`, not"
    with monkeypatch.context() as worker:
        worker.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
        with pytest.raises(BadSetting, match=message):
            closecast.backtest(workers=2, home=tmp_path)
    main = ModuleType("__main__")
    main.__file__ = "<stdin>"
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(BadSetting, match=f"{message} <stdin>"):
        closecast.backtest(workers=2, home=tmp_path)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    for read in (closecast.predictions, closecast.scores, closecast.load_model, closecast.backtest):
        with pytest.raises(closecast.ClosecastError, match="there is no home"):
            read(home=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_names_are_listed_and_others_refused() -> None:
    assert {*closecast.__all__} <= {*dir(closecast)}
    assert all(getattr(closecast, name) for name in closecast.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        closecast.runn  # noqa: B018
