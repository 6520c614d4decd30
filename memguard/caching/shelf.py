"""The shelf: what the market of all caches sees of a store, and how much it gives up at once.

A small store gives up its cheapest entries. A large one of small entries gives up stretches, the cheapest first: whole
runs of entries that came one after another and so lie on the same pages. Entries picked one by one by price lie
everywhere, and nothing comes back from the heap they leave. The hot few of a cold stretch are lost with it, for which
each pays with one recomputation, and comes back among its like.
"""

from __future__ import annotations

from math import inf
from random import random
from typing import TYPE_CHECKING, Any, Final

from memguard.caching.pricing import Habits, cheap_among, price_of
from memguard.caching.relocation import Relocating
from memguard.caching.table import units_of
from memguard.turns import bury, give_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.caching.entry import Cohort, Entry

__all__ = ["Shelved"]

# Accounted bytes of a stretch: some arenas of 1 MiB, of which all but those at its ends come back.
_STRETCH_BYTES: Final = 4 << 20
# A store of so many stretches, whose entries have at most so many bytes on average, gives them up whole. Larger values
# have pages of their own, and of a smaller store a stretch is a large part.
_LARGE: Final = 16
_SMALL_ENTRY_BYTES: Final = 4096
# Entries that tell what a stretch is worth.
_LOOKS: Final = 16
# That is known no better than this.
_ABOUT: Final = 2.0
# An entry that costs so many times the average of its cohort to make again, and so many seconds, is judged by itself.
# Less is a thread switch that was measured along.
_JEWEL: Final = 16
_JEWEL_S: Final = 0.1
# When so much of a cohort goes, what remains goes too if it is worth at most so many times the price: its bytes pin
# the pages that the others leave.
_MOST_RATIO: Final = 0.75
_LITTLE: Final = 4.0


