"""What the entries of somebody else's cache weigh: a sampled estimate that never disturbs the cache."""

from __future__ import annotations

import functools
import gc
import time
from collections import UserDict
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.sizing import bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Estimate", "bytes_of", "currsize_of", "is_a", "length_of", "peek_function", "peek_items", "peek_mapping"]

# 8 from the oldest end and 8 from the newest: entries of one cache tend to change with time.
_PEEK: Final = 8
# gc.get_referents lists every link of a bounded lru_cache: 8 bytes and 10 ns each.
_LINKS_MOST: Final = 65_536
# An estimate is taken anew after so long, or when the length moved by a quarter, but not more often than this.
_OLD_S: Final = 5.0
_YOUNG_S: Final = 0.25
_MOVED_RATIO: Final = 0.25
# The type of every function under functools.lru_cache or cache.
_LRU: Final[Any] = type(functools.lru_cache(bool))
# Underneath what a subclass makes of it.
_ITEMS: Final = cast("Any", dict).items


def is_a(thing: object, kinds: Any) -> bool:  # noqa: ANN401
    """``isinstance`` without what type checkers conclude from it: they know nothing of other people's contents."""
    return isinstance(thing, kinds)


def _inside(mapping: Any) -> Any:  # noqa: ANN401
    """The dict underneath, of a UserDict or a cachetools cache; else the mapping itself."""
    # _Cache__data: cachetools.Cache, since its first release.
    attribute = "data" if is_a(mapping, UserDict) else "_Cache__data"
    return getattr(mapping, attribute, mapping)


def length_of(mapping: Any) -> int:  # noqa: ANN401 - popitem() and len() are all that is asked of it
    """How many entries there are, expired ones that still lie in a cachetools cache included."""
    inside = _inside(mapping)
    return len(inside if is_a(inside, dict) else mapping)


def currsize_of(cache: Any) -> int:  # noqa: ANN401
    """``currsize``, for cachetools read where reading expires nothing; never negative."""
    return max(0, int(getattr(cache, "_Cache__currsize", None) or cache.currsize))


def peek_mapping(mapping: Any) -> Sequence[object] | None:  # noqa: ANN401
    """A few keys-with-values of a mapping, from both ends; None where looking would count as use.

    A dict, an OrderedDict, a UserDict or a cachetools cache is read underneath its own ``__getitem__``, which may
    reorder, compute or log.
    """
    inside = _inside(mapping)
    if not is_a(inside, dict):
        return None
    items = _ITEMS(inside)
    return _few(items, reversed(items))


def peek_function(function: Any) -> Sequence[object] | None:  # noqa: ANN401
    """A few entries of a function under ``functools.lru_cache`` or ``cache``; None where they cannot be reached."""
    if not isinstance(function, _LRU):
        return None
    length = function.cache_info().currsize
    bounded = function.cache_parameters()["maxsize"] is not None
    if bounded and length > _LINKS_MOST:
        return None
    referents = gc.get_referents(function)
    if bounded:
        # CPython 3.11 to 3.13 list (type of the link, key, result) of every entry first, oldest first.
        links = [tuple(referents[at + 1 : at + 3]) for at in range(0, 3 * length, 3)]
        return _few(links, reversed(links)) if length and isinstance(referents[0], type) else None
    own = getattr(function, "__dict__", None)
    found = (inside for inside in referents if is_a(inside, dict) and inside is not own and len(inside) == length)
    return peek_mapping(next(found, None))


def peek_items(container: Iterable[object]) -> Sequence[object]:
    """A few items of a list, set or deque."""
    return _few(container, ())


def _few(front: Iterable[object], back: Iterable[object]) -> Sequence[object]:
    for _ in range(3):
        try:
            return [*islice(iter(front), _PEEK), *islice(iter(back), _PEEK)]
        except RuntimeError:  # changed size during iteration
            continue
    return ()


class Estimate:
    """A running estimate of the bytes of one entry."""

    __slots__ = ("_at", "_clock", "_length", "_mean")

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = float("-inf")
        self._length = 0
        self._mean: float | None = None

    @property
    def mean(self) -> float | None:
        """Bytes of an entry, None while none was seen."""
        return self._mean

    def total(self, length: int, peek: Callable[[], Sequence[object] | None]) -> int | None:
        """Bytes of so many entries; None while no entry was seen. Peeks now and then."""
        if length <= 0:
            return 0
        age_s = self._clock() - self._at
        moved = abs(length - self._length) > _MOVED_RATIO * self._length
        if age_s >= _OLD_S or (moved and age_s >= _YOUNG_S):
            self._at, self._length = self._clock(), length
            self.learn([bytes_of(entry) for entry in peek() or ()])
        return None if self._mean is None else int(self._mean * length)

    def learn(self, sizes: Sequence[int]) -> None:
        """Take the mean of these entries; none: keep the last."""
        if sizes:
            self._mean = sum(sizes) / len(sizes)
