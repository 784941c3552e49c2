"""One writer at a time for each product of a home.

By a lock file, or, where the prices are in PostgreSQL, by a lock in it, which every machine sees.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from filelock import FileLock, Timeout

from storage.core.errors import HomeBusy, HomeUnusable
from storage.core.home import Home, check_product_id

log = logging.getLogger("closecast.locks")


@contextlib.contextmanager
def product_lock(home: Home, product_id: str, *, wait_seconds: float = 900.0) -> Iterator[None]:
    """Hold the product's lock, which is freed when the process ends, however it ends.

    Raises:
        HomeBusy: somebody else held it for all of `wait_seconds`.
    """
    with _held(home, check_product_id(product_id), f"run of {product_id}", wait_seconds):
        yield


@contextlib.contextmanager
def backtest_lock(home: Home, backtest_id: str, *, wait_seconds: float = 900.0) -> Iterator[None]:
    """Hold the lock of one backtest: the same one twice at once would do the same work twice.

    Raises:
        HomeBusy: somebody else held it for all of `wait_seconds`.
    """
    with _held(home, f"backtest-{backtest_id}", "run of this backtest", wait_seconds):
        yield


@contextlib.contextmanager
def tables_lock(home: Home, *, wait_seconds: float = 900.0) -> Iterator[None]:
    """Hold the lock of whoever compacts the home's tables, prunes it, backs it up or restores it.

    Raises:
        HomeBusy: somebody else held it for all of `wait_seconds`.
    """
    with _held(home, "maintain", "upkeep, backup or restore", wait_seconds):
        yield


@contextlib.contextmanager
def reports_lock(home: Home, *, wait_seconds: float = 60.0) -> Iterator[None]:
    """Hold the lock of the index of all reports, which every product's run writes.

    Raises:
        HomeBusy: somebody else held it for all of `wait_seconds`.
    """
    with _held(home, "reports", "writing of the reports", wait_seconds):
        yield


@contextlib.contextmanager
def _held(home: Home, name: str, what: str, wait_seconds: float) -> Iterator[None]:
    if home.on_postgresql:
        from storage.locks.postgresql import advisory_lock

        with advisory_lock(home, name, what, wait_seconds):
            yield
    else:
        with _file_lock(home, name, what, wait_seconds):
            yield


@contextlib.contextmanager
def _file_lock(home: Home, name: str, what: str, wait_seconds: float) -> Iterator[None]:
    lock = FileLock(home.locks / f"{name}.lock", thread_local=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another %s is going on in %s: waiting for it", what, home.root)
            lock.acquire(timeout=wait_seconds)
    except Timeout as error:
        raise HomeBusy(
            f"another {what} has been going on for {wait_seconds:.0f} s in {home.root}:"
            " try again when it is done"
        ) from error
    except OSError as error:  # also of a link: a lock is never taken on somebody else's file
        raise HomeUnusable(
            f"the lock file {lock.lock_file} cannot be used: {error.strerror or error}; take it away or mend"
            " its rights"
        ) from error
    try:
        yield
    finally:
        lock.release()
