"""The mapping: a cache in bytes with the contract of cachetools."""
# ruff: noqa: SLF001 - its views and copies are friends
# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import sys
import time
from collections.abc import ItemsView, MutableMapping, ValuesView
from fractions import Fraction
from math import inf
from operator import index
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from memguard import beat
from memguard.caching.bounds import at_most, in_bytes, lifetime, number, seconds_of
from memguard.caching.entry import ENTRY_BYTES
from memguard.caching.market import market_of
from memguard.caching.store import Store
from memguard.caching.table import units_of
from memguard.sizing import entry_bytes
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from memguard.caching.entry import Entry
    from memguard.roster import Roster

__all__ = ["Cache"]

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Final[Any] = object()
_PAIR: Final = 2
# Attempts at a place that other threads keep filling and emptying.
_TRIES: Final = 8
# Attributes that are made anew in a copy.
_OWN: Final = frozenset({"_store", "_table", "_due", "_roster", "_measures", "_told"})
# cachetools.Cache, when it knows us.
_shown: Final[list[Any]] = []


def _size_of(key: object, value: object) -> int:
    return ENTRY_BYTES + entry_bytes(key, value)


class Cache(MutableMapping[K, V]):
    """A mapping that forgets: bounded by count, by units of its own, by bytes, or by the guard alone.

    ``maxsize`` and ``getsizeof`` are cachetools': ``maxsize`` bounds the sum of ``getsizeof(value)``, or without it the
    number of entries; ``currsize`` is that sum. ``max_bytes`` ("64MiB") bounds the true bytes of keys, values and
    entries, which ``bytes`` gives: sampled, measured anew in the background. ``ttl`` is for how long a value is good,
    in seconds ("5m"), or a function of the value that says so (None: for ever; 0 or less: it is not kept). Under
    memory pressure the guard evicts what saves the least recomputing by byte, over all caches of the process;
    ``weight`` makes this one's entries dearer, ``min_bytes`` are left to it. ``relocate=True`` allows the guard to
    pickle small entries and load them again when their pages are half empty: values are then other objects.

    Safe between threads; a hit takes no lock. ``[]`` and ``get`` count as use, ``in`` and iterating do not.
    Expired entries are never seen. ``isinstance(cache, cachetools.Cache)`` holds; ``getsizeof``, ``__missing__`` and
    ``popitem`` may be overridden as there.

    Raises:
        ValueError: a bound is negative, ``max_bytes`` below one entry or ``min_bytes``, ``ttl`` not above 0.
    """

    def __init__(  # noqa: PLR0913 - options, all with a default
        self,
        maxsize: float | None = None,
        getsizeof: Callable[[V], float] | None = None,
        *,
        max_bytes: int | str | None = None,
        ttl: float | str | Callable[[V], float | None] | None = None,
        name: str | None = None,
        weight: float = 1.0,
        min_bytes: int | str = 0,
        timer: Callable[[], float] | None = None,
        roster: Roster | None = None,
        relocate: bool = False,
    ) -> None:
        if maxsize is not None and not number("maxsize", maxsize) >= 0:
            raise ValueError(f"maxsize must be non-negative, not {maxsize!r} (None: no bound)")
        if not 0 < number("weight", weight) < inf:
            raise ValueError(f"weight={weight!r} must be above 0: 2 makes entries twice as dear")
        for called, given in (("getsizeof", getsizeof), ("timer", timer)):
            if given is not None and not callable(given):
                raise TypeError(f"{called}={given!r} must be a function, not {type(given).__name__}")
        if getsizeof is not None:
            vars(self)["getsizeof"] = getsizeof  # in place of the class's own
        self._ttl: float | Callable[[V], float | None] | None = lifetime(ttl)
        self._timer = timer
        self._options: dict[str, Any] = {
            "name": str(name or "cache"),
            "maxsize": maxsize,
            "max_bytes": at_most(max_bytes, min_bytes),
            "min_bytes": in_bytes("min_bytes", min_bytes),
            "weight": float(weight),
            "relocates": bool(relocate),
        }
        self._open(roster)

    def _open(self, roster: Roster | None) -> None:
        """Set up an empty store, and sign it up at the market."""
        self._roster = roster
        self._store = Store(size_of=_size_of, clock=self._timer or time.monotonic, **self._options)
        self._table = self._store.table
        self._due = self._store.due
        self._measures = self.getsizeof is not Cache.getsizeof
        # A popitem of a subclass's own is told of every eviction by maxsize, as in cachetools.
        self._told = type(self).popitem is not cast("Any", Cache).popitem
        self._floats = False
        _show_to_cachetools()
        market_of(roster).join(self._store, held=self, weakly=True)

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> type:
            """Our type. isinstance() asks for it, so that this is when cachetools gets to know us."""
            _show_to_cachetools()
            return type(self)

    # --- looking ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: K) -> V:
        due = self._due[0]
        if due == inf or (due > beat.NOW and self._timer is None):
            try:
                for value in self._table[key]:
                    return value  # type: ignore[no-any-return]
            except KeyError:
                pass
        entry = self._store.fresh(key)
        return self.__missing__(key) if entry is None else next(entry)

    def __missing__(self, key: K) -> V:
        raise KeyError(key)

    def get(self, key: K, default: Any = None) -> Any:  # noqa: ANN401 - as in Mapping
        """The value of a key, or the default; ``__missing__`` is not asked."""
        entry = self._table.get(key) if self._due[0] == inf else self._store.fresh(key)
        return default if entry is None else next(entry)

    def __contains__(self, key: object) -> bool:
        return self._store.fresh(key) is not None

    def _living(self) -> list[Entry]:
        self._store.expire()
        now = self._store.clock()
        return [entry for entry in self._store if entry.expires > now]

    def __iter__(self) -> Iterator[K]:
        return iter([entry.key for entry in self._living()])

    def __len__(self) -> int:
        return len(self._table) if self._due[0] == inf else len(self._living())

    def items(self) -> ItemsView[K, V]:
        """Keys and values of what has not expired; looking at them is no use."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Values of what has not expired; looking at them is no use."""
        return _Values(self)

    # --- changing ---------------------------------------------------------------------------------------------------

    def __setitem__(self, key: K, value: V) -> None:
        if not self._keep(key, value, over=True):
            raise ValueError("value too large")

    def _keep(self, key: K, value: V, *, over: bool) -> bool:
        maxsize = self.maxsize
        units = self._units(value) if self._measures else None
        ttl_s = seconds_of(self._ttl, value, self.name) if callable(self._ttl) else self._ttl
        if ttl_s == inf:
            ttl_s = None
        if maxsize is not None and (1 if units is None else units) > maxsize:
            raise ValueError("value too large")
        if self._told and over and maxsize is not None:
            self._tell(key, 1 if units is None else units, maxsize)
        kept = self._store.put(key, value, ttl_s=ttl_s, units=units, over=over)
        return kept or (ttl_s is not None and ttl_s <= 0)

    def _tell(self, key: K, units: Any, maxsize: float) -> None:  # noqa: ANN401 - an int or a Fraction
        """Make room by our own ``popitem``."""
        while len(self._table):
            old = self._table.get(key)
            total = self._store.units if self._measures else len(self._table)
            if total + units - (units_of(old) if old is not None else 0) <= maxsize:
                break
            self.popitem()

    def _gave(self, value: V, size: object, wrong: str) -> str:
        return f"cache {self.name!r}: getsizeof of a {type(value).__name__} gave {size!r}: {wrong}"

    def _units(self, value: V) -> int | Fraction:
        size: Any = self.getsizeof(value)
        try:
            if not size >= 0:
                raise ValueError(self._gave(value, size, "a value size must be non-negative"))
        except TypeError:
            raise TypeError(self._gave(value, size, "no number")) from None
        if size == inf:
            raise ValueError("value too large")
        try:
            return index(size)
        except TypeError:  # exact, where sums of floats drift
            self._floats = True
            return Fraction(float(size))

    def __delitem__(self, key: K) -> None:
        self.pop(key)

    def pop(self, key: K, default: Any = _ABSENT) -> Any:  # noqa: ANN401 - as in MutableMapping
        """Take a value out; the default when there is none.

        Raises:
            KeyError: there is none, and no default.
        """
        entry = self._store.pop(key)
        if entry is not None and entry.expires > self._store.clock():
            return entry.value
        if default is _ABSENT:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Take out what would be evicted next.

        Raises:
            KeyError: the cache is empty.
        """
        entry = self._store.take()
        if entry is None:
            raise KeyError(f"{type(self).__name__} is empty")
        return entry.key, entry.value

    def setdefault(self, key: K, default: Any = None) -> Any:  # noqa: ANN401 - as in MutableMapping
        """The value of a key; the default is kept where there is none. All threads get the same."""
        for _ in range(_TRIES):
            entry = self._store.fresh(key)
            if entry is not None:
                return next(entry)
            if self._keep(key, default, over=False):
                return default
        raise ValueError("value too large")

    def clear(self) -> None:
        """Drop everything."""
        self._store.clear()

    def expire(self) -> int:
        """Drop what has expired; how many entries went."""
        return self._store.expire()

    # --- figures ----------------------------------------------------------------------------------------------------

    @staticmethod
    def getsizeof(value: Any) -> float:  # noqa: ANN401, ARG004 - as in cachetools
        """What a value counts against ``maxsize``: 1."""
        return 1

    @property
    def name(self) -> str:
        """What the guard calls it."""
        return self._store.name

    @property
    def maxsize(self) -> float | None:
        """The most that ``currsize`` may be; None: no bound."""
        return self._store.maxsize

    @property
    def currsize(self) -> float:
        """The sum of the entries' ``getsizeof``; without one, how many there are."""
        self._store.expire()
        units = self._store.units if self._measures else len(self._table)
        return float(units) if self._floats else int(units)

    @property
    def max_bytes(self) -> int | None:
        """The most that ``bytes`` may be; None: the guard's pressure is the only bound."""
        return self._store.max_bytes

    @property
    def bytes(self) -> int:
        """Accounted bytes of keys, values and entries."""
        return self._store.bytes

    @property
    def hits(self) -> int:
        """How often a value was taken; walks all entries."""
        return self._store.hits

    def __repr__(self) -> str:
        count = len(self)
        entries = "1 entry" if count == 1 else f"{count} entries"
        return f"<{type(self).__name__} {self.name!r}: {entries}, {format_bytes(self.bytes)}>"

    # --- copies -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Options and living entries with the seconds they have left; neither locks nor the roster."""
        now = self._store.clock()
        kept = [
            (entry.key, entry.value, entry.cost_s, None if entry.expires == inf else entry.expires - now)
            for entry in self._living()
        ]
        return {**{key: value for key, value in vars(self).items() if key not in _OWN}, "_kept": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._restore(state, None)

    def _restore(self, state: dict[str, Any], roster: Roster | None) -> Self:
        kept = state.pop("_kept")
        vars(self).update(state)
        self._open(roster)
        for key, value, cost_s, ttl_s in kept:
            units = self._units(value) if self._measures else None
            self._store.put(key, value, cost_s=cost_s, ttl_s=ttl_s, units=units)
        return self

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        return new._restore(self.__getstate__(), self._roster)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = memo[id(self)] = type(self).__new__(type(self))
        return new._restore(copy.deepcopy(self.__getstate__(), memo), self._roster)


class _Items(ItemsView[K, V]):
    def __init__(self, cache: Cache[K, V]) -> None:
        super().__init__(cache)
        self._cache = cache

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return iter([(entry.key, entry.value) for entry in self._cache._living()])

    def __contains__(self, item: object) -> bool:
        pair: Any = item if isinstance(item, tuple) else ()  # pyright: ignore[reportUnknownVariableType]
        key, value = pair if len(pair) == _PAIR else (_ABSENT, None)
        entry = self._cache._store.fresh(key)
        return entry is not None and (entry.value is value or entry.value == value)


class _Values(ValuesView[V]):
    def __init__(self, cache: Cache[Any, V]) -> None:
        super().__init__(cache)
        self._cache = cache

    def __iter__(self) -> Iterator[V]:
        return iter([entry.value for entry in self._cache._living()])

    def __contains__(self, value: object) -> bool:
        return any(own is value or own == value for own in self)


def _show_to_cachetools() -> None:
    """Let ``isinstance(ours, cachetools.Cache)`` hold, once somebody has imported cachetools."""
    theirs = getattr(sys.modules.get("cachetools"), "Cache", None)
    if theirs is not None and theirs not in _shown:
        _shown[:] = [theirs]
        theirs.register(Cache)
