"""Credit: which route's requests account for which part of what the readings show.

A reading shows one number for all requests together. Who holds what follows from how that number moves with their
counts: used bytes = something slow + for each route its open requests times what one of them holds. "Something slow"
(caches that fill, the interpreter) is taken out by looking at both sides as differences from their own short moving
average; what one request holds is the non-negative least squares solution, approached a little at every look and
exponentially forgotten. docs/decisions/0010-credit-for-peaks.md says why, and how well it does.

Each route has two columns, its young requests and its old ones (older than half the route's mean life): a request that
allocates late shows its peak in the second, and the larger of the two counts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memguard._core.costs import Estimate

__all__ = ["Credit"]

# Half-life of the moving average that stands for "something slow": above the time from admission to allocation,
# below the time in which a cache fills by a request's size. 0.1 to 1 s do about as well.
_SLOW_HALF_LIFE_S = 0.3
# Evidence counts half after so long a time of looking.
_FORGET_HALF_LIFE_S = 60.0
# What the heap kept is forgotten slowly, so that a route that reuses freed memory is not soon taken for a cheap one.
_KEPT_HALF_LIFE_S = 600.0
# Movements below it are noise: the kernel counts pages in batches of 32 to 64 on each processor.
_NOISE_BYTES = 256 * 1024
# Young and old columns of a route are pulled together this much: one without evidence follows the other.
_PULL = 0.02
_SWEEPS = 2
# A column weighs so little that it leaves.
_WEIGHTLESS = 1e-6
# More columns at once are not told apart in time; the heaviest stay.
_COLUMNS_AT_MOST = 64

_NORMAL_95 = 1.645
# An estimate below so many of its standard errors may be chance: each look tries anew, so two would not do.
_SURE = 3.0
# More than that is rather the heap's doing than the requests'.
_SPREAD_MAX = 1.1

Key = tuple["Estimate | None", bool]
# The column of what grows steadily, whoever is open: a cache that fills, a leak.
_STEADY: Key = (None, False)


class _Column:
    """One unknown: bytes per unit of a route's young or old requests."""

    __slots__ = ("bytes", "cross", "excess", "level", "mean", "weight", "with_used")

    def __init__(self) -> None:
        self.level = self.mean = self.excess = 0.0
        self.with_used = self.bytes = self.weight = 0.0
        self.cross: dict[Key, float] = {}


