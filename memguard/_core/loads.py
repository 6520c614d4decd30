"""Loads: how much of a growth is what a busier service needs, and which blocks may be compared."""

from __future__ import annotations

from bisect import bisect_left
from math import log1p, sqrt

from memguard._core.trend import mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Eased", "busier", "covered", "ease", "like_groups", "rates"]

# Loads within a quarter of each other are alike; below 50 requests a block, chance alone makes as much.
_ALIKE = 0.223
_FEW = 50.0
# A column that others explain up to this share of its squares says nothing of its own.
_SAME = 1e-6


def rates(at: Sequence[float], count: Sequence[float]) -> list[float]:
    """How much was counted per second in each block; the first, whose beginning is not known, gets the second's."""
    found = [
        max(0.0, (b - a) / (end - begin)) if end > begin else 0.0
        for a, b, begin, end in zip(count, count[1:], at, at[1:], strict=False)
    ]
    return [found[0], *found] if found else [0.0] * len(at)


def like_groups(loads: Sequence[tuple[float, float]]) -> list[list[int]]:
    """The places of blocks under like load: (requests in the block, requests under way)."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (count, open_) in enumerate(loads):
        key = int(log1p(count / _FEW) / _ALIKE), int(log1p(open_ / _FEW) / _ALIKE)
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def covered(groups: Sequence[Sequence[int]], count: int) -> float:
    """Of all pairs at least a third of the time apart, the share under like load."""
    apart = max(1, count // 3)
    pairs = sum(
        len(members) - bisect_left(members, first + apart, place)
        for members in groups
        for place, first in enumerate(members)
    )
    return pairs / ((count - apart) * (count - apart + 1) / 2)


def busier(loads: Sequence[tuple[float, float]]) -> float:
    """By what share the last quarter was busier than the first, in requests or in those under way; at least 0.0.

    Over quarters, since the noise of single blocks hides how much of a day lies between two that seem alike.
    """
    quarter = len(loads) // 4
    first, last = loads[:quarter], loads[-quarter:]
    return max(
        0.0,
        *(
            (mean(now) + 1.0) / (mean(then) + 1.0) - 1.0
            for then, now in zip(_columns(first), _columns(last), strict=True)
        ),
    )


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [row[0] for row in rows], [row[1] for row in rows]


class Eased:
    """Values less what load explains; what is left of them without their trends; how many standard errors they grew."""

    __slots__ = ("left", "sure", "values")

    def __init__(self, values: Sequence[float], left: Sequence[float], sure: float) -> None:
        self.values: Sequence[float] = values
        self.left: Sequence[float] = left
        self.sure: float = sure


def ease(trends: Sequence[Sequence[float]], loads: Sequence[Sequence[float]], y: Sequence[float]) -> Eased:
    """Take out of ``y`` what goes with the loads rather than with the trends, by least squares.

    More load never needs less memory: a load that seems to say so is left out.
    """
    flat = [column for column in loads if max(column) > min(column)]
    while True:
        columns = [_centred(column) for column in (*trends, *flat)]
        values = _centred(y)
        count, wide = len(y), len(trends)
        matrix = [[_dot(a, b) for b in columns] for a in columns]
        weights = _solved(matrix, [_dot(column, values) for column in columns])
        wrong = [place for place, weight in enumerate(weights[wide:]) if weight < 0.0]
        if not wrong:
            break
        flat = [column for place, column in enumerate(flat) if place not in wrong]
    left = [
        value - sum(weight * column[place] for weight, column in zip(weights, columns, strict=True))
        for place, value in enumerate(values)
    ]
    gains = [column[-1] - column[0] for column in columns[:wide]] + [0.0] * len(flat)
    grown = _dot(gains, weights)
    variance = _dot(left, left) / max(1, count - len(columns) - 1) * _dot(gains, _solved(matrix, gains))
    eased = [
        value - sum(weight * column[place] for weight, column in zip(weights[wide:], columns[wide:], strict=True))
        for place, value in enumerate(y)
    ]
    return Eased(eased, left, grown / sqrt(variance) if variance > 0.0 else float("inf" if grown > 0.0 else "-inf"))


def _centred(values: Sequence[float]) -> list[float]:
    middle = mean(values)
    return [value - middle for value in values]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _solved(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """The solution of a symmetric system, by elimination; a column that is a sum of others gets 0."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size, done = len(rows), list[int]()
    for place in range(size):
        pivot = rows[place][place]
        if pivot <= _SAME * matrix[place][place]:
            continue
        done.append(place)
        rows[place] = [value / pivot for value in rows[place]]
        for other in range(size):
            factor = rows[other][place]
            if other != place and factor:
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[place], strict=True)]
    return [rows[place][size] if place in done else 0.0 for place in range(size)]
