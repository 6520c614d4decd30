"""Worker processes that are replaced between tasks once they have grown too large; no task is lost."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import threading
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from memguard.reclaimers.processes import private_bytes
from memguard.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from typing import ParamSpec, Self, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["RecycleAbove", "RecyclingExecutor"]

# Tasks inside the pool for each of its workers, one at work and one ready; the rest waits outside, for whichever
# pool is next.
_READY: Final = 2


class RecycleAbove(int):
    """For ``multiprocessing.Pool(maxtasksperchild=…)``: a worker ends after a task that left it larger than this.

    The pool asks after each task whether the number of tasks done has reached the limit; this number answers by the
    worker's own size (its resident memory without shared pages, so that a fork's start counts too). The pool then
    starts another worker by its own documented way: the result is sent before, the next task is taken by the other.

    ``ProcessPoolExecutor(max_tasks_per_child=…)`` takes it too, but hangs in Python 3.11 to 3.13 when workers
    are replaced while tasks wait (python/cpython#115634): use ``RecyclingExecutor`` there.

    >>> RecycleAbove("300MiB")
    RecycleAbove(314572800)
    """

    max_bytes: int

    def __new__(cls, max_bytes: str | int) -> Self:
        """A limit of so many bytes; raises ValueError for none."""
        self = super().__new__(cls, sys.maxsize)
        self.max_bytes = _above_zero(max_bytes)
        return self

    def __reduce__(self) -> tuple[type[RecycleAbove], tuple[int]]:
        return type(self), (self.max_bytes,)

    def _reached(self, done: int) -> bool:
        return done > 0 and private_bytes(os.getpid()) > self.max_bytes

    # `done < limit` and `done >= limit` ask the right-hand side first, since its class is a subclass of the left's.
    def __gt__(self, done: int) -> bool:
        return not self._reached(done)

    def __le__(self, done: int) -> bool:
        return self._reached(done)

    def __repr__(self) -> str:
        return f"RecycleAbove({self.max_bytes})"

    def __hash__(self) -> int:
        return int.__hash__(self)


class _Task:
    """A call that waits for a pool."""

    __slots__ = ("args", "fn", "future", "kwargs")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.future: Future[Any] = Future()


class RecyclingExecutor(Executor):
    """A ``ProcessPoolExecutor`` whose workers are replaced once one of them has grown above ``max_worker_bytes``.

    After each task its worker tells its size. When that is too large the whole set is replaced: tasks under way
    finish in the old set, those that wait go to a new one, and the old workers end when they are idle. No task is
    lost or run twice; until the last old one is over both sets are there. Only public parts of ``ProcessPoolExecutor``
    are used, whose arguments it takes; ``max_tasks_per_child`` hangs in Python 3.11 to 3.13
    (python/cpython#115634). As there, workers are spawned unless an ``mp_context`` says otherwise; with a fork context
    it forks while threads run, as ``multiprocessing.Pool`` does.

    Raises:
        ValueError: a size of 0 or no amount of memory.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_worker_bytes: str | int,
    ) -> None:
        self.max_worker_bytes: int = _above_zero(max_worker_bytes)
        context = mp_context or multiprocessing.get_context("spawn")
        self._make: Callable[[], ProcessPoolExecutor] = lambda: ProcessPoolExecutor(
            max_workers=max_workers, mp_context=context, initializer=initializer, initargs=initargs
        )
        self._pool = self._make()
        self._most = _READY * (max_workers or os.cpu_count() or 1)
        self._waiting: deque[_Task] = deque()
        self._running = 0
        self._changed = threading.Condition(threading.RLock())
        self._closing = False
        self.recycled: int = 0
        """How often the workers were replaced."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call; its future."""
        task = _Task(fn, args, kwargs)
        with self._changed:
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(task)
        self._feed()
        return task.future

    def _feed(self) -> None:
        """Hand waiting tasks on while a worker is free for them."""
        while (handed := self._hand_on()) is not None:
            task, pool, inner = handed
            inner.add_done_callback(functools.partial(self._done, task, pool))

    def _hand_on(self) -> tuple[_Task, ProcessPoolExecutor, Future[Any]] | None:
        with self._changed:
            while self._waiting and self._running < self._most:
                task = self._waiting.popleft()
                if not task.future.set_running_or_notify_cancel():
                    continue
                try:
                    inner = self._pool.submit(_measured, task.fn, task.args, task.kwargs)
                except Exception as error:  # noqa: BLE001 - a broken pool, an interpreter that is ending
                    task.future.set_exception(error)
                    continue
                self._running += 1
                return task, self._pool, inner
            self._changed.notify_all()
        return None

    def _done(self, task: _Task, pool: ProcessPoolExecutor, inner: Future[Any]) -> None:
        error, size = inner.exception(), 0
        if error is not None:
            task.future.set_exception(error)
        else:
            result, size = inner.result()
            task.future.set_result(result)
        with self._changed:
            self._running -= 1
            replace = size > self.max_worker_bytes and pool is self._pool
            if replace:
                self._pool = self._make()
                self.recycled += 1
        if replace:
            pool.shutdown(wait=False)
        self._feed()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's own
        """End the workers once all scheduled calls are done, or (``cancel_futures``) those under way; see Executor."""
        with self._changed:
            self._closing = True
            if cancel_futures:
                while self._waiting:
                    self._waiting.pop().future.cancel()
            if wait:
                self._changed.wait_for(lambda: not self._waiting and not self._running)
            idle, pool = not self._waiting and not self._running, self._pool
        if idle:
            pool.shutdown(wait=wait)
        else:
            threading.Thread(target=self.shutdown, name="memguard-recycle").start()


def _measured(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[T, int]:
    """In the worker: the result, and how large the worker is after it."""
    result = fn(*args, **kwargs)
    return result, private_bytes(os.getpid())


def _above_zero(max_bytes: str | int) -> int:
    count = parse_bytes(max_bytes)
    if count == 0:
        raise ValueError(f"workers above {max_bytes!r} are replaced: every worker is; give the size of one too large")
    return count
