"""Somebody else's caches as reclaimers, and as shelves of the market where they give up entry by entry."""

from __future__ import annotations

import types
import weakref
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from memguard.model import Level
from memguard.reclaimers.adapters import Row, row_for
from memguard.reclaimers.callback import check_labels
from memguard.reclaimers.conversations import Conversations
from memguard.reclaimers.entries import Estimate
from memguard.reclaimers.evicting import EvictCache, ShelfCache, Source, locked
from memguard.reclaimers.worth import Worth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from memguard.kinds import Cost
    from memguard.ports import Reclaimer

__all__ = ["ClearCache", "EvictCache", "NothingToGive", "ShelfCache", "adapter_for"]

_AT: Final[Mapping[Cost, Level]] = types.MappingProxyType(
    {"free": Level.ELEVATED, "cheap": Level.WARNING, "dear": Level.CRITICAL, "last": Level.EMERGENCY}
)


def adapter_for(  # noqa: PLR0913 - each says one thing about the holder, all but the name have a default
    obj: object,
    *,
    name: str,
    cost: Cost | None = None,
    at: Level | None = None,
    lock: AbstractContextManager[Any] | None = None,
    currsize_is_bytes: bool = False,
    weight: float = 1.0,
    min_bytes: int = 0,
    entry_cost_s: float | None = None,
) -> tuple[Reclaimer, object | None]:
    """The reclaimer for a holder, and the object whose end ends it (None: it cannot be held weakly, so it is held).

    Registering something says that it is a *cache*: entries are dropped without asking, oldest first (plain
    mappings, functions under ``functools.cache``), by the cache's own ``popitem`` (cachetools and other classes that
    define one), by a row of the adapter table (``adapters.py``), or all at once (bounded ``lru_cache`` functions,
    objects that only have ``clear()``). Never register what is not stored elsewhere too.

    ``cost`` is "cheap" for what can be shrunk bit by bit and "dear" for what can only be emptied and for every
    function under ``functools``, since those often make singletons; ``at`` follows from the cost (free ELEVATED, cheap
    WARNING, dear CRITICAL, last EMERGENCY). ``lock`` is the one that the application holds while it uses the object;
    the lock of a function under ``cachetools.cached`` is found. ``currsize_is_bytes`` says that the cache's
    ``getsizeof`` gives bytes, so that its ``currsize`` counts instead of an estimate.

    What gives up entry by entry and is cheap is a ``Shelf`` too: ``entry_cost_s`` is how long making one entry takes
    (None: what the table says, or 1 ms), ``weight`` multiplies its price, and ``min_bytes`` are never taken.

    Raises:
        TypeError: the object is none of these, or the lock is no lock for threads; the text says what to do.
        ValueError: the name is blank, the cost unknown, a number is out of range, or there is no ``currsize``.
    """
    _check_lock(lock, name)
    _check_numbers(name, weight=weight, min_bytes=min_bytes, entry_cost_s=entry_cost_s)
    obj, row = row_for(obj, name)
    get, held = _hold(obj, kept=row.kept)
    get_lock = _lock_finder(row, get, lock)
    _check_lock(get_lock(), name)
    if currsize_is_bytes and (row.table is None or not hasattr(row.table(obj), "currsize")):
        raise ValueError(f"holder {name!r}: {type(obj).__name__} has no currsize: leave currsize_is_bytes out")
    cost = cost or ("last" if row.idle else row.cost)
    check_labels(name, cost, Level.OK if at is None else at)
    at = _AT[cost] if at is None else at
    if row.idle:
        return NothingToGive(name, get, cost=cost, at=at, why=row.idle), held
    if row.threads:
        return Conversations(name, get, cost=cost, at=at), held
    if row.table is None:
        return ClearCache(name, get, get_lock, row=row, cost=cost, at=at), held
    source = Source(row, get, get_lock, currsize_is_bytes=currsize_is_bytes)
    if row.cost != "cheap":
        return EvictCache(name, source, cost=cost, at=at, min_bytes=min_bytes), held
    worth = Worth(entry_cost_s=row.entry_cost_s if entry_cost_s is None else entry_cost_s, weight=weight)
    return ShelfCache(name, source, cost=cost, at=at, min_bytes=min_bytes, worth=worth), held


