"""History: what was read, in rings of blocks of a second, a minute and an hour, whose buffers are there from the start.

Nothing is kept per reading: a block is one row of 56 bytes, and untouched rows cost no memory. One writer, the guard's
thread; anybody may read meanwhile, since a row is written, and a ring copied, in one step in C.
"""

from __future__ import annotations

import mmap
import struct
import time
from math import ceil, floor, isnan, nan

from memguard.model import Level
from memguard.units import MIB, format_seconds
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memguard.model import Snapshot
    from memguard.ports import Clock

__all__ = ["History", "Point", "Ring", "Row", "steps"]

# An hour by the second, two days by the minute, ninety days by the hour: 480 KiB when all of it is full.
_SHAPE = ((1.0, 3600), (60.0, 2880), (3600.0, 2160))
# A chart some 1200 pixels wide shows no more.
_POINTS = 300
_NICE_S = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 10800.0, 21600.0, 86400.0)

_ROW = struct.Struct("=6dII")

Row = tuple[float, float, float, float, float, float, int, int]
"""One block: when it began (monotonic), least, sum, greatest, last, limit (NaN: none), how many readings, level."""


@value
class Point:
    """What was read from ``unix_s`` on (seconds since 1970) for ``span_s``: mean, least, greatest and last bytes.

    ``limit_bytes`` is the last one that bound (None: none did), ``level`` the highest. There is no point for a time in
    which nothing was read.
    """

    unix_s: float
    span_s: float
    mean_bytes: float
    min_bytes: int
    max_bytes: int
    last_bytes: int
    count: int
    limit_bytes: int | None = None
    level: Level = Level.OK

    @property
    def timestamp(self) -> str:
        """``unix_s`` in ISO 8601, UTC: "2026-11-21T19:05:00Z"."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.unix_s))

    def row(self) -> dict[str, str | float | None]:
        """The same as operators ask for it: ``timestamp``, ``value`` and ``memory_mb`` in MiB."""
        mean_mb = round(self.mean_bytes / MIB, 3)
        return {
            "timestamp": self.timestamp,
            "value": mean_mb,
            "memory_mb": mean_mb,
            "min_mb": round(self.min_bytes / MIB, 3),
            "max_mb": round(self.max_bytes / MIB, 3),
            "limit_mb": None if self.limit_bytes is None else round(self.limit_bytes / MIB, 3),
            "level": self.level.name,
        }


class Ring:
    """The last ``blocks`` blocks of ``block_s`` seconds each, in one buffer."""

    __slots__ = ("_buffer", "_count", "_high", "_level", "_low", "_number", "_total", "block_s", "blocks")

    def __init__(self, block_s: float, blocks: int) -> None:
        self.block_s: float = block_s
        self.blocks: int = blocks
        self._buffer = _untouched(blocks * _ROW.size)
        self._number = -1
        self._low = self._high = self._total = 0.0
        self._count = self._level = 0

    def holds(self, at: float) -> bool:
        """Whether an instant lies in the open block."""
        return int(at // self.block_s) == self._number

    def add(self, at: float, value: float, limit: float = nan, level: int = 0) -> None:
        """Take one reading down."""
        self.fold(at, value, value, value, value, limit, 1, level)

    def fold(  # noqa: PLR0913, PLR0917 - a row
        self, at: float, low: float, total: float, high: float, last: float, limit: float, count: int, level: int
    ) -> None:
        """Take several readings down at once, as a row has them."""
        number = int(at // self.block_s)
        if number != self._number:
            self._number, self._low, self._high = number, low, high
            self._total, self._count, self._level = total, count, level
        else:
            if low < self._low:  # noqa: PLR1730 - on every tick: a call costs more
                self._low = low
            if high > self._high:  # noqa: PLR1730 - as above
                self._high = high
            if level > self._level:  # noqa: PLR1730 - as above
                self._level = level
            self._total += total
            self._count += count
        place = number % self.blocks * _ROW.size
        start = number * self.block_s
        _ROW.pack_into(
            self._buffer, place, start, self._low, self._total, self._high, last, limit, self._count, self._level
        )

    def last(self) -> Row:
        """The open block; one of 0 readings before the first."""
        row: Row = _ROW.unpack_from(self._buffer, max(0, self._number) % self.blocks * _ROW.size)
        return row

    def rows(self, since: float = -1.0) -> list[Row]:
        """Its blocks that had not ended at an instant, oldest first; those in which nothing was read are not there."""
        copied: Iterator[Row] = _ROW.iter_unpack(self._buffer[:])
        found = [row for row in copied if row[6]]
        newest = max((row[0] for row in found), default=0.0)
        # A guard that stood still leaves rows of the round before: they are older than the ring reaches.
        since = max(since - self.block_s, newest - self.block_s * self.blocks)
        return sorted(row for row in found if row[0] > since)


def _untouched(size: int) -> mmap.mmap:
    """Zeros that take memory where they are written; a forked child's are its own."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


