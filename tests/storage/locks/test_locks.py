from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest

from storage.core.errors import BadProduct, HomeBusy
from storage.core.home import Home
from storage.locks.locks import product_lock
from storage.prices.engine import database_engine
from tests.helpers import BTC
from tests.processes import process_for


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare()


def hold(home: Home, seconds: float) -> None:
    with product_lock(home, BTC):
        (home.root / "held").touch()
        time.sleep(seconds)
        (home.root / "done").touch()


def until(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} is missing"
        time.sleep(0.01)


def test_a_second_process_waits(home: Home) -> None:
    other = process_for(hold, home, 0.5)
    other.start()
    until(home.root / "held")
    assert not (home.root / "done").exists()
    with product_lock(home, BTC, wait_seconds=30):
        assert (home.root / "done").exists()
    other.join(30)
    assert other.exitcode == 0


def test_a_lock_is_freed_when_its_process_is_killed(home: Home) -> None:
    other = process_for(hold, home, 600)
    other.start()
    until(home.root / "held")
    with pytest.raises(HomeBusy), product_lock(home, BTC, wait_seconds=0.1):
        pass
    assert other.pid
    os.kill(other.pid, signal.SIGKILL)
    other.join(30)
    with product_lock(home, BTC, wait_seconds=5):
        assert not (home.root / "done").exists()


def test_a_wait_that_is_too_long_names_the_lock(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "closecast")
    with product_lock(home, BTC):
        with pytest.raises(HomeBusy) as caught, product_lock(home, BTC, wait_seconds=0.1):
            pass
        assert BTC in str(caught.value)
        where = "***@127.0.0.1" if database_engine(home).file is None else str(home.root)
        assert where in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "waiting for it" in caplog.text
    with product_lock(home, BTC, wait_seconds=0.1):
        pass


def test_threads_of_one_process_wait_for_each_other(home: Home) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with product_lock(home, BTC, wait_seconds=30):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_products_and_homes_do_not_wait_for_each_other(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), product_lock(home, BTC):
        raise ZeroDivisionError
    elsewhere = Home(tmp_path / "other").prepare()
    with (
        product_lock(home, BTC),
        product_lock(home, "ETH-USD", wait_seconds=0.1),
        product_lock(elsewhere, BTC, wait_seconds=0.1),
    ):
        pass


def test_a_malformed_product_makes_no_lock_file(home: Home) -> None:
    with pytest.raises(BadProduct), product_lock(home, "../BTC-USD"):
        pass
    assert not list(home.locks.iterdir())
