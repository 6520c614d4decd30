"""What the entries of somebody else's cache are worth: an estimate, since nothing is known of each of them."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worth"]

# What making an entry again costs, when nobody says: a small query or a rendered fragment.
_ENTRY_COST_S: Final = 1e-3
# Hits are read at most once in so many seconds.
_LOOK_S: Final = 1.0
# Nothing is younger than this, or its price would be endless.
_YOUNGEST_S: Final = 1e-3


class Worth:
    """The price of a byte at every position of a cache, from its oldest entry (0.0) to its newest (1.0).

    Prices are those of our own entries: uses a second times seconds to make it again, by bytes, times a weight.
    Nothing is known of a single entry of a foreign cache, so entries are taken to be spread evenly over the age of the
    oldest, which is the time since registration or since the cache was last turned over; each was used once since it
    came, and has an even share of the hits of the cache where it counts them. ``entry_cost_s`` None: 1 ms.
    """

    def __init__(
        self,
        *,
        entry_cost_s: float | None = None,
        weight: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cost = (_ENTRY_COST_S if entry_cost_s is None else entry_cost_s) * weight
        self._clock = clock
        self._oldest_at = clock()
        self._looked_at = self._oldest_at
        self._hits: int | None = None
        self._hits_per_s = 0.0

    @property
    def due(self) -> bool:
        """Whether hits should be read again."""
        return self._clock() - self._looked_at >= _LOOK_S

    def look(self, length: int, hits: int | None) -> None:
        """Take note of how many entries there are, and of all hits so far (None: they are not counted)."""
        now = self._clock()
        if length <= 0:
            self._oldest_at = now
        if hits is not None and self._hits is not None and now > self._looked_at:
            rate = max(0, hits - self._hits) / (now - self._looked_at)
            self._hits_per_s = (self._hits_per_s + rate) / 2  # what was hot and no longer is gets cheaper by itself
        self._hits, self._looked_at = hits, now

    def shrunk(self, share: float) -> None:
        """Take note that this share of the cache, its oldest part, is gone."""
        now = self._clock()
        self._oldest_at += (now - self._oldest_at) * min(1.0, max(0.0, share))

    def price(self, position: float, *, length: int, entry_bytes: float) -> float:
        """Seconds of recomputing a second that a byte there saves."""
        age_s = max(_YOUNGEST_S, self._age_s * (1.0 - position))
        return (self._hits_per_s / max(1, length) + 1.0 / age_s) * self._cost / max(1.0, entry_bytes)

    def position(self, below: float, *, length: int, entry_bytes: float) -> float:
        """Up to where entries cost at most ``below``: 0.0 none of them, 1.0 all."""
        if below == inf:
            return 1.0
        if self._cost <= 0.0:
            return 1.0 if below >= 0.0 else 0.0
        uses_per_s = below * max(1.0, entry_bytes) / self._cost - self._hits_per_s / max(1, length)
        if uses_per_s <= 0.0:
            return 0.0
        # A hair more than asked, so that the entry that set the price is in.
        return min(1.0, max(0.0, 1.0 - (1.0 - 1e-9) / (uses_per_s * max(_YOUNGEST_S, self._age_s))))

    @property
    def _age_s(self) -> float:
        return max(0.0, self._clock() - self._oldest_at)
