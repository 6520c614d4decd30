"""What one cached function is: its store, its options, and the rules by which a result is kept or dropped.

Shared by the thread side (``functions``) and the event-loop side (``awaiting``) of the decorator.
"""

from __future__ import annotations

from _thread import RLock
from copy import copy
from itertools import repeat
from math import inf, isnan

from memguard.caching.entry import ENDLESS
from memguard.caching.flights import fork_count
from memguard.values import field, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from memguard.caching.entry import Entry
    from memguard.caching.store import Store

__all__ = ["Course", "Spec", "counted"]

# Invalidated keys remembered while results under way may still come in; beyond it all of those are dropped instead.
_REMEMBERED = 256
_FAILED = object()
# These tell of the caller's stack and of the process, not of the key.
_CALLERS_OWN = (RecursionError, MemoryError)


class Course:
    """What happens to one cached function: exact counts, and what was invalidated while results were under way.

    ``next(course.misses)`` counts a miss and ``next(course.shared)`` a call that was answered by another's
    computation: one C call each, exact under threads.
    """

    __slots__ = ("_invalidated", "_locks", "cleared", "misses", "shared", "turn")

    def __init__(self) -> None:
        self._locks: dict[int, RLock] = {}
        self._invalidated: dict[int, int] = {}
        self.turn: int = 0
        self.cleared: int = 0
        self.misses: repeat[None] = repeat(None, 0)
        self.shared: repeat[None] = self.misses
        self.reset()

    def clear(self) -> None:
        """Let no result that is under way be kept."""
        with self._lock():
            self.turn += 1
            self.cleared = self.turn
            self._invalidated.clear()

    def reset(self) -> None:
        """Count from zero."""
        self.misses, self.shared = repeat(None, ENDLESS), repeat(None, ENDLESS)

    def invalidate(self, key: Hashable) -> None:
        """Let no result of this key that is under way be kept."""
        mark = hash(key)
        with self._lock():
            self.turn += 1
            self._invalidated[mark] = self.turn
            if len(self._invalidated) > _REMEMBERED:
                self.cleared = self.turn
                self._invalidated.clear()

    def outdated(self, key: Hashable, began: int) -> bool:
        """Whether the key was invalidated since the turn at which its computation began."""
        if self.turn == began:
            return False
        # In this order: marks are forgotten after ``cleared`` was set.
        return self._invalidated.get(hash(key), 0) > began or self.cleared > began

    def _lock(self) -> RLock:
        """One for each process: a forked child's must not be held by a thread that is gone.

        Reentrant, because a signal handler or a destructor may invalidate in the middle of an invalidation.
        """
        lock = self._locks.get(fork_count())
        return self._locks.setdefault(fork_count(), RLock()) if lock is None else lock


def counted(tally: repeat[None]) -> int:
    """How often ``next`` was called on one of a course's counters."""
    return ENDLESS - tally.__length_hint__()


