"""Lifespan: the guard runs as long as an application that it protects."""

from __future__ import annotations

import weakref
from contextlib import asynccontextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from memguard.ext.fastapi.control import Control
    from memguard.guard import Guard

    Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

__all__ = ["around"]

# How many applications run with a guard that one of them has started; it stops with the last.
_started: weakref.WeakKeyDictionary[Guard, int] = weakref.WeakKeyDictionary()
_lock = Lock()


def around(lifespan: Lifespan, control: Control, *, census: Callable[[], None]) -> Lifespan:
    """The application's own lifespan, inside of the guard's; a guard that ran before runs on after it."""

    @asynccontextmanager
    async def protected(app: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - the framework's
        guard = control.guard
        chronicle = guard.sink(control.chronicle)
        ours = _begin(guard)
        try:
            guard.remember()
            guard.exposition  # noqa: B018 - its counters begin here
            census()
            async with lifespan(app) as state:
                yield state
        finally:
            guard.operations.catch_up()
            if ours:
                _end(guard)
            chronicle.close()

    return protected


def _begin(guard: Guard) -> bool:
    with _lock:
        if guard in _started:
            _started[guard] += 1
            return True
        if guard.running:
            return False
        guard.start()
        _started[guard] = 1
        return True


def _end(guard: Guard) -> None:
    with _lock:
        _started[guard] -= 1
        if _started[guard]:
            return
        del _started[guard]
    guard.stop()
