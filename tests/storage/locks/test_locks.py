from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pytest

from closecast.storage.core.errors import BadProduct, HomeBusy
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import product_lock
from closecast.storage.prices.engine import database_engine
from tests.helpers import BTC, one_line
from tests.processes import process_for


def hold(home: Home) -> None:
    with product_lock(home, BTC):
        (home.root / "held").touch()
        time.sleep(600)


def test_a_lock_is_freed_when_its_process_is_killed(home: Home) -> None:
    other = process_for(hold, home)
    other.start()
    while not (home.root / "held").exists():
        assert other.is_alive()
        time.sleep(0.01)
    with pytest.raises(HomeBusy), product_lock(home, BTC, wait_seconds=0.1):
        pass
    other.kill()
    other.join(30)
    with product_lock(home, BTC, wait_seconds=5):
        pass


def test_a_wait_that_is_too_long_names_the_lock(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "closecast")
    with product_lock(home, BTC):
        where = r"\*\*\*@127.0.0.1" if database_engine(home).file is None else str(home.root)
        message = f"(?=.*{BTC}).*{where}"
        with (
            pytest.raises(HomeBusy, match=message, check=one_line),
            product_lock(home, BTC, wait_seconds=0.1),
        ):
            pass
    assert "waiting for it" in caplog.text
    with product_lock(home, BTC, wait_seconds=0.1):
        pass


def test_threads_of_one_process_wait_for_each_other(home: Home) -> None:
    alone = Lock()

    def work(_: int) -> bool:
        with product_lock(home, BTC, wait_seconds=30):
            was_alone = alone.acquire(blocking=False)
            time.sleep(0.02)
            alone.release()
            return was_alone

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4


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
