"""What may grow: function caches with a bound, and what registered holders say that they hold."""

from __future__ import annotations

import gc
import sys
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from memguard.leaks.names import class_dict
from memguard.leaks.retained import weigh

if TYPE_CHECKING:
    from memguard.findings import Swelling

__all__ = ["Caches", "is_bounded"]

_LRU: Final = type(lru_cache(lambda: None))
_FIGURES: Final[Any] = class_dict(_LRU)["cache_info"]
# An entry's place in the dict and in the list of the recent, without key and result.
_ENTRY_BYTES: Final = 170
_SAMPLES: Final = 16


class Caches:
    """How full bounded caches are at one instant; ``grown_bytes`` tells what they have taken in since."""

    def __init__(self) -> None:
        self._entries = {id(cache): entries for cache, entries in _bounded()}
        self._held = _held_bytes()

    def grown_bytes(self) -> int:
        """About how many bytes more they hold; those that are new count whole."""
        total = max(0, _held_bytes() - self._held)
        for cache, entries in _bounded():
            more = entries - self._entries.get(id(cache), 0)
            if more > 0:
                # Of a cache the collector sees keys and results, the oldest first.
                held = gc.get_referents(cache)
                samples = list(islice(reversed(held), _SAMPLES))
                total += more * (_ENTRY_BYTES + 2 * weigh(samples).each)
        return total


def _bounded() -> list[tuple[Any, int]]:
    found = []
    for thing in gc.get_objects():
        if type(thing) is _LRU:
            _, _, maxsize, entries = _FIGURES(thing)
            if maxsize is not None:
                found.append((thing, entries))
    return found


def _held_bytes() -> int:
    roster = sys.modules.get("memguard.roster")
    total = 0
    for _, reclaimer in () if roster is None else roster.DEFAULT.entries():
        try:
            total += reclaimer.size() or 0
        except Exception:  # noqa: BLE001, S112 - a holder that cannot say
            continue
    return total


def is_bounded(swelling: Swelling) -> bool:
    """Whether a container that grows has a bound: its own, or the guard's for memguard's function caches."""
    return (
        bool(swelling.bound) or swelling.site.startswith("memguard/caching/") or "['mg_table']" in swelling.chain.path
    )
