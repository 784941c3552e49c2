from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from closecast.tasks.network import trainer as trainer_module
from closecast.tasks.network.trainer import TrainerPool

RUN: ContextVar[str] = ContextVar("RUN", default="none")


class StandIn:
    """A stand-in for a trainer: these tests check which member has which."""

    def __init__(self) -> None:
        self.clones = 0

    def clone(self) -> StandIn:
        self.clones += 1
        return StandIn()


class Monitor:
    """Counts the members at work, and fails when two have the same trainer."""

    def __init__(self) -> None:
        self._lock, self.max_busy = threading.Lock(), 0
        self.busy: set[int] = set()
        self.contexts: set[str] = set()

    def work(self, member: int, trainer: Any) -> int:
        with self._lock:
            assert id(trainer) not in self.busy, "two members with one trainer"
            self.busy.add(id(trainer))
            self.max_busy = max(self.max_busy, len(self.busy))
            self.contexts.add(RUN.get())
        time.sleep(0.02 if member % 2 else 0.05)
        with self._lock:
            self.busy.remove(id(trainer))
        return member * member


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(trainer_module, "cores", lambda: 2)
    return StandIn()


@pytest.mark.parametrize(
    ("cores", "members", "at_once"), [(1, 3, 1), (2, 3, 2), (3, 7, 3), (8, 2, 2), (2, 1, 1)]
)
def test_as_many_members_as_cores_train_at_once(
    monkeypatch: pytest.MonkeyPatch, first: Any, cores: int, members: int, at_once: int
) -> None:
    monkeypatch.setattr(trainer_module, "cores", lambda: cores)
    monitor = Monitor()
    results = TrainerPool(first).map(members, monitor.work)
    assert results == [number * number for number in range(members)]
    assert (monitor.max_busy, first.clones) == (at_once, at_once - 1)


def test_threads_share_the_pool(first: Any) -> None:
    monitor, pool = Monitor(), TrainerPool(first)
    with ThreadPoolExecutor(3) as folds:
        results = list(folds.map(lambda _: pool.map(4, monitor.work), range(3)))
    assert results == [[0, 1, 4, 9]] * 3
    assert (monitor.max_busy, first.clones) == (2, 1)


def test_members_have_the_context_of_their_run(first: Any) -> None:
    monitor, token = Monitor(), RUN.set("this run")
    try:
        TrainerPool(first).map(3, monitor.work)
    finally:
        RUN.reset(token)
    assert monitor.contexts == {"this run"}


def test_an_error_is_raised_and_returns_the_trainer_to_the_pool(first: Any) -> None:
    monitor, pool = Monitor(), TrainerPool(first)

    def fail(member: int, trainer: Any) -> int:
        if member == 1:
            raise ValueError("no finite loss")
        return monitor.work(member, trainer)

    for _ in range(3):
        with pytest.raises(ValueError, match="no finite loss"):
            pool.map(4, fail)
    assert pool.map(4, monitor.work) == [0, 1, 4, 9]
