"""One writer at a time for each product of a home, on every machine that shares its database."""

from __future__ import annotations

from contextlib import AbstractContextManager

from closecast.storage.core.home import Home, check_product_id
from closecast.storage.prices.engine import database_engine

Lock = AbstractContextManager[None]


def product_lock(home: Home, product_id: str, *, wait_seconds: float = 900.0) -> Lock:
    """Hold the product's lock, which is released when the process ends, however it ends.

    Raises:
        BadProduct: the id is malformed.
        HomeBusy: another process held it for all of `wait_seconds`; the same for every lock.
    """
    return _lock(home, check_product_id(product_id), f"run of {product_id}", wait_seconds)


def backtest_lock(home: Home, backtest_id: str, *, wait_seconds: float = 900.0) -> Lock:
    """Hold the lock of one backtest: two runs at once would do the same work twice."""
    return _lock(home, f"backtest-{backtest_id}", "run of this backtest", wait_seconds)


def tables_lock(home: Home, *, wait_seconds: float = 900.0) -> Lock:
    """Hold the lock for compacting, pruning, backing up or restoring the home."""
    return _lock(home, "maintain", "upkeep, backup or restore", wait_seconds)


def reports_lock(home: Home, *, wait_seconds: float = 60.0) -> Lock:
    """Hold the lock of the index of all reports, which every product's run writes."""
    return _lock(home, "reports", "writing of the reports", wait_seconds)


def _lock(home: Home, name: str, activity: str, wait_seconds: float) -> Lock:
    return database_engine(home).lock(name, activity, wait_seconds)
