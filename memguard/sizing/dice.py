"""Chance for samples: which objects are looked at, and how many there are when the same ones come up again."""

from __future__ import annotations

from _random import Random  # the module random around it brings nine others
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["distinct", "drawn", "picked", "prime", "restart"]

# Started anew for each walk, so that walks repeat. Threads that walk at the same time disturb only that.
_DICE: Final = Random(0)
_SEED: Final = 7


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
    if times >= refs:
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
