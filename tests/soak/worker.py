"""The process that is killed: it makes the daily runs that are ordered, and reports where it is.

It can die wherever something is about to be made durable, or has just been: before and after each step of the
flow, each commit to SQLite, each write of Delta's, each fsync, rename and removal.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.helpers import die

# So few files of a product that some days compact.
FEW_FILES = 4


@dataclass(frozen=True)
class Order:
    """One daily run: in which home, of which day, at which moment, from which exchange, where to die."""

    home: Path
    origin: date
    moment: datetime
    url: str
    settings: dict[str, Any]
    first_day: date
    die_at: str | None = None
    nth: int = 1


@dataclass(frozen=True)
class Visit:
    """A place that a run has come to, and when by `time.monotonic`."""

    place: str
    at: float


@dataclass(frozen=True)
class Done:
    prediction_id: str


@dataclass(frozen=True)
class Failed:
    error: str


class Places:
    """Tells the parent of every place, and ends this process at the one that was named."""

    def __init__(self, parent: Connection) -> None:
        self._parent, self._lock = parent, threading.Lock()
        self._step, self._die_at, self._left = "flow", "", 0

    def begin(self, order: Order) -> None:
        """Start over for a run."""
        self._step, self._die_at, self._left = "flow", order.die_at or "", order.nth

    def come(self, what: str) -> None:
        with self._lock:
            place = f"{self._step}: {what}"
            self._parent.send(Visit(place, time.monotonic()))
            if place == self._die_at:
                self._left -= 1
                if not self._left:
                    die()

    def step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a step of its own, with its beginning and its end."""

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            outer, self._step = self._step, name
            try:
                self.come("begin")
                result = function(*args, **kwargs)
                self.come("end")
            finally:
                self._step = outer
            return result

        return called

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a place before it and one after it."""

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            self.come(f"before {name}")
            result = function(*args, **kwargs)
            self.come(f"after {name}")
            return result

        return called

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Put places around a function of a module or a class."""
        function = inspect.getattr_static(owner, attribute)
        if isinstance(function, classmethod | staticmethod):
            setattr(owner, attribute, type(function)(self.around(name, function.__func__)))
        else:
            setattr(owner, attribute, self.around(name, function))


def install(places: Places) -> None:
    """Put places around everything that makes something durable, and around every step of the flow."""
    import shutil

    import deltalake
    import deltalake.table
    from sqlalchemy.engine.default import DefaultDialect

    import closecast.flows.daily
    import closecast.flows.day
    from closecast.storage.models.registry import Models
    from closecast.storage.tables.delta import Table

    run_step = vars(closecast.flows.daily)["run_step"]

    @functools.cache
    def placed(step: Any) -> Callable[..., Any]:
        return places.step(step.task_options["name"], step)

    for module in (closecast.flows.daily, closecast.flows.day):
        setattr(module, "run_step", lambda step, *args, **more: run_step(placed(step), *args, **more))  # noqa: B010
    for name in ("fsync", "rename", "replace", "unlink"):
        places.wrap(os, name, name)
    places.wrap(shutil, "rmtree", "rmtree")
    places.wrap(DefaultDialect, "do_commit", "commit")
    places.wrap(deltalake, "write_deltalake", "Delta write")
    for name in ("create", "create_checkpoint", "cleanup_metadata", "vacuum"):
        places.wrap(deltalake.DeltaTable, name, f"Delta {name}")
    places.wrap(deltalake.table.TableOptimizer, "compact", "Delta compact")
    places.wrap(Table, "insert", "insert")
    for name in ("register", "promote", "challenge", "settle", "mark"):
        places.wrap(Models, name, name)


def serve(parent: Connection) -> None:
    """Make the ordered runs, one after the other, until the parent hangs up."""
    # The code version is pinned: code that is edited meanwhile would make another forecast.
    import closecast.storage.core.provenance

    closecast.storage.core.provenance.DECIDING = ()  # type: ignore[assignment]
    closecast.storage.core.provenance.code_version.cache_clear()
    places = Places(parent)
    install(places)
    while True:
        try:
            order: Order = parent.recv()
        except EOFError:
            return
        places.begin(order)
        try:
            places.come("begin")
            prediction_id = make_run(order)
            places.come("end")
            parent.send(Done(prediction_id))
        except Exception:
            parent.send(Failed(traceback.format_exc()))


def make_run(order: Order) -> str:
    """The daily flow, at the moment of the order."""
    import closecast.flows.clock
    import closecast.tasks.prices.ingest_coinbase
    import closecast.tasks.upkeep.pruning
    from closecast.flows.daily import daily_forecast
    from closecast.tasks.prices.sources import Market
    from tests.helpers import BTC

    os.environ["CLOSECAST_COINBASE_URL"] = order.url
    closecast.tasks.upkeep.pruning.MAX_FILES = FEW_FILES
    closecast.tasks.prices.ingest_coinbase.FIRST_DAY = order.first_day
    closecast.flows.clock.now = lambda: order.moment
    market = Market(product_id=BTC, source="coinbase")
    return daily_forecast(market, "calibrated", order.settings, order.origin, str(order.home))
