"""Awaiting: what an ``async def`` cache does when its table has no answer.

Callers of one key on one event loop share one execution, a task of its own. asyncio is never imported here: a caller
that runs on it has done so.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.caching.flights import INSIDE, Leg, Outcome, Wait, fork_count, running_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Hashable, Iterator

    from memguard.caching.spec import Spec

__all__ = ["Awaiting"]

_ALL: Final = object()
# A refresh that failed is tried again after this part of the stale time: sixteen chances, and no storm of failures.
_RETRY_RATIO: Final = 1 / 16
# Failed keys remembered; beyond it all are forgotten, and may be tried again at once.
_REMEMBERED: Final = 256


class _Execution(Coroutine[Any, Any, None]):
    """What a flight's task runs: a coroutine that comes into being at its first step.

    So a loop that closes before that step leaves no coroutine behind that "was never awaited".
    """

    __slots__ = ("__name__", "__qualname__", "_abandon", "_coroutine", "_start")

    def __init__(self, name: str, start: Callable[[], Coroutine[Any, Any, None]], abandon: Callable[[], None]) -> None:
        self.__name__ = self.__qualname__ = name
        self._start = start
        self._abandon = abandon
        self._coroutine: Coroutine[Any, Any, None] | None = None

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - what a loop and its futures say to each other
        """Go on to the next thing awaited."""
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 - as ``send``
        """Go on with an error; before the start it ends the flight."""
        if self._coroutine is None:
            self._abandon()
            raise error[0]
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """End it where it stands."""
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Only tasks run it."""
        raise TypeError("a flight is run by its task alone")


class _Flight(Leg):
    """One execution on one loop. Its waiters have a future each, so that cancelling one touches no other."""

    __slots__ = ("background", "detach", "loop", "outcome", "task", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, background: bool) -> None:
        super().__init__(0)
        self.loop = loop
        self.background = background
        self.detach: Callable[[], object] | None = None
        self.outcome = Outcome()
        self.task: asyncio.Task[None] | None = None
        self.waiters: set[asyncio.Future[None]] = set()

    async def join(self) -> None:
        """Wait until it is over. Whose caller is cancelled last cancels it, and waits for its end."""
        waiter = self.loop.create_future()
        self.waiters.add(waiter)
        try:
            await waiter
        except GeneratorExit:  # the loop is gone, or somebody closed the coroutine: no awaiting here
            self.waiters.discard(waiter)
            unwanted = self._unwanted()
            if unwanted is not None and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(unwanted.cancel)
            raise
        except BaseException:
            self.waiters.discard(waiter)
            unwanted = self._unwanted()
            if unwanted is not None and not unwanted.cancelling():
                unwanted.cancel()
                await self._end()
            raise

    def _unwanted(self) -> asyncio.Task[None] | None:
        """The task that nobody waits for any more, and nobody will."""
        if self.over or self.waiters or self.background:
            return None
        if self.detach is not None:
            self.detach()
        return self.task

    async def _end(self) -> None:
        """As the caller of the bare function would, wait for the clean-up of what was cancelled."""
        outcome, waiter = self.outcome, self.loop.create_future()
        self.waiters.add(waiter)
        await waiter
        if outcome.failed:
            outcome.take()

    def land(self) -> None:
        """Let everybody go on; what contexts keep of it is its leg."""
        waiters, self.waiters = self.waiters, set()
        self.over, self.outcome, self.task, self.detach = True, Outcome(), None, None
        if running_loop() is self.loop:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        else:  # a collector in another thread, or a loop between two runs, ended it
            with suppress(RuntimeError):  # that loop is closed
                self.loop.call_soon_threadsafe(_release, waiters)


