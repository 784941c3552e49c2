"""Members that train side by side, one on each core."""

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


class Seats:
    """A trainer for each core, of one network; a member has one of them at a time.

    They are shared by all threads of the process: however many folds are at work, no more members train at
    once than there are cores.
    """

    def __init__(self, first: Trainer) -> None:
        self.first = first
        self._free: SimpleQueue[Trainer] = SimpleQueue()
        self._free.put(first)
        self._made, self._making = 1, threading.Lock()

    def each(self, members: int, work: Callable[[int, Trainer], Result]) -> list[Result]:
        """What `work` makes of each member's number and a trainer, in the order of the members.

        Which trainer a member gets makes no difference: with the same start, data and seed they all give the
        same bits.
        """
        wanted = min(cores(), members)
        with self._making:
            for _ in range(self._made, wanted):
                self._free.put(self.first.beside())
            self._made = max(self._made, wanted)

        def seated(member: int) -> Result:
            trainer = self._free.get()
            try:
                return work(member, trainer)
            finally:
                self._free.put(trainer)

        if wanted == 1:
            return [seated(member) for member in range(members)]
        with ThreadPoolExecutor(wanted, thread_name_prefix="member") as pool:
            # With the run's context, so that what they log is in the run's log.
            runs = [pool.submit(copy_context().run, seated, member) for member in range(members)]
            return [run.result() for run in runs]
