"""Whether growth is proportional to repeats; arithmetic only."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from memguard._core.trend import pair_slopes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["each_time", "slope"]

_PARTS: Final = 3
# Each third of the repeats brings its part; a cache that fills up, or a buffer that doubles now and then, does not.
_PART_LEAST: Final = 0.2
# Or nearly all repeats add the same, whatever others free meanwhile: a thread that ends, a queue that is drained.
_ALIKE_RATIO: Final = 0.5
_ALIKE_LEAST: Final = 0.7
# A series that is no trend looks like one that often.
_CHANCE: Final = 0.02


def each_time(levels: Sequence[float]) -> float:
    """What each repeat adds, if nearly all add the same or all parts of them their share; else 0.0.

    ``levels`` are what there was before the first repeat and after each. The median of what a repeat added is not
    enough (every tenth may leak), the mean is not either (one may fill a cache).
    """
    steps = [later - sooner for sooner, later in pairwise(levels)]
    if not steps:
        return 0.0
    middle, total = median(steps), levels[-1] - levels[0]
    alike = sum(abs(step - middle) <= _ALIKE_RATIO * middle for step in steps)
    if middle > 0 and alike >= _ALIKE_LEAST * len(steps):
        return middle
    if total <= 0:
        return 0.0
    cuts = [round(len(steps) * part / _PARTS) for part in range(_PARTS + 1)]
    parts = [levels[stop] - levels[start] for start, stop in pairwise(cuts) if stop > start]
    if min(parts) < _PART_LEAST * total:
        return 0.0
    return min(middle, total / len(steps)) if middle > 0 else total / len(steps)


def slope(levels: Sequence[float]) -> float:
    """Theil-Sen's slope of a noisy series that rises beyond chance (Mann-Kendall) and in each part; else 0.0."""
    if not each_time(levels):
        return 0.0
    found = pair_slopes(range(len(levels)), levels) if len(levels) > _PARTS else None
    return found.middle if found is not None and found.p < _CHANCE and found.middle > 0 else 0.0
