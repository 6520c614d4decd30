"""Visits: one attempt each at coming into a pool, its refusal, and how soon a place may be free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from memguard.agents.saving import current_loop
from memguard.agents.seats import current_owner
from memguard.agents.waiting import Waiter
from memguard.errors import PoolFull
from memguard.units import format_seconds

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from memguard.agents.floor import Floor
    from memguard.agents.seats import Owner, Seat

__all__ = ["Turnover", "Visit", "refusal"]

T = TypeVar("T")

# Weight of the newest gap between two places that came free, and the bounds of the hint in refusals.
_LEARN: Final = 0.2
_RETRY_S: Final = (0.1, 60.0)
_NOBODY: Final = Waiter()


class Visit(Generic[T]):
    """One attempt at coming in: for which agent, how to make it, and what stands in the way (``why``, ``busy``).

    ``hold`` keeps it for the caller, ``fresh`` wants a new one, ``waits`` stands in line when there is no place.
    """

    __slots__ = ("busy", "factory", "fresh", "hold", "id", "loop", "me", "owner", "victim", "waiter", "waits", "why")

    def __init__(self, id_: str, factory: Callable[[], Any] | None, *, fresh: bool = False, hold: bool = True) -> None:
        self.id: str = id_
        self.factory: Callable[[], Any] | None = factory
        self.fresh: bool = fresh
        self.hold: bool = hold
        self.owner: Owner | None = None
        self.me: Owner = current_owner()
        self.loop: AbstractEventLoop | None = current_loop()
        self.waiter: Waiter = _NOBODY
        self.waits: bool = False
        self.victim: Seat[T] | None = None
        self.busy: Seat[T] | None = None
        self.why: str = ""


def refusal(floor: Floor[T], visit: Visit[T], more: str = "") -> PoolFull:
    """Count a refusal, and say why with numbers."""
    with floor.lock:
        floor.counts.refused += 1
        busy = visit.busy
        why = visit.why or f"that agent is just {'being made' if busy and busy.state == 'building' else 'leaving'}"
        # A place comes free as others did before; memory, no sooner than a level falls.
        wait_s = floor.turnover.wait_s(len(floor.line)) if len(floor.seats) >= floor.max_size else None
        retry_s = floor.room.retry_s if wait_s is None else wait_s
        level, cost_bytes = floor.room.level.name, floor.cost_bytes()
    text = f"pool {floor.name!r} refused agent {visit.id!r}: {why}; retry in about {format_seconds(retry_s)}{more}"
    refused = PoolFull(text, retry_after_s=retry_s, level=level, wanted_bytes=cost_bytes or None)
    refused.pool = floor.name
    return refused


class Turnover:
    """How often a place comes free: the gaps in between, recent ones first."""

    __slots__ = ("_freed_at", "_gap_s")

    def __init__(self) -> None:
        self._freed_at: float | None = None
        self._gap_s = 0.0

    def freed(self, at: float) -> None:
        """A place has come free."""
        if self._freed_at is not None:
            gap_s = at - self._freed_at
            self._gap_s = self._gap_s + _LEARN * (gap_s - self._gap_s) if self._gap_s else gap_s
        self._freed_at = at

    def wait_s(self, before: int) -> float | None:
        """When a place may be free for who has so many before him; None: nothing is known."""
        least, most = _RETRY_S
        return min(most, max(least, self._gap_s * (before + 1))) if self._gap_s else None
