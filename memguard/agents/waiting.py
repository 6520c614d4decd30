"""Waiting in a line, first in first out: threads and asyncio tasks in the same one."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from memguard.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Line", "TaskWaiter", "Waiter"]


class Waiter:
    """One who waits to be rung; a ring before the wait is kept."""

    __slots__ = ("_bell", "ring")

    def __init__(self) -> None:
        self._bell: Bell | None = None
        self.ring: Callable[[], None] = _unheard

    def block(self) -> None:
        """Make ready to wait in this thread."""
        if self._bell is None:
            self._bell = Bell()
            self.ring = self._bell.ring

    def wait(self, timeout_s: float) -> None:
        """Sleep until rung, at most so long."""
        if self._bell is not None:
            self._bell.wait(timeout_s)


class TaskWaiter(Waiter):
    """One who waits in an asyncio task, and may be rung from any thread."""

    __slots__ = ("_event",)

    def block(self) -> None:
        """Make ready to wait in this task."""
        import asyncio  # noqa: PLC0415 - 11 MB that a service without asyncio need not pay

        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def ring() -> None:
            with suppress(RuntimeError):  # the waiter's loop is closed
                loop.call_soon_threadsafe(event.set)

        self._event = event
        self.ring = ring

    async def wait_async(self, timeout_s: float) -> None:
        """Sleep until rung, at most so long, without stopping the loop."""
        import asyncio  # noqa: PLC0415 - as above

        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # wait_for of 3.11 swallows a cancellation that meets the ring
                await self._event.wait()
        self._event.clear()


def _unheard() -> None:
    """Nobody waits yet."""


class Line:
    """Those who wait for a place, in the order in which they came. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Waiter] = deque()

    def join(self, waiter: Waiter) -> None:
        """Stand at the end; whoever stands already stays where he is."""
        if waiter not in self._waiting:
            self._waiting.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Give the place in the line up, and let the next one look; also by who stands in none."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            self.ring()

    def lets(self, waiter: Waiter) -> bool:
        """Whether it is this one's turn: nobody stands before him."""
        return not self._waiting or self._waiting[0] is waiter

    def ring(self) -> None:
        """Let the first one look whether there is a place."""
        if self._waiting:
            self._waiting[0].ring()

    def ring_all(self) -> None:
        """Let everybody look: something has changed for all."""
        for waiter in self._waiting:
            waiter.ring()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._waiting
