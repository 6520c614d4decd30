"""The floor of a pool: its seats under one lock, who may come in, who has to go."""

from __future__ import annotations

from _thread import RLock
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

from memguard.agents.seating import Seating
from memguard.agents.seats import Seat, cheapest, ended
from memguard.agents.waiting import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.agents.seats import Owner
    from memguard.agents.visit import Visit
    from memguard.agents.waiting import Waiter

__all__ = ["Floor"]

T = TypeVar("T")

# An agent whose hook failed is kept so long before the next try, doubled each time.
_KEEP_S: Final = 1.0
_KEEP_AT_MOST_S: Final = 60.0
# For one agent, a thread waits at most so long for an async hook.
_SAVE_S: Final = 30.0


class Floor(Seating[T]):
    """The seats of a pool. Every public method takes the lock; hooks and destructors run outside of it."""

    lock: RLock
    line: Line
    building: int
    held_bytes: int
    last_error: str

    def forget(self) -> None:
        """In a forked child: whoever held locks, waited, made agents or let them go is gone."""
        self.lock, self.line = RLock(), Line()
        for seat in tuple(self.seats.values()):
            seat.loop = seat.later = None
            if seat.state == "retiring":
                self._stay(seat)
            elif seat.state == "building" and all(ended(hold) for hold in seat.holds):
                self.building -= 1
                self._out(seat)

    # --- coming in ----------------------------------------------------------------------------------------------------

    def claim(self, visit: Visit[T]) -> Seat[T] | None:
        """The seat of the agent, held, or a new one to be built; None: not now, and the visit knows why.

        A visit that ``waits`` is rung when it may be otherwise.

        Raises:
            KeyError: there is no such agent, and nothing to make it by.
            ValueError: there is one, and a new one was wanted.
            RuntimeError: its own factory asks for it.
        """
        with self.lock:
            visit.why, visit.busy, visit.victim = "", None, None
            seat = self.seats.get(visit.id)
            if seat is None:
                return self._enter(visit)
            self.recover(seat)
            if seat.state in {"building", "retiring"}:
                self._meet(visit, seat)
                return None
            if visit.fresh:
                raise ValueError(f"pool {self.name!r} has an agent {visit.id!r}: acquire() it, or del it first")
            self._move(seat, "running")
            seat.holds.append(visit.me)
            seat.loop = visit.loop or seat.loop
            return seat

    def _meet(self, visit: Visit[T], seat: Seat[T]) -> None:
        """The agent is just being made, or leaving: whoever waits is rung when that is over."""
        if seat.state == "building" and visit.me in seat.holds:
            raise RuntimeError(f"the factory of agent {visit.id!r} asks pool {self.name!r} for that very agent")
        visit.busy = seat
        if visit.waits and visit.waiter not in seat.waiting:
            seat.waiting.append(visit.waiter)

    def _enter(self, visit: Visit[T]) -> Seat[T] | None:
        if visit.factory is None:
            raise KeyError(visit.id)
        visit.why = self._obstacle(visit)
        if visit.why:
            if visit.waits:
                self.line.join(visit.waiter)
            return None
        seat = Seat[T](visit.id, at=self.clock())
        seat.holds.append(visit.me)
        seat.loop = visit.loop
        if visit.owner is not None:
            seat.owner = visit.owner
        self.seats[visit.id] = seat
        self.building += 1
        self.line.leave(visit.waiter)
        return seat

    def leave(self, visit: Visit[T]) -> None:
        """Wait no longer."""
        with self.lock:
            self.line.leave(visit.waiter)
            if visit.busy is not None and visit.waiter in visit.busy.waiting:
                visit.busy.waiting.remove(visit.waiter)

    def _obstacle(self, visit: Visit[T]) -> str:
        """Why nobody may come in now, "" when the visit may; an idle agent that has to go for it is its victim."""
        if self.closed:
            return "it is closed"
        if self.room.shut():
            return "memory cannot be read, and the rules say CRITICAL for that case"
        if not self.line.lets(visit.waiter):
            return f"{len(self.line)} wait already"
        over = len(self.seats) - self._swaps + 1 - self.max_size
        # An empty pool takes one in any gap: what it measures may be out of date.
        cost = self.cost_bytes() if self.seats else 0
        short = self.room.short_bytes(cost, before=self.building - self._swaps)
        if over <= 0 and short <= 0:
            return ""
        if over <= 1:
            may_go = (seat for seat in self.seats.values() if (seat.made if self._replace is None else self._replace))
            victim = next(iter(cheapest(may_go, self.clock(), self.room.typical_bytes)), None)
            if victim is not None and short <= self.weight(victim):
                self._move(victim, "retiring")
                self._swap(victim, 1)
                visit.victim = victim
                return ""
        return self._full(visit.waiter) if over > 0 else self.room.tight(cost)

    def _full(self, waiter: Waiter) -> str:
        if not self.max_size:
            return f"it lets nobody in (max_size=0, {len(self.seats)} still there): resize() it"
        orphans = sum(seat.orphaned() for seat in self.seats.values())
        kept = f"{self.idle} idle and kept" if self.idle else "none idle"
        lost = f", {orphans} orphaned: retire_orphans()" if orphans else ""
        others = len(self.line) - (waiter in self.line)
        wait = f", {others} wait" if others else ""
        return f"{len(self.seats)} of {self.max_size} places are taken, {kept}{lost}{wait}"

    def born(  # noqa: PLR0913 - what there is to know about a birth
        self, seat: Seat[T], agent: T, *, hold: bool, bytes_: int, made_s: float, grown_bytes: int | None
    ) -> None:
        """Seat an agent that was made."""
        with self.lock:
            self.building -= 1
            self.counts.created += 1
            if grown_bytes is not None:
                self.room.grew(grown_bytes)
            seat.agent, seat.bytes, seat.made_s = agent, bytes_, made_s
            seat.at = seat.touched_at = self.clock()
            self.held_bytes += bytes_
            seat.made = hold
            if not hold:
                seat.holds.clear()
            self._move(seat, "running" if hold else "idle")
            seat.ring()

    def unmake(self, seat: Seat[T], *, failed: bool, victim: Seat[T] | None = None) -> None:
        """Give a seat up whose agent could not be made, or for which its ``victim`` does not go, or not yet."""
        with self.lock:
            if victim is not None:
                self._swap(victim, -1)
            self.building -= 1
            self.counts.unborn += failed
            self._out(seat)

    # --- as a mapping -------------------------------------------------------------------------------------------------

    def look_up(self, id_: str) -> Seat[T]:
        """The seat of an agent that is there; looking at it is a use.

        Raises:
            KeyError: there is none, or it is just being made, or leaving.
        """
        seat = self.seats[id_]
        if seat.state not in {"idle", "running"}:
            raise KeyError(id_)
        seat.touched_at = self.clock()
        return seat

    def seated(self) -> list[str]:
        """The ids of those who are there, oldest first."""
        return [seat.id for seat in tuple(self.seats.values()) if seat.state in {"idle", "running"}]

    def exchange(self, id_: str, agent: T, bytes_: int) -> bool:
        """Put another agent in the place of one that is there; False: there is none."""
        with self.lock:
            seat = self.seats.get(id_)
            if seat is None or seat.state not in {"idle", "running"}:
                return False
            new = Seat[T](id_, at=self.clock())
            new.agent, new.bytes, new.made_s, new.owner = agent, bytes_, seat.made_s, seat.owner
            new.loop = seat.loop
            self.counts.finished += 1
            self.counts.created += 1
            self._out(seat)
            self.seats[id_] = new
            self.held_bytes += bytes_
            self._move(new, "idle")
        return True

    # --- going --------------------------------------------------------------------------------------------------------

    def let_go(self, seat: Seat[T], hold: Owner) -> None:
        """Give one hold up; without another one the agent is idle, or goes, when the pool has become smaller.

        Raises:
            RuntimeError: nobody holds it.
        """
        with self.lock:
            if self.seats.get(seat.id) is not seat:
                return  # it was removed while held
            if not seat.holds:
                raise RuntimeError(f"agent {seat.id!r} of pool {self.name!r} is not held: release() follows acquire()")
            with suppress(ValueError):
                seat.holds.remove(hold if hold in seat.holds else seat.holds[-1])
            seat.touched_at = self.clock()
            if seat.holds or seat.state != "running":
                return
            surplus = len(self.seats) - self._swaps > self.max_size
            self._move(seat, "retiring" if surplus else "idle")
            if not surplus:
                self._freed()
        if surplus:
            self.retire([seat])

    def remove(self, id_: str) -> Seat[T]:
        """Take an agent out at its user's word, running or not.

        Raises:
            KeyError: there is none of that id.
        """
        with self.lock:
            seat = self.seats.get(id_)
            if seat is None or seat.state == "building":
                raise KeyError(id_)
            self.counts.finished += 1
            self._out(seat)
            return seat

    def pick(self, seats: Iterable[Seat[T]]) -> list[Seat[T]]:
        """Mark those of the seats that may go as going; whoever picked them has to ``retire`` them."""
        with self.lock:
            picked = [seat for seat in seats if seat.state == "idle" or (seat.state == "running" and seat.orphaned())]
            for seat in picked:
                self._move(seat, "retiring")
            return picked

    def pick_cheapest(
        self, enough: Callable[[int, int], bool], *, idle_s: float = 0.0, all_: bool = False
    ) -> list[Seat[T]]:
        """Mark idle agents as going, the cheapest first, until ``enough(count, bytes)``."""
        with self.lock:
            now, count, bytes_ = self.clock(), 0, 0
            picked: list[Seat[T]] = []
            for seat in cheapest(self.seats.values(), now, self.room.typical_bytes, all_=all_):
                if enough(count, bytes_):
                    break
                if now - seat.touched_at >= idle_s:
                    count, bytes_ = count + 1, bytes_ + self.weight(seat)
                    picked.append(seat)
            for seat in picked:
                self._move(seat, "retiring")
            return picked

    def pick_surplus(self, *, all_: bool = False) -> list[Seat[T]]:
        """Mark idle agents above the cap as going."""
        return self.pick_cheapest(lambda count, _bytes: len(self.seats) - count <= self.max_size, all_=all_)

    def retire(self, seats: Iterable[Seat[T]], *, within_s: float | None = None) -> list[str]:
        """Call the hook for seats that are marked as going, and let those go for which it did not fail; their ids.

        On an event loop those with an async hook go later, when it has ended. ``within_s``: those who are not done by
        then stay.
        """
        gone: list[str] = []
        left = list(reversed(list(seats)))
        until = inf if within_s is None else monotonic() + within_s
        try:
            while left and (left_s := until - monotonic()) > 0.0:
                failure = self._saver.save(left[-1], partial(self._over, left[-1]), within_s=min(left_s, _SAVE_S))
                seat = left.pop()
                if failure != "later" and self._over(seat, failure):
                    gone.append(seat.id)
        except BaseException:  # the hook was told to end, and so was whoever called it
            for seat in left:
                self._over(seat, RuntimeError("interrupted"))
            raise
        with self.lock:
            for seat in left:
                self._stay(seat)
        return gone

    async def retire_async(self, seat: Seat[T]) -> None:
        """As ``retire``, of one, in a task that can wait for its hook."""
        try:
            failure = await self._saver.save_async(seat)
        except BaseException:
            self._over(seat, RuntimeError("interrupted"))
            raise
        self._over(seat, failure)

    def _over(self, seat: Seat[T], failure: Exception | None) -> bool:
        """The hook has ended: the agent leaves, or stays if that failed; whether it left."""
        with self.lock:
            seat.later = None
            if self.seats.get(seat.id) is not seat:
                return False  # its user removed it meanwhile
            if failure is not None:
                self._keep(seat, failure)
                return False
            self.counts.retired += 1
            self._out(seat)
        agent, seat.agent = seat.agent, None
        if self.farewell is not None and agent is not None:
            self.farewell(agent)
        return True

    def recover(self, seat: Seat[T]) -> None:
        """An agent whose hook was left to an event loop that was closed meanwhile stays."""
        if seat.later is not None and seat.later.is_closed():
            self._over(seat, RuntimeError("its event loop was closed"))

    def _keep(self, seat: Seat[T], failure: BaseException) -> None:
        """Its state could not be saved: it stays, and is left alone for a while."""
        self.counts.failed += 1
        self.last_error = f"on_retire of {seat.id!r} failed: {type(failure).__name__}: {failure}"
        seat.keep_until = self.clock() + min(_KEEP_AT_MOST_S, _KEEP_S * 2.0 ** min(seat.failures, 30))
        seat.failures += 1
        self._stay(seat)

    def _stay(self, seat: Seat[T]) -> None:
        self._swap(seat, -1)
        self._move(seat, "running" if seat.holds else "idle")
        seat.ring()
