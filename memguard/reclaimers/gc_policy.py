"""When a full collection is due: by pressure, by the clock, between requests, or once and for all after warm-up."""

from __future__ import annotations

import gc

from memguard.reclaimers.gc_pressure import PAID_RATIO, STEP_LEAST_BYTES, PressureGc
from memguard.units import parse_bytes, parse_ratio, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from memguard.model import GcStats, Snapshot

__all__ = ["FreezeGc", "GcPolicy", "IdleGc", "IntervalGc"]

_FULL: Final = 2
# The largest C int: a threshold that is never reached.
_NEVER: Final = (1 << 31) - 1
# Without bytes to go by: so many young collections that were kept from becoming a full one. 100 times CPython's own
# threshold of 10, at most some 0.8 M (3.13: 2 M) new containers.
_BOUND_COUNT: Final = 1000
# What a quiet process allocates between two looks: the guard itself, a timer.
_QUIET_OBJECTS: Final = 100
# Multiples of CPython's own wait after which one look without a request is quiet enough.
_HURRY: Final = 5
# 3.12 freezes a few hundred objects of its own at start: they are not the application's warm-up.
_FROZEN_AT_START: Final = 1000


class GcPolicy:
    """The family of policies that say when Python's cyclic garbage collector is to run.

    Each has ``due(snapshot, stats)``: the generation to collect now, or None; ``start()`` and ``stop()`` bracket the
    time it is in force, and ``stop()`` puts back what ``start()`` changed. Any object with such a ``due`` will do
    as a policy. Collections that a policy asks for are carried out by the guard, within its duty ratio.
    """

    @staticmethod
    def pressure(
        above_ratio: float | str = 0.75, above_bytes: int | str | None = None, *, paid_ratio: float | str = PAID_RATIO
    ) -> PressureGc:
        """Full collections while memory is above a mark, as long as they pay.

        ``above_bytes`` wins over ``above_ratio`` (of the limit). One that bought less than ``paid_ratio`` of the
        used bytes doubles the wait.
        """
        return PressureGc(
            above_ratio=parse_ratio(above_ratio),
            above_bytes=None if above_bytes is None else parse_bytes(above_bytes),
            paid_ratio=parse_ratio(paid_ratio),
        )

    @staticmethod
    def interval(seconds: float | str) -> IntervalGc:
        """A full collection whenever so many seconds have passed since the last one of any cause.

        Raises:
            ValueError: not above 0.
        """
        return IntervalGc(parse_seconds(seconds))

    @staticmethod
    def idle(*, growth_ratio: float | str = 0.10) -> IdleGc:
        """Full collections between requests only; those of their own accord are off while it is in force.

        Young generations go on. Where the service is never idle, one is due all the same once memory has grown by
        ``growth_ratio`` of the limit (of the used bytes without a limit) since the last.
        """
        return IdleGc(growth_ratio=parse_ratio(growth_ratio))

    @staticmethod
    def freeze(after_s: float | str | None = 30.0, *, threshold: int = 10_000) -> FreezeGc:
        """One full collection and ``gc.freeze()`` after warm-up, and a raised first threshold from then on.

        ``after_s`` counts from the first look; None waits for ``warmed_up()``, which servers that fork after loading
        call right before the fork.

        Raises:
            ValueError: ``threshold`` is below 1.
        """
        return FreezeGc(after_s=None if after_s is None else parse_seconds(after_s), threshold=threshold)


class IntervalGc:
    """A policy that collects by the clock; made by ``GcPolicy.interval``."""

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"a collection every {seconds} s would never end: write seconds above 0, like 60")
        self._seconds = seconds
        self._since: float | None = None

    def start(self) -> None:
        """The clock starts at the next look."""
        self._since = None

    def stop(self) -> None:
        """Nothing to put back."""

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None:
        """2 when the last full collection, of whatever cause, is an interval old, else None."""
        if self._since is None:
            self._since = snapshot.at
        if stats.last_full_at is not None:
            self._since = max(self._since, stats.last_full_at)
        return _FULL if snapshot.at - self._since >= self._seconds else None


class _Thresholds:
    """The collector's thresholds, changed for a time; what somebody else sets meanwhile stays."""

    def __init__(self) -> None:
        self._before: tuple[int, int, int] | None = None
        self._ours: tuple[int, int, int] | None = None

    @property
    def before(self) -> tuple[int, int, int]:
        """What they were, or are while nothing was changed."""
        return self._before or gc.get_threshold()

    def change(self, *, first: int | None = None, last: int | None = None) -> None:
        """Raise them; a second change waits for restore."""
        if self._before is None:
            self._before = gc.get_threshold()
            zero, one, two = self._before
            # 0 switches automatic collection off: whoever did that meant it.
            gc.set_threshold(max(zero, first or 0) if zero else 0, one, max(two, last or 0))
            self._ours = gc.get_threshold()

    def restore(self) -> None:
        """Put them back."""
        if self._before is not None and self._ours is not None:
            # Each on its own: another policy may have changed another one, and policies end in any order.
            rows = zip(gc.get_threshold(), self._ours, self._before, strict=True)
            gc.set_threshold(*(before if now == ours else now for now, ours, before in rows))
        self._before = self._ours = None


