"""Slabs: bytes in private anonymous mappings, which go back to the kernel as soon as they are given up.

Each is as large as all before it, so that there are few: a mapping is an object, and keeps an arena from going back.
Pages that nothing was written to are not there.
"""

from __future__ import annotations

import mmap
from array import array
from typing import Final

__all__ = ["Slabs"]

_FIRST_BYTES: Final = 1 << 20
_LARGEST_BYTES: Final = 128 << 20


class Slabs:
    """Slabs by number, filled from the front. ``held`` is what is still wanted of what was written to each."""

    def __init__(self) -> None:
        self.current: int = -1
        self.held: array[int] = array("q")
        self._used = array("q")
        self._rooms: list[mmap.mmap | None] = []

    def write(self, first: bytes, second: bytes) -> tuple[int, int]:
        """Put both down side by side; the slab's number and where in it.

        Raises:
            MemoryError: no mapping is to be had.
        """
        length = len(first) + len(second)
        number = self.current
        room = self._rooms[number] if number >= 0 else None
        if room is None or len(room) - self._used[number] < length:
            number, room = self._new(length)
            self.current = number
        at = self._used[number]
        room[at : at + len(first)] = first
        room[at + len(first) : at + length] = second
        self._used[number] += length
        self.held[number] += length
        return number, at

    def _new(self, length: int) -> tuple[int, mmap.mmap]:
        size = max(length, min(_LARGEST_BYTES, max(_FIRST_BYTES, sum(self.held))))
        # Private: a child must not write into its parent's.
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        try:
            room = mmap.mmap(-1, size, **private)
        except OSError as error:
            raise MemoryError(f"no mapping of {size} bytes is to be had ({error})") from error
        if None in self._rooms:
            number = self._rooms.index(None)
            self.held[number] = self._used[number] = 0
            self._rooms[number] = room
        else:
            number = len(self._rooms)
            self.held.append(0)
            self._used.append(0)
            self._rooms.append(room)
        return number, room

    def read(self, number: int, at: int, length: int) -> bytes:
        """What was written there."""
        room = self._rooms[number]
        assert room is not None  # noqa: S101 - whoever wrote there has not let go of it
        return room[at : at + length]

    def sparse(self, number: int) -> bool:
        """Whether less than half of what was written to a slab is wanted; never the one that is being written to."""
        return number != self.current and self._rooms[number] is not None and 2 * self.held[number] < self._used[number]

    def give_up(self, number: int) -> None:
        """Give a slab back."""
        room, self._rooms[number] = self._rooms[number], None
        if room is not None:
            room.close()

    @property
    def mapped_bytes(self) -> int:
        """What the mappings take, pages that were never touched included."""
        return sum(len(room) for room in self._rooms if room is not None)

    def __len__(self) -> int:
        return len(self._rooms)
