"""Taking entries out of somebody else's mapping: in its own order or oldest first, whoever writes meanwhile."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import MutableMapping
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from memguard.reclaimers.entries import is_a

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PLAIN", "SLICE", "ByCall", "Dropper", "Drops"]

SLICE: Final = 256
"""Entries dropped under one hold of the lock: some 0.1 ms."""

PLAIN: Final = (dict, OrderedDict)
"""Mappings that one call into C takes entries out of."""

# Keys picked up at once from a plain mapping: picking from the front of a dict walks over all that was dropped
# before, so few large pick-ups; entries of so many are out in 2 ms.
_KEYS: Final = 8192
_NOT_OLDEST: Final = [cast("Any", kind).popitem for kind in (dict, OrderedDict, MutableMapping)]
# Attempts at reading keys that other threads keep changing.
_TRIES: Final = 8


class Drops(Protocol):
    """One pass of evictions; ``error`` is the last thing that an entry or the holder raised."""

    error: Exception | None

    def expired(self) -> list[object]:
        """Everything that has expired, taken out."""

    def drop(self, need: int) -> list[object]:
        """Up to so many entries, taken out; [] when none is to be had."""


class ByCall:
    """One pass of evictions by a function that takes up to so many entries out of a holder and returns them.

    ``stale``, when given, takes out what has expired.
    """

    def __init__(
        self,
        holder: Any,  # noqa: ANN401
        take: Callable[[Any, int], list[object]],
        stale: Callable[[Any], list[object]] | None = None,
    ) -> None:
        self.error: Exception | None = None
        self._holder = holder
        self._take = take
        self._stale = stale

    def expired(self) -> list[object]:
        """What has expired, where the cache knows."""
        return [] if self._stale is None else self._stale(self._holder)

    def drop(self, need: int) -> list[object]:
        """Up to a slice of entries, [] when none is to be had."""
        try:
            return self._take(self._holder, min(need, SLICE))
        except Exception as error:  # noqa: BLE001 - told by the caller when nothing could be dropped
            self.error = error
            return []


class Dropper:
    """One pass of evictions over a mapping: by its own ``popitem``, else oldest first."""

    def __init__(self, cache: Any) -> None:  # noqa: ANN401
        self.error: Exception | None = None
        self._cache = cache
        self._keys: deque[object] = deque()
        self._absent = object()
        # dict's and OrderedDict's take the newest, MutableMapping's the first: oldest first is up to us.
        self._by_popitem = cast("Any", type(cache)).popitem not in _NOT_OLDEST
        self._stuck = 0

    def expired(self) -> list[object]:
        """Everything that has expired, as (key, value), taken out of a cache that knows."""
        expire = getattr(self._cache, "expire", None)
        expired: Any = expire() if callable(expire) else None
        return list(expired) if is_a(expired, list) else []

    def drop(self, need: int) -> list[object]:
        """Up to a slice of entries, as (key, value), taken out of the mapping; [] when none is to be had."""
        return self._pop(min(need, SLICE)) if self._by_popitem else self._oldest(need)

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
        if type(self._cache) in PLAIN and not self._keys and (dropped := self._at_once(need)):
            return dropped
        dropped = list[object]()
        for _ in range(_TRIES):
            if not self._keys and not self._pick(min(need, _KEYS) + self._stuck):
                break
            while self._keys and len(dropped) < min(need, SLICE):
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
