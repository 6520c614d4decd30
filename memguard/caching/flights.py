"""Flights: computations under way, so that threads that miss the same key at once share one.

No lock is taken here: every step is one operation that C makes whole, so that a signal handler or a destructor may
call back at any point. Deadlock is kept out as Chandy, Misra and Haas do ("Distributed deadlock detection", 1983):
who is about to wait first says so, then looks whether what it waits for waits for it; the last of a circle sees it.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable
    from types import ModuleType, TracebackType
    from typing import Self, TypeVar

    T = TypeVar("T")

__all__ = ["INSIDE", "Flights", "Leg", "Outcome", "Wait", "fork_count", "own_error", "running_loop"]

_ALL: Final = object()
_PENDING: Final = object()


class Leg:
    """A computation as the process-wide graph of waits knows it; no value hangs on it, as contexts keep it for long.

    ``owner`` is the thread that computes it, as ``get_ident`` names it (a greenlet where gevent has patched that),
    or 0 when a task does. ``parent`` is the computation that it began in, ``waits`` what is waited for inside of it.
    """

    __slots__ = ("over", "owner", "parent", "waits")

    def __init__(self, owner: int) -> None:
        self.owner: int = owner
        self.over: bool = False
        self.waits: list[Leg] = []
        parent = INSIDE.get()
        while parent is not None and parent.over:  # or a task that starts its own successor would grow a chain
            parent = parent.parent
        self.parent: Leg | None = parent


INSIDE: ContextVar[Leg | None] = ContextVar("memguard_inside", default=None)
"""The innermost computation that the caller is part of; tasks and ``to_thread`` inherit it with their context."""

# What each thread waits for: several when a signal handler waits in the middle of a wait. Only its own thread writes.
_waiting: dict[int, list[Leg]] = {}

# Counts the forks that made this process: what was under way before the last one is under way elsewhere.
_forks = [0]


def _forked() -> None:
    _forks[0] += 1
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

# Python 3.11 collects garbage inside of allocations, those of ContextVar.set and copy_context among them, and these go
# on with freed memory when a finalizer sets a variable of the same context meanwhile. So what a collection calls takes
# part in no flight. Later versions collect between instructions.
_collects_anywhere: Final = sys.version_info < (3, 12)
_collector: Final = [0]
"""The thread that collects garbage now; 0: none does."""


def _collection(phase: str, _about: object, *, thread: ModuleType = _thread, collector: list[int] = _collector) -> None:
    # Its own names: at the interpreter's end the module's are gone, and it is still called.
    collector[0] = thread.get_ident() if phase == "start" else 0


class Wait:
    """Says, for the length of a ``with`` block, that the caller waits for a computation.

    When it is ``circular`` the caller must not wait.
    """

    __slots__ = ("_above", "_held", "_leg", "_owner")

    def __init__(self, leg: Leg, owner: int) -> None:
        self._leg = leg
        self._owner = owner
        self._held: list[list[Leg]] = []
        self._above: set[Leg] = set()
        inside = INSIDE.get()
        while inside is not None:
            self._above.add(inside)
            inside = inside.parent

    def __enter__(self) -> Self:
        if self._owner:
            self._held.append(_waiting.setdefault(self._owner, []))
        self._held += [above.waits for above in self._above]
        for waits in self._held:
            waits.append(self._leg)
        return self

    def __exit__(self, *exc: object) -> None:
        for waits in self._held:
            if self._leg in waits:
                waits.remove(self._leg)
        if self._owner and not _waiting.get(self._owner):
            _waiting.pop(self._owner, None)

    @property
    def circular(self) -> bool:
        """Whether what the caller waits for waits for the caller."""
        seen: set[Leg] = set()
        todo = [self._leg]
        while todo:
            leg = todo.pop()
            if leg in seen or leg.over:
                continue
            if leg in self._above or (leg.owner and leg.owner == self._owner):
                return True
            seen.add(leg)
            todo += leg.waits
            todo += _waiting.get(leg.owner, ())
        return False


class Outcome:
    """How a computation ended, for those who waited; apart from its leg, which contexts may keep."""

    __slots__ = ("_error", "_trace", "_value")

    def __init__(self) -> None:
        self._value: Any = _PENDING
        self._error: Exception | None = None
        self._trace: TracebackType | None = None

    @property
    def known(self) -> bool:
        """Whether there is something to share: not when the computing thread or task was told to end."""
        return self._value is not _PENDING or self._error is not None

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return self._error is not None

    def succeed(self, value: object) -> None:
        """Share a result."""
        self._value = value

    def fail(self, error: Exception) -> None:
        """Share an error, unless it says nothing about the key: a deep stack is the computing caller's own."""
        if not isinstance(error, RecursionError):
            self._error, self._trace = error, error.__traceback__

    def take(self) -> Any:  # noqa: ANN401 - whatever was computed
        """The result, or the caller's own copy of the error raised."""
        if self._error is None:
            return self._value
        try:
            raise own_error(self._error, self._trace)
        finally:
            del self  # the traceback holds this frame, and the outcome the error


