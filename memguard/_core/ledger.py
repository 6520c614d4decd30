"""The ledger: bytes that were promised to admitted work and are not yet seen in readings."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Ledger"]


class Ledger:
    """Open promises, oldest first. Not thread-safe: its owner holds a lock.

    A promise lives until it is closed or growth seen in readings has used it up, oldest first: memory that an
    admitted request has taken is then counted once, in the reading.
    """

    __slots__ = ("_open", "total_bytes")

    def __init__(self) -> None:
        self._open: dict[Hashable, int] = {}
        self.total_bytes = 0

    def promise(self, key: Hashable, bytes_: int) -> None:
        """Reserve bytes under a key.

        Raises:
            ValueError: a negative amount, or a key that is in use.
        """
        if bytes_ < 0 or key in self._open:
            raise ValueError(f"promise {key!r} of {bytes_} bytes: it must be new and of 0 bytes or more")
        self._open[key] = bytes_
        self.total_bytes += bytes_

    def close(self, key: Hashable) -> int:
        """End a promise and return what was still unseen of it; an unknown key has none."""
        unseen = self._open.pop(key, 0)
        self.total_bytes -= unseen
        return unseen

    def seen(self, growth_bytes: int) -> None:
        """Use promises up by growth that a reading showed; falling usage gives nothing back."""
        for key, unseen in self._open.items():
            if growth_bytes <= 0:
                break
            used = min(unseen, growth_bytes)
            self._open[key] = unseen - used
            self.total_bytes -= used
            growth_bytes -= used

    def __len__(self) -> int:
        return len(self._open)
