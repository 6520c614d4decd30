"""Pools: agents under a cap and under the memory limit, held while they run, retired when they are idle."""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import MutableMapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

from memguard.agents.door import Door, Lease
from memguard.agents.floor import Floor
from memguard.agents.room import Room
from memguard.agents.rows import PoolStats, Resized
from memguard.agents.seats import current_owner, weakly
from memguard.agents.shedding import Shedder
from memguard.sizing import bytes_of, entry_bytes
from memguard.threads import start_thread
from memguard.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from memguard.agents.rows import AgentRow
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.roster import Handle, Roster
    from memguard.rules import Rules

__all__ = ["Pool", "PoolStats", "Resized"]

T = TypeVar("T")

_floors: weakref.WeakSet[Floor[Any]] = weakref.WeakSet()
_hooked: list[bool] = []


class Pool(MutableMapping[str, T]):
    """Agents by id, at most ``max_size``, and never more than fit below the CRITICAL rung.

    ``create`` and ``acquire`` hand an agent out and hold it for the caller: it runs, and is never evicted. ``release``
    makes it idle: kept for the next ``acquire``, the first to go under pressure. ``lease`` does both around a block.
    As a mapping it puts agents in idle, looks them up and takes them out. All of it is safe between threads and tasks.

    Args:
        name: how reports call it.
        rules: the guard's rules: the default cap, the CRITICAL rung.
        snapshot: tells the guard's last snapshot.
        used_bytes: tells what is used now, by the measure that the limit is compared with.
        max_size: how many agents there may be; None: the rule ``pool_max_size``.
        on_retire: called with id and agent before an idle agent goes, to save its state; if it raises, the agent stays.
            It may be ``async``: then it runs on the event loop that the agent was last held on.
        max_idle_s: an agent that has been idle for longer is retired without pressure, too.
        cost_bytes: what one agent takes at least; measured if you do not say.
        replace_idle: whether idle ones go for new ones; None: if ``on_retire`` can save them, or a factory made them.
        roster: where it signs up as a holder.
        clock: monotonic seconds.
        farewell: is told of each agent that was retired; must not raise.

    Raises:
        TypeError: a name that is no text, a hook that cannot be called, a size that is no int.
        ValueError: a blank name, a negative size.
    """

    def __init__(  # noqa: PLR0913 - options, most with a default
        self,
        name: str,
        *,
        rules: Rules,
        snapshot: Callable[[], Snapshot],
        used_bytes: Callable[[], int],
        max_size: int | None = None,
        on_retire: Callable[[str, T], object] | None = None,
        max_idle_s: str | float | None = None,
        cost_bytes: str | int = 0,
        replace_idle: bool | None = None,
        roster: Roster | None = None,
        clock: Clock = monotonic,
        farewell: Callable[[T], object] | None = None,
    ) -> None:
        _check(name, on_retire)
        self._floor: Floor[T] = Floor(
            name,
            max_size=_size(name, rules.pool_max_size if max_size is None else max_size),
            room=Room(rules=rules, snapshot=snapshot, used_bytes=used_bytes, cost_bytes=parse_bytes(cost_bytes)),
            clock=clock,
            on_retire=on_retire,
            replace=True if replace_idle is None and on_retire is not None else replace_idle,
        )
        self._floor.farewell = farewell
        self._max_idle_s = None if max_idle_s is None else parse_seconds(max_idle_s)
        self._door: Door[T] = Door(self._floor)
        self._sweeping, self._weighed = False, 0
        self._handle: Handle | None = None
        if roster is not None:
            self._handle = roster.add(Shedder(self._floor, rules=rules, tend=self.tend), held=self)
            self._floor.name = self._handle.name
        _floors.add(self._floor)
        if not _hooked and hasattr(os, "register_at_fork"):
            _hooked.append(True)
            os.register_at_fork(after_in_child=_in_child)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    # --- holding ------------------------------------------------------------------------------------------------------

    def create(
        self,
        id: str,  # noqa: A002 - the public name
        factory: Callable[[], T],
        *,
        owner: object = None,
        wait_s: str | float = 0.0,
    ) -> T:
        """Make a new agent and hold it: ``release`` it when its work is done.

        ``owner`` says whose it is (a task, a thread, any object): when that has ended and nobody holds the agent, it is
        an orphan. ``wait_s`` waits for a place, first in first out; on an event loop use ``create_async`` or ``lease``.

        Raises:
            ValueError: there is an agent of that id.
            PoolFull: no place, or no memory, within that time; with ``retry_after_s``.
        """
        return cast("T", self._door.enter(self._door.visit(id, factory, owner=owner, fresh=True), wait_s).agent)

    def acquire(
        self,
        id: str,  # noqa: A002 - as in create
        factory: Callable[[], T] | None = None,
        *,
        owner: object = None,
        wait_s: str | float = 0.0,
    ) -> T:
        """Hold the agent of that id, made by ``factory`` if it is not there; as ``create`` otherwise.

        Raises:
            KeyError: it is not there, and there is no factory.
            PoolFull: as ``create``.
        """
        return cast("T", self._door.enter(self._door.visit(id, factory, owner=owner), wait_s).agent)

    async def create_async(
        self,
        id: str,  # noqa: A002 - as in create
        factory: Callable[[], T | Awaitable[T]],
        *,
        owner: object = None,
        wait_s: str | float = 0.0,
    ) -> T:
        """``create``, without stopping the event loop; the factory may be ``async``."""
        visit = self._door.visit(id, factory, owner=owner, fresh=True)
        return cast("T", (await self._door.enter_async(visit, wait_s)).agent)

    async def acquire_async(
        self,
        id: str,  # noqa: A002 - as in create
        factory: Callable[[], T | Awaitable[T]] | None = None,
        *,
        owner: object = None,
        wait_s: str | float = 0.0,
    ) -> T:
        """``acquire``, without stopping the event loop; the factory may be ``async``."""
        return cast("T", (await self._door.enter_async(self._door.visit(id, factory, owner=owner), wait_s)).agent)

    def lease(
        self,
        id: str,  # noqa: A002 - as in create
        factory: Callable[[], T | Awaitable[T]] | None = None,
        *,
        owner: object = None,
        wait_s: str | float = 0.0,
    ) -> Lease[T]:
        """``acquire`` and ``release`` around a block: ``with`` or ``async with pool.lease("a7", Agent) as agent``."""
        return Lease(self._floor, self._door, lambda: self._door.visit(id, factory, owner=owner), parse_seconds(wait_s))

    def release(self, id: str) -> None:  # noqa: A002 - as in create
        """Give one hold up; the last one makes the agent idle, or retires it when the pool has become smaller.

        An agent that is no longer there is nobody's to release: nothing happens.

        Raises:
            RuntimeError: nobody holds it.
        """
        if seat := self._floor.seats.get(id):
            self._floor.let_go(seat, current_owner())

    def own(self, id: str, owner: object) -> None:  # noqa: A002 - as in create
        """Say whose an agent is from now on; None: nobody's, so that it is an orphan as soon as nobody holds it.

        Raises:
            KeyError: there is no such agent.
            TypeError: nobody could tell when that owner ends.
        """
        self._floor.seats[id].owner = None if owner is None else weakly(owner, self.name)

    # --- as a mapping -------------------------------------------------------------------------------------------------

    def __getitem__(self, id: str) -> T:  # noqa: A002 - as in create
        """The agent of that id, not held; to look at it counts as use."""
        return cast("T", self._floor.look_up(id).agent)

    def __setitem__(self, id: str, agent: T) -> None:  # noqa: A002 - as in create
        """Put an agent in, idle; one that was there under that id goes for it, whoever holds it.

        Raises:
            PoolFull: no place, or no memory, for one more.
        """
        while not self._floor.exchange(id, agent, entry_bytes(id, agent)):
            with suppress(ValueError):  # another thread has just put one in
                self._door.enter(self._door.visit(id, lambda: agent, fresh=True, hold=False), 0.0)
                return

    def __delitem__(self, id: str) -> None:  # noqa: A002 - as in create
        """Take an agent out at its user's word, running or not; no hook is called."""
        self._floor.remove(id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._floor.seated())

    def __len__(self) -> int:
        return len(self._floor.seated())

    def __contains__(self, id: object) -> bool:  # noqa: A002 - as in create
        return id in self._floor.seated()

    # --- shrinking ----------------------------------------------------------------------------------------------------

    def resize(self, max_size: int) -> Resized:
        """Change the cap while the pool is at work.

        Idle agents above it are retired at once. Running ones run on, and are retired as they are released; until then
        nobody else comes in. 0 lets nobody in, and empties the pool as its agents end.

        Raises:
            TypeError, ValueError: no whole number of 0 or more; the cap is as before.
        """
        floor = self._floor
        floor.max_size = wanted = _size(self.name, max_size)
        picked = floor.pick_surplus(all_=True)
        gone = floor.retire(picked)
        kept = tuple(seat.id for seat in picked if seat.state not in {"gone", "retiring"})
        leaving = tuple(seat.id for seat in picked if seat.state == "retiring")
        with floor.lock:
            floor.line.ring_all()
            above = max(0, len(floor.seats) - wanted - len(kept) - len(leaving))
        return Resized(max_size=wanted, retired=tuple(gone), running_above=above, kept=kept, leaving=leaving)

    def retire(self, id: str) -> bool:  # noqa: A002 - as in create
        """Retire one agent now, with its hook, if it is idle or an orphan; whether it went.

        Raises:
            KeyError: there is no such agent.
        """
        return bool(self._floor.retire(self._floor.pick([self._floor.seats[id]])))

    def retire_idle(self, *, idle_s: str | float = 0.0) -> tuple[str, ...]:
        """Retire every agent that has been idle for so long; their ids."""
        longer = parse_seconds(idle_s)
        return tuple(self._floor.retire(self._floor.pick_cheapest(lambda _count, _bytes: False, idle_s=longer)))

    def orphans(self) -> tuple[AgentRow, ...]:
        """Agents that nobody is left to use: who held them, or whose they were, has ended."""
        return tuple(row for row in self.agents() if row.orphan)

    def retire_orphans(self) -> tuple[str, ...]:
        """Retire all orphans, with their hook; their ids."""
        found = [seat for seat in tuple(self._floor.seats.values()) if seat.orphaned()]
        return tuple(self._floor.retire(self._floor.pick(found)))

    def close(self) -> None:
        """Let nobody in any more, refuse those who wait, retire the idle ones, and leave the guard; twice is fine."""
        self._floor.closed = True
        self.resize(0)
        if self._handle is not None:
            self._handle.close()

    def tend(self) -> None:
        """Look after itself, in well under a millisecond; the guard calls it about once a second."""
        floor = self._floor
        floor.find_orphans()
        for seat in tuple(floor.seats.values()):
            floor.recover(seat)
        with floor.lock:
            floor.line.ring()
            idle = [seat for seat in floor.seats.values() if seat.state == "idle"]
        if not idle:
            return
        self._weighed = (self._weighed + 1) % len(idle)
        floor.weigh(seat := idle[self._weighed], bytes_of(seat.agent))
        longest_s = self._max_idle_s
        stale = longest_s is not None and any(floor.clock() - known.touched_at > longest_s for known in idle)
        if (stale or len(floor.seats) > floor.max_size) and not self._sweeping:
            self._sweeping = True
            try:
                start_thread(self._sweep, "memguard-pool")  # a hook may take its time
            except RuntimeError:  # no thread to be had: the next look tries again
                self._sweeping = False

    def _sweep(self) -> None:
        try:
            self._floor.retire(self._floor.pick_surplus())
            if self._max_idle_s is not None:
                self.retire_idle(idle_s=self._max_idle_s)
        finally:
            self._sweeping = False

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """How reports call it; unique in its roster."""
        return self._floor.name

    @property
    def max_size(self) -> int:
        """The cap."""
        return self._floor.max_size

    @property
    def bytes(self) -> int:
        """Accounted bytes of all agents."""
        return self._floor.all_bytes()

    @property
    def cost_bytes(self) -> int:
        """What one more agent takes, as measured so far; 0 while nothing is known."""
        return self._floor.cost_bytes()

    def fits(self) -> int | None:
        """How many more agents fit below the CRITICAL rung now, whatever the cap; None: no limit, or no agent known."""
        left, cost = self._floor.room.left_bytes(), self._floor.cost_bytes()
        return None if left is None or not cost else max(0, left // cost - self._floor.building)

    def agents(self) -> tuple[AgentRow, ...]:
        """Every agent as it stands, the heaviest first."""
        now, floor = self._floor.clock(), self._floor
        rows = [seat.row(now, floor.room.typical_bytes) for seat in tuple(floor.seats.values())]
        return tuple(sorted(rows, key=lambda row: -row.bytes))

    def stats(self) -> PoolStats:
        """The pool as it stands."""
        floor, rows = self._floor, self.agents()
        states = Counter(row.state for row in rows)
        floor.find_orphans()
        return PoolStats(
            name=self.name,
            size=states["idle"] + states["running"],
            max_size=floor.max_size,
            running=states["running"],
            idle=states["idle"],
            building=states["building"],
            retiring=states["retiring"],
            orphans=sum(row.orphan for row in rows),
            waiting=len(floor.line),
            oldest_idle_s=max((row.idle_s for row in rows), default=0.0),
            bytes=floor.all_bytes(),
            idle_bytes=floor.idle_bytes,
            cost_bytes=floor.cost_bytes(),
            fits=self.fits(),
            created=floor.counts.created,
            retired=floor.counts.retired,
            finished=floor.counts.finished,
            refused=floor.counts.refused,
            orphaned=floor.counts.orphaned,
            failed=floor.counts.failed,
            unborn=floor.counts.unborn,
            last_error=floor.last_error,
        )

    def __repr__(self) -> str:
        return f"<Pool {self.name!r} {len(self)} of {self.max_size}, {self._floor.idle} idle>"


def _check(name: object, on_retire: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a pool's name must be text, not {name!r}: write pool('agents')")
    if not name.strip():
        raise ValueError("a pool's name is blank: reports need one, write pool('agents')")
    if on_retire is not None and not callable(on_retire):
        raise TypeError(f"pool {name!r}: on_retire={on_retire!r} is no function: give one of id and agent")


def _size(name: str, max_size: object) -> int:
    if isinstance(max_size, bool) or not isinstance(max_size, int):
        raise TypeError(f"pool {name!r}: max_size={max_size!r} is no whole number: write max_size=100")
    if max_size < 0:
        raise ValueError(f"pool {name!r}: max_size={max_size} is negative: 0 lets nobody in, 1 or more is a cap")
    return max_size


def _in_child() -> None:
    for floor in tuple(_floors):
        floor.forget()
