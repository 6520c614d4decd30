"""The attic: packed states without a single Python object each.

A key or a number that stays alive keeps the whole 1 MiB arena it lies in from going back to the kernel: of 170 MB of
agents' states, packing all of them returned nothing while their keys stayed, and 134 MB without. So keys and blobs lie
in slabs (private anonymous mappings), and what is known of them in columns of numbers.
"""

from __future__ import annotations

import heapq
from array import array
from typing import TYPE_CHECKING, Any, Final

from memguard.agents.slabs import Slabs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PLACE_BYTES", "Attic"]

_FIRST_CELLS: Final = 64
_USED_BEFORE: Final = -1
_FREE: Final = -1
PLACE_BYTES: Final = 8 * 12
"""What a state costs here beside its key and its blob: ten columns, and a cell and a half of the index."""


class Attic:
    """Blobs by key. Not safe between threads: whoever keeps it has a lock.

    A state that was spilled keeps its place, with a ``serial`` above 0 and no blob. ``bytes`` is what keys and blobs
    take, ``blobs_bytes`` the blobs alone, ``objects_bytes`` what the states were; ``on_disk`` of them have a serial.
    Each change shows as its last step: one that is broken off leaves what was there, and ``mend`` adds it up.
    """

    def __init__(self) -> None:
        self._cells = array("q", bytes(8 * _FIRST_CELLS))
        self._taken_cells = 0
        self._free = array("q")
        self._hashes = array("q")
        self._slab_of = array("q")
        self._at = array("q")
        self._key_bytes = array("q")
        self._blob_bytes = array("q")
        self._slabs = Slabs()
        self.serials: array[int] = array("q")
        """By place: 0, or the number of the state's row on disk."""
        self.sizes: array[int] = array("q")
        """By place: bytes of the state when it was an object."""
        self.used: array[float] = array("d")
        """By place: when the state was last used."""
        self.spilled_bytes: array[int] = array("q")
        """By place: the length of the blob on disk."""
        self.versions: array[int] = array("q")
        """By place: a number that no two states ever share, whatever their key."""
        self._versions = 0
        self.count: int = 0
        self.bytes: int = 0
        self.blobs_bytes: int = 0
        self.objects_bytes: int = 0
        self.on_disk: int = 0

    def __len__(self) -> int:
        return self.count

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, key: str) -> int | None:
        """The place of a key."""
        cell = self._cell(key)
        return None if cell is None else self._cells[cell] - 1

    def _cell(self, key: str) -> int | None:
        cells, hashed = self._cells, hash(key)
        mask = len(cells) - 1
        cell = hashed & mask
        while found := cells[cell]:
            if found > 0 and self._hashes[found - 1] == hashed and self.key(found - 1) == key:
                return cell
            cell = (cell + 1) & mask
        return None

    def key(self, place: int) -> str:
        """The key at a place."""
        name = self._slabs.read(self._slab_of[place], self._at[place], self._key_bytes[place])
        return name.decode("utf-8", "surrogatepass")

    def keys(self) -> Iterator[str]:
        """Every key."""
        return (self.key(place) for place in self.places())

    def places(self) -> Iterator[int]:
        """Every place in use."""
        return (place for place, length in enumerate(self._key_bytes) if length != _FREE)

    def holds(self, place: int) -> bool:
        """Whether there is a state at a place."""
        return 0 <= place < len(self._key_bytes) and self._key_bytes[place] != _FREE

    def coldest(self, count: int) -> list[int]:
        """Places of so many blobs that have lain here unused for longest, longest first."""
        return heapq.nsmallest(
            count, (place for place in self.places() if not self.serials[place]), key=self.used.__getitem__
        )

    def blob(self, place: int) -> bytes:
        """The blob at a place; b"" of a state on disk."""
        at = self._at[place] + self._key_bytes[place]
        return self._slabs.read(self._slab_of[place], at, self._blob_bytes[place])

    def blob_bytes(self, place: int) -> int:
        """The length of the blob at a place."""
        return self._blob_bytes[place]

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, key: str, blob: bytes, *, serial: int = 0, size: int, used: float) -> int:
        """Keep a blob, or the serial of one on disk, under a key that is not here yet; its place.

        Raises:
            MemoryError: there is no room for another slab.
        """
        if 3 * (self._taken_cells + 1) > 2 * len(self._cells):
            self._index_anew()
        name = key.encode("utf-8", "surrogatepass")
        current = self._slabs.current
        number, at = self._slabs.write(name, blob)
        place = self._free.pop() if self._free else self._new_place()
        self._hashes[place] = hash(key)
        self._slab_of[place], self._at[place] = number, at
        self._blob_bytes[place] = len(blob)
        self.serials[place], self.sizes[place], self.used[place] = serial, size, used
        self._versions += 1
        self.versions[place], self.spilled_bytes[place] = self._versions, 0
        self._key_bytes[place] = len(name)
        self.bytes += len(name) + len(blob)
        self.blobs_bytes += len(blob)
        self.objects_bytes += size
        self.on_disk += serial > 0
        self.count += 1
        self._enter(place)
        if current >= 0:
            self._tidy(current)
        return place

    def _new_place(self) -> int:
        for column in (
            self._hashes, self._slab_of, self._at, self._blob_bytes,
            self.serials, self.sizes, self.spilled_bytes, self.versions,
        ):  # fmt: skip
            column.append(0)
        self.used.append(0.0)
        # The last one: a place is there when all of its columns are.
        self._key_bytes.append(_FREE)
        return len(self._key_bytes) - 1

    def _enter(self, place: int) -> None:
        cells = self._cells
        mask = len(cells) - 1
        cell = self._hashes[place] & mask
        while cells[cell] > 0:
            cell = (cell + 1) & mask
        self._taken_cells += cells[cell] == 0
        cells[cell] = place + 1

    def _index_anew(self) -> None:
        """Another index, with room for twice the states and without traces of those that left."""
        wanted = _FIRST_CELLS
        while wanted < 3 * (self.count + 1):
            wanted *= 2
        self._cells, self._taken_cells = array("q", bytes(8 * wanted)), 0
        for place in self.places():
            self._enter(place)

    def remove(self, key: str) -> None:
        """Forget a key; one that is not here is fine."""
        cell = self._cell(key)
        if cell is None:
            return
        place = self._cells[cell] - 1
        self._cells[cell] = _USED_BEFORE
        length = self._key_bytes[place] + self._blob_bytes[place]
        self.blobs_bytes -= self._blob_bytes[place]
        self.objects_bytes -= self.sizes[place]
        self.on_disk -= self.serials[place] > 0
        self._key_bytes[place] = _FREE
        self._free.append(place)
        self.count -= 1
        self._drop(place, length)
        if not self.count:
            self.clear()

    def spilled(self, place: int, serial: int) -> None:
        """The blob at a place is on disk from now on."""
        length, self.serials[place], self._blob_bytes[place] = self._blob_bytes[place], serial, 0
        self.blobs_bytes -= length
        self.on_disk += 1
        self._drop(place, length)

    def _drop(self, place: int, length: int) -> None:
        self.bytes -= length
        self._slabs.held[self._slab_of[place]] -= length
        self._tidy(self._slab_of[place])

    def _tidy(self, number: int) -> None:
        """Give a slab back that is more than half empty: what it holds moves to the one that is being written to."""
        if not self._slabs.sparse(number):
            return
        if self._slabs.held[number]:
            for place in self.places():
                if self._slab_of[place] == number:
                    name = self._slabs.read(number, self._at[place], self._key_bytes[place])
                    self._slab_of[place], self._at[place] = self._slabs.write(name, self.blob(place))
        self._slabs.give_up(number)

    def mend(self) -> None:
        """Add up and index anew what the columns say, after a change that was broken off."""
        places = list(self.places())
        taken = set(places)
        self._free = array("q", (place for place in range(len(self._key_bytes)) if place not in taken))
        self.count = len(places)
        self.blobs_bytes = sum(self._blob_bytes[place] for place in places)
        self.bytes = self.blobs_bytes + sum(self._key_bytes[place] for place in places)
        self.objects_bytes = sum(self.sizes[place] for place in places)
        self.on_disk = sum(self.serials[place] > 0 for place in places)
        held = self._slabs.held
        for number in range(len(held)):
            held[number] = 0
        for place in places:
            held[self._slab_of[place]] += self._key_bytes[place] + self._blob_bytes[place]
        self._index_anew()

    def clear(self) -> None:
        """Forget everything and give all of it back."""
        slabs, versions, fresh = self._slabs, self._versions, Attic()
        vars(self).update(vars(fresh))
        self._versions = versions
        for number in range(len(slabs)):
            slabs.give_up(number)

    def __reduce__(self) -> Any:  # noqa: ANN401
        raise TypeError("an attic holds mappings, which cannot be copied")
