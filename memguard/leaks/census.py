"""A census: how many objects are alive, by type; taken in slices, without touching an instance."""

from __future__ import annotations

import gc
import time
from collections import Counter
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

from memguard.findings import Census, TypeGrowth
from memguard.leaks.names import type_name
from memguard.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["FROZEN_AT_START", "Slices", "growth", "take"]

# Counting a slice takes 1 to 3 ms; the GIL is free between two.
_SLICE: Final = 20_000
_PAUSE_S: Final = 0.0005
FROZEN_AT_START: Final = 2_000
"""CPython 3.12 and later freeze some hundred of their own."""

# CPython has three generations up to 3.13; an index beyond the last raises ValueError.
_GENERATIONS: Final = (2, 1, 0)


class Slices:
    """Every object that the collector tracks, a slice at a time, about in the order of their birth.

    The list of one generation is made in a single C call that nobody can interrupt: about 80 ms per million objects,
    told in ``hold_s``. What was handed out is let go of at once, so that few objects live longer because of us.
    ``budget_s`` is processor time, ``late`` says that it ended first; ``total`` is how many objects there were.
    """

    def __init__(self, *, budget_s: float, slice_: int = _SLICE) -> None:
        self._bell = Bell()
        self._slice = slice_
        self._ends_at = time.thread_time() + budget_s
        self.hold_s: float = 0.0
        self.total: int = 0
        self.late: bool = False

    def __iter__(self) -> Iterator[list[Any]]:
        for generation in _GENERATIONS:
            if self.late:
                return
            began = time.thread_time()
            try:
                alive = gc.get_objects(generation)
            except ValueError:
                continue
            self.total += len(alive)
            alive.reverse()  # what is handed out is cut off at the end
            self._held(began)
            while alive:
                if time.thread_time() > self._ends_at:
                    self.late = True
                    break
                chunk = alive[-self._slice :]
                del alive[-self._slice :]
                chunk.reverse()
                began = time.thread_time()
                yield chunk
                self._held(began)
                chunk.clear()
                self._bell.wait(_PAUSE_S)

    def _held(self, began: float) -> None:
        self.hold_s = max(self.hold_s, time.thread_time() - began)


def take(
    *, budget_s: float = 5.0, types: Collection[str] | None = None, clock: Callable[[], float] = time.monotonic
) -> Census:
    """Count what is alive by the qualified name of its type; at most about ``budget_s`` of processor time.

    ``types`` keeps only these names. No collection is run: unreachable cycles count as alive. Frozen objects
    (``gc.freeze``) are not seen.
    """
    at, began = clock(), time.perf_counter()
    slices = Slices(budget_s=budget_s)
    by_id, kinds, counted = Counter[int](), dict[int, type](), 0
    for chunk in slices:
        counted += len(chunk)
        ids = list(map(id, map(type, chunk)))
        by_id.update(ids)
        new = set(ids).difference(kinds)
        if new:  # by id: a class may define what its own hash and equality are
            kinds.update((id(type(one)), type(one)) for one in compress(chunk, map(new.__contains__, ids)))
    counts = Counter[str]()
    for key, count in by_id.items():
        counts[type_name(kinds[key])] += count
    wanted = counts if types is None else {name: counts[name] for name in types if counts[name]}
    frozen = gc.get_freeze_count()
    unseen = [f"{frozen} frozen objects"] if frozen > FROZEN_AT_START else []
    if slices.late:
        unseen.append(
            f"{slices.total - counted} or more objects: the {budget_s:g} s of processor time for counting were over"
        )
    return Census(
        at=at,
        counts=dict(sorted(wanted.items(), key=lambda row: (-row[1], row[0]))),
        objects=counted,
        complete=not slices.late,
        cost_s=time.perf_counter() - began,
        hold_s=slices.hold_s,
        unseen="; ".join(unseen),
    )


def growth(before: Census, after: Census) -> tuple[TypeGrowth, ...]:
    """The types of which more are alive than before, the largest growth first.

    From a census that was cut short nothing can be said: ().
    """
    if not before.complete or not after.complete:
        return ()
    rows = [
        TypeGrowth(type=name, before=before.counts.get(name, 0), after=count)
        for name, count in after.counts.items()
        if count > before.counts.get(name, 0)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.grown, row.type)))