class Credit:
    """The regression's memory. ``look`` takes one reading with the loads that were open at it."""

    def __init__(self) -> None:
        self._columns: dict[Key, _Column] = {_STEADY: _Column()}
        self._at: float | None = None
        self._used = self._used_mean = 0.0
        self._moved = self._missed = self._kept = 0.0
        self._weight = self._weight_squares = 0.0

    @property
    def spread(self) -> float:
        """The 95th percentile of what single requests hold, in means, over all routes: from what the fit misses."""
        missed, held = self._missed, 0.0
        for key, column in self._columns.items():
            if key != _STEADY:
                held += column.bytes * column.bytes * column.weight
        if held <= 0.0 or missed <= 0.0:
            return 1.0
        return float(min(_SPREAD_MAX, 1.0 + _NORMAL_95 * (missed / held) ** 0.5))

    def explained(self, estimate: Estimate) -> float:
        """Bytes per unit, as far as is known."""
        young, old = self._columns.get((estimate, False)), self._columns.get((estimate, True))
        return max(young.bytes if young else 0.0, old.bytes if old else 0.0)

    def sure(self, estimate: Estimate) -> bool:
        """Whether that is more than chance: a request holds nothing, and memory moved for another reason.

        By the standard error of a least squares fit. Looks closer than the moving average's half-life tell the same
        again, and of looks of different weight as many count as (sum of weights)^2 / sum of squares.
        """
        found = [(key, column) for key in ((estimate, False), (estimate, True)) if (column := self._columns.get(key))]
        if not found or not self._weight_squares:
            return False
        key, column = max(found, key=lambda one: one[1].bytes)
        looks = min(self._weight * self._weight / self._weight_squares, self._weight / _SLOW_HALF_LIFE_S)
        return column.bytes * column.bytes * looks * column.cross.get(key, 0.0) >= _SURE * _SURE * self._missed

    def early(self, estimate: Estimate) -> bool:
        """Whether its requests hold most of their memory from early on."""
        young, old = self._columns.get((estimate, False)), self._columns.get((estimate, True))
        return young is not None and (old is None or young.bytes >= old.bytes / 2.0)

    def reset(self) -> None:
        """Another measure binds now, or time was lost: what comes next can't be compared with what was."""
        self._at = None

    def shift(self, bytes_: float) -> None:
        """Memory moved by so much for a reason that is known and no request's: a relief."""
        self._used += bytes_
        self._used_mean += bytes_

    def look(self, at: float, used_bytes: float, loads: Mapping[Key, float]) -> None:
        """Take one reading in; ``loads`` has the units open at it, by estimate and age (True: old)."""
        columns = self._columns
        for key in loads:
            if key not in columns and len(columns) < _COLUMNS_AT_MOST:
                columns[key] = _Column()
        last_at, self._at = self._at, at
        grown, self._used = used_bytes - self._used, used_bytes
        if last_at is None or at <= last_at:
            self._used_mean = used_bytes
            for key, column in columns.items():
                column.level = column.mean = loads.get(key, 0.0)
        elif self._kept_by_heap(grown, loads, at - last_at):
            self._used_mean += grown
            for key, column in columns.items():
                level = loads.get(key, 0.0)
                column.mean += level - column.level
                column.level = level
        else:
            self._learn(at - last_at, loads)

    def _kept_by_heap(self, grown: float, loads: Mapping[Key, float], lasted_s: float) -> bool:
        """Whether memory stood still only because the heap kept, or reused, what requests let go.

        Such a look says nothing about what a request holds. Memory that moves always counts.
        """
        self._kept *= 0.5 ** (lasted_s / _KEPT_HALF_LIFE_S)
        changes: dict[Estimate, float] = {}
        for (estimate, old), column in self._columns.items():
            if estimate is not None:
                change = loads.get((estimate, old), 0.0) - column.level
                changes[estimate] = changes.get(estimate, 0.0) + change
        expected = 0.0
        for estimate, change in changes.items():
            if change:
                expected += change * self.explained(estimate)
        if grown < -_NOISE_BYTES and expected >= 0.0:
            self._kept = max(0.0, self._kept + grown)  # a trim
        if (
            abs(grown) > _NOISE_BYTES
            or abs(expected) <= _NOISE_BYTES
            or (expected > 0.0 and self._kept < expected / 2.0)
        ):
            return False
        self._kept = max(0.0, self._kept - expected)
        return True

    def _learn(self, lasted_s: float, loads: Mapping[Key, float]) -> None:
        follow = 1.0 - 0.5 ** (lasted_s / _SLOW_HALF_LIFE_S)
        keep = 0.5 ** (lasted_s / _FORGET_HALF_LIFE_S)
        columns = self._columns
        moved: list[tuple[Key, _Column]] = []
        for key, column in columns.items():
            column.level = loads.get(key, 0.0)
            column.excess = column.level - column.mean if key[0] is not None else 1.0
            column.mean += follow * column.excess
            if abs(column.excess) > 1e-3:  # noqa: PLR2004 - a thousandth of a request
                moved.append((key, column))
            else:
                column.mean = column.level
            column.with_used *= keep
            column.weight = column.weight * keep + abs(column.excess) * lasted_s
            for other in column.cross:
                column.cross[other] *= keep
        excess = self._used - self._used_mean
        self._used_mean += follow * excess
        self._moved = self._moved * keep + excess * excess * lasted_s
        self._weight = self._weight * keep + lasted_s
        self._weight_squares = self._weight_squares * keep * keep + lasted_s * lasted_s
        for _, column in moved:
            weight = column.excess * lasted_s
            column.with_used += weight * excess
            cross = column.cross
            for other, beside in moved:
                cross[other] = cross.get(other, 0.0) + weight * beside.excess
        for _ in range(_SWEEPS):
            self._sweep()
        if len(columns) > len(loads):
            self._prune(loads)
        # What the fit leaves over of all movement, in squares; asked for by every estimate.
        self._missed = self._moved - sum([column.bytes * column.with_used for column in columns.values()])

    def _sweep(self) -> None:
        """One round of coordinate descent: each column's best value while the others stand."""
        columns = self._columns
        for key, column in columns.items():
            own = column.cross.get(key, 0.0)
            if own <= _WEIGHTLESS:
                continue
            rest = column.with_used
            for other, weight in column.cross.items():
                if other != key:
                    rest -= weight * columns[other].bytes
            twin = columns.get((key[0], not key[1]))
            if twin is not None:
                pull = _PULL * own
                rest, own = rest + pull * twin.bytes, own + pull
            column.bytes = rest / own if rest > 0.0 or key[0] is None else 0.0

    def _prune(self, loads: Mapping[Key, float]) -> None:
        gone: Iterable[Key] = [
            key
            for key, column in self._columns.items()
            if key[0] is not None and key not in loads and column.cross.get(key, 0.0) <= _WEIGHTLESS and not column.mean
        ]
        for key in gone:
            del self._columns[key]
            for column in self._columns.values():
                column.cross.pop(key, None)