class _Flight(Leg):
    """One thread's computation. The gate is shut while it lasts: C opens it, however the computing thread ends."""

    __slots__ = ("before", "began", "begun", "gate", "outcome", "turn")

    def __init__(self, owner: int) -> None:
        super().__init__(owner)
        self.begun: bool = False
        self.before: Leg | None = None
        # Of whoever computes: the turn and the instant at which that began; -1 while it has not.
        self.turn: int = -1
        self.began: float = 0.0
        # Looked up at each call: gevent may have put its own there.
        self.gate: _thread.LockType = _thread.allocate_lock()
        self.outcome: Outcome | None = Outcome()


class Flights:
    """The computations of one cache that are under way, by key.

    The first who asks for a key computes it in its own thread; who asks meanwhile waits and is given the same result,
    or an error of its own: a copy with its own traceback, which goes on into that of the computation. So a backend
    that fails is asked once, and not by N waiters in turn. Only what says something about the key is shared:
    KeyboardInterrupt, SystemExit and their like, and RecursionError, are the computing thread's own; then one of those
    who waited computes, the others wait for it.

    Nobody waits who could wait for ever: for the same thread's or context's own computation, in a circle of threads
    and tasks over any number of caches, for what a forked parent computes, at the interpreter's end, or on a thread
    that runs an asyncio loop (what is waited for may need that very loop), and, in Python 3.11, in what the garbage
    collector calls. Such a caller computes by itself. A wait
    through other means (a future, a queue, a thread without the caller's context) cannot be seen.

    ``joined`` is called once for each call that another's computation has answered.
    """

    __slots__ = ("_forks", "_joined", "_table")

    def __init__(self, *, joined: Callable[[], object] | None = None) -> None:
        self._joined = joined
        self._table: dict[Hashable, _Flight] = {}
        self._forks = _forks[0]
        if _collects_anywhere and _collection not in gc.callbacks:
            gc.callbacks.append(_collection)

    def __len__(self) -> int:
        return len(self._table)

    def compute(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, called by one of those who ask for the same key at the same time.

        ``make`` looks into the cache first and stores its result: another flight may have ended since the caller
        missed, and whoever asks after this one has ended finds only the cache. It may be called by several threads at
        a time in the cases above.

        Raises:
            TypeError: the key cannot be hashed.
            Exception: whatever ``make`` raises.
        """
        if self._forks != _forks[0]:
            self._table, self._forks = {}, _forks[0]
        owner = _thread.get_ident()
        if _collector[0] == owner:
            return make()
        while True:
            mine = _Flight(owner)
            with mine.gate:  # before others see it: no interrupt can come between and leave it shut
                flight = self._table.setdefault(key, mine)
                if flight is mine:
                    return self._fly(key, mine, make)
            outcome = flight.outcome
            if outcome is None or not flight.gate.locked():  # it lands just now, or an interrupt hit its landing
                self._landed(key, flight)
                continue
            if not _waited(flight, owner):
                return make()
            if outcome.known:
                break
            self._landed(key, flight)
        if self._joined is not None:
            self._joined()
        try:
            return cast("T", outcome.take())
        finally:
            del outcome, flight, mine  # the error's traceback holds this frame

    def flight(self) -> _Flight:
        """A flight of the calling thread, not begun."""
        return _Flight(_thread.get_ident())

    def begin(self, key: Hashable, flight: _Flight) -> bool:
        """Let a flight begin unless another has that key; whether it did.

        As ``compute`` without a call around the computation, which recursions are short of. It stands under ``with
        flight.gate``; ``end`` follows, after the flight's ``outcome`` was told.
        """
        if self._forks != _forks[0]:
            self._table, self._forks = {}, _forks[0]
        if _collector[0] == flight.owner:
            return False
        if self._table.setdefault(key, flight) is not flight:
            return False
        self._enter(flight)
        return True

    @staticmethod
    def _enter(flight: _Flight) -> None:
        flight.before, flight.begun = INSIDE.get(), True
        INSIDE.set(flight)

    def end(self, key: Hashable, flight: _Flight) -> None:
        """The flight is over, if it has begun at all."""
        if flight.begun:
            flight.over, flight.outcome = True, None
            INSIDE.set(flight.before)
            flight.before = None  # or a chain of them would grow
            self._landed(key, flight)

    def drop(self, key: Hashable = _ALL) -> None:
        """Let nobody join what is under way for that key, or for any; who waits already is answered by it.

        Whether its result may still be stored is for the cache to tell (``Course`` counts turns).
        """
        if key is _ALL:
            self._table.clear()
        else:
            self._table.pop(key, None)

    def _fly(self, key: Hashable, flight: _Flight, make: Callable[[], T]) -> T:
        outcome = flight.outcome or Outcome()
        self._enter(flight)
        try:
            value = make()
        except Exception as error:
            outcome.fail(error)
            raise
        else:
            outcome.succeed(value)
            return value
        finally:
            self.end(key, flight)
            del outcome, flight

    def _landed(self, key: Hashable, flight: _Flight) -> None:
        """Take a flight that is over out of the table."""
        try:
            found = self._table.get(key)
            if found is flight:
                self._table.pop(key, None)
        except Exception:  # noqa: BLE001 - a key whose __eq__ or __hash__ raises now
            found = None
        if found is None and any(other is flight for other in tuple(self._table.values())):
            self._sink(flight)

    def _sink(self, flight: _Flight) -> None:
        """As ``_landed``, for a key that misbehaves: the others move to a new table."""
        kept = [(known, other) for known, other in tuple(self._table.items()) if other is not flight]
        self._table = {}
        for known, other in kept:
            with suppress(Exception):  # then nobody joins that one
                self._table[known] = other


def _waited(flight: _Flight, owner: int) -> bool:
    """Wait until the flight is over; False when that must not be waited for."""
    if running_loop() is not None or sys.is_finalizing():
        return False
    with Wait(flight, owner) as wait:
        if wait.circular:
            return False
        with flight.gate:
            pass  # nothing that a signal handler could come into: whoever waits next is let in by the exit
        return True


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio loop that runs on this thread; None without one. Does not import asyncio."""
    running = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    return None if running is None else cast("asyncio.AbstractEventLoop | None", running())


def fork_count() -> int:
    """How many forks made this process; what was under way before the last one will never end here."""
    return _forks[0]


def own_error(error: BaseException, trace: TracebackType | None) -> BaseException:
    """A copy of an error for one more caller to be raised; itself when it does not copy.

    The copy's traceback starts where the original's stood, and grows for this caller alone.
    """
    import copy  # noqa: PLC0415 - only failures that were waited for need it

    try:
        twin = copy.copy(error)
        same = (
            type(twin) is type(error)
            and len(twin.args) == len(error.args)
            and all(one is other for one, other in zip(twin.args, error.args, strict=True))
            and str(twin) == str(error)  # tblib, where it is installed, copies UnicodeDecodeError without its words
        )
    except Exception:  # noqa: BLE001 - whatever a foreign class's constructor says to a copy
        return error.with_traceback(trace)
    if not same:
        return error.with_traceback(trace)
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(trace)
