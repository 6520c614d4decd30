"""The door of a pool: coming in now or within a time, from threads and from tasks, and making what is not there."""

from __future__ import annotations

from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from memguard.agents.seats import weakly
from memguard.agents.visit import Visit, refusal
from memguard.agents.waiting import TaskWaiter, Waiter
from memguard.sizing import entry_bytes
from memguard.threads import on_event_loop
from memguard.units import parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from memguard.agents.floor import Floor
    from memguard.agents.seats import Owner, Seat

__all__ = ["Door", "Lease"]

T = TypeVar("T")

# Whoever is first in line looks again so often: memory may come back without anybody telling.
_LOOK_AGAIN_S: Final = 0.25
# An agent that is being made or leaving is waited for at most so long by who did not say for how long.
_BUSY_S: Final = 30.0


class Door(Generic[T]):
    """Lets visits in, one try after another; a sync wait stops its thread, an async one nothing."""

    __slots__ = ("_floor",)

    def __init__(self, floor: Floor[T]) -> None:
        self._floor = floor

    def visit(
        self,
        id_: str,
        factory: Callable[[], Any] | None,
        *,
        owner: object = None,
        fresh: bool = False,
        hold: bool = True,
    ) -> Visit[T]:
        """A wish to come in; ``owner`` None means the pool itself.

        Raises:
            TypeError: an id that is no text, a factory that cannot be called, an owner whose end nobody can see.
        """
        name = self._floor.name
        if not isinstance(cast("object", id_), str):
            raise TypeError(f"pool {name!r}: an agent's id is text, not {id_!r}: write str(…)")
        if factory is not None and not callable(factory):
            raise TypeError(f"pool {name!r}: {factory!r} makes no agent: give a function, like lambda: Agent(…)")
        visit = Visit[T](id_, factory, fresh=fresh, hold=hold)
        visit.owner = None if owner is None else weakly(owner, name)
        return visit

    def enter(self, visit: Visit[T], wait_s: str | float) -> Seat[T]:
        """The seat of the agent, made if need be."""
        floor = self._floor
        if iscoroutinefunction(visit.factory):
            raise TypeError(f"pool {floor.name!r}: {visit.factory!r} is async: use 'async with pool.lease(…)'")
        visit.waiter = waiter = Waiter()
        began, patience_s = floor.clock(), parse_seconds(wait_s)
        try:
            while (seat := self._step(visit)) is None:
                waiter.wait(self._patience(visit, began, patience_s, blocks=on_event_loop()))
        finally:
            floor.leave(visit)
        if seat.state == "building":
            with _Building(floor, visit, seat) as building:
                agent = cast("Callable[[], Any]", visit.factory)()
                if isawaitable(agent):
                    getattr(agent, "close", lambda: None)()
                    raise TypeError(f"pool {floor.name!r}: the factory of {visit.id!r} is async: use lease()")
                building.seat(agent)
        return seat

    async def enter_async(self, visit: Visit[T], wait_s: str | float) -> Seat[T]:
        """As ``enter``, without stopping the event loop; the factory may be ``async``."""
        floor = self._floor
        visit.waiter = waiter = TaskWaiter()
        began, patience_s = floor.clock(), parse_seconds(wait_s)
        try:
            while (seat := await self._step_async(visit)) is None:
                await waiter.wait_async(self._patience(visit, began, patience_s, blocks=False))
        finally:
            floor.leave(visit)
        if seat.state == "building":
            with _Building(floor, visit, seat) as building:
                agent = cast("Callable[[], Any]", visit.factory)()
                building.seat(await agent if isawaitable(agent) else agent)
        return seat

    def _step(self, visit: Visit[T]) -> Seat[T] | None:
        """One try; an idle agent that has to go for it goes first."""
        floor = self._floor
        while True:
            seat, victim = floor.claim(visit), visit.victim
            if seat is None or victim is None:
                return seat
            try:
                floor.retire([victim])
            except BaseException:
                floor.unmake(seat, failed=False, victim=victim)
                raise
            state = victim.state  # once: its hook may end meanwhile
            if state == "gone":
                return seat
            floor.unmake(seat, failed=False, victim=victim)
            if state == "retiring":  # its hook has just begun, on an event loop
                visit.why, visit.busy = f"idle agent {victim.id!r} is just being saved to make room", victim
                return None

    async def _step_async(self, visit: Visit[T]) -> Seat[T] | None:
        """As ``_step``; waits for an async hook."""
        floor = self._floor
        while True:
            seat, victim = floor.claim(visit), visit.victim
            if seat is None or victim is None:
                return seat
            try:
                await floor.retire_async(victim)
            except BaseException:
                floor.unmake(seat, failed=False, victim=victim)
                raise
            if victim.state == "gone":
                return seat
            floor.unmake(seat, failed=False, victim=victim)

    def _patience(self, visit: Visit[T], began: float, wait_s: float, *, blocks: bool) -> float:
        """For how long to wait before the next try.

        Raises:
            PoolFull: it has waited for long enough, or must not wait.
        """
        floor = self._floor
        if blocks and (wait_s > 0.0 or visit.busy is not None):
            raise refusal(floor, visit, "; on an event loop only 'async with pool.lease(…, wait_s=…)' can wait")
        left_s = (max(wait_s, _BUSY_S) if visit.busy is not None else wait_s) - (floor.clock() - began)
        if left_s <= 0.0 or floor.closed:
            raise refusal(floor, visit)
        if not visit.waits:  # stand in line first, then look once more
            visit.waiter.block()
            visit.waits = True
            return 0.0
        return min(left_s, _LOOK_AGAIN_S)


