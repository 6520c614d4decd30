"""Pacing: how often something may be asked for."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memguard.ports import Clock

__all__ = ["Bucket"]


class Bucket:
    """A token bucket: ``burst`` at once, then one every ``every_s`` seconds."""

    def __init__(self, *, every_s: float, burst: int, clock: Clock = time.monotonic) -> None:
        self.every_s: float = every_s
        self.burst: int = burst
        self._clock = clock
        self._full_at = clock()
        self._lock = Lock()

    def take(self) -> float:
        """Take one: 0.0, or how many seconds until there is one again."""
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at, now) + self.every_s
            wait_s = full_at - now - self.burst * self.every_s
            if wait_s > 1e-9:  # noqa: PLR2004 - what adding up floats loses
                return wait_s
            self._full_at = full_at
            return 0.0
