"""Growth: the evidence that verdicts rest on, kept for as long as the service runs, in 50 KiB.

Memory is kept as the floors of blocks: what a service holds at its emptiest is what it keeps. Each scale has blocks
twice as long as the one before, from 4 s to 2.3 hours, and holds the last 64: 4 minutes to six days.
"""

from __future__ import annotations

from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard._core.looks import Blocks, Look
    from memguard.findings import Verdict

__all__ = ["Growth", "Scale"]

# The shortest block: with 20 of them a service that will be dead in ten minutes can still be judged.
_BLOCK_S = 4.0
# Doubling finds each growth, however long it lasts, in 24 to 64 blocks of some scale.
_SCALES = 12
# Pairs grow with the square of it: 64 take 2 ms to judge.
_BLOCKS = 64
# A scale is looked at again after so many new blocks, twice as many when it is full: a quarter of it.
_FRESH = 8
# A scale can be judged from so many blocks on.
_FEW = 16
# Half the patience is the shortest growth that a verdict may call leak-like, and before it there are eight blocks.
_LONG = 0.57
# Numbers in a row: at, floor, rest, requests, cpu_s, open, looks.
_WIDTH = 7
_FAR = float("inf")

Row = tuple[float, float, float, float, float, float, float]


class Scale:
    """The last 64 blocks of one length, oldest first, in one array; and the block that is under way."""

    __slots__ = ("_index", "_length_s", "_now", "_rows", "count", "look", "looked")

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._rows = array("d", bytes(8 * _WIDTH * _BLOCKS))
        self._now: Row | None = None
        self._index = 0.0
        self.count: int = 0
        self.looked: int = 0
        self.look: Look | None = None

    @property
    def span_s(self) -> float:
        """How much time its blocks cover when there are 64."""
        return self._length_s * _BLOCKS

    def fold(self, row: Row) -> Row | None:
        """Add a row to the block under way; the block before, when this row begins a new one."""
        index, now = row[0] // self._length_s, self._now
        if now is None or index != self._index:
            self._index, self._now = index, row
            if now is not None:
                begin = self.count % _BLOCKS * _WIDTH
                self._rows[begin : begin + _WIDTH] = array("d", now)
                self.count += 1
            return now
        at, floor, rest, requests, cpu_s, open_, looks = row
        self._now = (
            at,
            floor if floor < now[1] else now[1],
            rest if rest < now[2] else now[2],
            requests,
            cpu_s,
            now[5] + open_,
            now[6] + looks,
        )
        return None

    def blocks(self, began: Row) -> Blocks:
        """What it holds, as the judge wants it."""
        from memguard._core.looks import Blocks  # noqa: PLC0415 - once there is something to judge

        first = self.count % _BLOCKS * _WIDTH if self.count > _BLOCKS else 0
        rows = self._rows[first:] + self._rows[:first] if first else self._rows[: self.count * _WIDTH]
        at, floor, rest, requests, cpu_s, open_, looks = (rows[place::_WIDTH] for place in range(_WIDTH))
        return Blocks(
            length_s=self._length_s,
            at=at,
            floor=floor,
            rest=rest,
            requests=requests,
            cpu_s=cpu_s,
            open=array("d", [sum_ / count for sum_, count in zip(open_, looks, strict=True)]),
            began_at=began[0],
            began_requests=began[3],
            began_cpu_s=began[4],
        )


class Growth:
    """Takes readings in, about one a second (2 µs), and judges them, one scale at a time (2 to 6 ms).

    A reading that is no number, or from before the last one, is passed over; a gap stays a gap. Counters that start
    again are taken to have gone on.
    """

    def __init__(self) -> None:
        self._scales = tuple(Scale(_BLOCK_S * 2**place) for place in range(_SCALES))
        self._began: Row | None = None
        self._counters = array("d", (0.0, 0.0))
        self._requests = self._cpu_s = 0.0
        self._at = -_FAR
        self.used_bytes: float = 0.0

    def note(  # noqa: PLR0913 - one reading
        self,
        at: float,
        *,
        used_bytes: float,
        held_bytes: float = 0.0,
        requests: float = 0.0,
        cpu_s: float = 0.0,
        open: float = 0.0,  # noqa: A002 - as gates call it
    ) -> None:
        """Take a reading in.

        ``held_bytes`` is what registered holders account for, ``requests`` how many have completed and ``cpu_s`` what
        the process has computed since it began, ``open`` how many requests are under way.
        """
        if not (self._at < at < _FAR and 0.0 <= used_bytes < _FAR):
            return
        if not 0.0 <= held_bytes < _FAR:
            held_bytes = 0.0
        self._requests += self._added(0, requests)
        self._cpu_s += self._added(1, cpu_s)
        self._at, self.used_bytes = at, used_bytes
        row = (at, used_bytes, used_bytes - held_bytes, self._requests, self._cpu_s, open, 1.0)
        self._began = self._began or row
        for scale in self._scales:
            closed = scale.fold(row)
            if closed is None:
                break
            row = closed

    def _added(self, place: int, count: float) -> float:
        """By how much a counter rose since the last reading; one that fell began again at 0."""
        if not 0.0 <= count < _FAR:
            return 0.0
        before, self._counters[place] = self._counters[place], count
        if self._began is None:
            return 0.0
        return count - before if count >= before else count

    def examine(self, *, patience_s: float) -> bool:
        """Look at one scale that has new blocks, the finest first; whether there was one.

        Scales that cannot show a growth of half the patience and its begin are looked at until there are longer ones.
        """
        if self._began is None:
            return False
        for scale, longer in zip(self._scales, (*self._scales[2:], None, None), strict=True):
            if scale.span_s < _LONG * patience_s and longer is not None and longer.count >= _FEW:
                scale.look = None
            elif scale.count - scale.looked >= (_FRESH if scale.count < _BLOCKS else 2 * _FRESH):
                from memguard._core.looks import look  # noqa: PLC0415 - as above

                scale.looked = scale.count
                scale.look = look(scale.blocks(self._began))
                return True
        return False

    def verdict(self, *, limit_bytes: float | None, patience_s: float) -> Verdict:
        """What the looks say together."""
        from memguard._core.suspects import judge  # noqa: PLC0415 - as above

        return judge(
            [scale.look for scale in self._scales if scale.look is not None],
            seen_s=0.0 if self._began is None else self._at - self._began[0],
            used_bytes=self.used_bytes,
            limit_bytes=limit_bytes,
            patience_s=patience_s,
        )
