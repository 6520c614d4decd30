"""Dicts and tuples that the collector does not track, because they hold nothing that could lie in a cycle.

``gc.get_referrers`` does not see them as holders, and ``gc.get_objects`` not at all: a dict of bytes that grows is such
a one. They are found from whoever refers to them, in slices: some 0.4 s per million tracked objects.
"""

from __future__ import annotations

import gc
from itertools import compress, filterfalse, repeat
from operator import is_
from typing import TYPE_CHECKING, Any, Final

from memguard.leaks.census import Slices
from memguard.leaks.referents import referents_of_all

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["holding", "untracked_in"]

_KINDS: Final = (dict, tuple)
_SLICE: Final = 10_000


def untracked_in(some: Sequence[Any], kinds: Sequence[type] = _KINDS) -> list[Any]:
    """The untracked objects of exactly these kinds to which some objects refer directly; all of it in C."""
    held, found = referents_of_all(some), list[Any]()
    for kind in kinds:
        found += filterfalse(gc.is_tracked, compress(held, map(is_, map(type, held), repeat(kind))))
    return found


def holding(wanted: set[int], *, budget_s: float) -> tuple[list[Any], float]:
    """Untracked dicts and tuples that hold one of these ids, and the longest stretch without other threads."""
    found = list[Any]()
    slices = Slices(budget_s=budget_s, slice_=_SLICE)
    for chunk in slices:
        near = untracked_in(chunk)
        near += untracked_in(near)
        if near and not wanted.isdisjoint(map(id, gc.get_referents(*near))):
            found += (one for one in near if not wanted.isdisjoint(map(id, gc.get_referents(one))))
        if found:
            break
    return found, slices.hold_s
