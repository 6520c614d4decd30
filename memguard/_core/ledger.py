"""The ledger: bytes that were promised to admitted work and are not yet seen in readings."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Ledger"]


class Ledger:
    """Open promises, oldest first. Not thread-safe: its owner holds a lock.

    A promise lives until it is closed, until growth seen in readings has used it up, oldest first, or until it lapses:
    memory that an admitted request has taken is then counted once, in the reading. ``stakes`` has what was promised
    to each owner's open work, seen or not.
    """

    __slots__ = ("_pledged", "_unseen", "stakes", "total_bytes")

    def __init__(self) -> None:
        self._pledged: dict[Hashable, tuple[Hashable, int, float]] = {}
        self._unseen: dict[Hashable, int] = {}
        self.stakes: dict[Hashable, int] = {}
        self.total_bytes = 0

    def promise(self, key: Hashable, bytes_: int, *, owner: Hashable = None, at: float = 0.0) -> None:
        """Reserve bytes under a key.

        Raises:
            ValueError: a negative amount, or a key that is in use.
        """
        if bytes_ < 0 or key in self._pledged:
            raise ValueError(f"promise {key!r} of {bytes_} bytes: it must be new and of 0 bytes or more")
        self._pledged[key] = (owner, bytes_, at)
        self._unseen[key] = bytes_
        self.stakes[owner] = self.stakes.get(owner, 0) + bytes_
        self.total_bytes += bytes_

    def charge(self, key: Hashable, more_bytes: int, *, owner: Hashable = None, at: float = 0.0) -> None:
        """Reserve more bytes under a key, new or in use."""
        known = self._pledged.get(key)
        if known is None:
            self.promise(key, more_bytes, owner=owner, at=at)
            return
        owner, bytes_, _ = known
        self._pledged[key] = (owner, bytes_ + more_bytes, at)
        self._unseen[key] = self._unseen.get(key, 0) + more_bytes
        self.stakes[owner] += more_bytes
        self.total_bytes += more_bytes

    def close(self, key: Hashable) -> int:
        """End a promise and return what was still unseen of it; an unknown key has none."""
        owner, bytes_, _ = self._pledged.pop(key, (None, 0, 0.0))
        left = self.stakes.get(owner, 0) - bytes_
        if left > 0:
            self.stakes[owner] = left
        else:
            self.stakes.pop(owner, None)
        unseen = self._unseen.pop(key, 0)
        self.total_bytes -= unseen
        return unseen

    def seen(self, growth_bytes: int) -> None:
        """Use promises up by growth that a reading showed; falling usage gives nothing back."""
        used_up: list[Hashable] = []
        for key, unseen in self._unseen.items():
            if growth_bytes <= 0:
                break
            used = min(unseen, growth_bytes)
            self._unseen[key] = unseen - used
            self.total_bytes -= used
            growth_bytes -= used
            if used == unseen:
                used_up.append(key)
        for key in used_up:
            del self._unseen[key]

    def stake_of(self, key: Hashable) -> int:
        """What was promised under a key, seen or not."""
        return self._pledged[key][1] if key in self._pledged else 0

    def taken(self, key: Hashable) -> None:
        """The work under this key has taken its memory: readings have it, or the heap had it in store."""
        self.total_bytes -= self._unseen.pop(key, 0)

    def lapse(self, before: float) -> list[Hashable]:
        """Give back what is unseen of promises made or raised before an instant; whose they were."""
        lapsed = [key for key in self._unseen if self._pledged[key][2] < before]
        for key in lapsed:
            self.total_bytes -= self._unseen.pop(key)
        return lapsed

    def __len__(self) -> int:
        return len(self._pledged)
