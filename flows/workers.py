"""Who runs the calls that train: threads of this process, or worker processes on this machine.

A worker process is spawned, never forked from a process that has loaded TensorFlow. It does not use Prefect,
loads TensorFlow once, and takes calls until none is left. It ends with this process, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import heapq
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import Context, ContextVar, copy_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

from closecast.storage.core.errors import BadSetting, WorkerLost
from closecast.tasks.core.tensorflow_runtime import cores, tensorflow

R = TypeVar("R")
# Of two calls that wait, the one with the smaller rank goes first; a rank is used once.
Rank = tuple[int, ...]

log = logging.getLogger("closecast.workers")
# Several processes write into one pipe: the system keeps messages of up to 4,096 bytes apart.
MAX_LETTERS = 900
ENDED = "the run has ended"


def require_importable_script() -> None:
    """Raise `BadSetting` where workers cannot import the script that asks for them, or one is importing it.

    In a worker the script's own calls would wait without end for the first process.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    importing = getattr(multiprocessing.current_process(), "_inheriting", False)
    if importing or (file and getattr(main, "__spec__", None) is None and not Path(file).exists()):
        raise BadSetting(
            "worker processes import the script that asks for them: it needs to be a file, with its own calls"
            f' below `if __name__ == "__main__":`, not {Path(file).name if file else "this one"}'
        )


@contextlib.contextmanager
def started_workers(count: int) -> Iterator[None]:
    """Let `by_worker` use this many processes in the block; below 2 the calls run in this process.

    A nested block uses the outer block's processes. An exception in a block ends the processes at once.
    """
    pool = _pool.get()
    if pool is not None:
        with pool.ended_by_exceptions():
            yield
        return
    with _Processes(count) if count > 1 else _Threads() as pool, pool.ended_by_exceptions():
        token = _pool.set(pool)
        try:
            yield
        finally:
            _pool.reset(token)


def by_worker(fn: Callable[..., R], *args: object, rank: Rank) -> R:
    """The result of the call, run when its turn comes; outside `started_workers`, here and at once.

    Raises:
        WorkerLost: the worker process was killed.
        BadSetting: no worker process could import the script that asks for them.
        Exception: as the call.
    """
    pool = _pool.get()
    return fn(*args) if pool is None else pool.call(rank, fn, *args)


class _Threads:
    """The calling threads, as many at a time as this process has cores.

    More at once would gain nothing, because each would trace the networks' graphs again.
    """

    def __init__(self, count: int | None = None) -> None:
        self._idle, self._waiting = count or cores(), list[Rank]()
        self._turn, self._ended = threading.Condition(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextlib.contextmanager
    def ended_by_exceptions(self) -> Iterator[None]:
        """Make no more calls once an exception has left the block."""
        try:
            yield
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Make no more calls."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()

    def call(self, rank: Rank, fn: Callable[..., R], *args: object) -> R:
        """The result of the call, run when its turn comes."""
        with self._turn:
            heapq.heappush(self._waiting, rank)
            self._turn.wait_for(lambda: self._ended or (self._idle and self._waiting[0] == rank))
            if self._ended:
                raise CancelledError(ENDED)
            heapq.heappop(self._waiting)
            self._idle -= 1
            self._turn.notify_all()  # there may be room for the next one, too
        try:
            return self._make(rank, fn, args)
        finally:
            with self._turn:
                self._idle += 1
                self._turn.notify_all()

    def _make(self, rank: Rank, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        del rank
        return fn(*args)


class _Processes(_Threads):
    """Processes that start at once, so that TensorFlow is loaded when the first call comes."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        context = multiprocessing.get_context("spawn")
        lines, theirs = context.Pipe(duplex=False)
        end, self._lifeline = context.Pipe(duplex=False)
        self._imported = context.RawValue("b", 0)  # set once a worker has imported the user's script
        self._executor = ProcessPoolExecutor(count, context, _set_up, (end, theirs, self._imported))
        self._contexts: dict[Rank, Context] = {}
        log.info("starting %d worker processes, which load TensorFlow", count)
        # A Ctrl-C is for this process, which ends the others.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(count):
                self._executor.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        end.close()
        theirs.close()
        self._reader = threading.Thread(target=self._log_lines, args=(lines,), daemon=True)
        self._reader.start()

    def __exit__(self, *_: object) -> None:
        self.end()  # by themselves they would take TensorFlow down first
        self._executor.shutdown()
        self._reader.join()

    def end(self) -> None:
        """End the processes at once: what they have stored is complete at any moment."""
        super().end()
        self._lifeline.close()

    def call(self, rank: Rank, fn: Callable[..., R], *args: object) -> R:
        """The result of the call, run when its turn comes.

        The main thread leaves it to another one: a Ctrl-C between taking one of the executor's locks and
        using it would never give the lock back, and the executor would wait for it without end.
        """
        made, context = super().call, copy_context()
        if threading.current_thread() is not threading.main_thread():
            return made(rank, fn, *args)
        return _from_thread(lambda: context.run(made, rank, fn, *args))

    def _make(self, rank: Rank, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        self._contexts[rank] = copy_context()
        try:
            future: Future[R] = self._executor.submit(_call, rank, fn, args)
            return future.result()
        except BrokenProcessPool as error:
            if self._ended:
                raise CancelledError(ENDED) from None
            if not self._imported.value:
                raise BadSetting(
                    "worker processes import the script that asks for them, and failed, as the lines above"
                    ' tell: put its own calls below `if __name__ == "__main__":`'
                ) from None
            raise WorkerLost(
                "a worker process was killed, perhaps because memory ran out: run the same command again with"
                " fewer workers; it continues where it stopped"
            ) from error

    def _log_lines(self, lines: Connection) -> None:
        """Log what the workers log, each line in the context of its call, until the last worker ends."""
        with contextlib.suppress(EOFError), lines:
            while True:
                rank, name, level, text = lines.recv()
                self._contexts[rank].run(logging.getLogger(name).log, level, "%s", text)


def _from_thread(call: Callable[[], R]) -> R:
    """The result of the call, or its exception, from a thread of its own."""
    results, errors = list[R](), list[BaseException]()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


_pool: ContextVar[_Threads | None] = ContextVar("pool", default=None)


class _LinesToParent(logging.Handler):
    """Sends log lines to the process that started this one."""

    rank: Rank = ()  # of the call that is at work

    def __init__(self, lines: Connection) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # without a parent this process ends
            text = self.format(record)[:MAX_LETTERS]
            self._lines.send((self.rank, record.name, record.levelno, text))


def _set_up(end: Connection, lines: Connection, imported: ctypes.c_byte) -> None:
    """Prepare a worker: it ends when the other end of `end` is closed, and logs to `lines`."""
    imported.value = 1
    threading.Thread(target=_end_with, args=(end,), daemon=True).start()
    gc.disable()  # what the import makes stays: the collector would search it in vain
    tensorflow()
    gc.enable()
    own = logging.getLogger("closecast")
    own.addHandler(_LinesToParent(lines))
    own.setLevel(logging.INFO)


def _end_with(end: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        end.recv()
    os._exit(0)


def _call(rank: Rank, fn: Callable[..., Any], args: tuple[object, ...]) -> Any:
    _LinesToParent.rank = rank
    return fn(*args)
