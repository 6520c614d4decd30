"""Trends without assumptions: Mann-Kendall's test and Theil-Sen's slope, over pairs that may be compared.

Mann (1945), Kendall (1975), Theil (1950), Sen (1968). Values in groups are compared within their group only, as Hirsch
and Slack (1982) compare a month with the same month of other years. All of it takes O(n²): 0.5 ms for 64 values.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import erfc, fsum, sqrt

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Drift",
    "Slopes",
    "drift",
    "hamed_rao",
    "kendall_variance",
    "lag_one",
    "mean",
    "median",
    "pair_slopes",
    "typical_step",
]

# A lag counts when its correlation would be chance in fewer than 5 % of white series.
_Z_95 = 1.959963984540054
# Of fewer steps nothing is said about how much they differ.
_STEPS = 8
# Of a way, what most steps have to make of it.
_MOST_OF_IT = 0.5
# From the median of what is left to a normal distribution's deviation, and of a median's error to a mean's.
_MAD, _MEDIAN = 1.4826, 1.2533
# Above this a series of some dozen values cannot be told from one that wanders for good.
_MOST_CORRELATED = 0.95


@value
class Slopes:
    """The slopes of all comparable pairs, sorted, and the variance of their sum of signs."""

    sorted: Sequence[float]
    variance: float

    @property
    def score(self) -> int:
        """Mann-Kendall's S: pairs that rise less pairs that fall."""
        slopes = self.sorted
        return len(slopes) - bisect_right(slopes, 0.0) - bisect_left(slopes, 0.0)

    @property
    def z(self) -> float:
        """S in standard deviations, corrected for continuity."""
        score = self.score
        if not score or self.variance <= 0.0:
            return 0.0
        return (score - 1 if score > 0 else score + 1) / sqrt(self.variance)

    @property
    def p(self) -> float:
        """How likely so much trend, up or down, is without any."""
        return erfc(abs(self.z) / sqrt(2.0))

    @property
    def middle(self) -> float:
        """Theil-Sen's slope: the median of all; 0.0 of none."""
        return median(self.sorted) if self.sorted else 0.0

    def bounds(self, z: float) -> tuple[float, float]:
        """Sen's interval for the slope, ``z`` standard deviations of S to either side; infinite where pairs run out."""
        count, reach = len(self.sorted), z * sqrt(self.variance)
        low, high = int((count - reach) / 2.0), int((count + reach) / 2.0) + 1
        return (
            self.sorted[low] if count > reach else float("-inf"),
            self.sorted[high] if high < count else float("inf"),
        )


@value
class Drift:
    """The slope from end to end of values that may wander in between, and its standard error.

    Each step from one value to the next is one observation of the slope, so that a walk without drift, which has a
    slope by chance as often as not, is never sure of it (Box and Jenkins (1970), the model with d = 1).
    """

    slope: float
    error: float

    @property
    def z(self) -> float:
        """The slope in standard errors."""
        if not self.error:
            return float("inf") if self.slope > 0.0 else 0.0
        return self.slope / self.error

    def bounds(self, z: float) -> tuple[float, float]:
        """The slope's interval, ``z`` standard errors to either side."""
        return self.slope - z * self.error, self.slope + z * self.error


def drift(x: Sequence[float], y: Sequence[float]) -> Drift:
    """The drift of values over ``x``, which never falls; steps that resemble their neighbours prove less."""
    span, count = x[-1] - x[0], len(x) - 1
    if span <= 0.0 or count < _STEPS:
        return Drift(slope=0.0, error=float("inf"))
    slope = (y[-1] - y[0]) / span
    left = [(b - a) - slope * (end - begin) for a, b, begin, end in zip(y, y[1:], x, x[1:], strict=False)]
    spread = sqrt(fsum(one * one for one in left) / (count - 1))
    return Drift(slope=slope, error=spread * sqrt(count * _alike(left)) / span)


