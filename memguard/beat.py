"""The coarse clock: a running guard's thread writes it at every look, and caches read it without a call.

Reading a clock costs more than a cache hit. While no guard runs it says infinity, and whoever needs the time asks a
real clock.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NEVER", "NOW", "forward_only"]

NEVER: float = float("inf")

NOW: float = NEVER
"""``time.monotonic`` at the running guard's last look (at most 0.25 s ago while all is well); infinity without one.

Never copy it by ``from … import``: it is read as a global of this module.
"""


def forward_only(clock: Callable[[], float]) -> Callable[[], float]:
    """A clock that never runs backwards: where ``clock`` does, it stands still, then goes on from there."""
    last, lead = clock(), 0.0

    def now() -> float:
        nonlocal last, lead
        at = clock() + lead
        if at < last:
            lead += last - at
            at = last
        last = at
        return at

    return now
