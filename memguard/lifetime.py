"""Lifetime: guards that run stop at exit, and start anew in a forked child."""

from __future__ import annotations

import atexit
import os
import threading  # noqa: F401 - its fork hook has to be registered before ours
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Lively(Protocol):
        """Something that runs threads."""

        def stop(self) -> None: ...

        def after_fork(self) -> None: ...


__all__ = ["enrol", "leave"]

_running: weakref.WeakSet[_Lively] = weakref.WeakSet()


def enrol(guard: _Lively) -> None:
    """From now on, stop this one at exit and tell it when it finds itself in a forked child."""
    _running.add(guard)


def leave(guard: _Lively) -> None:
    """It has stopped by itself; leaving twice is fine."""
    _running.discard(guard)


def _in_child() -> None:
    for guard in tuple(_running):
        guard.after_fork()


def _at_exit() -> None:
    for guard in tuple(_running):
        guard.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
