"""Leaving: how a child of Celery's pool, or a whole worker, makes room for a fresh one without losing a task."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from threading import Condition
from typing import TYPE_CHECKING, Any, Final

from billiard import current_process
from billiard.pool import EX_RECYCLE, Worker
from celery.worker import state

from memguard.servers import Way, find_way
from memguard.units import KIB, format_bytes

if TYPE_CHECKING:
    from memguard.rules import Rules

__all__ = ["GREEN", "PoolChild", "WholeWorker", "pool_child"]

GREEN: Final = frozenset({"eventlet", "gevent"})
"""Pools whose tasks share one thread of the operating system."""

# How long a child waits for a task before it looks whether it should go; billiard's own receive looks as often.
_LOOK_S: Final = 1.0


class PoolChild(Way):
    """A child of a prefork pool: between two tasks it ends as billiard's own limits end it, by EX_RECYCLE.

    ``worker`` is billiard's ``Worker``. What it waits for a task with is wrapped, which has to be done before its loop
    begins: in ``worker_process_init``. A task that was sent to a child and not taken is given to another by Celery.
    """

    shared = True
    drains = True
    tells_close = True
    patient = True
    last_code: int = EX_RECYCLE

    def __init__(self, worker: Any) -> None:  # noqa: ANN401 - billiard has no types
        words, limit_kib = "a child of celery's pool: its main process forks a new one", worker.max_memory_per_child
        if limit_kib:
            shown = format_bytes(int(limit_kib) * KIB)
            words += f"; beside that worker_max_memory_per_child ends it once its peak was above {shown}"
        super().__init__(words)
        self._receive = worker.wait_for_job
        self._poll = worker.inq._reader.poll  # noqa: SLF001 - the pipe has no other name
        # Brokers without an event loop (filesystem, SQLAlchemy) have one pipe for all children, and a lock around it.
        # We hold it while we look and while billiard reads, so it must not take it again.
        self._lock = getattr(worker.inq, "_rlock", None)
        if self._lock is not None:
            worker.inq._rlock = nullcontext()  # noqa: SLF001 - as above
        worker.wait_for_job = self._next
        self._turn = Condition()
        self._busy = True  # until its loop has begun
        self._halted = self._ending = False

    # --- the main thread, between tasks ---------------------------------------------------------------------------

    def _next(self, *args: object, **options: object) -> Any:  # noqa: ANN401 - a job, as billiard packs it
        """The next task; does not return when this child ends, which is never with one in its hands."""
        with self._turn:
            self._busy = False
            self._turn.notify_all()
        while True:
            with self._turn:
                while self._halted and not self._ending:
                    self._turn.wait(_LOOK_S)
                if self._ending:
                    break
            lock = self._lock
            if lock is not None and not lock.acquire(True, _LOOK_S):  # noqa: FBT003 - billiard's own signature
                continue
            try:
                if self._poll(_LOOK_S) and self._begin():
                    return self._receive(*args, **options)
            finally:
                if lock is not None:
                    lock.release()
        return sys.exit(EX_RECYCLE)  # billiard has put its own there, which notes the code

    def _begin(self) -> bool:
        with self._turn:
            self._busy = not self._halted
            return self._busy

    # --- the hand-over's thread -----------------------------------------------------------------------------------

    def halt(self) -> None:
        """Take no more tasks, and wait for the end of the one under way, however long it takes."""
        with self._turn:
            self._halted = True
            while self._busy:
                self._turn.wait()

    def resume(self) -> None:
        """Take tasks again."""
        with self._turn:
            self._halted = False
            self._turn.notify_all()

    def leave(self) -> None:
        """Let the main thread end."""
        with self._turn:
            self._ending = True
            self._turn.notify_all()


class WholeWorker(Way):
    """A worker whose tasks run in its own process (``--pool solo``, ``threads``), or a pool's main process.

    It ends by Celery's warm shutdown, with the exit code that says that a new start is wanted; who starts it is whoever
    started this one, as for any plain process.
    """

    patient = True

    def __init__(self, rules: Rules, pool: str) -> None:
        plain, name = find_way(rules), f"celery worker ({pool} pool)"
        super().__init__(plain.words.replace("a plain process", name, 1))
        self.hindrance: str = plain.hindrance.replace("a plain process", name, 1)
        if pool in GREEN:
            self.hindrance = f"a {pool} pool does not end reliably when it is asked to, as far as we have seen"
        self._code = rules.handover_exit_code

    def leave(self) -> None:
        """Ask for a warm shutdown: no more tasks, and those under way finish."""
        state.should_stop = self._code


def pool_child() -> Way | None:
    """The way of this process if it is a child of a prefork pool; None if it is none."""
    worker = getattr(current_process(), "_target", None)
    if not isinstance(worker, Worker):
        return None
    try:
        return PoolChild(worker)
    except AttributeError as error:
        way = Way("a child of celery's pool")
        way.hindrance = f"this billiard's children wait for tasks in a way that is not known here ({error})"
        return way
