"""Cohorts: the entries of a store in the order they came, 256 by 256, because memory comes back by the page."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import chain, count, islice
from math import inf
from random import random
from typing import TYPE_CHECKING, Any

from memguard.caching.entry import COHORT, ENDLESS, Cohort, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.caching.entry import Figures

__all__ = ["Cohorts"]

# The first cohort of a store starts with so many places, and has four times as many each time they are taken.
_FIRST_PLACES = 16


class Cohorts:
    """All entries of one store, oldest first; who changes them holds the store's lock.

    ``due[0]`` is the instant at which the next entry expires (or an earlier one); infinity: none does.
    """

    __slots__ = ("_by_due", "_hand", "_numbers", "_slot", "_tended", "due", "newest", "rows")

    def __init__(self) -> None:
        self.due: list[float] = [inf]
        self.rows: list[Cohort] = []
        self.newest: Cohort = Cohort(0.0, 0)
        # A heap of (due, number, cohort); a cohort that expires has one with its own due, stale ones are passed over.
        self._by_due: list[tuple[float, int, Cohort]] = []
        self._numbers = count()
        self._hand = self._slot = self._tended = 0

    def __iter__(self) -> Iterator[Entry]:
        return chain.from_iterable(tuple(self.rows))

    def place(self, entry: Entry, figures: Figures) -> None:
        """Give an entry a place, the last; ``take_in`` puts it there."""
        cohort = self.newest
        if not cohort.entries or cohort.full:
            self.tidy()
            cohort = self.newest = Cohort(figures[2], COHORT if self.rows else _FIRST_PLACES)
        cohort.place(entry, figures)

    def take_in(self, entry: Entry, entry_bytes: int) -> None:
        """Put the entry in that was placed last."""
        cohort = entry.cohort
        if not cohort.entries:
            self.rows.append(cohort)
        cohort.take_in(entry, entry_bytes)
        expires = entry.expires
        if expires < cohort.due:
            self._expect(cohort, expires)

    def holds(self, entry: Entry) -> bool:
        """Whether an entry is in."""
        entries, slot = entry.cohort.entries, entry.slot
        return len(entries) > slot and entries[slot] is entry

    def live(self) -> int:
        """How many entries are in."""
        return sum(len(cohort.entries) - cohort.holes for cohort in self.rows)

    def take(self) -> list[list[Any]]:
        """Take everything out, at once: the lists that held it, the one of the cohorts last."""
        taken: list[list[Any]] = [cohort.empty() for cohort in self.rows]
        taken.append(self.rows)
        self.rows, self._by_due, self.newest = [], [], Cohort(0.0, 0)
        self._hand = self._slot = self._tended = 0
        self.due[0] = inf
        return taken

    # --- expiry -----------------------------------------------------------------------------------------------------

    def _expect(self, cohort: Cohort, due: float) -> None:
        cohort.due = due
        if len(self._by_due) > 2 * len(self.rows) + 64:  # cohorts that are gone would stay until they are due
            self._by_due = [(one.due, next(self._numbers), one) for one in self.rows if one.due < inf]
            heapify(self._by_due)
        else:
            heappush(self._by_due, (due, next(self._numbers), cohort))
        self.due[0] = self._by_due[0][0]

    def expired(self, now: float) -> list[Entry]:
        """What has expired in the next cohort that is due; ``renew`` it after they are out."""
        _, _, cohort = self._by_due[0]
        return [entry for entry in cohort if entry.expires <= now]

    def renew(self) -> None:
        """The cohort that was due has been looked at."""
        if not self._by_due:
            return
        due, _, cohort = heappop(self._by_due)
        if due == cohort.due:
            cohort.due = min((entry.expires for entry in cohort), default=inf)
            if cohort.due < inf:
                heappush(self._by_due, (cohort.due, next(self._numbers), cohort))
        self.due[0] = self._by_due[0][0] if self._by_due else inf

    # --- choosing ---------------------------------------------------------------------------------------------------

    def by_hand(self, spared: Entry | None, look: Callable[[Entry], object]) -> Entry | None:
        """SIEVE: the first entry from the hand on that was not hit since the last look; None: there is none.

        ``look`` is called with those that were, and sets ``seen``.
        """
        rows = self.rows
        # The newest is spared while there are others: a recursion asks next for what it has just got, and takes
        # exponential time when that is what went (fib(256) in 128 entries).
        newest = rows[-1].entries[-1] if rows and rows[-1].entries else None
        # Twice around: after the first every entry has been seen, unless it is hit faster than the hand moves.
        for turn in range(3 * len(rows) + 3):
            if self._hand >= len(rows):
                self._hand = self._slot = 0
                if not rows:
                    return None
            entries, seen = rows[self._hand].entries, rows[self._hand].seen
            for slot in range(self._slot, len(entries)):
                entry = entries[slot]
                if entry is not None and entry is not spared:
                    hits = ENDLESS - entry.__length_hint__()
                    if (hits == seen[slot] and entry is not newest) or turn > 2 * len(rows) + 1:
                        self._slot = slot + 1
                        return entry
                    look(entry)
            self._hand, self._slot = self._hand + 1, 0
        return None

    def pick(self, wanted: int) -> list[Entry]:
        """Up to so many entries at random, or all when there are no more; safe without the lock."""
        rows, picked = self.rows, dict[int, Entry]()
        if len(rows) * COHORT <= 4 * wanted:
            everything = list(self)
            if len(everything) <= wanted:
                return everything
        for _ in range(8 * wanted):
            try:
                entries = rows[int(random() * len(rows))].entries  # noqa: S311 - no secret
                entry = entries[int(random() * len(entries))]  # noqa: S311
            except IndexError:  # empty, or shrunk by another thread
                continue
            if entry is not None:
                picked[id(entry)] = entry
                if len(picked) == wanted:
                    break
        return list(picked.values()) or list(islice(self, wanted))

    # --- tidying ----------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Merge the next few cohorts where two fit into one: holes cost memory, and picks that miss."""
        for _ in range(4):
            # The newest is left alone: it still fills.
            at = self._tended = self._tended + 1 if self._tended + 3 < len(self.rows) else 0
            if at + 2 >= len(self.rows):
                return
            old, new = self.rows[at : at + 2]
            if len(old.entries) - old.holes + len(new.entries) - new.holes <= COHORT:
                self._merge(at, old, new)

    def sweep(self) -> None:
        """Let go of empty cohorts: small as they are, each would keep a megabyte's arena from going back."""
        rows = [cohort for cohort in self.rows if len(cohort.entries) > cohort.holes]
        if len(rows) == len(self.rows):
            return
        at = self.rows[self._hand] if self._hand < len(self.rows) else None
        self._hand = sum(len(cohort.entries) > cohort.holes for cohort in self.rows[: self._hand])
        if self._hand >= len(rows) or rows[self._hand] is not at:
            self._slot = 0
        self.rows, self._tended = rows, 0
        if not rows or rows[-1] is not self.newest:
            self.newest = Cohort(0.0, 0)
        self._by_due = [one for one in self._by_due if len(one[2].entries) > one[2].holes]
        heapify(self._by_due)
        self.due[0] = self._by_due[0][0] if self._by_due else inf

    def _merge(self, at: int, old: Cohort, new: Cohort) -> None:
        merged = self.rows[at] = Cohort(min(old.born, new.born))
        del self.rows[at + 1]
        due = min(old.due, new.due)
        old.due = new.due = inf
        for entry in (*old, *new):
            figures = entry.figures
            merged.place(entry, figures)
            merged.take_in(entry, figures[0])
        old.empty()
        new.empty()
        if due < inf:
            self._expect(merged, due)
        if self._hand > at:
            self._hand -= 1
        if self._hand == at:
            self._slot = 0
