"""Shapes: where growth began, and what a row of floors looks like when it is no growth."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

from memguard._core.trend import mean, median

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["knee", "noise", "period", "spiked", "step_at"]

# Of each side of a knee or a step at least so many blocks.
_SIDE = 8
# A knee or a step explains so much of what a straight line leaves.
_EXPLAINS = 0.5
# Levels beside a step are level: their own lines may take out no more than this share of the step.
_LEVEL_RATIO = 0.25
# A spike takes a smaller share of the time.
_SPIKE_RATIO = 0.2
# A rhythm is heard when blocks one period apart agree this well.
_RHYTHM = 0.5
_NEARLY = 0.9


def noise(values: Sequence[float]) -> float:
    """The spread from one value to the next, as a standard deviation, robust against steps."""
    gaps = [abs(after - before) for before, after in pairwise(values)]
    return 1.0484 * median(gaps) if gaps else 0.0  # 1.4826 for the median, over the square root of 2


class _Sums:
    """Sums from the left, so that the line through any part costs nothing."""

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        x0, y0 = x[0], mean(y)
        self._rows = [(0.0, 0.0, 0.0, 0.0, 0.0)]
        sx = sy = sxx = sxy = syy = 0.0
        for one, other in zip(x, y, strict=True):
            a, b = one - x0, other - y0
            sx, sy, sxx, sxy, syy = sx + a, sy + b, sxx + a * a, sxy + a * b, syy + b * b
            self._rows.append((sx, sy, sxx, sxy, syy))

    def part(self, first: int, end: int) -> tuple[float, float, float]:
        """The slope of the line through a part, what it leaves (squares), and what the mean leaves."""
        count = end - first
        sx, sy, sxx, sxy, syy = (b - a for a, b in zip(self._rows[first], self._rows[end], strict=True))
        vx, vxy, vy = sxx - sx * sx / count, sxy - sx * sy / count, max(0.0, syy - sy * sy / count)
        slope = vxy / vx if vx > 0.0 else 0.0
        return slope, max(0.0, vy - slope * vxy), vy


def knee(x: Sequence[float], y: Sequence[float]) -> int:
    """The place from which it goes another way, as two lines; 0 where one line says as much."""
    count = len(x)
    if count < 2 * _SIDE:
        return 0
    sums = _Sums(x, y)
    whole = sums.part(0, count)[1]
    left, place = min(
        (sums.part(0, place)[1] + sums.part(place, count)[1], place) for place in range(_SIDE, count - _SIDE + 1)
    )
    return place if left < _EXPLAINS * whole else 0


def step_at(x: Sequence[float], y: Sequence[float]) -> int:
    """The place of the one step between two levels; 0 without."""
    count = len(x)
    if count < 2 * _SIDE:
        return 0
    sums = _Sums(x, y)
    left, place = min(
        (sums.part(0, place)[2] + sums.part(place, count)[2], place) for place in range(_SIDE, count - _SIDE + 1)
    )
    _, line, level = sums.part(0, count)
    if left > _EXPLAINS * line or left > _LEVEL_RATIO * level:
        return 0
    height = abs(median(y[place:]) - median(y[:place]))
    drifts = (
        abs(sums.part(0, place)[0]) * (x[place - 1] - x[0]),
        abs(sums.part(place, count)[0]) * (x[-1] - x[place]),
    )
    return place if max(drifts) < _LEVEL_RATIO * height else 0


def spiked(y: Sequence[float], least: float) -> bool:
    """Whether it left its level for a short while, once or twice, by more than ``least``."""
    level = median(y)
    height = max(y) - level
    if height < least:
        return False
    above = [value > level + height / 2.0 for value in y]
    runs = sum(now and not before for before, now in zip([False, *above], above, strict=False))
    return sum(above) <= _SPIKE_RATIO * len(y) and runs <= 2  # noqa: PLR2004 - once or twice


def period(y: Sequence[float]) -> int:
    """After how many blocks it comes back to where it was, again and again; 0 when it does not."""
    count = len(y)
    middle = mean(y)
    spread = [value - middle for value in y]
    total = sum(value * value for value in spread)
    if total <= 0.0:
        return 0
    ratios = [1.0]
    for lag in range(1, count // 2 + 1):
        head, tail = spread[:-lag], spread[lag:]
        scale = sqrt(sum(value * value for value in head) * sum(value * value for value in tail))
        ratios.append(sum(a * b for a, b in zip(head, tail, strict=True)) / scale if scale > 0.0 else 0.0)
    # It has to have gone elsewhere in between.
    gone = next((lag for lag, ratio in enumerate(ratios) if ratio < 0.0), count)
    best = max(ratios[gone:], default=0.0)
    if best <= _RHYTHM:
        return 0
    # Twice a period agrees as well as one.
    return next(lag for lag in range(gone, len(ratios)) if ratios[lag] >= _NEARLY * best)
