"""Chance for samples: which objects are looked at, and how many there are when the same ones come up again."""

from __future__ import annotations

from _random import Random  # the module random around it brings nine others
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OFTEN", "Deck", "distinct", "drawn", "mixed", "picked", "prime", "restart"]

# Started anew for each walk, so that walks repeat. Threads that walk at the same time disturb only that.
_DICE: Final = Random(0)
_SEED: Final = 7
# Elements of a slice, and the least stride between them: more than rhythms that people give to lists.
_SLICE: Final = 32
_LEAST_STRIDE: Final = 31
# Elements of a slice of a small pool, where such a stride would make slices of two: they cost more than they mix.
_FEW: Final = 6
# Where the first slice begins, by the pool's length: Knuth's multiplier (The Art of Computer Programming, 6.4).
_WILD: Final = 2654435761


OFTEN: Final = 5
"""Objects that came up so often each are all there are: of a hundred, one was missed."""


def restart() -> None:
    """Let the next walk draw what the last one drew."""
    _DICE.seed(_SEED)


def drawn(total: int, count: int, used: set[int]) -> set[int]:
    """About ``count`` random places below ``total`` that were not used yet, at least one; all when few are left."""
    if count + len(used) >= total:
        return set(range(total)) - used
    new = set[int]()
    while not new:
        numbers = memoryview(_DICE.getrandbits(32 * count).to_bytes(4 * count, "little")).cast("I")
        new = {number * total >> 32 for number in numbers} - used
    return new


def picked(pool: Sequence[Any], count: int) -> list[Any]:
    """About so many of a pool at random; all of them when there are no more."""
    return [pool[at] for at in drawn(len(pool), count, set())]


class Deck:
    """A pool in an order in which every beginning is a sample of it: slices with one stride, in a wild order.

    ``width``: the pool is a sample already, of runs of so many that lie together: each slice takes one of each run.
    """

    __slots__ = ("_leap", "_left", "_pool", "_start", "_stride")

    def __init__(self, pool: Sequence[Any], width: int | None = None) -> None:
        if width is None:
            width = max(_LEAST_STRIDE, len(pool) // _SLICE)
            if len(pool) <= _LEAST_STRIDE * _FEW:
                width = len(pool) // _FEW if len(pool) > _SLICE else 1
        # Never the runs' own length, or of pairs only the first ones would come.
        stride = prime(width + 1) if width > 1 else 1
        self._pool, self._stride, self._left = pool, stride, stride
        self._leap, self._start = max(1, int(0.618 * stride)), len(pool) * _WILD % stride

    def draw(self, count: int) -> list[Any]:
        """At least so many more, or the rest."""
        pool, stride, left = self._pool, self._stride, self._left
        self._left = max(0, left - count * stride // (len(pool) or 1) - 1)
        turns = range(self._left, left)
        return list(chain.from_iterable([pool[(self._start + turn * self._leap) % stride :: stride] for turn in turns]))

    @property
    def empty(self) -> bool:
        """Whether all were drawn."""
        return not self._left


def mixed(pool: Sequence[Any]) -> list[Any]:
    """All of a pool, in such an order."""
    return Deck(pool).draw(len(pool))


@lru_cache(64)
def prime(least: int) -> int:
    """The first prime from a number on: a stride that has no rhythm in common with most lists."""
    number = max(1, least)
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number


def distinct(found: int, times: int, refs: float, most: int) -> float:
    """How many different objects so many references lead to, when ``times`` of them led to ``found``.

    Each object is taken to be referred to equally often, at most ``most`` times: the number at which as many would
    have been found as were.
    """
    if times >= min(refs, OFTEN * found):
        return found
    part = times / refs
    low, high = 1.0, max(1.0, min(most, refs))
    for _ in range(20):
        often = (low * high) ** 0.5
        if refs / often * (1 - (1 - part) ** often) > found:
            low = often
        else:
            high = often
    return max(found, refs / low)
