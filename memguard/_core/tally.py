"""Tallies: what operations of one type cost, in sums since ever and in a ring of the last samples."""

from __future__ import annotations

from array import array

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.kinds import Outcome

__all__ = ["OperationStats", "Tally"]

# What is remembered of the rate after each operation: half of it comes from the last 35.
_KEEP = 0.98
# A type never weighs more or less than this beside the average: what was split by a wrong weight shows only slowly.
_WEIGHTS = (0.02, 50.0)

# Seconds, as seconds of it: below, the last operations were too long ago, or too short, to say anything.
_KNOWN = 1e-6

# Durations and deltas kept per type: the 95th percentile of 256 rests on 13 of them, and they take 4 KiB.
_SAMPLES = 256
_QUANTILES = (0.5, 0.95, 0.99)


@value
class OperationStats:
    """What operations of one type cost: counts, seconds and bytes.

    Means, totals and extremes are of all that ended; percentiles are of the last 256. ``shared`` counts those that
    others ran beside: their bytes are fair parts. ``memory_alone_bytes`` is the mean of the rest, which were measured;
    None when there was none. All bytes and ``shared`` are of the ``sampled`` ones, of which memory was read;
    ``memory_total_bytes`` is their mean times ``count``.
    """

    type: str
    count: int
    running: int
    failed: int
    abandoned: int
    sampled: int
    shared: int
    duration_mean_s: float
    duration_p50_s: float
    duration_p95_s: float
    duration_p99_s: float
    duration_max_s: float
    memory_total_bytes: int
    memory_mean_bytes: int
    memory_p50_bytes: int
    memory_p95_bytes: int
    memory_p99_bytes: int
    memory_max_bytes: int
    memory_alone_bytes: int | None


class Tally:
    """The sums and the last samples of one type. Not thread-safe: its owner holds a lock."""

    __slots__ = (
        "_abandoned", "_alone", "_alone_bytes", "_bytes", "_deltas", "_durations", "_failed", "_longest_s",
        "_most_bytes", "_own_bytes", "_own_s", "_sampled", "_seconds", "count", "type",
    )  # fmt: skip

    def __init__(self, type_: str) -> None:
        self.type: str = type_
        self.count: int = 0
        self._failed = self._abandoned = self._alone = self._sampled = 0
        self._seconds = self._longest_s = self._bytes = self._alone_bytes = 0.0
        self._own_bytes = self._own_s = 0.0
        self._most_bytes = float("-inf")
        self._durations: array[float] = array("d")
        self._deltas: array[float] = array("d")

    def learn(self, own_bytes: float, own_s: float) -> None:
        """Take down what one got by itself in its own time, without what was inside of it."""
        self._own_bytes = self._own_bytes * _KEEP + own_bytes
        self._own_s = self._own_s * _KEEP + own_s

    def weight(self, average: Tally) -> float:
        """By how much faster it grows memory than the average does, as far as is known."""
        if self._own_s < _KNOWN or average._own_s < _KNOWN or average._own_bytes < 1.0:
            return 1.0
        least, most = _WEIGHTS
        weight = (self._own_bytes / self._own_s) / (average._own_bytes / average._own_s)
        return least if weight < least else most if weight > most else weight

    @property
    def mean_bytes(self) -> float:
        """What those of which memory was read grew it by."""
        return self._bytes / (self._sampled or 1)

    def count_one(self, duration_s: float, outcome: Outcome) -> None:
        """Take one down that has ended, and of which memory was not read."""
        if outcome != "done":
            self._failed += outcome == "failed"
            self._abandoned += outcome == "abandoned"
        self._seconds += duration_s
        if duration_s > self._longest_s:  # noqa: PLR1730 - a call costs more
            self._longest_s = duration_s
        place = self.count
        self.count = place + 1
        if place < _SAMPLES:
            self._durations.append(duration_s)
        else:
            self._durations[place % _SAMPLES] = duration_s

    def add(self, duration_s: float, delta_bytes: float, outcome: Outcome, *, alone: bool) -> None:
        """Take one down that has ended."""
        self.count_one(duration_s, outcome)
        self._bytes += delta_bytes
        if delta_bytes > self._most_bytes:  # noqa: PLR1730 - as above
            self._most_bytes = delta_bytes
        if alone:
            self._alone += 1
            self._alone_bytes += delta_bytes
        place = self._sampled
        self._sampled = place + 1
        if place < _SAMPLES:
            self._deltas.append(delta_bytes)
        else:
            self._deltas[place % _SAMPLES] = delta_bytes

    def stats(self, running: int) -> OperationStats:
        """How it stands, with so many of them under way."""
        seconds, bytes_ = _quantiles(self._durations), _quantiles(self._deltas)
        ended = self.count or 1
        return OperationStats(
            type=self.type, count=self.count, running=running, failed=self._failed, abandoned=self._abandoned,
            sampled=self._sampled, shared=self._sampled - self._alone,
            duration_mean_s=self._seconds / ended, duration_p50_s=seconds[0],
            duration_p95_s=seconds[1], duration_p99_s=seconds[2], duration_max_s=self._longest_s,
            memory_total_bytes=int(self.mean_bytes * self.count), memory_mean_bytes=int(self.mean_bytes),
            memory_p50_bytes=int(bytes_[0]), memory_p95_bytes=int(bytes_[1]), memory_p99_bytes=int(bytes_[2]),
            memory_max_bytes=int(self._most_bytes) if self._sampled else 0,
            memory_alone_bytes=int(self._alone_bytes / self._alone) if self._alone else None,
        )  # fmt: skip


def _quantiles(samples: array[float]) -> list[float]:
    """The median and the upper quantiles, by nearest rank."""
    ranked = sorted(samples)
    if not ranked:
        return [0.0] * len(_QUANTILES)
    return [ranked[min(len(ranked) - 1, int(len(ranked) * share))] for share in _QUANTILES]
