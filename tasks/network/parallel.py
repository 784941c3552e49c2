"""Trains members at the same time, one on each core."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

from tasks.core.tensorflow_runtime import cores
from tasks.network.trainer import Trainer

Result = TypeVar("Result")


class TrainerPool:
    """A trainer for each core, all of one network.

    All threads of the process share the pool: however many folds run, no more members train at once than
    there are cores.
    """

    def __init__(self, first: Trainer) -> None:
        self.first = first
        self._idle: SimpleQueue[Trainer] = SimpleQueue()
        self._idle.put(first)
        self._size, self._growing = 1, threading.Lock()

    def map(self, count: int, work: Callable[[int, Trainer], Result]) -> list[Result]:
        """Results of `work(member, trainer)` for members 0 to count - 1, in their order.

        Every trainer gives the same bits for the same start, data and seed.
        """
        wanted = min(cores(), count)
        with self._growing:
            for _ in range(self._size, wanted):
                self._idle.put(self.first.clone())
            self._size = max(self._size, wanted)

        def run(member: int) -> Result:
            trainer = self._idle.get()
            try:
                return work(member, trainer)
            finally:
                self._idle.put(trainer)

        if wanted == 1:
            return [run(member) for member in range(count)]
        with ThreadPoolExecutor(wanted, thread_name_prefix="member") as threads:
            # The context carries the run's logger and listener.
            futures = [threads.submit(copy_context().run, run, member) for member in range(count)]
            return [future.result() for future in futures]