class History:
    """Readings of the past, coarser the older.

    Args:
        clock: the monotonic seconds that readings carry.
        wall: seconds since 1970.
        shape: seconds a block and how many of them, ring by ring, each a whole number of the one before.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        wall: Callable[[], float] = time.time,
        shape: tuple[tuple[float, int], ...] = _SHAPE,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._shape = shape
        self._seen_at: float | None = None
        self._began: float | None = None
        self.rings: tuple[Ring, ...] = tuple(Ring(*each) for each in shape)

    def show(self, snapshot: Snapshot) -> None:
        """Take down what this snapshot shows; once, however often it is shown."""
        reading = snapshot.reading
        if reading is None or reading.at == self._seen_at:
            return
        self._seen_at = reading.at
        self.add(reading.at, reading.used_bytes, snapshot.limit.bytes if snapshot.limit else nan, snapshot.level)

    def add(self, at: float, used: float, limit: float = nan, level: int = 0) -> None:
        """Take one reading down; instants never run backwards."""
        rings = self.rings
        if rings[0].holds(at):
            rings[0].add(at, used, limit, level)
            return
        if self._began is None:
            self._began = at
        closed = rings[0].last()
        rings[0].add(at, used, limit, level)
        # What a finer ring has closed goes on to the next one, which may close a block by that, and so on.
        for ring in rings[1:]:
            if not closed[6]:
                return
            row, opened = ring.last(), not ring.holds(closed[0])
            ring.fold(*closed)
            if not opened:
                return
            closed = row

    def forget(self) -> None:
        """In a forked child: what was read of the parent is not ours."""
        self.rings, self._seen_at, self._began = tuple(Ring(*each) for each in self._shape), None, None

    @property
    def reach_s(self) -> float:
        """How many seconds back it knows anything."""
        coarsest = self.rings[-1]
        return 0.0 if self._began is None else min(self._clock() - self._began, coarsest.block_s * coarsest.blocks)

    def ago(self, seconds: float) -> float | None:
        """How many bytes were used so many seconds ago; None when it does not reach back so far."""
        since = self._clock() - seconds
        ring = self._ring(since, self.rings[0].block_s)
        rows = ring.rows(since)
        return rows[0][4] if self._began is not None and self._began <= since and rows else None

    def points(self, duration_s: float, interval_s: float | None = None) -> tuple[Point, ...]:
        """The last ``duration_s`` seconds in steps of ``interval_s``, oldest first, on round times of the wall clock.

        Where the fine blocks do not reach back so far any more, the steps are as long as those that do. Times are those
        of the wall clock as it goes now: when it was set meanwhile, older points move with it, and none are out of
        order. (A machine that slept is the price: its monotonic clock slept too.)

        Raises:
            ValueError: a duration or an interval of 0, or an interval that is longer than the duration.
        """
        interval_s = steps(duration_s, interval_s)
        longest_s = self.rings[-1].block_s * self.rings[-1].blocks
        duration_s, interval_s = min(duration_s, longest_s), min(interval_s, longest_s)
        now = self._clock()
        ring = self._ring(now - min(duration_s, self.reach_s), interval_s)
        rows = [(row[0] + ring.block_s / 2.0, row) for row in ring.rows(now - duration_s)]
        # The open blocks of finer rings are not passed on yet.
        for finer in self.rings[: self.rings.index(ring)]:
            row = finer.last()
            if row[6] and row[0] > now - duration_s - finer.block_s:
                rows.append((row[0] + finer.block_s / 2.0, row))
        placed = sorted((min(middle, now), row) for middle, row in rows)
        return tuple(_steps(placed, ceil(interval_s / ring.block_s) * ring.block_s, self._wall() - now))

    def _ring(self, since: float, interval_s: float) -> Ring:
        """The ring to answer from: the coarsest whose blocks fit into the steps, or else one that reaches back."""
        place = max((n for n, ring in enumerate(self.rings) if interval_s % ring.block_s == 0.0), default=0)
        for ring in self.rings[place:]:
            if ring.last()[0] - ring.block_s * (ring.blocks - 1) <= since:
                return ring
        return self.rings[-1]


def steps(duration_s: float, interval_s: float | None) -> float:
    """How long a step is: as asked, or such that some 300 of them make the duration.

    Raises:
        ValueError: a duration or an interval of 0, or an interval that is longer than the duration.
    """
    if not duration_s > 0.0:
        raise ValueError(f"duration={duration_s!r} is no time to look back: write more than 0, like '1h'")
    if interval_s is None:
        wanted_s = duration_s / _POINTS
        return next((nice_s for nice_s in _NICE_S if nice_s >= wanted_s), _NICE_S[-1])
    if not interval_s > 0.0:
        raise ValueError(f"interval={interval_s!r} is no step: write more than 0, like '5m'")
    if interval_s > duration_s:
        raise ValueError(
            f"interval={format_seconds(interval_s)} is longer than duration={format_seconds(duration_s)}: "
            "ask for a longer duration or a shorter interval"
        )
    return interval_s


def _steps(placed: Iterable[tuple[float, Row]], interval_s: float, offset_s: float) -> Iterator[Point]:
    """Blocks put together by the step of the wall clock in which their middle lies: blocks are monotonic time's."""
    number, together = 0, list[Row]()
    for middle, row in placed:
        mine = floor((middle + offset_s) / interval_s)
        if together and mine != number:
            yield _point(together, step_s=interval_s, number=number)
            together = []
        number = mine
        together.append(row)
    if together:
        yield _point(together, step_s=interval_s, number=number)


def _point(rows: list[Row], *, step_s: float, number: int) -> Point:
    count, limit = sum(row[6] for row in rows), rows[-1][5]
    return Point(
        unix_s=number * step_s,
        span_s=step_s,
        mean_bytes=sum(row[2] for row in rows) / count,
        min_bytes=int(min(row[1] for row in rows)),
        max_bytes=int(max(row[3] for row in rows)),
        last_bytes=int(rows[-1][4]),
        count=count,
        limit_bytes=None if isnan(limit) else int(limit),
        level=Level(max(row[7] for row in rows)),
    )