@value
class Spec:
    """One cached function: what it is called, where its results lie, how long they are good for.

    A wrapper's miss path does: ``began = spec.begin()``, computes, then ``spec.keep(key, value, cost_s, began)`` or
    ``spec.keep_failure(key, error, cost_s, began)``; before computing, ``spec.find(key)`` (the entry, to be iterated
    once as a hit) and ``spec.find_failure(key)`` (an error to raise).

    ``ttl_s`` is None, seconds, or a callable from the value to seconds; with ``stale_s`` an entry stays that much
    longer, and ``spec.stale(entry)`` says that it should be computed anew meanwhile. ``none_ttl_s`` holds for results
    that are None, ``failures`` for errors: (type, seconds), first match wins. ``cost_s`` replaces the measured cost.
    ``detach`` holds what else is told of an invalidation: called with the key, or without one for all of them.
    """

    name: str
    function: Callable[..., Any]
    store: Store
    ttl_s: float | Callable[[Any], float | None] | None = None
    stale_s: float | None = None
    none_ttl_s: float | None = None
    failures: tuple[tuple[type[Exception], float], ...] = ()
    cost_s: float | Callable[[Any], float] | None = None
    coalesce: bool = True
    typed: bool = False
    key: Callable[..., Hashable] | None = None
    course: Course = field(default_factory=Course)
    detach: list[Callable[..., object]] = field(default_factory=list)

    @property
    def expires(self) -> bool:
        """Whether anything in the store may ever expire."""
        return self.ttl_s is not None or self.none_ttl_s is not None or bool(self.failures)

    # --- the miss path ----------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Count a miss; the turn to hand to ``keep``."""
        next(self.course.misses)
        return self.course.turn

    def find(self, key: Hashable) -> Entry | None:
        """The living entry of that key."""
        store = self.store
        return store.table.get(key) if store.due[0] == inf else store.fresh(key)

    def stale(self, entry: Entry) -> bool:
        """Whether an entry is past its time to live and stays for its ``stale_s`` alone."""
        return self.stale_s is not None and self.store.clock() >= entry.expires - self.stale_s

    def keep(self, key: Hashable, value: object, cost_s: float, began: int) -> bool:
        """Keep a result, unless it was invalidated since it ``began``, is too large, or is good for no time."""
        ttl_s = self.ttl_s
        if callable(ttl_s) or (value is None and self.none_ttl_s is not None):
            ttl_s = self._ttl_of(value)
            if ttl_s is not None and ttl_s <= 0:
                self.store.pop(key)
                return False
        if ttl_s is not None and self.stale_s is not None:
            ttl_s += self.stale_s
        if self.cost_s is not None:
            cost_s = self._seconds(self.cost_s(value), "cost") if callable(self.cost_s) else self.cost_s
        return self._put(key, key, value, cost_s, ttl_s, began)

    def keep_failure(self, key: Hashable, error: BaseException, cost_s: float, began: int) -> bool:
        """Keep an error where ``failures`` says so; only one that can be copied: each caller is raised a copy."""
        for kind, ttl_s in self.failures:
            if isinstance(error, kind) and not isinstance(error, _CALLERS_OWN):
                bare, mark = _copied(error), (_FAILED, key)
                if bare is None:
                    return False
                return self._put(mark, key, bare, cost_s, ttl_s, began)
        return False

    def _put(  # noqa: PLR0913, PLR0917 - what is known of a result
        self, place: Hashable, key: Hashable, value: object, cost_s: float, ttl_s: float | None, began: int
    ) -> bool:
        course = self.course

        def still() -> bool:
            return course.turn == began or not course.outdated(key, began)

        return still() and self.store.put(place, value, cost_s=cost_s, ttl_s=ttl_s, still=still)

    def fails(self, key: Hashable) -> bool:
        """Whether an error is kept for that key."""
        return self.find((_FAILED, key)) is not None

    def find_failure(self, key: Hashable) -> BaseException | None:
        """A copy of the error that is kept for that key; counts as a hit."""
        if self.failures:
            entry = self.find((_FAILED, key))
            if entry is not None:
                return _copied(next(entry))
        return None

    def _ttl_of(self, value: object) -> float | None:
        if value is None and self.none_ttl_s is not None:
            return self.none_ttl_s
        if not callable(self.ttl_s):
            return self.ttl_s
        ttl_s = self.ttl_s(value)
        return None if ttl_s is None or ttl_s == inf else self._seconds(ttl_s, "ttl")

    def _seconds(self, seconds: float, what: str) -> float:
        number: object = seconds
        if isinstance(number, (int, float)) and not isnan(number) and number < inf:
            return max(0.0, number)
        raise ValueError(f"cached function {self.name}: {what} gave {seconds!r}; it must give seconds")

    # --- by hand ----------------------------------------------------------------------------------------------------

    def invalidate(self, key: Hashable) -> bool:
        """Drop the entry of a key, and what is being computed for it; whether there was one."""
        self.course.invalidate(key)
        for tell in self.detach:
            tell(key)
        failed = bool(self.failures) and self.store.pop((_FAILED, key)) is not None
        return self.store.pop(key) is not None or failed

    def clear(self, *, counts: bool = True) -> None:
        """Drop all entries and what is being computed; ``counts``: and count from zero."""
        self.course.clear()
        if counts:
            self.course.reset()
        for tell in self.detach:
            tell()
        self.store.clear()


def _copied(error: BaseException) -> BaseException | None:
    """The error without traceback and context, which would keep frames alive; None when it does not copy."""
    try:
        fresh = copy(error)
    except Exception:  # noqa: BLE001 - whatever a foreign class's constructor says to a copy
        return None
    if type(fresh) is not type(error):
        return None
    fresh.__cause__ = fresh.__context__ = fresh.__traceback__ = None
    return fresh
