"""Backtests on a Dask cluster of separate processes: the same bits, also when a worker is killed at work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from closecast.flows.backtest import backtest_products, rolling_backtest
from closecast.flows.daily import daily_forecast, daily_forecasts
from closecast.storage.core.errors import ClusterUnusable, ProductsFailed
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import backtests
from closecast.tasks.prices.sources import Market
from closecast.tasks.profiles.baselines import baselines_of
from tests.calibrated import HORIZONS, LENIENT, QUICK
from tests.dask_cluster import Cluster, started
from tests.flows.test_backtest import rows_of
from tests.helpers import FIRST, PROJECT, made_up, store
from tests.waiting import wait_for

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

PRODUCTS = ("BTC-USD", "ETH-USD")
DAYS = 700
START = FIRST + timedelta(days=609)
END = START + timedelta(days=15)
# Two folds, each with a fine-tuning in it.
SMALL: dict[str, Any] = {**QUICK, **LENIENT, "refit_every_days": 8, "fine_tune_every_days": 4}


def home_of(root: Path) -> Home:
    home = Home(root).prepare()
    for seed, product in enumerate(PRODUCTS, start=1):
        store(home, made_up(DAYS, seed=seed), product_id=product)
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_of(tmp_path / "home")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("dask"), "first", "second") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, Any]]:
    """The products' backtests in this process, on no cluster."""
    home = home_of(tmp_path_factory.mktemp("undisturbed"))
    flow = rolling_backtest
    settings = ("calibrated", SMALL, START, END, str(home.root))
    return home, {product: flow(product, *settings) for product in PRODUCTS}


def test_a_worker_killed_at_work_changes_no_bit(
    cluster: Cluster, undisturbed: tuple[Home, dict[str, Any]], home: Home
) -> None:
    original, results = undisturbed
    pids = {name: cluster.pid(name) for name in cluster.workers()}

    def trains(name: str) -> bool:
        return any("prepare_fold" in key for key in cluster.at_work(name))

    def kill_one() -> None:
        # A refit is stored: its fold goes on with forecasts, or the other worker trains the next.
        wait_for(lambda: list(home.folds.glob("*/refit-*/manifest.json")), pause=0.01)
        name = wait_for(lambda: next(filter(trains, list(pids)), None), pause=0.01)
        os.kill(pids.pop(name), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    again = rolling_backtest("BTC-USD", "calibrated", SMALL, START, END, str(home.root), cluster.address)
    killer.join()
    assert list(cluster.workers()) == list(pids)
    assert len(pids) == 1
    assert again == results["BTC-USD"]
    assert len(again.gates) == 3
    assert rows_of(home, again.backtest_id) == rows_of(original, again.backtest_id)
    assert len(rows_of(home, again.backtest_id)) == 16 * sum(
        2 + len(baselines_of(horizon)) for horizon in HORIZONS
    )
    assert not list(home.folds.glob("*/.draft-*"))


def test_backtests_of_several_products_survive_a_kill(
    cluster: Cluster, undisturbed: tuple[Home, dict[str, Any]], home: Home
) -> None:
    original, results = undisturbed
    cluster.add_worker("nursed")
    pid = cluster.pid("nursed")

    def kill_again() -> None:
        wait_for(lambda: list(home.folds.glob("*/refit-*/manifest.json")), pause=0.01)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_again)
    killer.start()
    try:
        where = (START, END, str(home.root), cluster.address)
        again = backtest_products(list(PRODUCTS), "calibrated", SMALL, *where)
        killer.join()
        wait_for(lambda: "nursed" in cluster.workers())  # its nanny has started it again
        assert cluster.pid("nursed") != pid
    finally:
        cluster.end("nursed")
    assert again == results
    for product, result in results.items():
        assert rows_of(home, result.backtest_id) == rows_of(original, result.backtest_id), product


