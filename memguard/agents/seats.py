"""Seats: one agent of a pool each, with who holds it, what it weighs and what losing it would cost."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from memguard.agents.rows import AgentRow
from memguard.values import value

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterable

    from memguard.agents.rows import State
    from memguard.agents.waiting import Waiter

__all__ = [
    "Lives",
    "Owner",
    "Seat",
    "cheapest",
    "current_owner",
    "ended",
    "naming",
    "weakly",
]

T = TypeVar("T")
Owner = weakref.ref[Any]

# Below it the time that a factory took says nothing: agents that are alike shall go in the order of their idleness.
_MADE_S: Final = 0.001
_IDLE_S: Final = 0.001


@value(frozen=False, kw_only=False)
class Lives:
    """What has become of a pool's agents so far, as ``PoolStats`` has it."""

    created: int = 0
    retired: int = 0
    finished: int = 0
    refused: int = 0
    orphaned: int = 0
    failed: int = 0
    unborn: int = 0


class Seat(Generic[T]):
    """One agent's place. Not thread-safe: the pool holds a lock.

    ``owner`` is whose agent it is: a weak reference, None when nobody's, "pool" when the pool's own. ``made`` says that
    a factory made it, and can do so again. ``loop`` is the event loop that it was last held on,
    ``later`` the one that its hook is left to.
    """

    __slots__ = (
        "agent", "at", "bytes", "failures", "holds", "id", "keep_until", "later", "loop", "made", "made_s", "orphan",
        "owner", "state", "swapped", "touched_at", "waiting",
    )  # fmt: skip

    def __init__(self, id_: str, *, at: float) -> None:
        self.id: str = id_
        self.agent: T | None = None
        self.state: State = "building"
        self.holds: list[Owner] = []
        self.owner: Owner | Literal["pool"] | None = "pool"
        self.bytes: int = 0
        self.made: bool = False
        self.made_s: float = 0.0
        self.at: float = at
        self.touched_at: float = at
        self.keep_until: float = 0.0
        self.failures: int = 0
        self.loop: AbstractEventLoop | None = None
        self.later: AbstractEventLoop | None = None
        self.orphan: bool = False
        self.swapped: bool = False
        self.waiting: list[Waiter] = []

    def orphaned(self) -> bool:
        """Whether nobody is left to use it: every hold's task or thread has ended, or, held by none, its owner has."""
        if self.state not in {"idle", "running"}:
            return False
        if self.holds:
            return all(ended(hold) for hold in self.holds)
        return self.owner is None or (self.owner != "pool" and ended(self.owner))

    def price(self, at: float, typical: int) -> float:
        """Seconds of making it again that keeping it saves, per byte and second that it has been idle."""
        return max(self.made_s, _MADE_S) / (max(self.bytes, typical, 1) * max(at - self.touched_at, _IDLE_S))

    def ring(self) -> None:
        """Let those who wait for this very agent look again."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            waiter.ring()

    def row(self, at: float, typical: int) -> AgentRow:
        """How it stands."""
        return AgentRow(
            id=self.id, state=self.state, orphan=self.orphaned(), bytes=max(self.bytes, typical), at=self.at,
            idle_s=max(0.0, at - self.touched_at) if self.state == "idle" else 0.0, holds=len(self.holds),
            held_by=tuple(naming(hold) for hold in self.holds),
        )  # fmt: skip


def current_owner() -> Owner:
    """The asyncio task that runs now, or else the thread, held weakly."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented for libraries
        task = asyncio.current_task()
        if task is not None:
            return weakref.ref(task)
    import threading  # noqa: PLC0415 - not needed to import memguard

    return weakref.ref(threading.current_thread())


def weakly(owner: object, pool: str) -> Owner:
    """An owner, held weakly.

    Raises:
        TypeError: it cannot be held weakly, so that nobody could tell when it ends.
    """
    try:
        return weakref.ref(owner)
    except TypeError:
        raise TypeError(
            f"pool {pool!r}: {owner!r} cannot own an agent, since nobody can tell when it ends: give a task, a thread, "
            "or an object that can be held weakly"
        ) from None


def ended(owner: Owner) -> bool:
    """Whether an owner has ended: a task or future is done, a thread or process is over, an object is gone."""
    alive = owner()
    if alive is None:
        return True
    for name, over in (("done", True), ("is_alive", False)):
        ask = getattr(alive, name, None)
        if callable(ask):
            return bool(ask()) is over
    return False


def naming(owner: Owner) -> str:
    """An owner in a word or two."""
    alive = owner()
    if alive is None:
        return "gone"
    get_name = getattr(alive, "get_name", None)
    name = get_name() if callable(get_name) else getattr(alive, "name", "")
    return f"{type(alive).__name__.lstrip('_')} {name}".strip()


def cheapest(seats: Iterable[Seat[T]], at: float, typical: int, *, all_: bool = False) -> list[Seat[T]]:
    """Idle seats in the order in which they go: orphans, then the least price, then the longest idle.

    Those whose hook has just failed are left out, unless ``all_`` are wanted.
    """
    idle = [seat for seat in seats if seat.state == "idle" and (all_ or seat.keep_until <= at)]
    idle.sort(key=lambda seat: (not seat.orphaned(), seat.price(at, typical), seat.touched_at))
    return idle