class IdleGc:
    """A policy that collects fully between requests; made by ``GcPolicy.idle``.

    It is due when as many young collections have passed as CPython itself would wait for and the process is quiet:
    between two looks no request ran and next to nothing was allocated, since a look alone may fall between two
    requests of a burst. At five times as many, a look without a request is enough. Whatever runs, it is due when
    memory has grown by a share of the limit, or, while readings fail, after 1000 young collections.
    """

    def __init__(self, *, growth_ratio: float) -> None:
        self._growth_ratio = growth_ratio
        self._thresholds = _Thresholds()
        self._floor: int | None = None
        self._full = -1
        self._last: tuple[int, int] | None = None

    def start(self) -> None:
        """Take automatic full collections out of the requests."""
        self._thresholds.change(last=_NEVER)
        self._floor = self._last = None

    def stop(self) -> None:
        """Put the thresholds back, unless somebody else has changed them since."""
        self._thresholds.restore()

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None:
        """2 when quiet with something to do, or past the bound, else None."""
        if stats.full_collections != self._full:
            self._full, self._floor = stats.full_collections, None
        young, _, pending = gc.get_count()
        enough = self._thresholds.before[_FULL]
        quiet = self._quiet(snapshot.running, stats.collections, young)
        if pending > enough and (quiet or (snapshot.running == 0 and pending > _HURRY * enough)):
            return _FULL
        return _FULL if pending and self._past_bound(snapshot, pending) else None

    def _quiet(self, running: int, collections: int, young: int) -> bool:
        last, self._last = self._last, None if running else (collections, young)
        return (
            last is not None
            and self._last is not None
            and last[0] == collections
            and abs(young - last[1]) <= _QUIET_OBJECTS
        )

    def _past_bound(self, snapshot: Snapshot, pending: int) -> bool:
        if snapshot.reading is None:
            return pending > _BOUND_COUNT
        used = snapshot.reading.used_bytes
        self._floor = used if self._floor is None else min(used, self._floor)
        whole = self._floor if snapshot.limit is None else snapshot.limit.bytes
        return used - self._floor > max(STEP_LEAST_BYTES, self._growth_ratio * whole)


class FreezeGc:
    """A policy that freezes what a service has loaded; made by ``GcPolicy.freeze``.

    Frozen objects are never looked at again: full collections cost next to nothing, and processes forked afterwards
    go on sharing the pages that a collection would have written to (``gc.freeze`` in Python's manual). It freezes
    nothing where the application has frozen something itself, since thawing cannot tell them apart.
    """

    def __init__(self, *, after_s: float | None = 30.0, threshold: int = 10_000) -> None:
        if threshold < 1:
            raise ValueError(f"threshold={threshold} must be at least 1 (CPython's own is 700, from 3.13 on 2000)")
        self._after_s = after_s
        self._threshold = threshold
        self._thresholds = _Thresholds()
        self._since: float | None = None
        self._full_at_ask: int | None = None
        self._warm = False
        self._froze = False

    @property
    def frozen(self) -> bool:
        """Whether it has frozen the heap."""
        return self._froze

    def start(self) -> None:
        """The warm-up starts at the next look."""
        self._since = None

    def stop(self) -> None:
        """Thaw what it froze, put the thresholds back; a later start warms up anew."""
        if self._froze:
            gc.unfreeze()
        self._thresholds.restore()
        self._warm = self._froze = False
        self._full_at_ask = None

    def warmed_up(self) -> None:
        """Collect and freeze now, in this thread: the warm-up is over. Doing it twice is fine."""
        if not self._warm:
            gc.collect()
            self._freeze()

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None:
        """2 once, when the warm-up is over; freezes when that collection has been carried out."""
        if self._warm or self._after_s is None:
            return None
        if self._since is None:
            self._since = snapshot.at
        if snapshot.at - self._since < self._after_s:
            return None
        if self._full_at_ask is None:
            self._full_at_ask = stats.full_collections
        if stats.full_collections == self._full_at_ask:
            return _FULL
        self._freeze()
        return None

    def _freeze(self) -> None:
        self._warm = True
        if gc.get_freeze_count() <= _FROZEN_AT_START:
            gc.freeze()
            self._froze = True
        self._thresholds.change(first=self._threshold)