def typical_step(x: Sequence[float], y: Sequence[float]) -> Drift | None:
    """The drift of most steps, whatever a few are; None where those few make most of the way.

    A table that doubles moves once, and is no faster growth for it.
    """
    steps = [(b - a) / (end - begin) for a, b, begin, end in zip(y, y[1:], x, x[1:], strict=False) if end > begin]
    if len(steps) < _STEPS:
        return None
    middle = median(steps)
    if abs(middle * (x[-1] - x[0])) < _MOST_OF_IT * abs(y[-1] - y[0]):
        return None
    left = [step - middle for step in steps]
    spread = _MAD * median([abs(one) for one in left])
    return Drift(slope=middle, error=_MEDIAN * spread * sqrt(_alike(left) / len(steps)))


def _alike(left: Sequence[float]) -> float:
    """By how much more the mean of such steps varies than that of independent ones."""
    near = lag_one(left)
    return max(1.0, hamed_rao(left), (1.0 + near) / (1.0 - near))


def pair_slopes(
    x: Sequence[float], y: Sequence[float], *, groups: Iterable[Sequence[int]] | None = None, stretch: float = 1.0
) -> Slopes:
    """The slopes of all pairs of one group that differ in ``x``, which never falls.

    ``groups`` holds the places of each group, rising; None: all are one. ``stretch`` multiplies the variance:
    neighbours that resemble each other prove less (``hamed_rao``).
    """
    slopes: list[float] = []
    variance = 0.0
    for members in [range(len(x))] if groups is None else groups:
        xs, ys = [x[place] for place in members], [y[place] for place in members]
        for first in range(len(xs) - 1):
            x0, y0 = xs[first], ys[first]
            slopes += [(b - y0) / (a - x0) for a, b in zip(xs[first + 1 :], ys[first + 1 :], strict=True) if a > x0]
        variance += kendall_variance(ys)
    slopes.sort()
    return Slopes(sorted=slopes, variance=variance * stretch)


def mean(values: Sequence[float]) -> float:
    """The mean; the module statistics takes a MiB of memory."""
    return fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """The one in the middle, or the mean of the two."""
    ranked = sorted(values)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2.0


def kendall_variance(values: Sequence[float]) -> float:
    """The variance of S where nothing but chance orders the values, with Kendall's correction for ties."""
    count = len(values)
    total = count * (count - 1) * (2 * count + 5)
    ties: dict[float, int] = {}
    for one in values:
        ties[one] = ties.get(one, 0) + 1
    if len(ties) < count:
        total -= sum(tied * (tied - 1) * (2 * tied + 5) for tied in ties.values())
    return total / 18.0


def hamed_rao(residuals: Sequence[float]) -> float:
    """By what the variance of S has to be multiplied for neighbours that resemble each other; may be below 1.

    Hamed and Rao (1998): from the significant autocorrelations of the ranks of what is left without the slope.
    """
    count = len(residuals)
    if count < 4:  # noqa: PLR2004 - the formula divides by (count - 2)
        return 1.0
    ranks = _ranks(residuals)
    middle = mean(ranks)
    centred = [rank - middle for rank in ranks]
    total = sum(value * value for value in centred)
    if total <= 0.0:
        return 1.0
    least, found = _Z_95 / sqrt(count), 0.0
    for lag in range(1, count - 1):
        ratio = sum(a * b for a, b in zip(centred[lag:], centred, strict=False)) / total
        if abs(ratio) >= least:
            found += (count - lag) * (count - lag - 1) * (count - lag - 2) * ratio
    return 1.0 + 2.0 / (count * (count - 1) * (count - 2)) * found


def lag_one(residuals: Sequence[float]) -> float:
    """The correlation of neighbours, corrected for its bias in short series; -1 to 0.95."""
    count = len(residuals)
    if count < 4:  # noqa: PLR2004 - as above
        return 0.0
    middle = mean(residuals)
    centred = [value - middle for value in residuals]
    total = sum(value * value for value in centred)
    if total <= 0.0:
        return 0.0
    ratio = sum(a * b for a, b in zip(centred[1:], centred, strict=False)) / total
    return max(-1.0, min(_MOST_CORRELATED, ratio + (1.0 + 3.0 * ratio) / count))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; those of equal values are their mean."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2.0 for value in values]
