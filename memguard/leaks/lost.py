"""Lost references: Python's blocks that come and that no object of the collector's holds.

C code that forgets to let go leaves objects to which nothing refers: no container grows, and text, bytes and numbers
are in no census. But Python counts its blocks. What it has more of is set against what the collector's objects refer to
more: a sample of all those, by their place in memory (every 61st, of a small heap every 13th), each counted once; some
a second per million tracked objects, in slices, and 4 MB.
"""

from __future__ import annotations

import gc
import sys
from array import array
from itertools import compress, repeat
from math import sqrt
from operator import mod, not_
from types import CodeType
from typing import TYPE_CHECKING, Final, NamedTuple

from memguard.findings import Lost
from memguard.leaks.census import FROZEN_AT_START, Slices
from memguard.leaks.native import foreign_modules
from memguard.leaks.referents import referents_of_all
from memguard.leaks.untracked import untracked_in
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

__all__ = ["Stock", "lost_between", "take_stock"]

_SLICE: Final = 10_000
# Primes: objects of one size lie at even distances, and a power of two would meet all of some sizes, none of others.
_OF: Final = 61
_OF_FEW: Final = 13
_FEW_BLOCKS: Final = 1_000_000
# Objects begin at such places.
_ALIGNED: Final = 16
# Untracked dicts and tuples that hold such again, as plain rows of tables do, are followed so far.
_DEEP: Final = 5
# An untracked object is a block, a tracked one mostly two; a function's code, of which the collector does not see the
# parts, some fourteen.
_BLOCKS_EACH: Final = (1, 2, 14)
_CODE: Final = 2
# pymalloc serves up to 512 bytes; over all programs that were looked at, a block in use has 44 to 110.
_BLOCK_BYTES: Final = 64
# Fewer blocks than that are the interpreter's own; of growth that is explained mostly, the rest is chance.
_LEAST: Final = 300
_MOSTLY: Final = 0.6
_SIGMAS: Final = 4.0


class Stock(NamedTuple):
    """What there is at one instant: Python's blocks, and where sampled objects lie to which the collector's refer.

    One ``of`` so many: ``places`` are those of untracked objects, of tracked ones, and of code.
    ``complete`` is False when the time for it was over, or ``gc.freeze`` has set objects aside, which may hold others.
    """

    blocks: int
    of: int
    places: list[array[int]]
    complete: bool
    hold_s: float


def take_stock(*, budget_s: float, of: int | None = None) -> Stock:
    """Count, one ``of`` so many (None: by the size of the heap); at most about ``budget_s`` of processor time."""
    blocks, slices = sys.getallocatedblocks(), Slices(budget_s=budget_s, slice_=_SLICE)
    of = of or (_OF_FEW if blocks < _FEW_BLOCKS else _OF)
    places: tuple[set[int], set[int], set[int]] = (set(), set(), set())
    for chunk in slices:
        some: Sequence[Any] = chunk
        for _ in range(_DEEP):
            for one in _sampled(some, of * _ALIGNED):
                places[_CODE if type(one) is CodeType else gc.is_tracked(one)].add(id(one))
            some = untracked_in(some)
            if not some:
                break
    # Arrays: a number of ours for each would be one more block that somebody holds.
    complete = not slices.late and gc.get_freeze_count() <= FROZEN_AT_START
    return Stock(blocks, of, [array("Q", some) for some in places], complete=complete, hold_s=slices.hold_s)


def _sampled(holders: Sequence[Any], stride: int) -> Iterator[Any]:
    """Of what these refer to, what lies at every multiple of a stride."""
    held = referents_of_all(holders)
    return compress(held, map(not_, map(mod, map(id, held), repeat(stride))))


def lost_between(before: Stock, after: Stock) -> Lost | None:
    """What has come and is held by nobody, if that is most of what has come, and more than chance."""
    if not (before.complete and after.complete):
        return None
    grown = after.blocks - before.blocks
    held = moved = 0
    for sooner, later, blocks in zip(before.places, after.places, _BLOCKS_EACH, strict=True):
        gone, come = len(set(sooner).difference(later)), len(set(later).difference(sooner))
        held += max(0, come - gone) * blocks * before.of
        moved += (come + gone) * blocks * blocks
    lost = grown - held
    # What comes and goes meets a sampled place by chance.
    if lost < max(_LEAST, _MOSTLY * grown, _SIGMAS * before.of * sqrt(moved)):
        return None
    modules = foreign_modules()
    loaded = f"extension modules loaded: {', '.join(modules)}" if modules else "no extension module of others is loaded"
    return Lost(
        blocks=lost,
        bytes=lost * _BLOCK_BYTES,
        grown_blocks=grown,
        words=(
            f"of {grown} blocks more in Python's allocators, {lost} (about {format_bytes(lost * _BLOCK_BYTES)}) are "
            f"held by no object that the collector sees: C code has lost references or buffers, or alone holds them; "
            f"{loaded}"
        ),
    )
