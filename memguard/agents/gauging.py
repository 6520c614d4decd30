"""Gauging: what live states weigh, though they grow after they were put and every look costs up to 0.8 ms.

One is measured when it is put, before it is packed, and now and then when it is read or its lease ends: those that are
used are those that grow. What the others may have grown meanwhile is estimated.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from memguard.sizing import bytes_of, entry_bytes

if TYPE_CHECKING:
    from memguard.agents.keeping import Keeping

__all__ = ["Gauge"]

# Time between two looks at states in use, and how many times what a look took: 4 % of one core at most.
_PAUSE_S: Final = 0.02
_PAUSE_TIMES: Final = 25.0
# States among which one tending counts those that were used, and picks one.
_WINDOW: Final = 256
_LEARN: Final = 0.2


class Gauge:
    """Measures the live states of a keeping. ``due`` is when the next look at a state that is read may be taken."""

    def __init__(self, keeping: Keeping) -> None:
        self.due: float = 0.0
        self._keeping = keeping
        self._growth: float | None = None
        self._used_ratio: float | None = None
        self._at = 0

    def look(self, key: str, *, roughly: bool = False, read: bool = False) -> int | None:
        """Measure a live state; its bytes, None when it is not live. One that is being ``read`` will change yet."""
        keeping = self._keeping
        entry = keeping.live.get(key)
        if entry is None:
            return None
        began = keeping.clock()
        size = bytes_of(entry.value) if roughly else entry_bytes(key, entry.value)
        took_s = keeping.clock() - began
        self.due = began + max(_PAUSE_S, _PAUSE_TIMES * took_s)
        if entry.used > entry.measured:
            grown = size - entry.bytes
            self._growth = grown if self._growth is None else self._growth + _LEARN * (grown - self._growth)
        del entry
        keeping.measured(key, size, at=0.0 if read else keeping.clock())
        return size

    def stale(self, key: str) -> bool:
        """Whether a live state was used since it was measured."""
        entry = self._keeping.live.get(key)
        return entry is not None and entry.used > entry.measured

    def pick(self) -> str | None:
        """One that was used since it was measured, among a few others each time; and how many of them were."""
        live = self._keeping.live
        start = self._at if self._at < len(live) else 0
        self._at = start + _WINDOW
        try:
            window = [(key, entry.used > entry.measured) for key, entry in islice(live.items(), start, self._at)]
        except RuntimeError:  # changed meanwhile: the next time
            return None
        self._used_ratio = sum(used for _, used in window) / len(window) if window else 0.0
        return next((key for key, used in window if used), None)

    @property
    def live_bytes(self) -> int | None:
        """Bytes of all live states: as measured, with what they are likely to have grown; None: nobody knows yet."""
        measured_bytes = self._keeping.live_bytes
        if not self._keeping.live:
            return measured_bytes
        if self._used_ratio == 0.0:
            return measured_bytes
        if self._used_ratio is None or self._growth is None:
            return None
        return measured_bytes + max(0, int(self._growth * self._used_ratio * len(self._keeping.live)))
