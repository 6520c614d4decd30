"""Seating: the seats of a pool, counted and weighed."""

from __future__ import annotations

from _thread import RLock
from typing import TYPE_CHECKING, Generic, TypeVar

from memguard.agents.saving import Saver
from memguard.agents.seats import Lives, Seat
from memguard.agents.visit import Turnover
from memguard.agents.waiting import Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.agents.room import Room
    from memguard.agents.rows import State
    from memguard.ports import Clock

__all__ = ["Seating"]

T = TypeVar("T")


class Seating(Generic[T]):
    """Who sits where, what all weigh, and what has become of them. Changes of a seat are made under the lock."""

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
        self._saver: Saver[T] = Saver(on_retire)
        self._replace = replace
        self._swaps = 0
        self.turnover: Turnover = Turnover()
        self.farewell: Callable[[T], object] | None = None
        """Is told of each agent that was retired, outside of the lock; must be quick, keep nothing, and not raise."""

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
