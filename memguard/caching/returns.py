"""Returns: how much of what caches evict comes back to the kernel."""

from __future__ import annotations

from typing import Final

from memguard.units import MIB

__all__ = ["Returns"]

# What an eviction weighs after the next of the same size.
_KEPT: Final = 0.5
# Of so many evicted bytes some pages must come back; less is lost in the noise of a reading.
_LARGE_BYTES: Final = 8 * MIB
_LITTLE_RATIO: Final = 0.10


class Returns:
    """Measured reliefs against claims: sums that fade, so that large evictions say more than small ones."""

    __slots__ = ("_bought", "_claimed")

    def __init__(self) -> None:
        self._claimed = self._bought = 0.0

    @property
    def ratio(self) -> float | None:
        """Bytes bought per byte claimed, 0 to 1; None: nothing learned yet."""
        return min(1.0, self._bought / self._claimed) if self._claimed else None

    def learn(self, claimed_bytes: int, bought_bytes: int) -> bool:
        """Take note of one relief; whether it was large and returned less than a tenth."""
        if claimed_bytes <= 0:
            return False
        bought = min(max(0, bought_bytes), claimed_bytes)
        self._claimed = _KEPT * self._claimed + claimed_bytes
        self._bought = _KEPT * self._bought + bought
        return claimed_bytes >= _LARGE_BYTES and bought < _LITTLE_RATIO * claimed_bytes