class _Building(Generic[T]):
    """The making of an agent, measured; if it fails, or is cancelled, the seat is given up."""

    __slots__ = ("_before", "_began", "_floor", "_seat", "_visit")

    def __init__(self, floor: Floor[T], visit: Visit[T], seat: Seat[T]) -> None:
        self._floor = floor
        self._visit = visit
        self._seat = seat

    def __enter__(self) -> _Building[T]:
        floor = self._floor
        # Beside another one nobody could tell whose growth it is; what was made before has grown already.
        self._before = floor.room.used_bytes() if floor.building == 1 and self._visit.hold else None
        self._began = floor.clock()
        return self

    def seat(self, agent: T) -> None:
        """It is made."""
        floor, before = self._floor, self._before
        made_s = floor.clock() - self._began
        after = floor.room.used_bytes() if before is not None and floor.building == 1 else None
        floor.born(
            self._seat,
            agent,
            hold=self._visit.hold,
            bytes_=entry_bytes(self._visit.id, agent),
            made_s=made_s,
            grown_bytes=None if before is None or after is None else after - before,
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._floor.unmake(self._seat, failed=True)


class Lease(Generic[T]):
    """An agent held for the length of a block, sync or async: made if it is not there and a factory is given."""

    __slots__ = ("_door", "_floor", "_seat", "_visit", "_wait_s")

    def __init__(self, floor: Floor[T], door: Door[T], visit: Callable[[], Visit[T]], wait_s: str | float) -> None:
        self._floor = floor
        self._door = door
        self._visit = visit
        self._wait_s = wait_s
        self._seat: tuple[Seat[T], Owner] | None = None

    def __enter__(self) -> T:
        visit = self._visit()
        seat = self._door.enter(visit, self._wait_s)
        self._seat = seat, visit.me
        return cast("T", seat.agent)

    async def __aenter__(self) -> T:
        visit = self._visit()
        seat = await self._door.enter_async(visit, self._wait_s)
        self._seat = seat, visit.me
        return cast("T", seat.agent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._seat = self._seat, None
        if held is not None:
            self._floor.let_go(*held)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
