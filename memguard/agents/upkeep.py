"""Upkeep: states are kept within their limits, and made smaller when asked: coldest first, cheapest way first."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from memguard.agents.figures import Obstacle
from memguard.agents.shrinking import SHARED_S, Shrinking
from memguard.errors import StateTooLarge, StateUnreadable
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.agents.packing import Packing
    from memguard.agents.reports import Reports

__all__ = ["Upkeep"]

# A blob is at most this part of what the object was: to load it again costs too.
_GAIN_RATIO: Final = 0.8
# States that are picked at a time, or an eighth of them: finding them walks all that are live.
_PICKED: Final = 64
# A limit in all is undercut by this part of it, so that not every call has to find the coldest again.
_SPARE: Final = 64
# Of those over their limit, so many are tried on the way of any other call.
_ON_THE_WAY: Final = 2
# Moving everything pays when so much is loose, and no less than what has to be moved.
_LOOSE_BYTES: Final = 8 << 20
# A relief ends by itself after so long: the guard's patience is 5 s.
_RELIEF_S: Final = 3.0
# States that grow by turns lie between each other, and packing a few gives no page back. Asked again soon for more than
# half of what was just freed, so many times as much is packed.
_BOLDER: Final = 4.0
_BOLDEST: Final = 256.0
_SOON_S: Final = 5.0


class Upkeep(Shrinking):
    """The limits of some states, and all that is done to keep them."""

    def __init__(  # noqa: PLR0913 - what the states were told
        self,
        keeping: Packing,
        *,
        max_bytes_each: int | None,
        max_bytes: int | None,
        packs: bool,
        compact: Callable[[Any], Any] | None,
        reports: Reports,
    ) -> None:
        super().__init__(keeping, max_bytes_each=max_bytes_each, packs=packs, compact=compact, reports=reports)
        self.max_bytes: int | None = max_bytes
        self._refused_bytes = 0
        self._refused_until = 0.0
        self._boldness = 1.0
        self._relieved = (float("-inf"), 0, 0)

    # --- keeping to the limits --------------------------------------------------------------------------------------

    def fetch(self, key: str) -> Any:  # noqa: ANN401 - the state
        """A state as an object, loaded if it is not one; others make room for it.

        Raises:
            KeyError: there is none.
            StateUnreadable: it cannot be loaded now; that is reported.
        """
        keeping = self.keeping
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise KeyError(key)
        try:
            value = keeping.fetch(key)
        except StateUnreadable as error:
            self.reports.add(key, Obstacle("unreadable", error.reason))
            raise
        entry = keeping.live.get(key)
        if entry is not None and self.max_bytes_each is not None and entry.bytes > self.max_bytes_each:
            self.over[key] = None
        del entry
        self.settle(sparing=key)
        return value

    def look_at_read(self, key: str) -> None:
        """Measure one that is just being read, now that it is time for a look; the limits hold for what is found."""
        self.look_over(key, read=True)
        self.settle(sparing=key)

    def settle(self, *, sparing: str | None = None) -> None:
        """Make a few states smaller that are over their limit, then all of them together, as far as possible."""
        for key in tuple(islice(self.over, _ON_THE_WAY)):
            if key != sparing:
                self.shrink(key)
        if self.max_bytes is not None and self.keeping.held_bytes > self.max_bytes:
            self.make_room(self.keeping.held_bytes - self.max_bytes + self.max_bytes // _SPARE, sparing=sparing)

    def keep(self, key: str, value: object, size: int, *, over: bool) -> bool:
        """Keep a value of so many bytes within the limit of all; False when there is one already and ``over`` is False.

        Raises:
            StateTooLarge: it does not fit, whatever is packed and spilled.
        """
        keeping, limit = self.keeping, self.max_bytes
        while not keeping.put(key, value, size, room=limit, over=over):
            if limit is None or (not over and key in keeping):
                return False
            wanted = max(1, keeping.held_bytes + size - limit) + limit // _SPARE
            if size > limit or not (
                self.make_room(wanted, sparing=key) or self.make_room(wanted, sparing=key, early_s=SHARED_S)
            ):
                keeping.recount()
                if keeping.put(key, value, size, room=limit, over=over):
                    break
                held = format_bytes(keeping.held_bytes)
                raise StateTooLarge(
                    f"state {key!r} has {format_bytes(size)}, and {keeping.name!r} holds {held} "
                    f"of max_bytes={format_bytes(limit)} that cannot be made smaller now (in use, not picklable, or no "
                    f"room on disk): delete some, or raise max_bytes",
                    state=key,
                    size_bytes=size,
                    limit_bytes=limit,
                )
        return True

    # --- making room -----------------------------------------------------------------------------------------------

    def make_room(self, wanted_bytes: int, *, sparing: str | None = None, early_s: float = 0.0) -> int:
        """Free so many bytes of memory: pack what is cold, then bring the coldest to the disk; how many were freed.

        ``early_s``: also what was left alone, if its time is over so soon.
        """
        freed = self.pack_cold(wanted_bytes, sparing=sparing, early_s=early_s)
        if freed < wanted_bytes:
            freed += self.spill_cold(wanted_bytes - freed, sparing=sparing, early_s=early_s)
        return freed

    def _cold(self, *, to_pack: bool, sparing: str | None, early_s: float = 0.0) -> Iterable[str]:
        """Live states, coldest first, each once."""
        tried = {sparing}
        while True:
            count = max(_PICKED, len(self.keeping.live) // 8) + len(tried)
            keys = [key for key in self.keeping.coldest(count, to_pack=to_pack, early_s=early_s) if key not in tried]
            if not keys:
                return
            for key in keys:
                tried.add(key)
                yield key

    def pack_cold(
        self, wanted_bytes: int, *, sparing: str | None = None, all_of_them: bool = False, early_s: float = 0.0
    ) -> int:
        """Pack live states until so many bytes are freed; how many were.

        Those over their limit go first, then the coldest. ``all_of_them``: also what does not get smaller.
        """
        keeping, freed = self.keeping, 0
        until = keeping.clock() + _RELIEF_S
        if not self.packs:
            return 0
        for key in tuple(self.over):
            if freed >= wanted_bytes or keeping.clock() > until:
                return freed
            if key != sparing:
                freed += self.shrink(key)
        for key in self._cold(to_pack=not all_of_them, sparing=sparing, early_s=early_s):
            if freed >= wanted_bytes or keeping.clock() > until:
                return freed
            freed += self._pack(key, all_of_them=all_of_them)
        if freed < wanted_bytes:
            self._refused_bytes, self._refused_until = keeping.live_bytes, keeping.clock() + SHARED_S
        return freed

    def _pack(self, key: str, *, all_of_them: bool) -> int:
        """Pack one; the bytes that frees."""
        keeping = self.keeping
        if self.gauge.stale(key):
            self.gauge.look(key, roughly=True)
        entry = keeping.live.get(key)
        if entry is None:
            return 0
        at_most = None if all_of_them else int(_GAIN_RATIO * entry.bytes)
        del entry
        packed = keeping.pack(key, at_most=at_most)
        if isinstance(packed, Obstacle):
            self._refuse(key, packed)
            return 0
        return packed

    def spill_cold(self, wanted_bytes: int, *, sparing: str | None = None, early_s: float = 0.0) -> int:
        """Bring packed states to the disk, then objects, each the coldest first; the bytes that frees."""
        keeping, freed = self.keeping, 0
        until = keeping.clock() + _RELIEF_S
        if not self.may_spill:
            return 0
        while freed < wanted_bytes and (places := keeping.coldest_packed()):
            for place in places:
                if freed >= wanted_bytes or keeping.clock() > until:
                    return freed
                moved = keeping.spill_packed(place)
                if isinstance(moved, Obstacle):
                    self._refuse("", moved)
                    return freed
                freed += moved
        for key in self._cold(to_pack=False, sparing=sparing, early_s=early_s):
            if freed >= wanted_bytes or keeping.clock() > until:
                break
            spilled = keeping.pack(key, to_disk=True)
            if isinstance(spilled, Obstacle):
                self._refuse(key, spilled)
                if spilled.kind == "disk":
                    break
            else:
                freed += spilled
        return freed

    @property
    def may_spill(self) -> bool:
        """Whether the disk is worth a try."""
        return self.keeping.spill is not None and self.keeping.clock() >= self._disk_again

    def relieve(self, wanted_bytes: int) -> int:
        """Pack so many bytes, or more if that much did not help the last time; how many were freed."""
        now, (at, wanted, freed) = self.keeping.clock(), self._relieved
        if now - at > _SOON_S:
            self._boldness = 1.0
        elif freed >= wanted and wanted_bytes > wanted / 2:
            self._boldness = min(_BOLDEST, self._boldness * _BOLDER)
        got = self.pack_cold(int(wanted_bytes * self._boldness))
        self._relieved = (self.keeping.clock(), wanted_bytes, got)
        return got

    def learn(self, bought_bytes: int) -> None:
        """Of what was freed so many bytes came back to the kernel; the others are loose."""
        self.keeping.loose_bytes = max(0, self.keeping.loose_bytes - bought_bytes)

    def move(self) -> int:
        """Pack everything, also what is in use now and then: objects that are loaded again lie side by side.

        The arenas that survivors and keys pinned go back to the kernel. Claims what was loose.
        """
        loose = self.keeping.loose_bytes
        freed = self.pack_cold(1 << 62, all_of_them=True)
        self.keeping.loose_bytes = 0
        return loose + freed

    # --- what there is to give --------------------------------------------------------------------------------------

    @property
    def packable_bytes(self) -> int | None:
        """Bytes of objects that may become blobs; None: nobody knows yet."""
        if not self.packs:
            return 0
        live_bytes = self.gauge.live_bytes
        if live_bytes is None:
            return None
        refused = self._refused_bytes if self.keeping.clock() < self._refused_until else 0
        return max(0, live_bytes - refused)

    @property
    def spillable_bytes(self) -> int:
        """Bytes of blobs, and of objects that do not become blobs, that the disk has room for."""
        spill = self.keeping.spill
        if spill is None or not self.may_spill:
            return 0
        packable = self.packable_bytes
        objects = 0 if packable is None else (self.gauge.live_bytes or 0) - packable
        return max(0, min(self.keeping.attic.blobs_bytes + objects, spill.quota_bytes - spill.bytes))

    @property
    def movable_bytes(self) -> int:
        """Bytes that left and did not come back to the kernel; 0 while moving the rest would cost more than that."""
        loose = self.keeping.loose_bytes
        return loose if self.packs and loose >= max(_LOOSE_BYTES, self.keeping.live_bytes) else 0
