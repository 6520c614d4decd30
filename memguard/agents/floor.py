"""The floor of a pool: its seats under one lock, who may come in, who has to go."""

from __future__ import annotations

from _thread import RLock
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from memguard.agents.seats import Lives, Seat, cheapest, ended
from memguard.agents.visit import Turnover
from memguard.agents.waiting import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.agents.room import Room
    from memguard.agents.rows import State
    from memguard.agents.seats import Owner
    from memguard.agents.visit import Visit
    from memguard.ports import Clock

__all__ = ["Floor"]

T = TypeVar("T")

# An agent whose hook failed is kept so long before the next try, doubled each time.
_KEEP_S: Final = 1.0
_KEEP_AT_MOST_S: Final = 60.0


class Floor(Generic[T]):
    """The seats of a pool. Every public method takes the lock; hooks and destructors run outside of it."""

    def __init__(  # noqa: PLR0913 - what its pool was told
        self,
        name: str,
        *,
        max_size: int,
        room: Room,
        clock: Clock,
        on_retire: Callable[[str, T], object] | None,
        replace: bool | None,
    ) -> None:
        self.name: str = name
        self.max_size: int = max_size
        self.room: Room = room
        self.clock: Clock = clock
        self.closed: bool = False
        self.seats: dict[str, Seat[T]] = {}
        self.line: Line = Line()
        self.lock: RLock = RLock()  # a destructor or a signal handler may come back in
        self.building: int = 0
        self.idle: int = 0
        self.idle_bytes: int = 0
        self.held_bytes: int = 0
        self.counts: Lives = Lives()
        self.last_error: str = ""
        self._on_retire = on_retire
        self._replace = replace
        self._swaps = 0
        self.turnover: Turnover = Turnover()

    def forget(self) -> None:
        """In a forked child: whoever held locks, waited, made agents or let them go is gone."""
        self.lock, self.line = RLock(), Line()
        for seat in tuple(self.seats.values()):
            if seat.state == "retiring":
                self._swap(seat, -1)
                self._move(seat, "running" if seat.holds else "idle")
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
            if seat.state in {"building", "retiring"}:
                self._meet(visit, seat)
                return None
            if visit.fresh:
                raise ValueError(f"pool {self.name!r} has an agent {visit.id!r}: acquire() it, or del it first")
            self._move(seat, "running")
            seat.holds.append(visit.me)
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
        return self._full() if over > 0 else self.room.tight(cost)

    def _full(self) -> str:
        orphans = sum(seat.orphaned() for seat in self.seats.values())
        kept = f"{self.idle} idle and kept" if self.idle else "none idle"
        lost = f", {orphans} orphaned: retire_orphans()" if orphans else ""
        wait = f", {len(self.line)} wait" if self.line else ""
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

    def unmake(self, seat: Seat[T], *, failed: bool) -> None:
        """Give a seat up whose agent could not be made, or for which nobody would go."""
        with self.lock:
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

    def retire(self, seats: Iterable[Seat[T]]) -> list[str]:
        """Call the hook for seats that are marked as going, and let those go for which it did not fail; their ids."""
        gone: list[str] = []
        left = list(reversed(list(seats)))
        try:
            while left:
                failure = self._save(left[-1])
                seat = left.pop()
                if self._leave_or_stay(seat, failure):
                    gone.append(seat.id)
                    seat.agent = None
        finally:
            for seat in left:  # the hook was told to end, and so was whoever called it
                self._leave_or_stay(seat, RuntimeError("interrupted"))
        return gone

    def _save(self, seat: Seat[T]) -> Exception | None:
        if self._on_retire is None:
            return None
        try:
            self._on_retire(seat.id, cast("T", seat.agent))
        except Exception as failure:  # noqa: BLE001 - a hook may be anybody's, and its agent is kept
            return failure.with_traceback(None)  # its frames would keep the agent alive
        return None

    def _leave_or_stay(self, seat: Seat[T], failure: Exception | None) -> bool:
        with self.lock:
            if self.seats.get(seat.id) is not seat:
                return False  # its user removed it meanwhile
            if failure is None:
                self.counts.retired += 1
                self._out(seat)
                return True
            self._keep(seat, failure)
            return False

    def _keep(self, seat: Seat[T], failure: BaseException) -> None:
        """Its state could not be saved: it stays, and is left alone for a while."""
        self.counts.failed += 1
        self.last_error = f"on_retire of {seat.id!r} failed: {type(failure).__name__}: {failure}"
        seat.keep_until = self.clock() + min(_KEEP_AT_MOST_S, _KEEP_S * 2.0 ** min(seat.failures, 30))
        seat.failures += 1
        self._swap(seat, -1)
        self._move(seat, "running" if seat.holds else "idle")
        seat.ring()

    def _out(self, seat: Seat[T]) -> None:
        if self.seats.get(seat.id) is seat:
            del self.seats[seat.id]
        self._swap(seat, -1)
        self._move(seat, "gone")
        self.held_bytes -= seat.bytes
        seat.ring()
        self._freed()

    def _swap(self, seat: Seat[T], change: int) -> None:
        """Count those who go for a new one that has its seat already: together they take one place."""
        if seat.swapped is (change < 0):
            seat.swapped = change > 0
            self._swaps += change

    def _freed(self) -> None:
        self.turnover.freed(self.clock())
        self.line.ring()

    def _move(self, seat: Seat[T], state: State) -> None:
        """The only place where a state changes: idle ones are counted."""
        was = seat.state == "idle"
        seat.state = state
        change = (state == "idle") - was
        self.idle += change
        self.idle_bytes += change * seat.bytes

    # --- weighing -----------------------------------------------------------------------------------------------------

    def weight(self, seat: Seat[T]) -> int:
        """Accounted bytes of one agent: the object's, at least what its like grow memory by."""
        return max(seat.bytes, self.room.typical_bytes)

    def all_bytes(self) -> int:
        """Accounted bytes of all agents."""
        return max(self.held_bytes, len(self.seats) * self.room.typical_bytes)

    def cost_bytes(self) -> int:
        """What one more agent takes; 0 while nothing is known."""
        return self.room.cost_bytes(self.held_bytes, len(self.seats) - self.building)

    def find_orphans(self) -> None:
        """Count those who have become orphans since the last look."""
        for seat in tuple(self.seats.values()):
            orphan = seat.orphaned()
            if orphan is not seat.orphan:
                seat.orphan = orphan
                self.counts.orphaned += orphan

    def stale_bytes(self, idle_s: float) -> int:
        """What agents hold that have been idle for longer."""
        with self.lock:
            since = self.clock() - idle_s
            return sum(
                self.weight(seat) for seat in self.seats.values() if seat.state == "idle" and seat.touched_at < since
            )

    def weigh(self, seat: Seat[T], bytes_: int) -> None:
        """An agent has grown or shrunk."""
        with self.lock:
            if seat.state not in {"gone", "building"}:
                self.held_bytes += bytes_ - seat.bytes
                self.idle_bytes += (bytes_ - seat.bytes) * (seat.state == "idle")
                seat.bytes = bytes_
