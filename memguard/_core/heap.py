"""The heap's store: memory that ended requests left and readings still show, for the next ones to reuse."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

__all__ = ["Store"]

# What is not reused for so long by half is hardly of use: pinned by survivors, or in blocks too small.
_HALF_LIFE_S = 600.0


class Store:
    """A double-entry account beside the readings: bytes go to requests, from them to the store, and back.

    A request that is served from the store shows in no reading. ``pending`` has those that have begun and not yet
    taken what they are expected to, oldest first.
    """

    __slots__ = ("bytes", "pending")

    def __init__(self) -> None:
        self.bytes: float = 0.0
        self.pending: dict[Hashable, float] = {}

    def expect(self, key: Hashable, more_bytes: float) -> None:
        """A request is going to take so many bytes more (below 0: fewer)."""
        expected = self.pending.get(key, 0.0) + more_bytes
        if expected > 0.0:
            self.pending[key] = expected
        else:
            self.pending.pop(key, None)

    def gone(self, key: Hashable, held_bytes: float) -> None:
        """A request has ended: what it had taken is in store, until a reading shows that it went back."""
        self.bytes += max(0.0, held_bytes - self.pending.pop(key, 0.0))

    def look(self, grown_bytes: float, lasted_s: float) -> tuple[list[Hashable], float]:
        """Who has taken its bytes by now, and how much growth is left that no request explains.

        Memory that grows although there was some in store says that this much of it was of no use.
        """
        rose = grown_bytes if grown_bytes > 0.0 else 0.0
        store = max(0.0, self.bytes * 0.5 ** (lasted_s / _HALF_LIFE_S) + grown_bytes - rose)
        grew = rose
        taken: list[Hashable] = []
        for key, expected in self.pending.items():
            need = expected - min(rose, expected)
            rose -= min(rose, expected)
            need, store = need - min(store, need), store - min(store, need)
            self.pending[key] = need
            if need > 0.0:
                break
            taken.append(key)
        self._drop(taken)
        self.bytes = max(0.0, store - grew)
        return taken, rose

    def _drop(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            del self.pending[key]
