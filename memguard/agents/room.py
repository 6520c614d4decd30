"""Room: what one more agent takes, and how many more fit below the CRITICAL rung."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Final

from memguard.model import Level
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import Snapshot
    from memguard.rules import Rules

__all__ = ["Room"]

# Creations remembered; older ones say little about the agents of today.
_SAMPLES: Final = 64
# With fewer, the smallest stands for all: the first creations load modules and fill pools of their own.
_SURE: Final = 5


class Room:
    """What agents of a pool take, and what is left for them. Not thread-safe: the pool holds a lock.

    ``typical_bytes`` is the median of what creations grew memory by, which one that met other work does not move. It
    misses what came out of freed heap, so that the size of the objects is the floor.
    """

    __slots__ = ("_cost_bytes", "_growths", "_rules", "_snapshot", "_used", "typical_bytes")

    def __init__(
        self, *, rules: Rules, snapshot: Callable[[], Snapshot], used_bytes: Callable[[], int], cost_bytes: int
    ) -> None:
        self._rules = rules
        self._snapshot = snapshot
        self._used = used_bytes
        self._cost_bytes = cost_bytes
        self._growths: deque[int] = deque(maxlen=_SAMPLES)
        self.typical_bytes: int = 0

    @property
    def level(self) -> Level:
        """The guard's present level."""
        return self._snapshot().level

    @property
    def retry_s(self) -> float:
        """When to ask again about memory: no level falls sooner."""
        return self._rules.dwell_s

    def used_bytes(self) -> int | None:
        """What is used now, by the measure that the limit is compared with; None when it cannot be read."""
        try:
            return self._used()
        except (OSError, ValueError):
            reading = self._snapshot().reading
            return None if reading is None else reading.used_bytes

    def grew(self, grown_bytes: int) -> None:
        """Take down by how much one creation grew memory, when nothing else is known to have run."""
        self._growths.append(max(0, grown_bytes))
        sure = len(self._growths) >= _SURE
        self.typical_bytes = int(median(self._growths)) if sure else min(self._growths)

    def cost_bytes(self, held_bytes: int, count: int) -> int:
        """What one more takes: what the user said, or what is typical, or the mean of those there; the most of them."""
        return max(self._cost_bytes, self.typical_bytes, held_bytes // count if count else 0)

    def left_bytes(self) -> int | None:
        """Bytes below the CRITICAL rung that nobody has been promised; None when nothing limits, or nobody can see."""
        snapshot = self._snapshot()
        if snapshot.limit is None or snapshot.reading is None or snapshot.blind or self._rules.mode != "act":
            return None
        used = self.used_bytes()
        if used is None:
            return None
        return int(self._rules.critical_ratio * snapshot.limit.bytes) - used - snapshot.promised_bytes

    def short_bytes(self, cost_bytes: int, *, before: int) -> int:
        """How many bytes one more is short of, after ``before`` others that are being made; 0 or less when it fits."""
        left = self.left_bytes()
        return 0 if left is None else max(1, cost_bytes) * (before + 1) - left

    def tight(self, cost_bytes: int) -> str:
        """Why one more does not fit, in words."""
        left = format_bytes(max(0, self.left_bytes() or 0))
        return f"an agent takes about {format_bytes(cost_bytes)} and {left} are left below the CRITICAL rung"

    def limit_bytes(self) -> int | None:
        """The limit that binds."""
        limit = self._snapshot().limit
        return None if limit is None else limit.bytes

    def shut(self) -> bool:
        """Whether nobody is let in at all: the guard cannot see, and its rules say CRITICAL for that case."""
        snapshot = self._snapshot()
        return snapshot.blind and snapshot.level >= Level.CRITICAL and self._rules.mode == "act"
