"""A load: who asked which cache for what, when, and what it takes to make it again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Load", "Request", "Result", "interleave"]

Request = tuple[float, int, int, int, float]
"""Instant in seconds, number of the cache, key, bytes of the value, seconds to make it."""

# The share of the requests that fills the caches; what it costs is counted by nobody.
WARM_RATIO = 0.2


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests in order of time to caches that share ``budget_bytes``."""

    name: str
    caches: tuple[str, ...]
    requests: list[Request]
    budget_bytes: int

    @property
    def warm(self) -> int:
        """How many requests come before counting starts."""
        return int(len(self.requests) * WARM_RATIO)

    @cached_property
    def footprints(self) -> list[int]:
        """Bytes of all different values of each cache."""
        known: dict[tuple[int, int], int] = {(cache, key): size for _, cache, key, size, _ in self.requests}
        sums = [0] * len(self.caches)
        for (cache, _), size in known.items():
            sums[cache] += size
        return sums

    def of(self, cache: int) -> Iterator[tuple[int, Request]]:
        """One cache's requests with their places in the whole."""
        return ((place, request) for place, request in enumerate(self.requests) if request[1] == cache)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a policy made of a load, after warming up: seconds spent recomputing, hits and requests.

    ``evict_s`` is the time spent choosing and evicting ``evicted`` entries, over the whole load.
    """

    policy: str
    cost_s: float
    hits: int
    requests: int
    evicted: int = 0
    evict_s: float = 0.0

    @property
    def hit_ratio(self) -> float:
        """Hits per request."""
        return self.hits / max(1, self.requests)

    @property
    def evict_us(self) -> float:
        """Microseconds per evicted entry."""
        return 1e6 * self.evict_s / max(1, self.evicted)


def interleave(weights: list[float]) -> list[float]:
    """Cumulative weights, as ``random.choices`` wants them."""
    return list(accumulate(weights))