def test_a_failed_backtest_does_not_stop_the_others(cluster: Cluster, home: Home) -> None:
    store(home, made_up(350), product_id="NEW-USD")
    short = {**SMALL, "refit_every_days": 90}
    names = ["NEW-USD", "ETH-USD", "ADA-USD", "ETH-USD"]
    with pytest.raises(
        ProductsFailed, match=r"2 of 3 products failed, all others are done: ADA-USD: "
    ) as error:
        backtest_products(names, "calibrated", short, START, None, str(home.root), cluster.address)
    assert "ADA-USD: NotEnoughHistory: ADA-USD has no closes" in str(error.value)
    assert "NEW-USD: " in str(error.value)
    stored = backtests(home).read().to_pylist()
    assert {row["product_id"] for row in stored} == {"ETH-USD"}
    # From the first origin to the last that has an outcome.
    assert len({row["origin_day"] for row in stored}) == DAYS - 1 - 609


def test_the_day_of_several_products(cluster: Cluster, tmp_path: Path) -> None:
    homes = [home_of(tmp_path / name) for name in ("cluster", "alone")]
    how = ("calibrated", SMALL, START)
    together = daily_forecasts(list(PRODUCTS), None, *how, str(homes[0].root), dask=cluster.address)
    markets = [Market(product_id=product) for product in PRODUCTS]
    assert together == [daily_forecast(market, *how, str(homes[1].root)) for market in markets]
    for product in PRODUCTS:
        one, other = (Predictions(home).between(product).to_pylist() for home in homes)
        assert len(one) == len(other) == len(HORIZONS)
        for row, same in zip(one, other, strict=True):
            assert row["quantiles"] == same["quantiles"]
    names = ["ADA-USD", "BTC-USD"]
    with pytest.raises(
        ProductsFailed, match="1 of 2 products have no forecast, all others are done: ADA-USD"
    ):
        daily_forecasts(names, None, "calibrated", SMALL, START, str(homes[0].root), dask=cluster.address)


def test_the_command_uses_the_address_of_the_environment(
    cluster: Cluster, undisturbed: tuple[Home, dict[str, Any]], home: Home, tmp_path: Path
) -> None:
    original, results = undisturbed
    done = closecast(home, tmp_path, "--json", CLOSECAST_DASK_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr
    backtest_id = results["BTC-USD"].backtest_id
    assert backtest_id in done.stdout
    assert rows_of(home, backtest_id) == rows_of(original, backtest_id)
    assert "prepare-fold" not in done.stdout + done.stderr


@pytest.mark.parametrize("silent", [False, True], ids=["nobody listens", "a listener is silent"])
def test_an_address_without_a_scheduler_is_refused_in_seconds(silent: bool, home: Home) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        started_at = time.monotonic()
        message = f"^no Dask scheduler responds at {address} within 10 s: start one .*$"
        with pytest.raises(ClusterUnusable, match=message):
            rolling_backtest("BTC-USD", "calibrated", SMALL, START, END, str(home.root), address)
        assert time.monotonic() - started_at < 60


def test_workers_with_other_code_get_no_work(cluster: Cluster, home: Home, tmp_path: Path) -> None:
    def refused(name: str, rooms: Path, message: str) -> None:
        cluster.add_worker(name, "--no-nanny", environment={"PYTHONPATH": str(rooms)})
        try:
            with pytest.raises(ClusterUnusable, match=message):
                rolling_backtest("BTC-USD", "calibrated", SMALL, START, END, str(home.root), cluster.address)
        finally:
            cluster.end(name)
        assert not home.backtests.is_dir()

    (tmp_path / "nothing" / "closecast").mkdir(parents=True)
    (tmp_path / "nothing" / "closecast" / "__init__.py").write_text("raise ImportError('not here')")
    refused("without", tmp_path / "nothing", "the workers of .* cannot run closecast")
    copytree(PROJECT / "closecast", tmp_path / "other" / "closecast")  # with what its links name
    with (tmp_path / "other" / "closecast" / "tasks" / "features" / "windows.py").open("a") as source:
        source.write("# changed\n")
    here = r"0\.1\.0\+[0-9a-f]{12}"
    refused(
        "changed",
        tmp_path / "other",
        f"has closecast {here}, but this machine has {here}: install the same version there",
    )


def closecast(home: Home, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A backtest by the command, with a Prefect of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    where = ("--home", str(home.root), "--start", str(START), "--end", str(END))
    return subprocess.run(
        [sys.executable, "-m", "closecast", "backtest", *where, *settings, *words],
        capture_output=True,
        text=True,
        env={**environment, "PREFECT_HOME": str(folder / "prefect"), **variables},
        timeout=150,
    )