class Shelved(Relocating):
    """A table whose entries have prices, with a floor (``min_bytes``) and a ``weight`` that multiplies every price."""

    bytes: int
    units: Any

    def __init__(self, clock: Callable[[], float], *, name: str, min_bytes: int, weight: float) -> None:
        super().__init__(clock)
        self.name: str = name
        self.min_bytes: int = min_bytes
        self.weight: float = weight
        self._habits: Habits | None = None
        self.evictions: int = 0
        self._shrunk = 0

    @property
    def habits(self) -> Habits:
        """How often its entries are hit; made at the first look: most caches are small and left alone."""
        habits = self._habits
        if habits is None:
            habits = self._habits = Habits()
        return habits

    def size(self) -> int:
        """Accounted bytes."""
        return self.bytes

    # --- what it offers -------------------------------------------------------------------------------------------

    def sample(self, count: int) -> list[tuple[float, int]]:
        """(price per byte, bytes) of what it would give up, from looks at so many entries; none at its floor."""
        if self.bytes <= self.min_bytes:
            return []
        now = self.clock()
        if self._is_large():
            stretches = self._stretches()
            step = max(1, len(stretches) * _LOOKS // max(count, 1))
            found, began = list[tuple[float, int]](), give_way(0.0)
            for stretch in stretches[::step]:
                price, size = self._worth(stretch, now)
                if size:
                    found.append((self.weight * price, size))
                began = give_way(began)
            return found
        habits = self.habits
        return [(self.weight * price_of(entry, now, habits), entry.bytes) for entry in self._cohorts.pick(count)]

    def offers(self, count: int) -> list[tuple[float, Entry]]:
        """(price per byte, entry) of up to so many entries at random; see ``evict``."""
        now, weight, habits = self.clock(), self.weight, self.habits
        return [(weight * price_of(entry, now, habits), entry) for entry in self._cohorts.pick(count)]

    def _is_large(self) -> bool:
        return self.bytes >= _LARGE * _STRETCH_BYTES and self.bytes <= _SMALL_ENTRY_BYTES * len(self.table)

    def _stretches(self) -> list[list[Cohort]]:
        rows = self._cohorts.rows
        length = max(1, len(rows) * _STRETCH_BYTES // self.bytes)
        return [rows[at : at + length] for at in range(0, len(rows), length)]

    def _worth(self, stretch: list[Cohort], now: float) -> tuple[float, int]:
        """Price per byte and bytes of a stretch, by a few of its entries; the dearest may be one of a kind."""
        worth, size, looks, dearest, habits = 0.0, 0, 0, 0.0, self.habits
        for _ in range(3 * _LOOKS):
            try:
                entries = stretch[int(random() * len(stretch))].entries  # noqa: S311 - no secret
                entry = entries[int(random() * len(entries))]  # noqa: S311
            except IndexError:  # empty, or emptied by another thread
                continue
            if entry is not None:
                own = price_of(entry, now, habits) * entry.bytes
                dearest = max(dearest, own)
                worth += own
                size += entry.bytes
                looks += 1
                if looks == _LOOKS:
                    break
        if not looks:
            return 0.0, 0
        living = sum(len(cohort.entries) - cohort.holes for cohort in stretch)
        return (worth - dearest) / (size or 1), size * living // looks

    # --- giving up ------------------------------------------------------------------------------------------------

    def evict(self, entry: Entry) -> int:
        """Evict one that was offered, unless it is gone or the floor forbids; how many bytes that gave."""
        size = entry.bytes
        return size if self.bytes - size >= self.min_bytes and self._change(self._evict, entry) else 0

    def _evict(self, entry: Entry | None) -> bool:
        if entry is None or not self._remove(entry):
            return False
        self.evictions += 1
        return True

    def shrink(self, wanted_bytes: int, below: float) -> int:
        """Evict what is priced at or below ``below`` until so many bytes are gone; how many went.

        Expired entries go first. A small store goes on from where it last stopped; a large one gives up to one cohort
        more than is wanted. It holds the lock for a cohort at a time, lets what it took out die without it, and lets
        others work between.
        """
        before, dead, each = self.bytes, list[object](), self._each_bytes
        self.expire()
        self.habits.settle()
        freed, large = max(0, before - self.bytes), self._is_large()
        cheap = self._cheap_stretches if large else self._cheap_entries
        began = give_way(0.0)
        for doomed in cheap(below / self.weight):
            left = wanted_bytes - freed
            if left <= 0 or self.bytes <= self.min_bytes:
                break
            if doomed is not None:
                freed += self._change(self._gather, dead, *doomed, left) or 0
            began = bury(dead, each, began)
        give_way(0.0)
        self._change(self._cohorts.sweep)
        return freed

    def _cheap_entries(self, below: float) -> Iterator[tuple[Callable[..., int], object] | None]:
        """How to take out what is cheap, cohort by cohort, on from where that last ended; None: nothing is there."""
        rows = self._cohorts.rows
        first = self._shrunk if self._shrunk < len(rows) else 0
        for at, cohort in enumerate((*rows[first:], *rows[:first]), first):
            self._shrunk = at % len(rows)
            doomed = self._doomed(cohort, below)
            yield (self._shrink, doomed) if doomed else None

    def _cheap_stretches(self, below: float) -> Iterator[tuple[Callable[..., int], object] | None]:
        """The same, stretch by stretch, the oldest first: those that go are neighbours too."""
        now = self.clock()
        for stretch in self._stretches():
            if self._worth(stretch, now)[0] > _ABOUT * below:
                yield None
                continue
            for cohort in stretch:
                if below < inf and _has_jewel(cohort):
                    yield self._shrink, self._doomed(cohort, _JEWEL * below)
                else:
                    yield self._drop, cohort

    def _doomed(self, cohort: Cohort, below: float) -> list[Entry]:
        """What is priced at or below, and with most of a cohort the rest of it."""
        if below == inf:
            return cohort.living()
        now = self.clock()
        cheap = cheap_among(cohort, now, below, self.habits)
        living = len(cohort.entries) - cohort.holes
        if 2 * len(cheap) > living > len(cheap):
            most = _MOST_RATIO * sum(cohort.bytes)
            if sum(entry.bytes for entry in cheap) >= most:
                return cheap_among(cohort, now, below * _LITTLE, self.habits)
        return cheap

    def _drop(self, cohort: Cohort, wanted_bytes: int) -> int:
        """Take out a whole cohort, or the cheapest of it where the floor is near; how many bytes went."""
        if sum(cohort.bytes) > self.bytes - self.min_bytes:
            now = self.clock()
            entries = sorted(cohort, key=lambda entry: price_of(entry, now, self.habits))
            return self._shrink(entries, wanted_bytes)
        before = len(self.table)
        size = self._empty(cohort)
        self.evictions += before - len(self.table)
        return size

    def _shrink(self, doomed: list[Entry], wanted_bytes: int) -> int:
        """Take out entries that are still there, until so many bytes are gone; how many that were. Empties the list."""
        left = wanted = min(wanted_bytes, self.bytes - self.min_bytes)
        spare = self.bytes - self.min_bytes - wanted
        pop, holds, gone, misbehaved = self.table.pop, self._cohorts.holds, list["Entry"](), None
        for entry in doomed:
            if left <= 0:
                break
            size = entry.bytes
            if not holds(entry) or size > left + spare:  # it is gone, or would break the floor
                continue
            try:
                found = pop(entry.key, None)
            except Exception:  # noqa: BLE001 - whatever a key may raise
                found = None
            if found is not entry:
                misbehaved = entry
                break
            entry.cohort.drop(entry)
            left -= size
            gone.append(entry)
        self.bytes -= wanted - left
        if self._counts:
            self.units -= sum(map(units_of, gone))
        self.evictions += len(gone)
        self._part(gone)
        doomed.clear()
        if misbehaved is not None:
            self._mend(without=misbehaved)
        return wanted - left


def _has_jewel(cohort: Cohort) -> bool:
    dearest_s = max(cohort.cost_s)
    return dearest_s > _JEWEL_S and dearest_s * len(cohort.entries) > _JEWEL * sum(cohort.cost_s)
