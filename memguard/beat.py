"""The coarse clock: a running guard's thread writes it at every look, and caches read it without a call.

Reading a clock costs more than a cache hit. While no guard runs it says infinity, and whoever needs the time asks a
real clock.
"""

from __future__ import annotations

__all__ = ["NEVER", "NOW"]

NEVER: float = float("inf")

NOW: float = NEVER
"""``time.monotonic`` at the running guard's last look (at most 0.25 s ago while all is well); infinity without one.

Never copy it by ``from … import``: it is read as a global of this module.
"""
