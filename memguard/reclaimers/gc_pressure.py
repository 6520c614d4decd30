"""When a full collection is due by pressure: the policy of a guard that was given no other."""

from __future__ import annotations

from memguard.units import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from memguard.model import GcStats, Snapshot
    from memguard.ports import GcDecider
    from memguard.rules import Rules

__all__ = ["PAID_RATIO", "STEP_LEAST_BYTES", "PressureGc", "default_policies"]

_FULL: Final = 2
# rules.useless_ratio, backoff_first_s, backoff_max_s: a collection counts as any other reclaim attempt.
PAID_RATIO: Final = 0.05
_WAIT_FIRST_S: Final = 1.0
_WAIT_MAX_S: Final = 60.0
# 64 s already: a longer streak of misses changes nothing.
_MISSES_MOST: Final = 6
# Growth that means nothing in a small process.
STEP_LEAST_BYTES: Final = 4 * MIB


class PressureGc:
    """A policy that collects under pressure, as long as collections pay; made by ``GcPolicy.pressure``.

    After each full collection the next is due when memory has grown by what would pay again, or after a wait of a
    second; both double with each in a row that did not pay (at most 60 s), because a heap without cycles gives
    nothing however often it is searched.
    """

    def __init__(self, *, above_ratio: float = 0.75, above_bytes: int | None = None, paid_ratio: float) -> None:
        self._above_ratio = above_ratio
        self._above_bytes = above_bytes
        self._paid_ratio = paid_ratio
        self.start()

    def start(self) -> None:
        """Forget what was learned: another life, another heap."""
        self._asked: tuple[int, int] | None = None  # full collections and used bytes when one was asked for
        self._misses = 0
        self._floor: tuple[float, int] | None = None  # when it was carried out, and what was used then

    def stop(self) -> None:
        """Nothing to put back."""

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None:
        """2 when above the mark and worth it, else None."""
        reading = snapshot.reading
        if reading is None:
            return None
        used = reading.used_bytes
        if self._asked is not None:
            if stats.full_collections > self._asked[0]:
                self._judge(snapshot.at, used, self._asked[1], stats)
                self._asked = None
            elif self._above(snapshot, used):
                return _FULL  # the guard has had no time for it yet
        if not self._above(snapshot, used):
            self._asked = None
            return None
        if self._floor is not None:
            at, floor = self._floor
            patience = float(1 << self._misses)
            grown = used - floor >= max(STEP_LEAST_BYTES, self._paid_ratio * floor) * patience
            waited = snapshot.at - at >= min(_WAIT_MAX_S, _WAIT_FIRST_S * patience)
            if not (grown or waited):
                # Memory that fell makes a new floor: growth counts from the lowest point.
                self._floor = (at, min(floor, used))
                return None
        self._asked = (stats.full_collections, used)
        return _FULL

    def _above(self, snapshot: Snapshot, used: int) -> bool:
        if self._above_bytes is not None:
            return used >= self._above_bytes
        return snapshot.pressure >= self._above_ratio

    def _judge(self, at: float, used: int, before: int, stats: GcStats) -> None:
        # What it bought at once, or how far memory has fallen by now: a trim may have followed.
        freed = max(stats.last_freed_bytes or 0, before - used)
        self._misses = 0 if freed >= self._paid_ratio * before else min(_MISSES_MOST, self._misses + 1)
        self._floor = (at, used)


def default_policies(rules: Rules) -> tuple[GcDecider, ...]:
    """What is in force when nobody registered a policy: by pressure, and by the clock where the rules say so."""
    pressure = PressureGc(above_ratio=rules.collect_ratio, above_bytes=rules.collect_bytes, paid_ratio=PAID_RATIO)
    if rules.gc_interval_s is None:
        return (pressure,)
    from memguard.reclaimers.gc_policy import IntervalGc  # noqa: PLC0415 - memory that a guard alone need not pay for

    return (pressure, IntervalGc(rules.gc_interval_s))