def _check_lock(lock: Any, name: str) -> None:  # noqa: ANN401
    if lock is None or (callable(getattr(lock, "release", None)) and hasattr(lock, "__enter__")):
        return
    raise TypeError(
        f"holder {name!r}: {type(lock).__name__} is no lock for threads: pass a threading.Lock. An asyncio lock only "
        f"keeps tasks of one event loop apart, and the guard works on a thread of its own; a plain dict needs no lock "
        f"at all, as long as nobody iterates over it"
    )


def _check_numbers(name: str, *, weight: float, min_bytes: int, entry_cost_s: float | None) -> None:
    if not (isfinite(weight) and weight > 0):
        raise ValueError(f"holder {name!r}: weight={weight!r} must be above 0; 2.0 makes its entries twice as dear")
    if min_bytes < 0:
        raise ValueError(f"holder {name!r}: min_bytes={min_bytes!r} must be 0 or more")
    if entry_cost_s is not None and not (isfinite(entry_cost_s) and entry_cost_s >= 0):
        raise ValueError(f"holder {name!r}: entry_cost_s={entry_cost_s!r} must be 0 or more seconds")


def _hold(obj: Any, *, kept: bool) -> tuple[Callable[[], Any], object | None]:  # noqa: ANN401
    if not kept:
        try:
            return weakref.ref(obj), obj
        except TypeError:  # dict, __slots__ without __weakref__
            pass
    return lambda: obj, None


def _lock_finder(row: Row, get: Callable[[], Any], lock: object) -> Callable[[], Any]:
    if lock is not None or row.lock is None:
        return lambda: lock
    find = row.lock
    return lambda: None if (holder := get()) is None else find(holder)


class NothingToGive:
    """A holder that is known and listed, and whose entries free nothing: 0 bytes, never shrunk; ``why`` in words."""

    settles: bool = False
    stalls: bool = False

    def __init__(self, name: str, get: Callable[[], Any], *, cost: Cost, at: Level, why: str) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self.why = why
        self._get = get

    def size(self) -> int:
        """Always 0: what it could give back at most."""
        return 0

    def holds(self, obj: object) -> bool:
        """Whether this is the object it was made for."""
        return self._get() is obj

    def reclaim(self, _wanted_bytes: int, /) -> int:
        """Do nothing; claims 0."""
        return 0

    def __repr__(self) -> str:
        return f"<NothingToGive {self.name!r}: {self.why}>"


class ClearCache:
    """A holder that can only be emptied as a whole, as a reclaimer; see ``adapter_for``."""

    settles: bool = False
    stalls: bool = False

    def __init__(  # noqa: PLR0913 - filled in by adapter_for alone
        self, name: str, get: Callable[[], Any], get_lock: Callable[[], Any], *, row: Row, cost: Cost, at: Level
    ) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self._get = get
        self._get_lock = get_lock
        self._row = row
        self._estimate = Estimate()

    def size(self) -> int | None:
        """Estimated bytes; None where entries can be neither counted nor seen, 0 once the holder is gone."""
        holder, row = self._get(), self._row
        if holder is None:
            return 0
        length = None if row.length is None else row.length(holder)
        if length is None or row.peek is None:
            return None
        peek = row.peek
        return self._estimate.total(length, lambda: peek(holder))

    def holds(self, obj: object) -> bool:
        """Whether this is the object it was made for."""
        return self._get() is obj

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Empty it, if anything is wanted; claims its estimated size.

        Raises:
            TimeoutError: the lock was busy for a second.
        """
        holder, empty = self._get(), self._row.empty
        if holder is None or empty is None or wanted_bytes <= 0:
            return 0
        held_bytes = self.size()
        with locked(self._get_lock(), self.name):
            empty(holder)
        return held_bytes

    def __repr__(self) -> str:
        return f"<ClearCache {self.name!r} {self.cost} at {self.at.name}>"
