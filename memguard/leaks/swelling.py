"""Containers that swell: which list, dict, set, deque or buffer holds more at each look.

This finds the holder without a search: a leak of many small objects nearly always has one container that grows. The
first two looks take ids and lengths of all, in slices, about 0.5 s per million objects; of the first some megabytes
are kept.
"""

from __future__ import annotations

import io
import time
from collections import deque
from itertools import compress, islice, pairwise, repeat
from math import sqrt
from operator import is_
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final

from memguard.leaks.census import Slices
from memguard.leaks.names import mro
from memguard.leaks.untracked import untracked_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Kind = tuple[type, Callable[[Any], int] | None]

__all__ = ["Grown", "Lengths", "newest"]

# Shorter ones are not kept from the first look: one that is new counts from here.
_SHORT: Final = 8
# Kept from one look, at some 100 bytes each; above, the shortest are left out.
_KEPT: Final = 50_000
_SLICE: Final = 5_000
# Given back at the end, the most grown first.
_TOLD: Final = 40
# By id: a class may define what its own hash and equality are.
_LENGTHS: Final[dict[int, Callable[[Any], int]]] = {
    id(list): list.__len__, id(dict): dict.__len__, id(set): set.__len__, id(deque): deque.__len__,
    id(bytearray): bytearray.__len__, id(io.BytesIO): io.BytesIO.__sizeof__, id(io.StringIO): io.StringIO.__sizeof__,
}  # fmt: skip
_BUFFERS: Final = frozenset({id(bytearray), id(io.BytesIO), id(io.StringIO)})
_HIDDEN: Final = (dict, bytearray)
_SAMPLES: Final = 8
# Looked after from the middle of a window to its end.
_WATCHED: Final = 200
# Of its growth, what a leak may lose for a while: work under way comes and goes on top of it.
_FALL_RATIO: Final = 0.1
# What comes and goes by chance varies by the root of its size.
_SIGMAS: Final = 3.0
# What getrefcount says of a container that only we hold: its slot and the call.
_OURS_ALONE: Final = 2


class Grown:
    """A container, and what it held at the first look, the middle one, and each after that."""

    __slots__ = ("container", "lengths")

    def __init__(self, container: Any, lengths: list[int]) -> None:  # noqa: ANN401 - any container
        self.container: Any = container
        self.lengths: list[int] = lengths

    @property
    def ends(self) -> tuple[int, int, int]:
        """What it held at first, in the middle, and last."""
        return self.lengths[0], self.lengths[1], self.lengths[-1]

    @property
    def grown(self) -> int:
        """Items more than at the first look."""
        return self.lengths[-1] - self.lengths[0]

    @property
    def rises(self) -> bool:
        """Whether it never fell; or only by a little of a growth that is more than chance."""
        worst = max(before - after for before, after in pairwise(self.lengths))
        chance = _SIGMAS * sqrt(self.lengths[0])
        return worst <= 0 or (worst <= _FALL_RATIO * self.grown and self.grown > chance)

    @property
    def is_buffer(self) -> bool:
        """Whether its items are bytes."""
        return any(id(base) in _BUFFERS for base in mro(type(self.container)))


class Lengths:
    """``first`` looks at all containers, ``again`` at which hold more; those are looked ``after`` until ``last``.

    From the middle of a window to its end the most grown ones are kept hold of, so that each further look costs
    nothing; one that nobody else holds any more is let go at the next.
    """

    def __init__(self, *, budget_s: float) -> None:
        self._budget_s = budget_s
        self._kinds: dict[int, _Kind] = {}
        self._first: dict[int, int] = {}
        self._kept = list[Grown]()
        self._shortest = _SHORT
        self.complete: bool = True
        self.hold_s: float = 0.0
        self.cost_s: float = 0.0

    def first(self) -> None:
        """Look at all."""
        self._first.clear()
        for thing, length in self._look(_SHORT):
            self._first[id(thing)] = length
            if len(self._first) > _KEPT:
                self._shortest *= 2
                self._first = {key: known for key, known in self._first.items() if known >= self._shortest}

    def again(self) -> None:
        """Look at which of them hold more, and keep hold of those."""
        told = set[int]()
        for thing, length in self._look(self._shortest + 1):
            before = self._first.get(id(thing), self._shortest - 1)
            if length > before and id(thing) not in told:
                told.add(id(thing))
                self._kept.append(Grown(thing, [before, length]))
                if len(self._kept) > 2 * _WATCHED:
                    self._thin()
        self._thin()
        self._first.clear()

    def _thin(self) -> None:
        self._kept.sort(key=lambda one: -one.grown)
        del self._kept[_WATCHED:]

    def after(self) -> None:
        """Look at those again; no pass over the heap."""
        for one in self._kept:
            length_of = self._kinds[id(type(one.container))][1]
            assert length_of is not None  # noqa: S101 - it was measured before
            one.lengths.append(length_of(one.container))
        self._kept = [one for one in self._kept if getrefcount(one.container) > _OURS_ALONE]

    def last(self) -> list[Grown]:
        """Those that rose all the time, the most grown first; they are no longer kept hold of."""
        self.after()
        found = sorted((one for one in self._kept if one.rises), key=lambda one: -one.grown)[:_TOLD]
        self._kept = []
        return found

    def _look(self, least: int) -> Iterator[tuple[Any, int]]:
        """Every container that holds so many."""
        began = time.thread_time()
        slices = Slices(budget_s=self._budget_s, slice_=_SLICE)
        for chunk in slices:
            chunk.extend(untracked_in(chunk, _HIDDEN))
            ours = {id(self._first), id(self._kept), id(self._kinds), id(chunk)}
            for kind, length_of in self._kinds_in(chunk):
                some = list(compress(chunk, map(is_, map(type, chunk), repeat(kind))))
                for thing in compress(some, map(least.__le__, map(length_of, some))):
                    if id(thing) not in ours:
                        yield thing, length_of(thing)
                some.clear()
        self.complete = self.complete and not slices.late
        self.hold_s = max(self.hold_s, slices.hold_s)
        self.cost_s += time.thread_time() - began

    def _kinds_in(self, chunk: list[Any]) -> list[tuple[type, Callable[[Any], int]]]:
        """The types of these objects of which instances hold something that is counted, with how to count it."""
        ids = list(map(id, map(type, chunk)))
        found: list[tuple[type, Callable[[Any], int]]] = []
        for key in set(ids):
            known = self._kinds.get(key)
            if known is None:
                kind = type(chunk[ids.index(key)])
                length_of = next((_LENGTHS[id(base)] for base in mro(kind) if id(base) in _LENGTHS), None)
                known = self._kinds[key] = (kind, length_of)
            if known[1] is not None:
                found.append((known[0], known[1]))
        return found


def newest(container: Any, count: int = _SAMPLES) -> list[Any]:  # noqa: ANN401
    """Some of what was put into a container last; keys too, where values say nothing."""
    for base in mro(type(container)):
        try:
            if base is dict:
                found = list(islice(reversed(dict.values(container)), count))
                plain = all(type(one) is int or type(one) is bool or one is None for one in found)
                return list(islice(reversed(dict.keys(container)), count)) if plain else found
            if base is list:
                return list(islice(list.__reversed__(container), count))
            if base is deque:
                return list(islice(deque.__reversed__(container), count))
            if base is set:
                return list(islice(set.__iter__(container), count))
        except RuntimeError:  # changed meanwhile
            return []
    return []
