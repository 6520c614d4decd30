"""Functions under ``lru_cache`` that nobody registered: found for a report, never touched."""

from __future__ import annotations

import functools
import gc
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from memguard.reclaimers.entries import Estimate, peek_function
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.roster import Roster

__all__ = ["UnregisteredCache", "unregistered_lru_caches"]

# Long enough for some 5 million objects.
_WITHIN_S: Final = 0.5
# Objects looked at between two looks at the clock: some 0.2 ms.
_STRIDE: Final = 8192
_LRU: Final[Any] = type(functools.lru_cache(bool))


@value
class UnregisteredCache:
    """A function under ``functools.lru_cache`` or ``cache`` that is not registered.

    ``bytes`` is estimated, None where its entries cannot be reached. ``bounded`` is False for ``functools.cache``
    and ``lru_cache(None)``, which only ever grow.
    """

    name: str
    module: str
    entries: int
    bytes: int | None
    bounded: bool


def unregistered_lru_caches(
    roster: Roster | None = None, *, within_s: float = _WITHIN_S
) -> Sequence[UnregisteredCache]:
    """Every function under ``lru_cache`` that holds results and is not in the roster (None: in none), largest first.

    A walk over all objects the garbage collector knows, oldest generation first, ended after so many seconds: what
    it did not come to is missing. It reads, and calls ``cache_info``; it clears nothing.
    """
    until = time.perf_counter() + within_s
    holders: list[Any] = [] if roster is None else [reclaimer for _, reclaimer in roster.entries()]
    holders += [shelf for reclaimer in holders for shelf in getattr(reclaimer, "shelves", ())]
    asked = [holder.holds for holder in holders if hasattr(holder, "holds")]
    found: list[UnregisteredCache] = []
    for generation in (2, 1, 0):
        # Its list costs 8 bytes an object, for as long as the walk takes.
        objects = gc.get_objects(generation)
        for start in count(0, _STRIDE):
            functions = [thing for thing in objects[start : start + _STRIDE] if type(thing) is _LRU]
            registered = {id(function) for function in functions if any(holds(function) for holds in asked)}
            found += [cache for f in functions if id(f) not in registered and (cache := _described(f)) is not None]
            if start + _STRIDE >= len(objects) or time.perf_counter() > until:
                break
        del objects
        if time.perf_counter() > until:
            break
    return sorted(found, key=lambda cache: -(cache.bytes or 0))


def _described(function: Any) -> UnregisteredCache | None:  # noqa: ANN401
    try:
        entries, bounded = function.cache_info().currsize, function.cache_parameters()["maxsize"] is not None
        size = Estimate().total(entries, lambda: peek_function(function)) if entries else 0
    except Exception:  # noqa: BLE001 - cache_parameters is an attribute, and may be anything
        return None
    if not entries:
        return None
    name, module = getattr(function, "__qualname__", repr(function)), getattr(function, "__module__", "?")
    return UnregisteredCache(name=str(name), module=str(module), entries=entries, bytes=size, bounded=bounded)