def _release(waiters: set[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class _Fleet:
    """The flights of one loop; it holds the loop, so it is kept only while there are some.

    ``flights`` are those that may be joined, by key; ``all`` holds every one, as asyncio holds its tasks weakly.
    """

    __slots__ = ("all", "flights", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.flights: dict[Hashable, _Flight] = {}
        self.all: set[_Flight] = set()


class Awaiting:
    """The slow side of an ``async def`` cache: ``await miss(key, *args, **kwargs)`` after the table had no answer.

    On one loop the callers of a key share one execution. It is a task in a copy of the first caller's context
    (``asyncio.current_task()`` is that task), goes on while anybody waits, and is cancelled with its last waiter, who
    then waits for its clean-up. An error is raised to each as a copy of its own. An execution that is cancelled by
    other hands tells so to its first caller; the others share a new one.

    Loops in other threads execute by themselves; so does who would wait in a circle, for a computation that it is part
    of, and any caller without an asyncio loop (trio). A loop that closes takes its flights along.

    With ``stale_s`` an entry past its time to live is answered at once while one background task computes it anew; an
    error of that task is told to ``loop.call_exception_handler``. Generated code compares the time with ``due``.
    """

    __slots__ = ("_failed", "_fleets", "_forks", "_spec", "due")

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._fleets: dict[int, _Fleet] = {}
        self._forks = fork_count()
        self._failed: dict[Hashable, float] = {}
        self.due: list[float] = spec.store.due if spec.stale_s is None else [inf]
        """As ``store.due``, but of the next entry that turns stale where ``stale_s`` is set."""
        spec.detach.append(self.drop)

    def __len__(self) -> int:
        return sum(len(fleet.all) for fleet in tuple(self._fleets.values()))

    async def miss(self, key: Hashable, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
        """The value for that key: kept since, kept but stale, shared, or computed.

        Raises:
            TypeError: the key cannot be hashed.
            Exception: whatever the function raises, or a copy of it.
        """
        spec = self._spec
        loop = running_loop()
        entry = spec.find(key)
        if spec.stale_s is not None:
            self.due[0] = spec.store.due[0] - spec.stale_s
        if entry is not None:
            hit = cast("Iterator[Any]", entry)
            if not spec.stale(entry):
                return next(hit)
            if loop is not None:
                self._refresh(loop, key, args, kwargs)
                return next(hit)
        elif (error := spec.find_failure(key)) is not None:
            try:
                raise error
            finally:
                del error
        if loop is None or not spec.coalesce:
            return await self._compute(key, args, kwargs)
        return await self._shared(loop, key, args, kwargs)

    def drop(self, key: Hashable = _ALL) -> None:
        """Let nobody join what is under way for that key, or for any; who waits already is answered by it."""
        for fleet in tuple(self._fleets.values()):
            if key is _ALL:
                fleet.flights.clear()
            else:
                fleet.flights.pop(key, None)
        self._failed.clear()

    # --- computing --------------------------------------------------------------------------------------------------

    async def _compute(self, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Call the function, and keep what comes of it; its cost is the time until then, waits included."""
        spec, clock = self._spec, self._spec.store.clock
        turn, began = spec.begin(), clock()
        try:
            value = await spec.function(*args, **kwargs)
        except Exception as error:
            spec.keep_failure(key, error, clock() - began, turn)
            raise
        spec.keep(key, value, clock() - began, turn)
        if spec.stale_s is not None:
            self.due[0] = spec.store.due[0] - spec.stale_s
            self._failed.pop(key, None)
        return value

    async def _shared(
        self, loop: asyncio.AbstractEventLoop, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 - the function's own
        """Compute it in a flight, or join the one that is under way."""
        while True:
            flight = self._fleet(loop).flights.get(key)
            if flight is None:
                return await self._led(loop, key, args, kwargs)
            outcome = flight.outcome
            with Wait(flight, 0) as wait:
                circular = wait.circular
                if not circular:
                    await flight.join()
            if circular:
                return await self._compute(key, args, kwargs)
            if outcome.known:
                next(self._spec.course.shared)
                try:
                    return outcome.take()
                finally:
                    del outcome, flight

    async def _led(
        self, loop: asyncio.AbstractEventLoop, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 - the function's own
        flight = _Flight(loop, background=False)
        outcome = flight.outcome
        self._launch(flight, key, args, kwargs)
        try:
            if not flight.over:  # as it may be under an eager task factory
                await flight.join()
            if outcome.known:
                return outcome.take()
        finally:
            del outcome, flight
        from asyncio import CancelledError  # noqa: PLC0415 - there is a loop, so it is there

        raise CancelledError(f"the execution of {self._spec.name} was cancelled")

    def _launch(self, flight: _Flight, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start the task of a flight, in a copy of the caller's context."""

        def abandon() -> None:
            self._landed(key, flight)

        execution = _Execution(self._spec.name, lambda: self._fly(flight, key, args, kwargs), abandon)
        fleet = self._fleet(flight.loop)
        fleet.flights[key] = flight
        fleet.all.add(flight)
        flight.detach = lambda: self._detach(key, flight)
        before = INSIDE.get()
        INSIDE.set(flight)
        try:
            task = flight.loop.create_task(execution)
        except BaseException:
            abandon()
            raise
        finally:
            INSIDE.set(before)
        if not flight.over:
            flight.task = task
        task.add_done_callback(_seen)
        with suppress(AttributeError, TypeError):  # asyncio's own way to say that a task may go down with its loop
            object.__setattr__(task, "_log_destroy_pending", False)

    async def _fly(self, flight: _Flight, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        outcome = flight.outcome
        try:
            outcome.succeed(await self._compute(key, args, kwargs))
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            outcome.fail(error)
            if flight.background:
                self._tell(flight, key, error)
        finally:
            self._landed(key, flight)
            del outcome, flight

    # --- stale while revalidating -----------------------------------------------------------------------------------

    def _refresh(
        self, loop: asyncio.AbstractEventLoop, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Compute a stale entry anew behind the caller's back, once at a time."""
        if self._failed and self._failed.get(key, -inf) > self._spec.store.clock():
            return
        if key not in self._fleet(loop).flights:
            self._launch(_Flight(loop, background=True), key, args, kwargs)

    def _tell(self, flight: _Flight, key: Hashable, error: Exception) -> None:
        """Put the next try off, and let the loop say what nobody awaits."""
        spec = self._spec
        pause_s = (spec.stale_s or 0.0) * _RETRY_RATIO
        if len(self._failed) >= _REMEMBERED:
            self._failed.clear()
        self._failed[key] = spec.store.clock() + pause_s
        text = (
            f"memguard: refreshing an entry of {spec.name} failed; its stale value stays until {spec.stale_s:g} s "
            f"after its time to live, the next try is in {pause_s:g} s or later"
        )
        told = {"message": text, "exception": error, "task": flight.task}
        # Not from inside the task: handlers are run in its context, which cannot be entered twice.
        flight.loop.call_soon(flight.loop.call_exception_handler, told)

    # --- loops ------------------------------------------------------------------------------------------------------

    def _fleet(self, loop: asyncio.AbstractEventLoop) -> _Fleet:
        """What is under way on a loop; other loops that have closed are forgotten when a new one comes."""
        if self._forks != fork_count():
            self._fleets, self._forks = {}, fork_count()
        fleet = self._fleets.get(id(loop))
        if fleet is None:
            for known, other in tuple(self._fleets.items()):
                if other.loop.is_closed():
                    self._fleets.pop(known, None)
            fleet = self._fleets[id(loop)] = _Fleet(loop)
        return fleet

    def _detach(self, key: Hashable, flight: _Flight) -> _Fleet | None:
        """Let nobody join this flight any more."""
        fleet = self._fleets.get(id(flight.loop))
        if fleet is None:
            return None
        try:
            if fleet.flights.get(key) is flight:
                fleet.flights.pop(key, None)
        except Exception:  # noqa: BLE001 - a key whose __eq__ or __hash__ raises now
            fleet.flights.clear()  # the others go on, and are not joined any more
        return fleet

    def _landed(self, key: Hashable, flight: _Flight) -> None:
        fleet = self._detach(key, flight)
        flight.land()
        if fleet is not None:
            fleet.all.discard(flight)
            if not fleet.all:
                self._fleets.pop(id(fleet.loop), None)


def _seen(task: asyncio.Task[None]) -> None:
    """Whoever waited has been told: the loop need not say that nobody asked the task for its error."""
    if not task.cancelled():
        task.exception()
