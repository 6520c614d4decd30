"""The waiting room: work that does not fit now waits for room, in the order that ``_core.queueing`` says."""

from __future__ import annotations

from contextlib import suppress

from memguard._core.queueing import RANKS, Line, Waiter
from memguard.threads import Bell, new_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from memguard.admission.tickets import Ticket
    from memguard.ports import Clock

__all__ = ["WaitingRoom"]

# Attempts to let somebody in at one ring: the next comes with the next close or look.
_TRIES = 16
# Whoever can't get out of the line in so long is taken out of it at the next ring.
_LEAVE_S = 0.05


class WaitingRoom:
    """Who waits at a gate. Those let in are admitted by whoever made room, in order; nobody scrambles."""

    def __init__(self, *, clock: Clock, enter: Callable[[Ticket], bool]) -> None:
        self._clock = clock
        self._enter = enter
        self._line = Line()
        self._lock = new_lock()

    def __len__(self) -> int:
        return len(self._line)

    def wait(self, ticket: Ticket, *, owner: Hashable, wait_s: float) -> bool:
        """Block this thread until the ticket is let in, or its time is over; whether it was let in."""
        bell, admitted = Bell(), False
        waiting = self._join(ticket, owner=owner, wait_s=wait_s, ring=bell.ring)
        if waiting is None:
            return False
        try:
            while waiting.admitted is None and (left_s := waiting.deadline - self._clock()) > 0.0:
                if bell.wait(left_s):
                    break
            admitted = self._leave(waiting, try_again=True)
        finally:
            if not admitted and self._leave(waiting, try_again=False):  # interrupted in the moment it was let in
                ticket.close("abandoned")
        return admitted

    async def wait_async(self, ticket: Ticket, *, owner: Hashable, wait_s: float) -> bool:
        """As ``wait``, on an event loop and without blocking it."""
        import asyncio  # noqa: PLC0415 - 11 MB that a service without asyncio need not pay

        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        ring = lambda: _call(loop.call_soon_threadsafe, woken.set)  # noqa: E731 - what the room rings
        waiting = self._join(ticket, owner=owner, wait_s=wait_s, ring=ring)
        if waiting is None:
            return False
        admitted = False
        try:
            with suppress(TimeoutError):  # wait_for of 3.11 swallows a cancellation that meets the ring
                async with asyncio.timeout(max(0.0, waiting.deadline - self._clock())):
                    await woken.wait()
            admitted = self._leave(waiting, try_again=True)
        finally:
            if not admitted and self._leave(waiting, try_again=False):  # cancelled in the moment it was let in
                ticket.close("abandoned")
        return admitted

    def _join(self, ticket: Ticket, *, owner: Hashable, wait_s: float, ring: Callable[[], None]) -> Waiter | None:
        """Wait for at most ``wait_s``; ``ring`` is called once the answer is there. None: that would be in vain."""
        now = self._clock()
        rank = RANKS.index(ticket.priority)
        waiting = Waiter(ticket, rank=rank, owner=owner, since=now, deadline=now + wait_s, ring=ring)
        with self._lock:
            if not self._line.join(waiting):
                return None
        self.wake()  # room may have come meanwhile
        return waiting

    def _leave(self, waiting: Waiter, *, try_again: bool) -> bool:
        """Stop waiting; whether it was let in, or is now that its time is over."""
        waiting.gone = not try_again
        # A waiter that is dropped may go while this very thread is letting people in: it sees then that nobody waits.
        if not self._lock.acquire(timeout=-1.0 if try_again else _LEAVE_S):
            return False
        try:
            if self._line.leave(waiting) and try_again:
                waiting.admitted = self._enter(waiting.ticket)
            return bool(waiting.admitted)
        finally:
            self._lock.release()

    def wake(self) -> None:
        """Let in who fits now, and turn away who would wait in vain."""
        if not self._lock.acquire(blocking=False):  # somebody is at it, perhaps this very thread
            return
        try:
            answered = self._answered(self._clock())
        finally:
            self._lock.release()
        for waiting in answered:
            waiting.ring()

    def _answered(self, now: float) -> list[Waiter]:
        answered = self._line.hopeless(now)
        refused: set[tuple[int, Hashable]] = set()
        for _ in range(_TRIES):
            waiting = self._line.next(now, refused)
            if waiting is None:
                break
            if waiting.gone:
                self._line.leave(waiting)
            elif self._enter(waiting.ticket):
                waiting.admitted = True
                self._line.served(waiting)
                answered.append(waiting)
                if waiting.gone:
                    waiting.ticket.close("abandoned")
            else:
                refused.add((waiting.rank, waiting.owner))
        return answered


def _call(function: Callable[[Callable[[], object]], object], argument: Callable[[], object]) -> None:
    try:
        function(argument)
    except RuntimeError:  # the waiter's loop is closed
        return
