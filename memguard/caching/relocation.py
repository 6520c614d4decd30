"""Relocation: entries leave the half-empty pages they lie on, pickled, and come back side by side.

A page goes back to the kernel when nothing lives on it any more. After an eviction by price survivors lie everywhere:
of 526 MB, 16 came back. They have to leave all together before the first may come back, or they would fill the holes.
"""

from __future__ import annotations

import pickle
from array import array
from sys import getrefcount
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from memguard.caching.entry import ENDLESS, Counted, Entry, hits_of
from memguard.caching.table import Table, units_of
from memguard.turns import give_way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.caching.entry import Cohort, Figures

__all__ = ["Crate", "Relocating"]

# Larger ones lie on pages of their own.
_LARGE_BYTES: Final = 16 * 1024
# Who holds a value that only its entry has: the iterator, the entry's slot, and the call that asks. A key: the dict,
# the slot, the call.
_OWN: Final = 3
# Numbers kept of each entry: its figures, and its hits.
_FIGURES: Final = 7


class Crate:
    """The entries of one cohort, pickled.

    Keys and values that somebody else holds too come back as they are: a copy would cost more than it gives.
    """

    __slots__ = ("_entries", "_figures", "_out", "_packed", "_shared")

    def __init__(self, entries: list[Entry]) -> None:
        self._entries: list[Entry] = entries
        self._out: set[int] = set()
        self._figures = array("d")
        self._shared: dict[int, Any] = {}
        things: list[Any] = []
        for number, entry in enumerate(entries):
            if getrefcount(entry.key) > _OWN:
                self._shared[2 * number] = entry.key
            if getrefcount(entry.value) > _OWN:
                self._shared[2 * number + 1] = entry.value
            things.append(
                (
                    None if 2 * number in self._shared else entry.key,
                    None if 2 * number + 1 in self._shared else entry.value,
                    entry.units if isinstance(entry, Counted) else None,
                )
            )
            self._figures.extend((*entry.figures, hits_of(entry)))
        self._packed = pickle.dumps(things, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def pack(cls, cohort: Cohort) -> Crate | None:
        """The small entries of a cohort that can be pickled; None: there are none."""
        small = [entry for entry in cohort if entry.bytes <= _LARGE_BYTES]
        try:
            return cls(small) if small else None
        except Exception:  # noqa: BLE001 - pickling runs other people's code
            fit = [entry for entry in small if _pickles(entry)]
        try:
            return cls(fit) if fit else None
        except Exception:  # noqa: BLE001
            return None

    def unused(self) -> Iterator[tuple[int, Entry]]:
        """Number and entry of those not hit since they were packed; the others are left out."""
        for number, entry in enumerate(self._entries):
            if self._figures[_FIGURES * number + 6] == hits_of(entry):
                yield number, entry
            else:
                self.leave_out(number)

    def leave_out(self, number: int) -> None:
        """This one does not come back from here: it never left."""
        self._out.add(number)

    def let_go(self) -> list[Entry]:
        """The entries, which the crate forgets."""
        entries, self._entries = self._entries, []
        return entries

    def unpack(self) -> list[tuple[Entry, Figures]]:
        """New entries, and the figures of the old ones."""
        entries = list[tuple[Entry, "Figures"]]()
        for number, (key, value, units) in enumerate(pickle.loads(self._packed)):  # noqa: S301 - pickled here
            if number in self._out:
                continue
            size, cost_s, at, looked, seen, expires, hits = self._figures[_FIGURES * number : _FIGURES * (number + 1)]
            own = self._shared.get(2 * number + 1, value)
            left = ENDLESS - int(hits)
            entry = Entry(own, left)
            if units is not None:
                entry = Counted(own, left)
                entry.units = units
            entry.key, entry.value = self._shared.get(2 * number, key), own
            entries.append((entry, (int(size), cost_s, at, looked, int(seen), expires)))
        return entries


def _pickles(entry: Entry) -> bool:
    try:
        pickle.dumps((entry.key, entry.value), pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - pickling runs other people's code
        return False
    return True


class Relocating(Table):
    """A table whose entries can be moved together."""

    bytes: int
    units: Any
    maxsize: float | None
    max_bytes: int | None
    relocates: bool

    def relocate(self) -> int:
        """Move small entries together, out of the pages that evictions have left half empty; how many bytes moved.

        Everything is pickled, dropped and loaded again: for that time look-ups miss, and each value is another object
        than before. What cannot be pickled, is large, or is held by somebody else stays where it is. 0 without
        ``relocates``.
        """
        if not self.relocates or self._changed is not None:
            return 0
        began, clearings, moved = perf_counter(), self._clearings, 0
        crates = list[Crate]()
        for cohort in tuple(self._cohorts.rows):
            if (crate := Crate.pack(cohort)) is not None:
                crates.append(crate)
            began = give_way(began)
        self._changed = set()
        try:
            for crate in crates:
                self._change(self._leave, crate)
                began = give_way(began)
            self._change(self._cohorts.sweep)
            crates.reverse()
            while crates and clearings == self._clearings:
                entries = crates.pop().unpack()
                moved += self._change(self._return, entries, clearings) or 0
                began = give_way(began)
        finally:
            self._changed = None
        return moved

    def _leave(self, crate: Crate) -> int:
        """Take out what a crate holds, as far as nobody has used it since it was packed."""
        table, cohorts, left = self.table, self._cohorts, 0
        for number, entry in crate.unused():
            if cohorts.holds(entry) and table.get(entry.key) is entry:
                del table[entry.key]
                self.bytes -= entry.bytes
                entry.cohort.drop(entry)
                if self._counts:
                    self.units -= units_of(entry)
                left += 1
            else:
                crate.leave_out(number)
        self._dropped.append(crate.let_go())
        return left

    def _return(self, entries: list[tuple[Entry, Figures]], clearings: int) -> int:
        """Put unpacked entries back where nothing has changed meanwhile; how many bytes that were."""
        changed, before = self._changed or (), self.bytes
        if clearings != self._clearings:
            return 0
        for entry, figures in entries:
            if entry.key in changed or self._has_no_room_for(entry, figures[0]):
                self._part([entry])
            elif self.table.setdefault(entry.key, entry) is entry:
                self._account(entry, figures)
        return self.bytes - before

    def _has_no_room_for(self, entry: Entry, entry_bytes: int) -> bool:
        size = self.units if self._counts else len(self.table)
        return (self.maxsize is not None and size + units_of(entry) > self.maxsize) or (
            self.max_bytes is not None and self.bytes + entry_bytes > self.max_bytes
        )
