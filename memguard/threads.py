"""Threads, locks and bells of the operating system, even where gevent has replaced Python's own.

A guard on a greenlet would sleep whenever a request computes, which is when it is needed.
"""

from __future__ import annotations

import _thread
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Bell", "Running", "new_lock", "on_event_loop", "start_thread"]

# A lock refuses longer waits than some 292 years, infinity included; whoever waits so long may wake and wait again.
_LONGEST_S = 86400.0


def _native(name: str) -> Any:  # noqa: ANN401 - whatever the module holds under that name
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("_thread"):
        return monkey.get_original("_thread", name)
    return getattr(_thread, name)


def new_lock() -> _thread.LockType:
    """A lock between operating system threads."""
    lock: _thread.LockType = _native("allocate_lock")()
    return lock


def on_event_loop() -> bool:
    """Whether the caller runs on an asyncio loop, which a wait would stop."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented for libraries


class Bell:
    """Wakes one waiting thread; a ring before the wait is kept, several count as one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiter, or the next one."""
        try:
            self._lock.release()
        except RuntimeError:  # rung already
            return

    def wait(self, timeout_s: float) -> bool:
        """Sleep until rung, at most so long; whether it rang."""
        return self._lock.acquire(True, min(timeout_s, _LONGEST_S))  # noqa: FBT003 - positional in C


class Running:
    """A started daemon thread that can be waited for."""

    __slots__ = ("_done", "ident")

    def __init__(self, done: Bell, ident: int) -> None:
        self._done = done
        self.ident: int = ident

    @property
    def own(self) -> bool:
        """Whether the caller is this thread."""
        return bool(_native("get_ident")() == self.ident)

    def join(self, timeout_s: float) -> bool:
        """Wait for its end, at most so long; whether it has ended. Never waits for itself."""
        if self.own:
            return False
        ended = self._done.wait(timeout_s)
        if ended:
            self._done.ring()  # for the next who asks
        return ended


def start_thread(work: Callable[[], None], name: str) -> Running:
    """Start a daemon thread of the operating system.

    Raises:
        RuntimeError: the system has no thread to give.
    """
    done = Bell()

    def run() -> None:
        try:
            work()
        finally:
            done.ring()

    if _native("start_new_thread") is _thread.start_new_thread:
        import threading  # noqa: PLC0415 - not needed to import memguard

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return Running(done, thread.ident or 0)
    return Running(done, _native("start_new_thread")(run, ()))
