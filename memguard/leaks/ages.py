"""The arithmetic of cohorts: does what is born at a place die, or stay?"""

from __future__ import annotations

from itertools import pairwise
from math import exp, lgamma, log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["holm", "outlived"]

# A place at which less than this share of the born outlives the first part of a window is no leak.
_STAYING: Final = 0.5
# Blocks below which counting says nothing; then only the bytes' direction counts.
_FEW: Final = 8
# Above that a sum over all outcomes takes longer than it is worth.
_MANY: Final = 2_000


def outlived(blocks: Sequence[int], sizes: Sequence[int], weights: Sequence[float]) -> float:
    """The probability of so many survivors at a place if at most half of the young blocks became old there.

    ``blocks[k]`` and ``sizes[k]`` are what is alive at the end of part k of those born since the window began,
    ``weights[k]`` the work done in that part. Given n alive at the end, those older than the first part are binomial; a
    request makes several blocks at once, so n is at most the work where that was counted. Of few blocks (a buffer that
    grows) only the direction of their bytes is judged, by a sign test.
    """
    steps = [later - sooner for sooner, later in pairwise(sizes)]
    if not steps or min(steps) <= 0 or sum(weights) <= 0:
        return 1.0
    work = sum(weights)
    if blocks[-1] < _FEW:
        return 0.5 ** len(steps)
    first = weights[0] / work
    stays = _STAYING * (1.0 - first)
    share = stays / (first + stays)
    counted = blocks[-1] if work <= len(weights) else min(blocks[-1], int(work))
    old = (blocks[-1] - blocks[0]) / blocks[-1]
    return _binomial_tail(counted, round(max(0.0, old) * counted), share)


def _binomial_tail(count: int, hits: int, share: float) -> float:
    """The probability of at least ``hits`` in ``count`` tries."""
    if hits <= 0:
        return 1.0
    if not 0.0 < share < 1.0:
        return 1.0
    if hits <= share * count:
        return 1.0
    if count > _MANY:  # Chernoff's bound is above it, and near enough for what is this small
        seen = min(hits / count, 1.0 - 1e-12)
        return exp(-count * (seen * log(seen / share) + (1.0 - seen) * log((1.0 - seen) / (1.0 - share))))
    whole = lgamma(count + 1)
    return min(
        1.0,
        sum(
            exp(whole - lgamma(k + 1) - lgamma(count - k + 1) + k * log(share) + (count - k) * log(1.0 - share))
            for k in range(hits, count + 1)
        ),
    )


def holm(chances: Sequence[float]) -> tuple[float, ...]:
    """Each probability corrected for how many were looked at (Holm 1979), in the order given."""
    corrected = [1.0] * len(chances)
    worst = 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        worst = max(worst, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = worst
    return tuple(corrected)
