"""Packing: how an object becomes a blob without anybody waiting for it.

A state that is to be packed is first taken off the table that readers look at, then examined and packed without a
lock; a reader who comes meanwhile finds it missing, looks under the lock, and takes it back: packing is then in vain.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from memguard.agents import codecs
from memguard.agents.attic import PLACE_BYTES
from memguard.agents.figures import Obstacle
from memguard.agents.keeping import ENTRY_BYTES, Entry, Keeping
from memguard.agents.sameness import same
from memguard.agents.sharing import shared_with
from memguard.agents.spill import NoSpill

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Packing"]

_USED: Final = Obstacle("used", "it is in use")
# Finding the coldest walks all that are packed: so many at least are picked.
_PICKED: Final = 64


def _count(table: dict[str, Entry], key: str) -> int:
    return sys.getrefcount(table[key])


@cache
def _own_count() -> int:
    """What ``_count`` says of an entry that nobody is looking at."""
    return _count({"": Entry(None, 0, 0.0)}, "")


class Packing(Keeping):
    """States that can be made smaller."""

    def pack(self, key: str, *, to_disk: bool = False, at_most: int | None = None) -> int | Obstacle:
        """Turn an object into a blob of ``at_most`` bytes, in the attic or on disk; the bytes that frees, or why not.

        It stays an object when it is pinned, when somebody else refers to it, when it cannot be pickled, when what
        loads back is not equal.
        """
        token = self._change(self._take, key)
        if not token:
            return _USED
        serial, blob = 0, b""
        freed: int | None = None
        try:
            made = self._blob(key, at_most)
            if isinstance(made, Obstacle):
                # Whoever took it back may have changed it meanwhile.
                return made if self._change(self._has, key, token) else _USED
            blob = made
            if to_disk and self.spill is not None:
                serial = self.spill.write(blob)
            freed = self._change(self._rest, key, token, blob, serial)
        except NoSpill as error:
            return Obstacle("disk", str(error))
        else:
            return _USED if freed is None or freed < 0 else freed
        finally:
            if freed is None or freed < 0:
                self._change(self._put_back, key, token, later=True)
            # Broken off (None): whether the attic knows of the row is not known here. Better lose the row's room.
            if freed == -1 and serial and self.spill is not None:
                self.spill.drop(serial, len(blob))

    def _take(self, key: str) -> int:
        entry = self.live.get(key)
        if entry is None or key in self.pins:
            return 0
        self._tokens += 1
        entry.token = self._tokens
        self._busy[key] = entry
        del self.live[key]
        return self._tokens

    def _has(self, key: str, token: int) -> bool:
        entry = self._busy.get(key)
        return entry is not None and entry.token == token

    def _blob(self, key: str, at_most: int | None) -> bytes | Obstacle:
        """The blob of a state that was taken, proved to load back; or why there is none."""
        obstacle = self._foreign(key)
        entry = self._busy.get(key)
        if obstacle or entry is None:
            return obstacle or _USED
        exact = self.floats == "exact"
        value = entry.value
        del entry
        return codecs.pack(
            value,
            codec=self.codec,
            floats=self.floats,
            at_most=at_most,
            check=lambda back: not exact or same(value, back),
        )

    def _foreign(self, key: str) -> Obstacle:
        """Who else refers to a state that was taken."""
        try:
            if _count(self._busy, key) > _own_count():
                return _USED
            why = shared_with(self._busy[key])
        except KeyError:  # somebody took it back
            return _USED
        return Obstacle("shared", why) if why else Obstacle()

    def _rest(self, key: str, token: int, blob: bytes, serial: int) -> int:
        entry = self._busy.get(key)
        if entry is None or entry.token != token:
            return -1
        kept = b"" if serial else blob
        place = self.attic.add(key, kept, serial=serial, size=entry.bytes, used=entry.used)
        if serial:
            self.attic.spilled_bytes[place] = len(blob)
        del self._busy[key]
        self._part(entry)
        return max(0, entry.bytes + ENTRY_BYTES - len(kept) - PLACE_BYTES)

    def _put_back(self, key: str, token: int) -> None:
        entry = self._busy.get(key)
        if entry is not None and entry.token == token:
            self.live[key] = entry
            del self._busy[key]

    def replace(self, key: str, make: Callable[[Any], tuple[Any, int] | None]) -> Obstacle:
        """Put what ``make`` gives of a state (and its bytes) in its place, unless somebody refers to it; why not."""
        token = self._change(self._take, key)
        if not token:
            return _USED
        made: tuple[Any, int] | None = None
        try:
            obstacle = self._foreign(key)
            entry = self._busy.get(key)
            if not obstacle and entry is not None:
                made = make(entry.value)
            return obstacle
        finally:
            if made is None or not self._change(self._swap, key, token, *made):
                self._change(self._put_back, key, token, later=True)

    def _swap(self, key: str, token: int, value: Any, size: int) -> bool:  # noqa: ANN401
        entry = self._busy.get(key)
        if entry is None or entry.token != token:
            return False
        new = Entry(value, size, self.clock())
        new.used = entry.used
        self._enter(key, new)
        del self._busy[key]
        self._part(entry)
        return True

    def copy(self, key: str) -> tuple[bytes, int, float] | Obstacle:
        """A state's blob, its bytes as an object and when it was last used; or why there is none. It stays as it is."""
        found = self._change(self._copied, key)
        if found is None:
            return _USED
        entry, serial, blob, size, used = found
        if entry is not None:
            exact, value = self.floats == "exact", entry.value
            made = codecs.pack(
                value, codec=self.codec, floats=self.floats, check=lambda back: not exact or same(value, back)
            )
            return made if isinstance(made, Obstacle) else (made, size, used)
        try:
            return self.spill.read(serial) if serial and self.spill is not None else blob, size, used
        except NoSpill as error:
            return Obstacle("disk", str(error))

    def _copied(self, key: str) -> tuple[Entry | None, int, bytes, int, float] | None:
        entry = self.live.get(key) or self._busy.get(key)
        if entry is not None:
            return entry, 0, b"", entry.bytes, entry.used
        place = self.attic.find(key)
        if place is None:
            return None
        attic = self.attic
        return None, attic.serials[place], attic.blob(place), attic.sizes[place], attic.used[place]

    def arrive_spilled(self, key: str, serial: int, *, size: int, used: float, length: int) -> bool:
        """Know of a state on disk, unless there is one of that key; whether there was none."""
        done: bool = self._change(self._arrived, key, serial, size, used, length)
        return done

    def _arrived(self, key: str, serial: int, size: int, used: float, length: int) -> bool:
        if self._is_here(key):
            return False
        place = self.attic.add(key, b"", serial=serial, size=size, used=used)
        self.attic.spilled_bytes[place] = length
        return True

    def coldest_packed(self) -> list[int]:
        """Places of the blobs in memory that were not used for longest: an eighth of them, longest first."""
        attic = self.attic
        places: list[int] = self._change(lambda: attic.coldest(max(_PICKED, len(attic) // 8)))
        return places

    def packed_bytes(self, key: str) -> int:
        """The length of a state's blob in memory; 0 when it has none there."""
        length: int = self._change(self._packed_bytes, key)
        return length

    def _packed_bytes(self, key: str) -> int:
        place = self.attic.find(key)
        return 0 if place is None else self.attic.blob_bytes(place)

    def spill_packed(self, place: int) -> int | Obstacle:
        """Bring a blob of the attic to the disk; the bytes that frees, or why not."""
        if self.spill is None:
            return 0
        key, version, blob = self._change(self._peek, place)
        if not blob:
            return 0
        try:
            serial = self.spill.write(blob)
        except NoSpill as error:
            return Obstacle("disk", str(error))
        if self._change(self._spilled, key, version, serial, len(blob)):
            return len(blob)
        self.spill.drop(serial, len(blob))
        return 0

    def _peek(self, place: int) -> tuple[str, int, bytes]:
        if not self.attic.holds(place) or self.attic.serials[place]:
            return "", 0, b""
        return self.attic.key(place), self.attic.versions[place], self.attic.blob(place)

    def _spilled(self, key: str, version: int, serial: int, length: int) -> bool:
        place = self.attic.find(key)
        if place is None or self.attic.versions[place] != version:
            return False
        self.attic.spilled(place, serial)
        self.attic.spilled_bytes[place] = length
        return True
