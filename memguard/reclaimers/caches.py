"""Mappings, cachetools caches, ``lru_cache`` functions and whatever can be cleared, as reclaimers."""

from __future__ import annotations

import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.model import Level
from memguard.reclaimers.callback import check_labels
from memguard.reclaimers.entries import (
    Estimate,
    bytes_of,
    currsize_of,
    is_a,
    length_of,
    peek_function,
    peek_items,
    peek_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from memguard.kinds import Cost
    from memguard.ports import Reclaimer

__all__ = ["ClearCache", "EvictCache", "adapter_for"]

_AT: Final[Mapping[Cost, Level]] = types.MappingProxyType(
    {"free": Level.ELEVATED, "cheap": Level.WARNING, "dear": Level.CRITICAL, "last": Level.EMERGENCY}
)
# A holder's lock may be held by the very thread that waits for this relief: never wait for good.
_LOCK_S: Final = 1.0
# Entries dropped under one hold of the lock: some 0.1 ms.
_SLICE: Final = 256
# Entries measured of each slice; they stand for the others. As many are dropped first when sizes are unknown.
_MEASURED: Final = 16
# Keys picked up at once from a plain mapping: picking from the front of a dict walks over all that was dropped
# before, so few large pick-ups; this many hold 128 KiB of references.
_KEYS: Final = 16_384
_PLAIN: Final = (dict, OrderedDict)
_NOT_OLDEST: Final = [cast("Any", kind).popitem for kind in (dict, OrderedDict, MutableMapping)]
# Attempts at reading keys that other threads keep changing.
_TRIES: Final = 8


def adapter_for(  # noqa: PLR0913 - each says one thing about the holder, all but the name have a default
    obj: object,
    *,
    name: str,
    cost: Cost | None = None,
    at: Level | None = None,
    lock: AbstractContextManager[Any] | None = None,
    currsize_is_bytes: bool = False,
) -> tuple[Reclaimer, object | None]:
    """The reclaimer for a holder, and the object whose end ends it (None: it cannot be held weakly, so it is held).

    Registering something says that it is a *cache*: entries are dropped without asking, oldest first (plain
    mappings), by the cache's own ``popitem`` (cachetools and other classes that define one) or all at once
    (``lru_cache`` functions, objects that only have ``clear()``). Never register what is not stored elsewhere too.

    ``cost`` is "cheap" for what can be shrunk bit by bit and "dear" for what can only be emptied, since functions
    under ``lru_cache`` often make singletons; ``at`` follows from the cost (free ELEVATED, cheap WARNING, dear
    CRITICAL, last EMERGENCY). ``lock`` is the one that the application holds while it uses the object; the lock of a
    function under ``cachetools.cached`` is found. ``currsize_is_bytes`` says that the cache's ``getsizeof`` gives
    bytes, so that its ``currsize`` counts instead of an estimate.

    Raises:
        TypeError: the object is none of these, or the lock is no lock for threads; the text says what to do.
        ValueError: the name is blank, the cost unknown, or there is no ``currsize``.
    """
    if lock is not None and not hasattr(lock, "__enter__"):
        raise TypeError(f"holder {name!r}: {type(lock).__name__} is no lock for threads: pass a threading.Lock")
    if isinstance(obj, types.MethodType):
        obj = obj.__func__  # the class's function holds the cache; a bound method lives for a moment only
    decorated, evicts = _kind_of(obj, name)
    ref, held = _hold(obj)
    get = partial(_part, ref, "cache") if decorated else ref
    find_lock = partial(_part, ref, "cache_lock") if decorated and lock is None else lambda: lock
    if currsize_is_bytes and not hasattr(get(), "currsize"):
        raise ValueError(f"holder {name!r}: {type(obj).__name__} has no currsize: leave currsize_is_bytes out")
    cost = cost or ("cheap" if evicts else "dear")
    check_labels(name, cost, Level.OK if at is None else at)
    at = _AT[cost] if at is None else at
    if evicts:
        return EvictCache(name, get, find_lock, cost=cost, at=at, currsize_is_bytes=currsize_is_bytes), held
    return ClearCache(name, get, find_lock, cost=cost, at=at), held


def _kind_of(obj: Any, name: str) -> tuple[bool, bool]:  # noqa: ANN401 - anything may be passed
    """Whether the cache is an attribute of the object, and whether it gives up single entries."""
    if isinstance(obj, type):
        raise _refusal(obj, name, f"{obj.__name__} is a class: pass an instance of it")
    if callable(obj) and hasattr(obj, "cache_key") and hasattr(obj, "cache"):  # under cachetools.cached
        cache: Any = getattr(obj, "cache", None)
        if is_a(cache, MutableMapping):
            return True, True
        why = "a method under cachetools.cachedmethod" if callable(cache) else "a function that caches nothing"
        raise _refusal(obj, name, f"{why}: pass the cache object itself")
    if callable(getattr(obj, "cache_clear", None)):
        return False, False
    if isinstance(obj, MutableMapping) or (callable(getattr(obj, "popitem", None)) and hasattr(obj, "__len__")):
        return False, True
    if callable(getattr(obj, "clear", None)):
        return False, False
    if is_a(obj, Mapping):
        raise _refusal(obj, name, "a mapping that cannot be changed: pass the one behind it")
    raise _refusal(obj, name, "it has neither popitem() nor clear() nor cache_clear()")


def _refusal(obj: object, name: str, why: str) -> TypeError:
    return TypeError(
        f"holder {name!r}: cannot shrink {type(obj).__module__}.{type(obj).__qualname__}: {why}. Mappings, cachetools "
        f"caches, functions under lru_cache or cachetools.cached and objects with popitem() or clear() will do; for "
        f"anything else write guard.reclaimer({name!r}, lambda wanted_bytes: ...)"
    )


def _hold(obj: Any) -> tuple[Callable[[], Any], object | None]:  # noqa: ANN401
    try:
        return weakref.ref(obj), obj
    except TypeError:  # dict, __slots__ without __weakref__
        return lambda: obj, None


def _part(ref: Callable[[], Any], attribute: str) -> Any:  # noqa: ANN401
    return getattr(ref(), attribute, None)


@contextmanager
def _locked(lock: Any, name: str) -> Generator[None]:  # noqa: ANN401 - a Lock, or anything with `with`
    if lock is None:
        yield
    elif not (hasattr(lock, "acquire") and hasattr(lock, "release")):
        with lock:
            yield
    elif lock.acquire(timeout=_LOCK_S):
        try:
            yield
        finally:
            lock.release()
    else:
        raise TimeoutError(f"the lock of {name!r} was busy for {_LOCK_S:.0f} s")


class ClearCache:
    """A holder that can only be emptied as a whole, as a reclaimer; see ``adapter_for``."""

    settles: bool = False
    stalls: bool = False

    def __init__(
        self, name: str, get: Callable[[], Any], get_lock: Callable[[], Any], *, cost: Cost, at: Level
    ) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self._get = get
        self._get_lock = get_lock
        self._estimate = Estimate()

    def size(self) -> int | None:
        """Estimated bytes; None where entries can be neither counted nor seen, 0 once the holder is gone."""
        cache = self._get()
        if cache is None:
            return 0
        if is_a(cache, (list, set, deque)):
            return self._estimate.total(len(cache), lambda: peek_items(cache))
        info = getattr(cache, "cache_info", None)
        length = getattr(info(), "currsize", None) if callable(info) else None
        return None if length is None else self._estimate.total(length, lambda: peek_function(cache))

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Empty it, if anything is wanted; claims its estimated size.

        Raises:
            TimeoutError: the lock was busy for a second.
        """
        cache = self._get()
        if cache is None or wanted_bytes <= 0:
            return 0
        held_bytes = self.size()
        with _locked(self._get_lock(), self.name):
            (getattr(cache, "cache_clear", None) or cache.clear)()
        return held_bytes

    def __repr__(self) -> str:
        return f"<ClearCache {self.name!r} {self.cost} at {self.at.name}>"


class EvictCache:
    """A holder that gives up entry by entry, as a reclaimer; see ``adapter_for``."""

    settles: bool = False
    stalls: bool = False

    def __init__(  # noqa: PLR0913 - filled in by adapter_for alone
        self,
        name: str,
        get: Callable[[], Any],
        get_lock: Callable[[], Any],
        *,
        cost: Cost,
        at: Level,
        currsize_is_bytes: bool = False,
    ) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self._get = get
        self._get_lock = get_lock
        self._currsize_is_bytes = currsize_is_bytes
        self._estimate = Estimate()

    @property
    def prompt(self) -> bool:
        """Whether shrinking waits for nobody: a plain dict without a lock."""
        return type(self._get()) in _PLAIN and self._get_lock() is None

    def size(self) -> int | None:
        """Accounted bytes: the length times the sampled bytes of an entry, or ``currsize``; takes no lock.

        Entries of a mapping that is neither a dict nor a cachetools cache cannot be seen without disturbing its
        order: its size is None until the first evictions have told. 0 once the holder is gone.
        """
        cache = self._get()
        if cache is None:
            return 0
        if self._currsize_is_bytes:
            return currsize_of(cache)
        return self._estimate.total(length_of(cache), lambda: peek_mapping(cache))

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Drop entries until the accounted bytes of the dropped ones reach what is wanted; claims their sum.

        It works in slices, gives the lock up between them, lets the dropped die outside of it, and never drops more
        entries than there were at first. Entries that cannot be dropped are passed over.

        Raises:
            TimeoutError: the lock was busy for a second, before anything was dropped.
            Exception: what the holder raised, when nothing could be dropped.
        """
        cache = self._get()
        if cache is None or wanted_bytes <= 0:
            return 0
        self.size()
        dropper = _Dropper(cache)
        freed_bytes, left = 0, length_of(cache)
        while left > 0 and freed_bytes < wanted_bytes:
            mean = self._estimate.mean
            need = _MEASURED if not mean else int((wanted_bytes - freed_bytes) / mean) + 1
            try:
                dropped, shrunk = self._drop(cache, dropper, min(need, left))
            except TimeoutError:
                if not freed_bytes:
                    raise
                break
            if not dropped:
                break
            left -= len(dropped)
            sizes = [bytes_of(entry) for entry in dropped[:: max(1, len(dropped) // _MEASURED)]]
            self._estimate.learn(sizes)
            freed_bytes += shrunk if self._currsize_is_bytes else sum(sizes) * len(dropped) // len(sizes)
        if not freed_bytes and dropper.error is not None:
            raise dropper.error
        return freed_bytes

    def _drop(self, cache: Any, dropper: _Dropper, need: int) -> tuple[list[object], int]:  # noqa: ANN401
        """One slice: the dropped entries, still alive, and by how much ``currsize`` shrank."""
        with _locked(self._get_lock(), self.name):
            before = currsize_of(cache) if self._currsize_is_bytes else 0
            dropped = dropper.drop(need)
            shrunk = before - currsize_of(cache) if self._currsize_is_bytes else 0
        return dropped, max(0, shrunk)

    def __repr__(self) -> str:
        return f"<EvictCache {self.name!r} {self.cost} at {self.at.name}>"


class _Dropper:
    """One pass of evictions over a mapping: by its own ``popitem``, else oldest first.

    ``error`` is the last thing that an entry or the mapping raised.
    """

    def __init__(self, cache: Any) -> None:  # noqa: ANN401
        self.error: Exception | None = None
        self._cache = cache
        self._keys: deque[object] = deque()
        self._absent = object()
        # dict's and OrderedDict's take the newest, MutableMapping's the first: oldest first is up to us.
        self._by_popitem = cast("Any", type(cache)).popitem not in _NOT_OLDEST
        self._stuck = 0

    def drop(self, need: int) -> list[object]:
        """Up to a slice of entries, as (key, value), taken out of the mapping; [] when none is to be had.

        What has expired already goes first, all of it.
        """
        expire = getattr(self._cache, "expire", None)
        expired: Any = expire() if callable(expire) else None
        if is_a(expired, list) and expired:
            return list(expired)
        return self._pop(min(need, _SLICE)) if self._by_popitem else self._oldest(need)

    def _pop(self, need: int) -> list[object]:
        dropped: list[object] = []
        while len(dropped) < need:
            try:
                dropped.append(self._cache.popitem())
            except Exception as error:  # noqa: BLE001 - each class has its own way to say that it is empty
                if len(self._cache):
                    self.error = error
                break
        return dropped

    def _oldest(self, need: int) -> list[object]:
        if type(self._cache) in _PLAIN and not self._keys and (dropped := self._at_once(need)):
            return dropped
        dropped = list[object]()
        for _ in range(_TRIES):
            if not self._keys and not self._pick(min(need, _KEYS) + self._stuck):
                break
            while self._keys and len(dropped) < min(need, _SLICE):
                key = self._keys.popleft()
                try:
                    value = self._cache.pop(key, self._absent)
                except Exception as error:  # noqa: BLE001 - a key whose __eq__ raises: keep it, go on
                    self.error = error
                    self._stuck += 1  # it will be picked up again: look past it
                else:
                    if value is not self._absent:
                        dropped.append((key, value))
            if dropped:
                break
        return dropped

    def _at_once(self, need: int) -> list[object]:
        """The oldest entries of a plain dict, taken out by two calls into C: busy threads cannot step in between.

        [] when an entry raises; what follows then goes one by one.
        """
        try:
            keys: list[Any] = list(islice(self._cache, min(need, _KEYS)))
            values: list[Any] = list(map(self._cache.pop, keys, repeat(self._absent)))
        except Exception as error:  # noqa: BLE001 - a key whose __eq__ or __hash__ raises
            self.error = error
            return []
        return [pair for pair in zip(keys, values, strict=True) if pair[1] is not self._absent]

    def _pick(self, count: int) -> bool:
        """Pick up the oldest keys; False when there are none, or they do not keep still."""
        for _ in range(_TRIES):
            try:
                self._keys.extend(list(islice(iter(self._cache), count)))
            except (RuntimeError, KeyError) as error:  # changed size during iteration
                self.error = error
            else:
                return bool(self._keys)
        return False
