from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from tasks.network import parallel as side_by_side
from tasks.network.parallel import Seats

RUN: ContextVar[str] = ContextVar("RUN", default="none")


class Stand:
    """In a trainer's place: who sits where is what these tests look at."""

    def __init__(self) -> None:
        self.others: list[Stand] = []

    def beside(self) -> Stand:
        self.others.append(Stand())
        return self.others[-1]


class Watch:
    """How many are at work at once, at most, and with which trainers."""

    def __init__(self) -> None:
        self._lock, self.now, self.most = threading.Lock(), 0, 0
        self.busy: set[int] = set()
        self.contexts: set[str] = set()

    def work(self, member: int, trainer: Any) -> int:
        with self._lock:
            assert id(trainer) not in self.busy, "two members with one trainer"
            self.busy.add(id(trainer))
            self.now += 1
            self.most = max(self.most, self.now)
            self.contexts.add(RUN.get())
        time.sleep(0.02 if member % 2 else 0.05)
        with self._lock:
            self.now -= 1
            self.busy.remove(id(trainer))
        return member * member


@pytest.fixture
def stand() -> Any:
    return Stand()


@pytest.mark.parametrize(
    ("cores", "members", "at_once"), [(1, 3, 1), (2, 3, 2), (3, 7, 3), (8, 2, 2), (2, 1, 1)]
)
def test_as_many_members_as_cores_and_the_results_in_order(
    monkeypatch: pytest.MonkeyPatch, stand: Any, cores: int, members: int, at_once: int
) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: cores)
    watch = Watch()
    assert Seats(stand).each(members, watch.work) == [number * number for number in range(members)]
    assert watch.most == at_once
    assert len(stand.others) == at_once - 1


def test_threads_share_the_seats(monkeypatch: pytest.MonkeyPatch, stand: Any) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 2)
    watch, seats = Watch(), Seats(stand)
    with ThreadPoolExecutor(3) as folds:
        found = list(folds.map(lambda _: seats.each(4, watch.work), range(3)))
    assert found == [[0, 1, 4, 9]] * 3
    assert watch.most == 2
    assert len(stand.others) == 1


def test_members_are_in_the_context_of_their_run(monkeypatch: pytest.MonkeyPatch, stand: Any) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 2)
    watch, before = Watch(), RUN.set("this run")
    try:
        Seats(stand).each(3, watch.work)
    finally:
        RUN.reset(before)
    assert watch.contexts == {"this run"}


def test_what_goes_wrong_comes_out_and_leaves_the_seats_free(
    monkeypatch: pytest.MonkeyPatch, stand: Any
) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 2)
    watch, seats = Watch(), Seats(stand)

    def fails(member: int, trainer: Any) -> int:
        if member == 1:
            raise ValueError("no finite loss")
        return watch.work(member, trainer)

    for _ in range(3):
        with pytest.raises(ValueError, match="no finite loss"):
            seats.each(4, fails)
    assert seats.each(4, watch.work) == [0, 1, 4, 9]
